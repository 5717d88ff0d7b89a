//! Connections that all see the database as it was at one moment, whatever is written meanwhile.

use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use postgres::{Client, DatabaseUrl, Session, connect_with};

/// Reading takes no lock that a writer waits for; what may be in its way is a partition being dropped.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Whatever the URL says of timeouts is meant for short statements. A plan of ours is never worth compiling, and workers
/// of a query would take the processors from the sink.
const SETTINGS: &str =
    "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET TimeZone = 'UTC';
    SET jit = off; SET max_parallel_workers_per_gather = 0";
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";

/// The connections, the first of which may be used for everything.
pub(super) struct Snapshot {
    pub(super) clients: Vec<Client>,
    /// The moment.
    pub(super) at: Timestamp,
}

impl Snapshot {
    /// Opens `count` connections.
    pub(super) async fn open(url: &DatabaseUrl, count: usize) -> anyhow::Result<Self> {
        let first = connect(url).await?;
        let row = first
            .query_one("SELECT now(), CASE WHEN $1 THEN pg_export_snapshot() END", &[&(count > 1)])
            .await
            .context("taking a snapshot")?;
        let (at, id): (Timestamp, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        let mut clients = vec![first];
        while let (Some(id), true) = (&id, clients.len() < count) {
            let client = connect(url).await?;
            client
                .batch_execute(&format!("SET TRANSACTION SNAPSHOT '{id}'"))
                .await
                .context("sharing a snapshot")?;
            clients.push(client);
        }
        Ok(Self { clients, at })
    }

    /// The first connection.
    pub(super) fn client(&self) -> anyhow::Result<&Client> {
        self.clients.first().context("a snapshot without connections")
    }
}

async fn connect(url: &DatabaseUrl) -> anyhow::Result<Client> {
    let session = Session { lock_timeout: Some(LOCK_TIMEOUT), ..Session::default() };
    let client = connect_with(url, &session).await?;
    for command in [SETTINGS, BEGIN] {
        client.batch_execute(command).await.context("beginning to read")?;
    }
    Ok(client)
}
