//! Files of context: a line an entry, `#` starts a comment.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A file cannot be used; what was read from it before stays.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A line is no entry.
    #[error("{path}:{line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Calls `entry` with the first word of every line that has one and what follows it.
///
/// # Errors
/// The file cannot be read, is not UTF-8, or `entry` refuses a line.
pub(super) fn read(
    path: &Path,
    mut entry: impl FnMut(&str, &str) -> Result<(), String>,
) -> Result<(), FileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| FileError::Unreadable { path: path.to_owned(), error })?;
    for (at, line) in text.lines().enumerate() {
        let line = line.split_once('#').map_or(line, |(line, _)| line).trim();
        if line.is_empty() {
            continue;
        }
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        entry(first, rest.trim_start()).map_err(|reason| FileError::Line {
            path: path.to_owned(),
            line: at + 1,
            reason,
        })?;
    }
    Ok(())
}

/// Longest label, bytes.
const MAX_LABEL_BYTES: usize = 100;

/// A label that can be stored and shown.
pub(super) fn label(text: &str) -> Result<&str, String> {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_LABEL_BYTES || text.chars().any(char::is_control) {
        return Err(format!(
            "{text:?} is no label: it has 1 to {MAX_LABEL_BYTES} bytes and no control characters"
        ));
    }
    Ok(text)
}

/// What the entries of a threat list are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Addresses and networks.
    Ip,
    /// Domains, which stand for their subdomains too.
    Domain,
    /// MD5, SHA-1 or SHA-256 in hexadecimal.
    Hash,
}

impl Kind {
    /// As in the flag and in labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Domain => "domain",
            Self::Hash => "hash",
        }
    }
}

/// `KIND=FILE`: a threat list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreatFile {
    /// What its entries are.
    pub kind: Kind,
    /// Where it is.
    pub path: PathBuf,
}

impl ThreatFile {
    /// The label of entries that have none: the file's name without its ending.
    pub(super) fn default_label(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Not of the form `KIND=FILE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a threat list is KIND=FILE, and KIND one of ip, domain, hash")]
pub struct ThreatFileError;

impl FromStr for ThreatFile {
    type Err = ThreatFileError;

    fn from_str(text: &str) -> Result<Self, ThreatFileError> {
        let (kind, path) =
            text.split_once('=').filter(|(_, path)| !path.is_empty()).ok_or(ThreatFileError)?;
        let kind = [Kind::Ip, Kind::Domain, Kind::Hash]
            .into_iter()
            .find(|known| known.name() == kind)
            .ok_or(ThreatFileError)?;
        Ok(Self { kind, path: path.into() })
    }
}

impl fmt::Display for ThreatFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind.name(), self.path.display())
    }
}
