//! What partitions there are.

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::Client;

use crate::apply::TABLES;

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leaf {
    /// The partitioned table.
    pub table: String,
    /// The partition.
    pub name: String,
    /// Its first moment; none without a lower bound.
    pub from: Option<Timestamp>,
    /// The first moment after it; none without an upper bound.
    pub to: Option<Timestamp>,
    /// Rows as of the last VACUUM or ANALYZE; none before the first.
    pub rows_estimate: Option<i64>,
    /// On disk, indexes and TOAST included.
    pub bytes: i64,
    /// Heap pages that the BRIN index knows nothing of, so that every query reads them; none without such an index.
    pub unsummarised_pages: Option<i64>,
}

/// Every partition of every partitioned table, earliest first within its table.
///
/// # Errors
/// What Postgres refuses.
pub async fn list(client: &Client) -> anyhow::Result<Vec<Leaf>> {
    let mut leaves = Vec::new();
    // UTC: bounds are read back as text. A sequential scan would say nothing of the index.
    client.batch_execute("SET TIME ZONE 'UTC'; SET enable_seqscan = off").await?;
    for table in TABLES {
        let rows = client
            .query(
                "SELECT name, rows, bytes, has_brin,
                        substring(bound FROM $$FROM \\('([^']*)'\\)$$)::timestamptz AS first,
                        substring(bound FROM $$TO \\('([^']*)'\\)$$)::timestamptz
                 FROM (SELECT c.relname::text AS name, c.reltuples::bigint AS rows,
                              pg_get_expr(c.relpartbound, c.oid) AS bound, pg_total_relation_size(c.oid) AS bytes,
                              EXISTS (SELECT FROM pg_index JOIN pg_class b ON b.oid = indexrelid
                                      JOIN pg_am ON pg_am.oid = b.relam AND amname = 'brin'
                                      WHERE indrelid = c.oid) AS has_brin
                       FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
                       WHERE inhparent = $1::text::regclass) AS leaf
                 ORDER BY first NULLS FIRST, name",
                &[&table.name],
            )
            .await?;
        for row in rows {
            let name: String = row.try_get(0)?;
            let has_brin: bool = row.try_get(3)?;
            let unsummarised_pages =
                if has_brin { Some(unsummarised_pages(client, &name, table.key).await?) } else { None };
            leaves.push(Leaf {
                table: table.name.to_owned(),
                rows_estimate: row.try_get::<_, i64>(1).map(|rows| (rows >= 0).then_some(rows))?,
                bytes: row.try_get(2)?,
                from: row.try_get(4)?,
                to: row.try_get(5)?,
                unsummarised_pages,
                name,
            });
        }
    }
    Ok(leaves)
}

/// A scan for rows that no range can hold reads exactly the ranges without a summary.
async fn unsummarised_pages(client: &Client, leaf: &str, key: &str) -> anyhow::Result<i64> {
    // The name comes from the catalogue; quoted for partitions that somebody named by hand.
    let leaf = leaf.replace('"', "\"\"");
    let row = client
        .query_one(
            &format!(
                "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, FORMAT JSON)
                 SELECT FROM \"{leaf}\" WHERE {key} < '-infinity'"
            ),
            &[],
        )
        .await?;
    let explained: serde_json::Value = row.try_get(0)?;
    Ok(find_lossy_blocks(&explained).unwrap_or(0))
}

fn find_lossy_blocks(plan: &serde_json::Value) -> Option<i64> {
    match plan {
        serde_json::Value::Object(fields) => fields
            .get("Lossy Heap Blocks")
            .and_then(serde_json::Value::as_i64)
            .or_else(|| fields.values().find_map(find_lossy_blocks)),
        serde_json::Value::Array(items) => items.iter().find_map(find_lossy_blocks),
        _ => None,
    }
}
