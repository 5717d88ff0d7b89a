//! What was acknowledged, one JSON line a push.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use serde::Serialize;

/// One acknowledged push: its events `first_seq ..= last_seq` of the run are stored, or will be.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    /// Id of the run.
    pub run: &'a str,
    /// X-Sender of the push.
    pub sender: &'a str,
    /// Which of the tokens, in the order of the command line, from 0.
    pub token: usize,
    /// First event.
    pub first_seq: u64,
    /// Last event.
    pub last_seq: u64,
    /// Events sent.
    pub count: u64,
    /// Events of these that were refused; which, the answer said.
    pub rejected: u64,
    /// Times the push was sent before it was acknowledged: with more than one and no Idempotency-Key it may be stored
    /// twice.
    pub attempts: u32,
    /// Status of the answer.
    pub status: u16,
    /// When the answer came.
    pub at: String,
}

/// A file of entries.
#[derive(Debug)]
pub struct Journal {
    file: Mutex<File>,
}

impl Journal {
    /// Opens a journal for appending.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self { file: Mutex::new(file.with_context(|| format!("--journal {}", path.display()))?) })
    }

    /// Appends an entry with one write, so that a killed process leaves whole lines.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&self, entry: &Entry<'_>) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&line).context("cannot write the journal")
    }
}
