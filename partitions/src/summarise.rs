//! Keeping the BRIN indexes of live partitions summarised.
//!
//! A range of pages that is new has no summary, and every query reads it. VACUUM would summarise it some day; this does
//! it every few seconds, for the partitions that have grown since the last time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use postgres::{Class, classify};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::apply::TABLES;

/// Remembers how large every partition was when it was summarised last.
#[derive(Debug, Default)]
pub struct Summariser {
    seen_bytes: HashMap<u32, i64>,
}

/// What was done for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summarised {
    /// The partitioned table.
    pub table: String,
    /// The partition.
    pub partition: String,
    /// Page ranges that had no summary.
    pub ranges: i32,
    /// How long it took.
    pub took: Duration,
}

/// Summarising shares its lock with VACUUM. Waiting for longer than deadlock_timeout (1 s) would make the server end an
/// autovacuum in our favour, again and again.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

impl Summariser {
    /// Summarises the new ranges of every partition that has grown. One that VACUUM is working on is left for the next
    /// call. `client` should have a lock_timeout below the server's deadlock_timeout.
    ///
    /// # Errors
    /// What Postgres refuses.
    pub async fn summarise(&mut self, client: &Client) -> Result<Vec<Summarised>, tokio_postgres::Error> {
        let tables: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        let rows = client
            .query(
                "SELECT parent.relname::text, leaf.relname::text, leaf.oid, brin.oid, pg_relation_size(leaf.oid)
                 FROM pg_inherits
                 JOIN pg_class parent ON parent.oid = inhparent
                 JOIN pg_class leaf ON leaf.oid = inhrelid
                 JOIN pg_index ON indrelid = leaf.oid
                 JOIN pg_class brin ON brin.oid = indexrelid
                 JOIN pg_am ON pg_am.oid = brin.relam AND amname = 'brin'
                 WHERE parent.oid = ANY (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)",
                &[&tables],
            )
            .await?;
        let mut done = Vec::new();
        let mut sizes = HashMap::with_capacity(rows.len());
        for row in rows {
            let (leaf, brin): (u32, u32) = (row.try_get(2)?, row.try_get(3)?);
            // Null when it was dropped in this moment.
            let Some(bytes) = row.try_get::<_, Option<i64>>(4)? else { continue };
            if bytes == 0 || self.seen_bytes.get(&leaf) == Some(&bytes) {
                sizes.insert(leaf, bytes);
                continue;
            }
            let started = Instant::now();
            match client.query_one("SELECT brin_summarize_new_values($1::oid::regclass)", &[&brin]).await {
                Ok(summary) => {
                    sizes.insert(leaf, bytes);
                    done.push(Summarised {
                        table: row.try_get(0)?,
                        partition: row.try_get(1)?,
                        ranges: summary.try_get(0)?,
                        took: started.elapsed(),
                    });
                }
                Err(error) if is_busy(&error) => {
                    tracing::debug!(partition = %row.get::<_, String>(1), "busy, summarised the next time");
                }
                Err(error) => return Err(error),
            }
        }
        self.seen_bytes = sizes;
        Ok(done)
    }
}

/// Locked by VACUUM, or gone.
fn is_busy(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_OBJECT) => {
            true
        }
        _ => classify(error) == Class::Transient && error.as_db_error().is_some() && !error.is_closed(),
    }
}
