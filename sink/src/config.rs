//! What the service is told.

use std::time::Duration;

use kafka::KafkaArgs;
use postgres::PostgresArgs;
use service::{ConfigError, Configuration, ServiceArgs};

use crate::batch::Limits;

/// A flush is one transaction. What is larger than this is not faster, and three of them are in memory at a time.
const MAX_FLUSH_ROWS: usize = 200_000;
const MAX_FLUSH_BYTES: usize = 32 << 20;

/// Writes events, findings, scans and incidents to Postgres, exactly once.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "tidewatch-sink", version, about)]
pub struct Config {
    /// Kafka.
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// Postgres.
    #[command(flatten)]
    pub postgres: PostgresArgs,
    /// A transaction is closed when it has this many rows
    #[arg(long, env = "TIDEWATCH_FLUSH_ROWS", value_name = "ROWS", default_value_t = 20_000)]
    pub flush_rows: usize,
    /// … or this many bytes of records
    #[arg(long, env = "TIDEWATCH_FLUSH_BYTES", value_name = "BYTES", default_value_t = 4 << 20)]
    pub flush_bytes: usize,
    /// … or when its first record has waited this many milliseconds
    #[arg(long, env = "TIDEWATCH_FLUSH_MILLISECONDS", value_name = "MILLISECONDS", default_value_t = 200)]
    pub flush_milliseconds: u64,
    /// Log, admin listener.
    #[command(flatten)]
    pub service: ServiceArgs,
}

impl Config {
    /// The defaults with this Kafka and this Postgres: for tests and benches.
    pub fn new(kafka: KafkaArgs, postgres: PostgresArgs) -> Self {
        Self {
            kafka,
            postgres,
            flush_rows: 20_000,
            flush_bytes: 4 << 20,
            flush_milliseconds: 200,
            service: ServiceArgs::default(),
        }
    }

    /// When a batch is full.
    pub fn limits(&self) -> Limits {
        Limits { rows: self.flush_rows, bytes: self.flush_bytes }
    }

    /// How long a batch waits for more.
    pub fn linger(&self) -> Duration {
        Duration::from_millis(self.flush_milliseconds)
    }
}

impl Configuration for Config {
    fn validate(&self) -> Result<(), ConfigError> {
        let range = |flag, value: usize, from: usize, to: usize| {
            let fits = (from..=to).contains(&value);
            fits.then_some(()).ok_or_else(|| ConfigError::new(flag, format!("{value} is not {from} to {to}")))
        };
        range("--flush-rows", self.flush_rows, 1, MAX_FLUSH_ROWS)?;
        range("--flush-bytes", self.flush_bytes, 1 << 10, MAX_FLUSH_BYTES)?;
        let milliseconds = usize::try_from(self.flush_milliseconds).unwrap_or(usize::MAX);
        range("--flush-milliseconds", milliseconds, 1, 60_000)
    }

    fn service(&self) -> &ServiceArgs {
        &self.service
    }

    fn default_admin_port() -> u16 {
        9105
    }
}
