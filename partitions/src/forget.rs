//! Forgetting keyed pushes that nobody repeats any more.
//!
//! A key means the same push for 24 hours after the stored copy was received. The row stays for 24 more, so that a retry
//! that waits in Kafka while the sink is down still meets it.

use tokio_postgres::Client;

/// Oldest first, and none that a sink is at: neither waits for the other.
const FORGET: &str = "
    DELETE FROM push_key WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM push_key WHERE stored_at < now() - interval '48 hours'
        ORDER BY stored_at LIMIT 1000 FOR UPDATE SKIP LOCKED
    ))";
/// Rows of a statement: some milliseconds.
const ROWS: u64 = 1000;
/// Statements of a call. A backlog is left to the next ones.
const STATEMENTS: usize = 50;

/// What there is of keyed pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushes {
    /// Rows deleted now.
    pub forgotten: u64,
    /// Rows left, as Postgres' statistics have it.
    pub kept: i64,
}

/// Deletes rows of `push_key` whose time is over, a thousand at a time, at most fifty thousand.
///
/// # Errors
/// What Postgres refuses; what was deleted before stays so.
pub async fn forget_pushes(client: &Client) -> Result<Pushes, tokio_postgres::Error> {
    let mut forgotten = 0;
    for _ in 0..STATEMENTS {
        let rows = client.execute(FORGET, &[]).await?;
        forgotten += rows;
        if rows < ROWS {
            break;
        }
    }
    let kept = "SELECT coalesce(sum(n_live_tup), 0)::bigint FROM pg_stat_all_tables WHERE relid = 'push_key'::regclass";
    Ok(Pushes { forgotten, kept: client.query_one(kept, &[]).await?.try_get(0)? })
}
