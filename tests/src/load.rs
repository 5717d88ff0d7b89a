//! Traffic from tidewatch-loadgen.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::Pipeline;
use crate::org::{Identity, Org};

/// What to put on a pipeline.
#[derive(Debug, Clone)]
pub struct Load {
    events: u64,
    rate: Option<u64>,
    journal: Option<PathBuf>,
}

/// A load under way.
#[derive(Debug)]
pub struct RunningLoad {
    child: Child,
}

impl Load {
    /// So many events, as fast as they are taken.
    pub fn events(events: u64) -> Load {
        Load { events, rate: None, journal: None }
    }

    /// At most so many events a second.
    pub fn at_rate(self, rate: u64) -> Load {
        Load { rate: Some(rate), ..self }
    }

    /// Keeps a journal of what was acknowledged.
    pub fn journal(self, path: &Path) -> Load {
        Load { journal: Some(path.to_path_buf()), ..self }
    }

    /// Starts it as an org.
    pub fn start(&self, pipeline: &Pipeline, org: &Identity) -> RunningLoad {
        let mut command = Command::new(pipeline.binary("tidewatch-loadgen"));
        command
            .args(["run", "--ingest-url", &pipeline.ingest_url(), "--token", &org.ingest_token])
            .args(["--count", &self.events.to_string(), "--seed", "1", "--format", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(rate) = self.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        if let Some(journal) = &self.journal {
            command.arg("--journal").arg(journal);
        }
        RunningLoad { child: command.spawn().unwrap() }
    }

    /// Starts it and waits for its end.
    pub async fn run(&self, org: &Org<'_>) -> Value {
        self.start(org.pipeline, &org.identity).finish().await
    }
}

impl RunningLoad {
    /// Waits for its end; what it reports.
    pub async fn finish(self) -> Value {
        let output = self.child.wait_with_output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tidewatch-loadgen ended with {}: {said}", output.status);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
    }
}

/// (run, first seq, last seq) of each acknowledged push in a journal.
pub(crate) fn acknowledged(journal: &Path) -> Vec<(String, i64, i64)> {
    let text = std::fs::read_to_string(journal).unwrap();
    text.lines()
        .map(|line| {
            let push: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let number = |name: &str| push[name].as_i64().unwrap_or_else(|| panic!("no {name} in {line}"));
            (push["run"].as_str().unwrap().to_owned(), number("first_seq"), number("last_seq"))
        })
        .collect()
}
