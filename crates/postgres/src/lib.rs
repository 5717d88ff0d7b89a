//! Connections to Postgres, the pool, and the one classification of its errors.
//!
//! ```no_run
//! # use tidewatch_postgres as postgres;
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let url: postgres::DatabaseUrl = "postgres://tidewatch:secret@db.example:5432/tidewatch".parse()?;
//! let client = postgres::connect(&url).await?;
//! if let Err(error) = client.batch_execute("SELECT 1").await {
//!     match postgres::classify(&error) {
//!         postgres::Class::Transient => {} // reconnect and repeat
//!         _ => return Err(error.into()),
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! A password never leaves [`DatabaseUrl`] but into the connection: not by Debug, not by Display, not in an error.
//! Connections are unencrypted: use a Unix socket, a private network or a TLS-terminating proxy beside the process.

mod classify;
mod connect;
mod pool;
mod ready;
mod url;

pub use classify::{Class, classify, classify_pool, describe};
pub use connect::{ConnectError, Session, connect, connect_with};
pub use deadpool_postgres::{Client as PooledClient, Pool, PoolError};
pub use pool::pool;
pub use ready::{wait_until_migrated, wait_until_ready};
pub use tokio_postgres::Client;
pub use url::{DatabaseUrl, InvalidUrl};

/// Flags of every binary that uses Postgres.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Postgres")]
pub struct PostgresArgs {
    /// Where Postgres is: postgres://user:password@host:port/database, or postgres:///database?host=/socket/directory
    #[arg(
        long,
        env = "TIDEWATCH_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        value_parser = url::Parser
    )]
    pub database_url: DatabaseUrl,

    /// Connections that the pool opens at most
    #[arg(long, env = "TIDEWATCH_DATABASE_POOL_SIZE", value_name = "COUNT", default_value_t = 8,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1000))]
    pub database_pool_size: usize,
}

impl PostgresArgs {
    /// The defaults with this URL: for tests, and for binaries that are told their URL in another way.
    pub fn new(database_url: DatabaseUrl) -> Self {
        Self { database_url, database_pool_size: 8 }
    }
}
