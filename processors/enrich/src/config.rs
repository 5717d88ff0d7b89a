//! What the service is told.

use std::path::PathBuf;

use kafka::KafkaArgs;
use schemas::OrgId;
use service::{ConfigError, Configuration, ServiceArgs};

use crate::context::{Assets, Domains, Hashes, Ips, Kind, Sources, ThreatFile};

/// Normalises raw batches and adds context: events.raw to events, findings.raw to findings.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "tidewatch-enrich", version, about)]
pub struct Config {
    /// Kafka.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// Org of records that other producers wrote without a header `org`; without it they are quarantined.
    #[arg(long, env = "TIDEWATCH_DEFAULT_ORG", value_name = "ORG")]
    pub default_org: Option<OrgId>,
    /// Labels of networks: lines `CIDR label[,label…]`. Read again when it changes.
    #[arg(long, env = "TIDEWATCH_ASSETS", value_name = "FILE")]
    pub assets: Option<PathBuf>,
    /// A threat list, KIND being ip, domain or hash: one entry a line, a label after white space. Repeatable. Read
    /// again when it changes.
    #[arg(
        long = "threat-list",
        env = "TIDEWATCH_THREAT_LISTS",
        value_name = "KIND=FILE",
        value_delimiter = ','
    )]
    pub threat_lists: Vec<ThreatFile>,
    /// Log, admin listener.
    #[command(flatten)]
    pub service: ServiceArgs,
}

impl Config {
    /// The files of context.
    pub fn sources(&self) -> Sources {
        Sources { assets: self.assets.clone(), threats: self.threat_lists.clone() }
    }
}

impl Configuration for Config {
    fn validate(&self) -> Result<(), ConfigError> {
        if let Some(path) = &self.assets {
            Assets::read(path).map_err(|error| ConfigError::new("--assets", error.to_string()))?;
        }
        for list in &self.threat_lists {
            let read = match list.kind {
                Kind::Ip => Ips::read(list).map(drop),
                Kind::Domain => Domains::read(list).map(drop),
                Kind::Hash => Hashes::read(list).map(drop),
            };
            read.map_err(|error| ConfigError::new("--threat-list", error.to_string()))?;
        }
        Ok(())
    }

    fn service(&self) -> &ServiceArgs {
        &self.service
    }

    fn default_admin_port() -> u16 {
        9102
    }
}
