//! The pool.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use deadpool_postgres::{BuildError, Connect, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config};

use crate::PostgresArgs;
use crate::connect::{CONNECT_TIMEOUT, Session, open, prepared};

/// How long a caller waits for a connection before [`classify_pool`](crate::classify_pool) calls it saturation.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A pool of at most `--database-pool-size` connections, opened as they are needed.
///
/// A connection given back is not cleaned (recycling is fast): roll transactions back and set nothing for the session
/// but by `session`. One that has died is replaced when it is taken.
///
/// # Errors
/// Only when the pool's settings contradict each other, which these do not.
pub fn pool(args: &PostgresArgs, session: Session) -> Result<Pool, BuildError> {
    let manager = Manager::from_connect(
        prepared(&args.database_url, &session),
        Open,
        ManagerConfig { recycling_method: RecyclingMethod::Fast },
    );
    Pool::builder(manager)
        .max_size(args.database_pool_size)
        .wait_timeout(Some(ACQUIRE_TIMEOUT))
        .create_timeout(Some(CONNECT_TIMEOUT))
        .recycle_timeout(Some(CONNECT_TIMEOUT))
        .runtime(Runtime::Tokio1)
        .build()
}

/// Connections of the pool are opened and served as the single ones are.
struct Open;

type Opened = Result<(Client, JoinHandle<()>), tokio_postgres::Error>;

impl Connect for Open {
    fn connect(&self, config: &Config) -> Pin<Box<dyn Future<Output = Opened> + Send + '_>> {
        let config = config.clone();
        Box::pin(async move { open(&config).await })
    }
}
