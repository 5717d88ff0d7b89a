//! The tables, version by version.

use anyhow::Context as _;
use tokio_postgres::Client;

/// Two migrations at the same time would both find a version missing.
const LOCK: i64 = 0x7469_6465_6d69_6772; // "tidemigr"

#[allow(missing_docs, clippy::unwrap_used, reason = "made by a macro of the migration library")]
mod embedded {
    refinery::embed_migrations!("../schemas/migrations");
}

/// Brings the database to the newest version; returns what was applied, as `V1 tables`. Each version is one
/// transaction, and concurrent calls wait for one another.
///
/// # Errors
/// A version that Postgres refuses, or a database that was migrated from other files than these.
pub async fn migrate(client: &mut Client) -> anyhow::Result<Vec<String>> {
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.context("waiting for other migrations")?;
    let result = embedded::migrations::runner().run_async(client).await;
    // After an error too: the connection may live on.
    client
        .execute("SELECT pg_advisory_unlock($1)", &[&LOCK])
        .await
        .context("letting other migrations go on")?;
    let report = result.map_err(explain)?;
    Ok(report.applied_migrations().iter().map(|m| format!("V{} {}", m.version(), m.name())).collect())
}

fn explain(error: refinery::Error) -> anyhow::Error {
    use refinery::error::Kind;
    let advice = match error.kind() {
        Kind::DivergentVersion(applied, _) => format!(
            "the database has another V{}__{} than this program: it was migrated by a build whose file differed; use \
             that build, or a new database",
            applied.version(),
            applied.name()
        ),
        Kind::MissingVersion(applied) => format!(
            "the database is at V{}__{}, which this program does not know: use a newer tidewatch-partitions",
            applied.version(),
            applied.name()
        ),
        _ => "cannot migrate; nothing of the failed version was kept".to_owned(),
    };
    anyhow::Error::new(error).context(advice)
}
