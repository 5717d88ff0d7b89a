//! Rows of `audit_log`.

use schemas::Micros;
use serde_json::Value;
use uuid::Uuid;

use super::Row;
use super::quarantine::clean;
use super::time::{self, Planned};

/// The COPY, its columns in the order they are encoded in.
pub const COPY: &str =
    "COPY audit_log (at, id, org, actor, action, object, object_id, detail) FROM STDIN BINARY";
const COLUMNS: u16 = 8;

/// A change of an incident, applied or refused.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRow {
    /// When its maker made it.
    pub at: Micros,
    /// The change.
    pub id: Uuid,
    /// The incident's org.
    pub org: String,
    /// Who made it.
    pub actor: String,
    /// What became of it: `opened`, `changed`, `reopened`, `merged` or `refused`.
    pub action: &'static str,
    /// The incident.
    pub incident: Uuid,
    /// What changed, or why nothing did.
    pub detail: Value,
}

/// Appends a row; NUL in text becomes U+FFFD, a time without partition now.
pub fn put(audit: &AuditRow, planned: &Planned, out: &mut Vec<u8>) {
    let mut row = Row::begin(out, COLUMNS);
    row.int8(time::to_postgres(planned.or_now(audit.at)).unwrap_or_default());
    row.bytea(audit.id.as_bytes());
    row.bytea(audit.org.as_bytes());
    row.bytea(clean(&audit.actor).as_bytes());
    row.bytea(audit.action.as_bytes());
    row.bytea(b"incident");
    row.bytea(audit.incident.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
    // Strings in the detail were cleaned of NUL when they were taken from the change.
    row.bytea(audit.detail.to_string().as_bytes());
}
