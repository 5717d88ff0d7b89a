//! Orgs.

use jiff::Timestamp;
use schemas::OrgId;
use serde::Serialize;
use serde_json::json;
use tokio_postgres::Client;

use crate::audit::{self, Entry};

/// An org.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Org {
    /// Its id, which rows and tokens carry.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
}

/// Creates an org; false when it was there already, which is left as it is.
///
/// # Errors
/// What Postgres refuses; no partition of audit_log for this month.
pub async fn create_org(client: &mut Client, org: &OrgId, name: &str, actor: &str) -> anyhow::Result<bool> {
    let transaction = client.transaction().await?;
    let id = org.as_str();
    let inserted = transaction
        .execute("INSERT INTO org (id, name) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING", &[&id, &name])
        .await?;
    if inserted == 1 {
        let detail = json!({ "name": name });
        let entry = Entry { org: Some(id), actor, action: "create", object: "org", object_id: id, detail };
        audit::record(&transaction, &entry).await?;
    }
    transaction.commit().await?;
    Ok(inserted == 1)
}

/// Every org, by id.
///
/// # Errors
/// What Postgres refuses.
pub async fn list_orgs(client: &Client) -> anyhow::Result<Vec<Org>> {
    let rows = client.query("SELECT id, name, created_at FROM org ORDER BY id", &[]).await?;
    rows.iter()
        .map(|row| Ok(Org { id: row.try_get(0)?, name: row.try_get(1)?, created_at: row.try_get(2)? }))
        .collect()
}
