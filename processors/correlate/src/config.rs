//! What the service is told.

use std::path::PathBuf;

use detection::Limits;
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
    /// How much state.
    #[command(flatten)]
    pub state: StateArgs,
    /// Log, admin listener.
    #[command(flatten)]
    pub service: ServiceArgs,
}

/// How much window state the process may hold. Past that the keys whose last signal lies longest back are dropped, which is
/// counted, logged, and marked on the incidents that may miss something.
#[derive(Debug, Clone, clap::Args)]
pub struct StateArgs {
    /// Live keys, pairs of rule and group values, of all orgs together; a million below a threshold of 10 take some 400 MB
    #[arg(long, env = "TIDEWATCH_MAX_KEYS", value_name = "N", default_value_t = StateArgs::default().max_keys)]
    pub max_keys: usize,
    /// Live keys of one org
    #[arg(
        long,
        env = "TIDEWATCH_MAX_KEYS_PER_ORG",
        value_name = "N",
        default_value_t = StateArgs::default().max_keys_per_org
    )]
    pub max_keys_per_org: usize,
    /// Memory of all windows, about, in MB
    #[arg(long, env = "TIDEWATCH_MAX_STATE_MB", value_name = "MB", default_value_t = StateArgs::default().max_state_mb)]
    pub max_state_mb: usize,
}

impl Default for StateArgs {
    fn default() -> Self {
        Self { max_keys: 2_000_000, max_keys_per_org: 1_000_000, max_state_mb: 1_024 }
    }
}

impl StateArgs {
    /// The share of one of `partitions`, which keys are spread over evenly.
    pub fn share(&self, partitions: usize) -> Limits {
        let share = |all: usize| all.div_ceil(partitions.max(1)).max(1);
        Limits {
            keys: share(self.max_keys),
            keys_per_org: share(self.max_keys_per_org),
            bytes: share(self.max_state_mb.saturating_mul(1_000_000)),
        }
    }
}

impl Configuration for Config {
    fn validate(&self) -> Result<(), ConfigError> {
        for (flag, number) in [
            ("--max-keys", self.state.max_keys),
            ("--max-keys-per-org", self.state.max_keys_per_org),
            ("--max-state-mb", self.state.max_state_mb),
        ] {
            if number == 0 {
                return Err(ConfigError::new(flag, "is 0: nothing could be correlated"));
            }
        }
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
