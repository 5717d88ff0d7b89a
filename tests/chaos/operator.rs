//! Who reads what a service says when it ends, and does it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tidewatch_dev::{Deployment, Service};

/// How a service names the way out.
const COMMAND: &str = "`tidewatch-partitions ";
/// How a refusal asks for that.
const STOP_ENRICH: &str = "stop tidewatch-enrich first";
/// A group forgets a member that has died without goodbye before this is over.
const PATIENCE: Duration = Duration::from_secs(40);

/// Runs the commands that services name as they end, each literally.
#[derive(Debug, Default)]
pub struct Operator {
    /// Commands that were run, as they were named.
    pub heeded: Vec<String>,
    /// How far each log has been read.
    read: BTreeMap<PathBuf, usize>,
    /// Because a refusal asked for it.
    enrich_is_stopped: bool,
    /// Since when a command is refused.
    refused: Option<Instant>,
}

impl Operator {
    /// Runs the last command that is named in what is new in a log, or the one that its refusal names; true when the service
    /// may be started again, which it may not while the command is refused.
    pub async fn heed(&mut self, log: &Path, deployment: &mut Deployment) -> Result<bool> {
        let text = std::fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
        let read = self.read.get(log).copied().unwrap_or(0);
        let mut command = named(text.get(read..).unwrap_or_default()).map(str::to_owned);
        while let Some(now) = command.take() {
            let arguments: Vec<&str> = now.split_whitespace().collect();
            let Err(refusal) = deployment.partitions(&arguments).await else {
                self.heeded.push(now);
                break;
            };
            let refusal = format!("{refusal:#}");
            // One that has died is forgotten by its group before long.
            let died = deployment.services.dead().any(|(_, service)| service == Service::Enrich);
            if refusal.contains(STOP_ENRICH) && !died && !self.enrich_is_stopped {
                deployment.services.terminate(Service::Enrich.name()).await?;
                self.enrich_is_stopped = true;
            }
            command = named(&refusal).filter(|other| *other != now).map(str::to_owned);
            if command.is_none() {
                let since = *self.refused.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE {
                    bail!("{now} is refused: {refusal}");
                }
                return Ok(false);
            }
        }
        if std::mem::take(&mut self.enrich_is_stopped) {
            deployment.services.revive_one(Service::Enrich.name())?;
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
