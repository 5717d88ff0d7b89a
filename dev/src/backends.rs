//! The Kafka and Postgres that tests share: [`Stack`] runs them, [`Backends`] tells how to reach them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::kafka::{Kafka, KafkaOptions};
use crate::layout::Layout;
use crate::postgres::{Postgres, PostgresOptions};
use crate::scratch::Scratch;

/// Brokers for tests, `host:port`.
pub const KAFKA_BROKERS_VARIABLE: &str = "TIDEWATCH_TEST_KAFKA_BROKERS";
/// A superuser's URL for tests, database `postgres`.
pub const DATABASE_URL_VARIABLE: &str = "TIDEWATCH_TEST_DATABASE_URL";
/// Where the services' binaries are.
pub const BIN_DIR_VARIABLE: &str = "TIDEWATCH_TEST_BIN_DIR";
/// Where what tests start may log.
pub const LOG_DIR_VARIABLE: &str = "TIDEWATCH_TEST_LOG_DIR";

/// A private Kafka and Postgres, gone with their data when stopped or dropped.
#[derive(Debug)]
pub struct Stack {
    kafka: Kafka,
    postgres: Postgres,
    // Last: removed after the processes that write there.
    _scratch: Scratch,
}

impl Stack {
    /// Starts both, side by side, on free ports, in a directory of their own.
    pub async fn start(layout: &Layout, logs: &Path) -> Result<Stack> {
        let scratch = Scratch::create(&layout.state().join("run"))?;
        let kafka =
            KafkaOptions::new(scratch.path().join("kafka"), layout.kafka_jars()?, logs.join("kafka.log"))?;
        let postgres = PostgresOptions::new(scratch.path().join("postgres"), logs.join("postgres.log"))?;
        let (kafka, postgres) = tokio::try_join!(Kafka::start(kafka), Postgres::start(postgres))?;
        Ok(Stack { kafka, postgres, _scratch: scratch })
    }

    /// How tests reach it.
    pub fn backends(&self, binaries: PathBuf, logs: PathBuf) -> Backends {
        Backends {
            kafka_brokers: self.kafka.brokers(),
            superuser_url: self.postgres.superuser_url(),
            binaries,
            logs,
        }
    }

    /// The processes of both.
    pub fn pids(&self) -> [i32; 2] {
        [self.kafka.process().pid(), self.postgres.process().pid()]
    }

    /// Stops both at once; what they stored is not worth an orderly end.
    pub async fn stop(self) -> Result<()> {
        tokio::try_join!(self.kafka.kill(), self.postgres.kill())?;
        Ok(())
    }
}

/// How to reach a Kafka and a Postgres, and what else a test needs to start services against them.
#[derive(Debug, Clone)]
pub struct Backends {
    /// `host:port` of the brokers.
    pub kafka_brokers: String,
    /// Superuser, database `postgres`; role `tidewatch` has the same password.
    pub superuser_url: String,
    /// Where the services' binaries are.
    pub binaries: PathBuf,
    /// Where logs go.
    pub logs: PathBuf,
}

impl Backends {
    /// What `tidewatch with-stack` has put into the environment.
    pub fn from_environment() -> Result<Backends> {
        let variable = |name| {
            std::env::var(name).with_context(|| format!("{name} is not set: run this through `make test`"))
        };
        Ok(Backends {
            kafka_brokers: variable(KAFKA_BROKERS_VARIABLE)?,
            superuser_url: variable(DATABASE_URL_VARIABLE)?,
            binaries: variable(BIN_DIR_VARIABLE)?.into(),
            logs: variable(LOG_DIR_VARIABLE)?.into(),
        })
    }

    /// The environment that [`Backends::from_environment`] reads.
    pub fn environment(&self) -> [(&'static str, std::ffi::OsString); 4] {
        [
            (KAFKA_BROKERS_VARIABLE, (&self.kafka_brokers).into()),
            (DATABASE_URL_VARIABLE, (&self.superuser_url).into()),
            (BIN_DIR_VARIABLE, (&self.binaries).into()),
            (LOG_DIR_VARIABLE, (&self.logs).into()),
        ]
    }
}
