//! The partitions that rows lie in.

use jiff::Timestamp;
use tokio_postgres::Client;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Its name, quoted where it has to be.
    pub(super) name: String,
    /// Its first moment, and the first after it, in microseconds since 1970.
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) bytes: i64,
}

/// The partitions of a table, earliest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Leaves(pub(super) Vec<Leaf>);

impl Leaves {
    pub(super) async fn of(client: &Client, table: &str) -> anyhow::Result<Self> {
        let rows = client
            .query(
                "SELECT oid::regclass::text, pg_table_size(oid),
                        substring(bound FROM $$FROM \\('([^']*)'\\)$$)::timestamptz,
                        substring(bound FROM $$TO \\('([^']*)'\\)$$)::timestamptz
                 FROM (SELECT c.oid, pg_get_expr(c.relpartbound, c.oid) AS bound
                       FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
                       WHERE inhparent = $1::text::regclass) AS leaf",
                &[&table],
            )
            .await?;
        let mut leaves = Vec::with_capacity(rows.len());
        for row in &rows {
            let micros = |at: Option<Timestamp>| at.map(Timestamp::as_microsecond);
            leaves.push(Leaf {
                name: row.try_get(0)?,
                bytes: row.try_get::<_, Option<i64>>(1)?.unwrap_or(0),
                from: micros(row.try_get(2)?).unwrap_or(i64::MIN),
                to: micros(row.try_get(3)?).unwrap_or(i64::MAX),
            });
        }
        leaves.sort_by_key(|leaf| leaf.from);
        Ok(Self(leaves))
    }

    /// The first moment of all; none without partitions.
    pub(super) fn start(&self) -> Option<i64> {
        self.0.first().map(|leaf| leaf.from)
    }

    /// Whether a time lies before all of them: its partition has been dropped.
    pub(super) fn gone(&self, time: i64) -> bool {
        self.start().is_some_and(|start| time < start)
    }
}
