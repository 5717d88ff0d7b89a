//! Who reads what a service says when it ends, and does it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tidewatch_dev::Deployment;

/// How a service names the way out.
const COMMAND: &str = "`tidewatch-partitions ";
/// A group forgets a member that has died without goodbye before this is over.
const PATIENCE: Duration = Duration::from_secs(40);

/// Runs the commands that services name as they end, each literally.
#[derive(Debug, Default)]
pub struct Operator {
    /// Commands that were run, as they were named.
    pub heeded: Vec<String>,
    /// How far each log has been read.
    read: BTreeMap<PathBuf, usize>,
    /// Since when a command is refused.
    refused: Option<Instant>,
}

impl Operator {
    /// Runs the last command that is named in what is new in a log; true when the service may be started again, which it
    /// may not while the command is refused.
    pub async fn heed(&mut self, log: &Path, deployment: &Deployment) -> Result<bool> {
        let text = std::fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
        let read = self.read.get(log).copied().unwrap_or(0);
        let new = text.get(read..).unwrap_or_default();
        if let Some(command) = named(new) {
            let arguments: Vec<&str> = command.split_whitespace().collect();
            match deployment.partitions(&arguments).await {
                Ok(_) => self.heeded.push(command.to_owned()),
                Err(error) => {
                    let since = *self.refused.get_or_insert_with(Instant::now);
                    if since.elapsed() > PATIENCE {
                        bail!("{} is refused: {error:#}", command);
                    }
                    return Ok(false);
                }
            }
        }
        self.refused = None;
        self.read.insert(log.to_owned(), text.len());
        Ok(true)
    }
}

fn named(log: &str) -> Option<&str> {
    let (_, rest) = log.rsplit_once(COMMAND)?;
    rest.split_once('`').map(|(command, _)| command)
}
