//! What the service is told.

use std::path::PathBuf;

use kafka::KafkaArgs;
use service::{ConfigError, Configuration, ServiceArgs};

/// Turns signals into incidents over windows of event time.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "tidewatch-correlate", version, about)]
pub struct Config {
    /// Kafka.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// Directory of Sigma rules, the same as that of tidewatch-detect
    #[arg(long, env = "TIDEWATCH_RULES", value_name = "DIR", default_value = "rules")]
    pub rules: PathBuf,
    /// Log, admin listener.
    #[command(flatten)]
    pub service: ServiceArgs,
}

impl Configuration for Config {
    fn validate(&self) -> Result<(), ConfigError> {
        std::fs::read_dir(&self.rules).map(drop).map_err(|error| {
            ConfigError::new("--rules", format!("{} cannot be read: {error}", self.rules.display()))
        })
    }

    fn service(&self) -> &ServiceArgs {
        &self.service
    }

    fn default_admin_port() -> u16 {
        9104
    }
}
