//! Rows of `findings`.

use schemas::{Finding, Micros};

use super::{Refusal, Row, time};
use crate::identity::Identity;

/// The COPY, its columns in the order they are encoded in.
pub const COPY: &str = r#"COPY findings (time, received_at, org, scan_id, uid, scan_type, class_uid, severity_id, kind,
    title, resource, risk, host, "user", message, labels, attributes, flags, event_uid, kpart, koffset, kindex)
    FROM STDIN BINARY"#;
const COLUMNS: u16 = 22;

/// Appends the row of a finding.
///
/// # Errors
/// The first value that must not be stored, with the buffer left half-written.
pub fn put(
    finding: &Finding<'_>,
    identity: Identity,
    oldest: Micros,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    if finding.time < oldest {
        return Err(Refusal::TooOld(time::to_text(finding.time)));
    }
    let mut row = Row::begin(out, COLUMNS);
    row.timestamptz("time", finding.time)?;
    row.timestamptz("received_at", finding.received_at)?;
    row.text("org", &finding.org)?;
    row.text_or_null("scan_id", finding.scan_id.as_ref())?;
    row.text("uid", &finding.uid)?;
    row.text("scan_type", &finding.scan_type)?;
    row.int4(finding.class_uid);
    row.int4(finding.severity_id);
    row.text("kind", &finding.kind)?;
    row.text_or_null("title", finding.title.as_ref())?;
    row.text_or_null("resource", finding.resource.as_ref())?;
    row.int4_or_null(finding.risk);
    row.text_or_null("host", finding.host.as_ref())?;
    row.text_or_null("user", finding.user.as_ref())?;
    row.text_or_null("message", finding.message.as_ref())?;
    row.text_array("labels", &finding.labels)?;
    row.json_or_null(finding.attributes.as_ref())?;
    row.int4(finding.flags);
    row.uuid_or_null(finding.event_uid);
    identity.put(&mut row);
    Ok(())
}
