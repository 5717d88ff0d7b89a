//! Bearer tokens.

use std::fmt;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rand::TryRngCore as _;
use schemas::OrgId;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::audit::{self, Entry};

/// What a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Pushing events and findings.
    Ingest,
    /// The API.
    Analyst,
}

impl Kind {
    /// As in the database and in the token's text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Analyst => "analyst",
        }
    }
}

/// A token in the moment it is made: the only time that its text is known.
#[derive(Serialize)]
pub struct NewToken {
    /// What it is listed and revoked by.
    pub id: Uuid,
    /// The org it acts for.
    pub org: String,
    /// What it opens.
    pub kind: Kind,
    /// Its name for people; also the actor of changes made with it.
    pub label: String,
    /// `tw_ingest_…` or `tw_analyst_…`, then 256 random bits as base64url. Only its SHA-256 is stored.
    pub token: String,
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken").field("id", &self.id).field("org", &self.org).finish_non_exhaustive()
    }
}

/// A token as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredToken {
    /// What it is revoked by.
    pub id: Uuid,
    /// The org it acts for.
    pub org: String,
    /// What it opens.
    pub kind: String,
    /// Its name for people.
    pub label: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// What [`revoke_token`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// It was valid until now.
    Now,
    /// It was revoked before; nothing has changed.
    Before,
}

/// Creates a token for `org`.
///
/// # Errors
/// An org that is not there; what Postgres refuses; no partition of audit_log for this month.
pub async fn create_token(
    client: &mut Client,
    org: &OrgId,
    kind: Kind,
    label: &str,
    actor: &str,
) -> anyhow::Result<NewToken> {
    let mut secret = [0_u8; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut secret).context("asking the system for random bytes")?;
    let token = format!("tw_{}_{}", kind.name(), URL_SAFE_NO_PAD.encode(secret));
    let digest = Sha256::digest(&token);
    let id = Uuid::now_v7();

    let transaction = client.transaction().await?;
    transaction
        .execute(
            "INSERT INTO token (id, org, kind, label, digest) VALUES ($1, $2, $3, $4, $5)",
            &[&id, &org.as_str(), &kind.name(), &label, &digest.as_slice()],
        )
        .await
        .map_err(|error| match error.code() {
            Some(&SqlState::FOREIGN_KEY_VIOLATION) => {
                anyhow::anyhow!("there is no org {org}; create it: tidewatch-partitions org create {org}")
            }
            _ => error.into(),
        })?;
    let detail = json!({ "kind": kind, "label": label });
    let object_id = id.to_string();
    let entry = Entry {
        org: Some(org.as_str()),
        actor,
        action: "create",
        object: "token",
        object_id: &object_id,
        detail,
    };
    audit::record(&transaction, &entry).await?;
    transaction.commit().await?;
    Ok(NewToken { id, org: org.to_string(), kind, label: label.to_owned(), token })
}

/// Revokes a token; services forget it within 30 s.
///
/// # Errors
/// A token that is not there; what Postgres refuses; no partition of audit_log for this month.
pub async fn revoke_token(client: &mut Client, id: Uuid, actor: &str) -> anyhow::Result<Revoked> {
    let transaction = client.transaction().await?;
    let found = transaction
        .query_opt("SELECT org, kind, label, revoked_at FROM token WHERE id = $1 FOR UPDATE", &[&id])
        .await?;
    let Some(row) = found else { bail!("there is no token {id}; see tidewatch-partitions token list") };
    if row.try_get::<_, Option<Timestamp>>(3)?.is_some() {
        return Ok(Revoked::Before);
    }
    transaction.execute("UPDATE token SET revoked_at = now() WHERE id = $1", &[&id]).await?;
    let (org, kind, label): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let detail = json!({ "kind": kind, "label": label });
    let object_id = id.to_string();
    let entry =
        Entry { org: Some(&org), actor, action: "revoke", object: "token", object_id: &object_id, detail };
    audit::record(&transaction, &entry).await?;
    transaction.commit().await?;
    Ok(Revoked::Now)
}

/// Every token, revoked ones too, oldest first; of one org where given.
///
/// # Errors
/// What Postgres refuses.
pub async fn list_tokens(client: &Client, org: Option<&OrgId>) -> anyhow::Result<Vec<StoredToken>> {
    let rows = client
        .query(
            "SELECT id, org, kind, label, created_at, revoked_at FROM token
             WHERE $1::text IS NULL OR org = $1 ORDER BY created_at, id",
            &[&org.map(OrgId::as_str)],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(StoredToken {
                id: row.try_get(0)?,
                org: row.try_get(1)?,
                kind: row.try_get(2)?,
                label: row.try_get(3)?,
                created_at: row.try_get(4)?,
                revoked_at: row.try_get(5)?,
            })
        })
        .collect()
}
