//! The traffic of a session: files that say the same under a seed, event times included, so that whatever is done to the
//! system, its rows and incidents must come out the same.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use schemas::partition_of;
use serde_json::json;
use tempfile::TempDir;

/// Files of events; each is pushed by a load generator of its own.
const EVENT_FILES: usize = 4;
const EVENTS_EACH: usize = 10_000;
const FINDINGS: usize = 1_000;
/// Event times lie in this span, which ends a little before the session began, and are out of order by up to
/// [`JITTER_SECONDS`].
const SPAN_SECONDS: f64 = 120.0;
const JITTER_SECONDS: f64 = 20.0;
/// Addresses that fail to log in often enough for an incident.
const ATTACKERS: usize = 24;

/// One file and what is in it.
#[derive(Debug, Clone)]
pub struct File {
    /// Its name in the attribute `run` of its records; `seq` is the ordinal of the line.
    pub run: String,
    /// Who pushes it: of as many files of events as there are partitions, each has a sender of another partition.
    pub sender: String,
    /// Where it is.
    pub path: PathBuf,
    /// Lines in it.
    pub lines: usize,
    /// Findings instead of events.
    pub findings: bool,
}

/// Events for one file.
pub struct Lines {
    /// As in [`File`].
    pub run: String,
    /// As in [`File`].
    pub sender: String,
    /// One event each; the order in which they are pushed.
    pub lines: Vec<String>,
}

/// All of it.
#[derive(Debug)]
pub struct Input {
    _directory: TempDir,
    files: Vec<File>,
}

impl Input {
    /// Writes the files.
    pub fn write(seed: u64) -> Result<Input> {
        Self::write_as(seed, "")
    }

    /// The same, with something before the name of each file: for a second input beside the first.
    pub fn write_as(seed: u64, prefix: &str) -> Result<Input> {
        let directory = tempfile::tempdir().context("a directory for the input")?;
        let mut rng = StdRng::seed_from_u64(seed);
        let until = Timestamp::now() - SignedDuration::from_secs(60);
        let mut files = Vec::new();
        for number in 0..EVENT_FILES {
            let run = format!("{prefix}events-{number}");
            let lines = (0..EVENTS_EACH).map(|seq| event(&run, seq, until, &mut rng));
            let file = write(directory.path(), &run, lines, false)?;
            files.push(File { sender: sender(&run, number), ..file });
        }
        let run = format!("{prefix}findings");
        let lines = (0..FINDINGS).map(|seq| finding(&run, seq, until, &mut rng));
        files.push(write(directory.path(), &run, lines, true)?);
        Ok(Input { _directory: directory, files })
    }

    /// Writes these events.
    pub fn of(files: impl IntoIterator<Item = Lines>) -> Result<Input> {
        let directory = tempfile::tempdir().context("a directory for the input")?;
        let files = files.into_iter().map(|Lines { run, sender, lines }| {
            let file = write(directory.path(), &run, lines.into_iter(), false)?;
            Ok(File { sender, ..file })
        });
        Ok(Input { files: files.collect::<Result<_>>()?, _directory: directory })
    }

    /// The files.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Events and findings in all of them.
    pub fn records(&self) -> usize {
        self.files.iter().map(|file| file.lines).sum()
    }

    /// Each record's (run, seq).
    pub fn identities(&self) -> BTreeSet<(String, i64)> {
        self.files.iter().flat_map(|file| (0..file.lines).map(|seq| (file.run.clone(), seq as i64))).collect()
    }
}

/// A sender whose records without a key go to that partition of as many as there are files.
pub fn sender(run: &str, partition: usize) -> String {
    let goes_there = |sender: &String| {
        let parts: [&[u8]; 2] = [b"demo", sender.as_bytes()];
        partition_of(&parts, EVENT_FILES as i32) == partition as i32
    };
    let mut names = (0u32..).map(|number| format!("{run}-{number}"));
    names.find(goes_there).unwrap_or_else(|| run.to_owned())
}

fn write(
    directory: &Path,
    run: &str,
    lines: impl ExactSizeIterator<Item = String>,
    findings: bool,
) -> Result<File> {
    let path = directory.join(format!("{run}.jsonl"));
    let mut bytes = Vec::new();
    let count = lines.len();
    for line in lines {
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
    }
    std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(&bytes))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(File { run: run.to_owned(), sender: run.to_owned(), path, lines: count, findings })
}

fn time(seq: usize, of: usize, until: Timestamp, rng: &mut StdRng) -> Timestamp {
    let place = SPAN_SECONDS * (seq as f64 / of as f64 - 1.0);
    let seconds = place - rng.random_range(0.0..JITTER_SECONDS);
    until + SignedDuration::from_micros((seconds * 1e6) as i64)
}

fn event(run: &str, seq: usize, until: Timestamp, rng: &mut StdRng) -> String {
    let time = time(seq, EVENTS_EACH, until, rng).to_string();
    let port: u16 = rng.random_range(32_768..60_000);
    let record = match rng.random_range(0..1_000) {
        0..25 => {
            let attacker = rng.random_range(0..ATTACKERS);
            let message = format!("Failed password for root from 203.0.113.{attacker} port {port} ssh2");
            json!({"@timestamp": time, "host": "bastion-1", "app": "sshd", "message": message, "run": run, "seq": seq})
        }
        25..29 => {
            let clf = jiff::fmt::strtime::format(
                "%d/%b/%Y:%H:%M:%S +0000",
                &time.parse::<Timestamp>().unwrap_or(until).to_zoned(jiff::tz::TimeZone::UTC),
            );
            let message = format!(
                "198.51.100.{} - - [{}] \"GET /item?id=1%20union%20select%20{port} HTTP/1.1\" 200 512 \"-\" \"curl/8\"",
                rng.random_range(0..8),
                clf.unwrap_or_default(),
            );
            json!({"@timestamp": time, "host": "shop-1", "app": "nginx", "message": message, "run": run, "seq": seq})
        }
        _ => json!({
            "time": time, "class_uid": 4001, "activity_id": 6, "severity_id": 1, "host": "gw-1",
            "src_ip": format!("10.0.{}.{}", rng.random_range(0..4), rng.random_range(1..250)), "src_port": port,
            "message": "connection allowed by policy egress-web", "run": run, "seq": seq,
        }),
    };
    record.to_string()
}

fn finding(run: &str, seq: usize, until: Timestamp, rng: &mut StdRng) -> String {
    let critical = seq.is_multiple_of(50);
    json!({
        "time": time(seq, FINDINGS, until, rng).to_string(), "class_uid": 2004, "scan_id": format!("scan-{}", seq % 7),
        "scan_type": "database", "uid": format!("f-{seq}"), "kind": "pii",
        "severity_id": if critical { 5 } else { 2 }, "title": "Card numbers in clear",
        "resource": format!("crm.customers.{seq}"), "run": run, "seq": seq,
    })
    .to_string()
}
