//! The load generators that push a session's input, with their journals of what was acknowledged.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::input::{File, Input};

/// Events in a push.
const BATCH: &str = "100";
/// Longer than any outage that a scenario makes.
const GIVE_UP_AFTER: &str = "150s";

/// How to push.
#[derive(Debug, Clone)]
pub struct Feeding {
    /// Path of tidewatch-loadgen.
    pub program: std::path::PathBuf,
    /// Where to.
    pub ingest_urls: Vec<String>,
    /// Whose.
    pub token: String,
    /// Records a second from each file.
    pub rate: u32,
    /// With an Idempotency-Key for each push.
    pub keys: bool,
}

/// Pushes under way.
#[derive(Debug)]
pub struct Feed {
    journals: TempDir,
    loads: Vec<(File, Child)>,
}

/// What was acknowledged, as (run, seq).
pub type Acknowledged = BTreeSet<(String, i64)>;

#[derive(Deserialize)]
struct Entry {
    first_seq: i64,
    last_seq: i64,
    rejected: i64,
}

impl Feed {
    /// Starts a load generator for each file.
    pub fn start(input: &Input, feeding: &Feeding) -> Result<Feed> {
        let journals = tempfile::tempdir().context("a directory for journals")?;
        let mut loads = Vec::new();
        for (number, file) in input.files().iter().enumerate() {
            let url =
                feeding.ingest_urls.get(number % feeding.ingest_urls.len().max(1)).context("no ingest")?;
            let mut command = Command::new(&feeding.program);
            command
                .arg("replay")
                .arg(&file.path)
                .args(["--keep-times", "--batch", BATCH, "--format", "json"])
                .args(["--ingest-url", url, "--token", &feeding.token, "--sender", &file.sender])
                .args([
                    "--rate",
                    &feeding.rate.to_string(),
                    "--timeout",
                    "20s",
                    "--give-up-after",
                    GIVE_UP_AFTER,
                ])
                .arg("--journal")
                .arg(journals.path().join(&file.run))
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true);
            if feeding.keys {
                command.arg("--idempotency-keys");
            }
            if file.findings {
                command.arg("--findings");
            }
            loads.push((file.clone(), command.spawn().context("starting tidewatch-loadgen")?));
        }
        Ok(Feed { journals, loads })
    }

    /// What has been acknowledged so far.
    pub fn acknowledged(&self) -> Result<Acknowledged> {
        let mut acknowledged = BTreeSet::new();
        for (file, _) in &self.loads {
            let path = self.journals.path().join(&file.run);
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            // The last line may be in the writing.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            for line in whole.lines() {
                let entry: Entry = serde_json::from_str(line).with_context(|| line.to_owned())?;
                if entry.rejected > 0 {
                    bail!("ingest refused records of {}: {line}", file.run);
                }
                acknowledged.extend((entry.first_seq..=entry.last_seq).map(|seq| (file.run.clone(), seq)));
            }
        }
        Ok(acknowledged)
    }

    /// Waits until every push is acknowledged.
    pub async fn finish(&mut self) -> Result<Acknowledged> {
        for (file, child) in &mut self.loads {
            let status = child.wait().await.context("waiting for tidewatch-loadgen")?;
            if !status.success() {
                let mut said = String::new();
                if let Some(mut stderr) = child.stderr.take() {
                    use tokio::io::AsyncReadExt as _;
                    stderr.read_to_string(&mut said).await.context("reading what tidewatch-loadgen said")?;
                }
                bail!("pushing {} ended with {status}: {}", file.run, said.trim());
            }
        }
        let acknowledged = self.acknowledged()?;
        let sent: usize = self.loads.iter().map(|(file, _)| file.lines).sum();
        if acknowledged.len() < sent {
            bail!("{} of {sent} records were acknowledged, the others were given up", acknowledged.len());
        }
        Ok(acknowledged)
    }
}
