//! Rows of `audit_log` for what operators do.

use serde_json::Value;
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Json;
use uuid::Uuid;

/// One thing that was done.
pub(crate) struct Entry<'a> {
    /// Whose it is; none for what concerns all.
    pub(crate) org: Option<&'a str>,
    /// Who did it.
    pub(crate) actor: &'a str,
    /// `create`, `revoke`, `accepted_gap`, `accepted_new_topic`.
    pub(crate) action: &'a str,
    /// `org`, `token`, `partition`.
    pub(crate) object: &'a str,
    /// Which one.
    pub(crate) object_id: &'a str,
    /// What there is to know of it. No secrets.
    pub(crate) detail: Value,
}

/// Writes the row inside the transaction that does the thing.
pub(crate) async fn record(transaction: &Transaction<'_>, entry: &Entry<'_>) -> anyhow::Result<()> {
    let Entry { org, actor, action, object, object_id, detail } = entry;
    transaction
        .execute(
            "INSERT INTO audit_log (at, id, org, actor, action, object, object_id, detail)
             VALUES (now(), $1, $2, $3, $4, $5, $6, $7)",
            &[&Uuid::now_v7(), org, actor, action, object, object_id, &Json(detail)],
        )
        .await
        .map_err(explain)?;
    Ok(())
}

fn explain(error: tokio_postgres::Error) -> anyhow::Error {
    let no_partition = error
        .as_db_error()
        .is_some_and(|db| *db.code() == SqlState::CHECK_VIOLATION && db.constraint().is_none());
    let doing = if no_partition {
        "audit_log has no partition for this month; run tidewatch-partitions apply"
    } else {
        "writing to audit_log"
    };
    anyhow::Error::new(error).context(doing)
}
