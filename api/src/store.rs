//! The database, as far as the API may see it: one org's rows at a time, and whose a token is.

use std::time::{Duration, Instant};

use postgres::{
    Class, Pool, PoolError, PooledClient, PostgresArgs, Session, classify, classify_pool, describe,
};
use postgres_types::{ToSql, Type};
use schemas::OrgId;
use service::metrics;
use tokio_postgres::error::SqlState;
use tokio_postgres::{NoTls, Row};

use crate::auth::Org;
use crate::problem::Problem;
use crate::select::{Param, Select};

/// A query is cancelled after this time.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// A query over this is logged.
const SLOW: Duration = Duration::from_millis(100);
/// Time to tell the server that a query is not wanted any more.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Sequential scans are for statistics that are missing or old: BRIN is never slower, and a wrong guess reads a month.
/// Compiling a plan, or starting workers for it, takes longer than any query here.
const SETTINGS: &[(&str, &str)] =
    &[("enable_seqscan", "off"), ("jit", "off"), ("max_parallel_workers_per_gather", "0")];

/// The pool, closed to all but this module.
pub(crate) struct Store {
    pool: Pool,
}

/// A token as the database has it.
#[derive(Debug, Clone)]
pub(crate) struct StoredToken {
    pub(crate) org: String,
    pub(crate) kind: String,
    pub(crate) label: String,
    pub(crate) revoked: bool,
}

impl Store {
    pub(crate) fn new(args: &PostgresArgs) -> anyhow::Result<Self> {
        let session =
            Session { statement_timeout: Some(STATEMENT_TIMEOUT), settings: SETTINGS, ..Session::default() };
        Ok(Self { pool: postgres::pool(args, session)? })
    }

    /// A view of one org's rows. Takes no connection until it is asked something.
    pub(crate) fn scoped<'a>(&'a self, org: &'a Org) -> Scoped<'a> {
        Scoped { store: self, org: org.id() }
    }

    /// Whose token this is the SHA-256 of; none when it is nobody's.
    ///
    /// # Errors
    /// The database is not there, or does not answer.
    pub(crate) async fn token(&self, digest: &[u8; 32]) -> Result<Option<StoredToken>, Problem> {
        const SQL: &str = "SELECT org, kind, label, revoked_at IS NOT NULL FROM token WHERE digest = $1";
        let digest = Param { value: Box::new(digest.to_vec()), kind: Type::BYTEA };
        let rows = self.query("token", SQL, &[digest]).await?;
        let read = |row: &Row| {
            Ok(StoredToken {
                org: row.try_get(0)?,
                kind: row.try_get(1)?,
                label: row.try_get(2)?,
                revoked: row.try_get(3)?,
            })
        };
        rows.first().map(read).transpose().map_err(|error| unreadable("token", &error))
    }

    /// Counts of the pool, for metrics.
    pub(crate) fn report(&self) {
        let status = self.pool.status();
        let gauge = |state, count: usize| {
            metrics::POSTGRES_POOL_CONNECTIONS.with([state]).set(count as f64);
        };
        gauge("open", status.size);
        gauge("idle", status.available);
        gauge("waiting", status.waiting);
    }

    /// Runs a query; once more on another connection when this one broke.
    async fn query(&self, name: &'static str, sql: &str, params: &[Param]) -> Result<Vec<Row>, Problem> {
        match self.try_query(name, sql, params).await {
            Err(Failed::Query(error)) if classify(&error) == Class::Transient => {
                tracing::debug!(query = name, "repeated after: {}", describe(&error));
                self.try_query(name, sql, params).await
            }
            result => result,
        }
        .map_err(|failed| failed.into_problem(name))
    }

    async fn try_query(&self, name: &'static str, sql: &str, params: &[Param]) -> Result<Vec<Row>, Failed> {
        let started = Instant::now();
        let connection = self.pool.get().await.map_err(Failed::Pool)?;
        metrics::POSTGRES_POOL_WAIT.record_duration(started.elapsed());
        let mut lease = Lease { connection: Some(connection), busy: false };
        let started = Instant::now();
        let result = lease.query(sql, params).await;
        let took = started.elapsed();
        metrics::API_QUERY_DURATION.with([name]).record_duration(took);
        if took >= SLOW {
            metrics::API_SLOW_QUERIES.with([name]).add(1);
            let rows = result.as_ref().map_or(0, Vec::len);
            tracing::warn!(query = name, took_ms = took.as_millis() as u64, rows, sql, "slow query");
        }
        result.map_err(Failed::Query)
    }
}

/// One org's rows.
pub(crate) struct Scoped<'a> {
    store: &'a Store,
    org: &'a OrgId,
}

impl Scoped<'_> {
    /// The rows that `select` matches, of this org.
    ///
    /// # Errors
    /// 503 when the database or a connection is not there, 504 when it takes too long, 500 for a defect.
    pub(crate) async fn fetch(&self, select: Select) -> Result<Vec<Row>, Problem> {
        let name = select.name;
        let (sql, params) = select.for_org(self.org);
        self.store.query(name, &sql, &params).await
    }

    /// EXPLAIN (ANALYZE, BUFFERS) of `select`, as JSON.
    #[cfg(test)]
    pub(crate) async fn explain(&self, select: Select) -> Result<serde_json::Value, Problem> {
        let (sql, params) = select.for_org(self.org);
        let sql = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}");
        let rows = self.store.query("explain", &sql, &params).await?;
        Ok(rows.first().map(|row| row.get(0)).unwrap_or_default())
    }
}

/// A row that does not have the columns it was asked for.
pub(crate) fn unreadable(query: &'static str, error: &tokio_postgres::Error) -> Problem {
    tracing::error!(query, "cannot read a row: {error}");
    Problem::internal()
}

enum Failed {
    Pool(PoolError),
    Query(tokio_postgres::Error),
}

impl Failed {
    fn into_problem(self, query: &'static str) -> Problem {
        let class = match &self {
            Failed::Pool(error) => classify_pool(error),
            Failed::Query(error) => classify(error),
        };
        metrics::API_QUERY_ERRORS.with([class.name()]).add(1);
        match self {
            Failed::Pool(PoolError::Timeout(_)) if class == Class::Saturation => {
                metrics::POSTGRES_POOL_TIMEOUTS.add(1);
                Problem::unavailable("no connection to the database was free in time; try again")
            }
            Failed::Pool(error) => {
                tracing::warn!(query, "no connection to the database: {error}");
                Problem::unavailable("the database is not there; try again")
            }
            Failed::Query(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Problem::timeout(
                format!("the query took over {} s; ask for a shorter time", STATEMENT_TIMEOUT.as_secs()),
            ),
            Failed::Query(error) if matches!(class, Class::Transient | Class::Saturation) => {
                tracing::warn!(query, "query failed: {}", describe(&error));
                Problem::unavailable("the database did not answer; try again")
            }
            // Before the first migration.
            Failed::Query(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                tracing::warn!(query, "query failed: {}", describe(&error));
                Problem::unavailable("the database is not set up; run tidewatch-partitions migrate")
            }
            Failed::Query(error) => {
                tracing::error!(query, "query failed: {}", describe(&error));
                Problem::internal()
            }
        }
    }
}

/// A connection while a query runs on it. When whoever asked has gone away in the middle, the query is cancelled and the
/// connection is not used again: the next one would wait for the rest.
struct Lease {
    connection: Option<PooledClient>,
    busy: bool,
}

impl Lease {
    async fn query(&mut self, sql: &str, params: &[Param]) -> Result<Vec<Row>, tokio_postgres::Error> {
        let Some(connection) = &self.connection else { return Ok(Vec::new()) };
        let params: Vec<(&(dyn ToSql + Sync), Type)> =
            params.iter().map(|param| (&*param.value as &(dyn ToSql + Sync), param.kind.clone())).collect();
        self.busy = true;
        let result = connection.query_typed(sql, &params).await;
        self.busy = false;
        if let Err(error) = &result
            && classify(error) == Class::Transient
            && let Some(connection) = self.connection.take()
        {
            // It may be ending without having noticed; whoever tries again must not be given it.
            drop(PooledClient::take(connection));
        }
        result
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (true, Some(connection)) = (self.busy, self.connection.take()) else { return };
        let client = PooledClient::take(connection);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let cancel = client.cancel_token();
            // Else it ends at its time limit.
            let _ = tokio::time::timeout(CANCEL_TIMEOUT, cancel.cancel_query(NoTls)).await;
        });
    }
}
