//! Making the partitions that are missing.

use anyhow::Context as _;
use jiff::Timestamp;
use tokio_postgres::{Client, Transaction};

use crate::plan::{Existing, Horizon, Month, plan};

/// Two runs at the same time would both find a partition missing.
const LOCK: i64 = 0x7469_6465_7061_7274; // "tidepart"

/// How long an ATTACH waits for whoever else changes the table; writers and readers it never waits for.
const LOCK_TIMEOUT: &str = "10s";

/// A table with a partition a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The column its rows are spread by.
    pub key: &'static str,
}

/// Every such table.
pub const TABLES: [Table; 4] = [
    Table { name: "events", key: "time" },
    Table { name: "findings", key: "time" },
    Table { name: "quarantine", key: "received_at" },
    Table { name: "audit_log", key: "at" },
];

/// A partition that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The table it belongs to.
    pub table: &'static str,
    /// Its name: `events_2026_11`.
    pub name: String,
    /// What it holds.
    pub month: Month,
}

/// What [`apply`] found and did for one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) table: &'static str,
    /// Partitions after it.
    pub(crate) partitions: usize,
    /// End of the last one; none without an upper bound.
    pub(crate) end: Option<Timestamp>,
    pub(crate) created: Vec<Created>,
}

/// Makes the month partitions within `horizon` of `now` that are missing, and returns them.
///
/// A table's partitions are made in one transaction; runs at the same time wait for one another, and writers wait for
/// none of them.
///
/// # Errors
/// What Postgres refuses; a month that other partitions cover in part; a DEFAULT partition.
pub async fn apply(client: &mut Client, now: Timestamp, horizon: Horizon) -> anyhow::Result<Vec<Created>> {
    let states = apply_tables(client, now, horizon).await?;
    Ok(states.into_iter().flat_map(|state| state.created).collect())
}

pub(crate) async fn apply_tables(
    client: &mut Client,
    now: Timestamp,
    horizon: Horizon,
) -> anyhow::Result<Vec<State>> {
    let mut states = Vec::with_capacity(TABLES.len());
    for table in TABLES {
        let state = apply_to(client, table, now, horizon).await;
        states.push(state.with_context(|| format!("making partitions of {}", table.name))?);
    }
    Ok(states)
}

async fn apply_to(
    client: &mut Client,
    table: Table,
    now: Timestamp,
    horizon: Horizon,
) -> anyhow::Result<State> {
    let transaction = client.transaction().await?;
    // UTC: partition bounds are read back as text.
    transaction
        .batch_execute(&format!(
            "SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SET LOCAL TIME ZONE 'UTC';
             SELECT pg_advisory_xact_lock({LOCK})"
        ))
        .await?;
    let existing = existing(&transaction, table).await?;
    let mut created = Vec::new();
    for month in plan(now, horizon, &existing)? {
        let name = format!("{}_{month}", table.name);
        create(&transaction, table, &name, month).await.with_context(|| format!("making {name}"))?;
        created.push(Created { table: table.name, name, month });
    }
    transaction.commit().await?;

    let ends = existing.iter().map(|partition| partition.to.unwrap_or(Timestamp::MAX));
    let end = ends.chain(created.iter().map(|created| created.month.end())).max();
    Ok(State {
        table: table.name,
        partitions: existing.len() + created.len(),
        end: end.filter(|end| *end < Timestamp::MAX),
        created,
    })
}

/// The partition is made on its own and then attached: CREATE TABLE … PARTITION OF would lock the parent against
/// everyone, ATTACH only against other changes of its shape. The table being empty, the usual CHECK that spares ATTACH
/// a scan would only cost time for every row to come.
async fn create(
    transaction: &Transaction<'_>,
    table: Table,
    name: &str,
    month: Month,
) -> Result<(), tokio_postgres::Error> {
    let Table { name: parent, .. } = table;
    let (from, to) = (month.start(), month.end());
    transaction
        .batch_execute(&format!(
            "CREATE TABLE {name} (LIKE {parent} INCLUDING ALL);
             ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{to}')"
        ))
        .await
}

async fn existing(transaction: &Transaction<'_>, table: Table) -> anyhow::Result<Vec<Existing>> {
    let rows = transaction
        .query(
            "SELECT name, bound,
                    substring(bound FROM $$FROM \\('([^']*)'\\)$$)::timestamptz,
                    substring(bound FROM $$TO \\('([^']*)'\\)$$)::timestamptz
             FROM (SELECT c.relname::text AS name, pg_get_expr(c.relpartbound, c.oid) AS bound
                   FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                   WHERE i.inhparent = $1::text::regclass) AS partition",
            &[&table.name],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let (name, bound): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            anyhow::ensure!(
                bound != "DEFAULT",
                "{name} is a DEFAULT partition, which keeps others from being made and detached without locks: move \
                 its rows and drop it"
            );
            Ok(Existing { name, from: row.try_get(2)?, to: row.try_get(3)? })
        })
        .collect()
}
