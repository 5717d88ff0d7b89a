//! The shape of every tidewatch process: configuration, lifecycle, telemetry, health.
//!
//! A binary is a [`Configuration`] and a `run` function; [`main`] does the rest:
//!
//! ```no_run
//! # #[derive(clap::Parser)]
//! # struct Config { #[command(flatten)] service: service::ServiceArgs }
//! # use tidewatch_service as service;
//! impl service::Configuration for Config {
//!     fn validate(&self) -> Result<(), service::ConfigError> {
//!         Ok(())
//!     }
//!     fn service(&self) -> &service::ServiceArgs {
//!         &self.service
//!     }
//!     fn default_admin_port() -> u16 {
//!         9105
//!     }
//! }
//!
//! async fn run(_config: Config, context: service::Context) -> anyhow::Result<()> {
//!     let postgres = context.health.dependency("postgres").at("127.0.0.1:5432");
//!     postgres.up();
//!     let mut tasks = service::Tasks::new(&context.shutdown);
//!     let stopping = context.shutdown.requested();
//!     tasks.critical("worker", async move { stopping.await; Ok(()) });
//!     tasks.run().await
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     service::main("tidewatch-example", run)
//! }
//! ```
//!
//! # Exit codes
//! 0: drained after SIGTERM or SIGINT, or finished by itself. 64: a flag or environment variable is wrong; one line on
//! stderr names the flag. 1: anything fatal; the last log line says what.
//!
//! # What this crate never does
//! It knows no Kafka and no Postgres, and it never decides that a service is ready: services report their
//! dependencies through [`Health`].

mod admin;
mod config;
mod failpoint;
mod health;
mod lifecycle;
pub mod metrics;
mod panics;
mod shutdown;
mod tasks;
mod telemetry;

pub use config::{ConfigError, Configuration, LogFilter, LogFormat, ServiceArgs, parse};
pub use failpoint::{clock_error_seconds, failpoint, guard_is_off};
pub use health::{Dependency, DependencyReport, Health, Report};
pub use lifecycle::{Context, EXIT_USAGE, main, once, serve};
pub use panics::contain;
pub use shutdown::{GRACE, Shutdown};
pub use tasks::Tasks;
