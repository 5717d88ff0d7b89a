//! The local stack: Kafka, Postgres and every service as child processes of one process, with their data and logs in
//! one directory. Demo, tests, benchmarks and fault tests stand on it; production does not.
//!
//! - [`Kafka`], [`Postgres`]: one node each, started, ready, stopped.
//! - [`Services`]: every tidewatch service against a Kafka and a Postgres, each of which can be killed and restarted.
//! - [`Deployment`]: database, topics, an org and its tokens, then [`Services`]: what a test starts.
//! - [`Backends`]: the Kafka and Postgres that `tidewatch with-stack` gives its command.
//!
//! Every child ends when the process that started it ends, however it ends (see [`process`]).

mod backends;
mod deployment;
mod kafka;
mod layout;
pub mod ports;
mod postgres;
pub mod process;
mod readiness;
mod scratch;
mod services;

pub use backends::{
    BIN_DIR_VARIABLE, Backends, DATABASE_URL_VARIABLE, KAFKA_BROKERS_VARIABLE, LOG_DIR_VARIABLE, Stack,
};
pub use deployment::{Deployment, DeploymentOptions, Tokens};
pub use kafka::{Kafka, KafkaOptions, Member};
pub use layout::{Layout, STATE_DIR_VARIABLE};
pub use postgres::{Postgres, PostgresOptions, database_url};
pub use readiness::{Dependency, Readiness};
pub use scratch::Scratch;
pub use services::{Service, ServiceOptions, ServicePorts, Services};
