//! Rows of `events`.

use schemas::{Event, Micros};

use super::{Refusal, Row, time};
use crate::identity::Identity;

/// The COPY, its columns in the order they are encoded in.
pub const COPY: &str = r#"COPY events (time, received_at, org, class_uid, activity_id, severity_id, host, "user", src_ip,
    dst_ip, src_port, dst_port, source_type, message, repeat, labels, attributes, flags, event_uid, kpart, koffset,
    kindex) FROM STDIN BINARY"#;
const COLUMNS: u16 = 22;

/// Appends the row of an event.
///
/// # Errors
/// The first value that must not be stored, with the buffer left half-written.
pub fn put(event: &Event<'_>, identity: Identity, oldest: Micros, out: &mut Vec<u8>) -> Result<(), Refusal> {
    if event.time < oldest {
        return Err(Refusal::TooOld(time::to_text(event.time)));
    }
    let mut row = Row::begin(out, COLUMNS);
    row.timestamptz("time", event.time)?;
    row.timestamptz("received_at", event.received_at)?;
    row.text("org", &event.org)?;
    row.int4(event.class_uid);
    row.int4(event.activity_id);
    row.int4(event.severity_id);
    row.text_or_null("host", event.host.as_ref())?;
    row.text_or_null("user", event.user.as_ref())?;
    row.inet_or_null("src_ip", event.src_ip.as_ref())?;
    row.inet_or_null("dst_ip", event.dst_ip.as_ref())?;
    row.int4_or_null(event.src_port);
    row.int4_or_null(event.dst_port);
    row.text("source_type", &event.source_type)?;
    row.text_or_null("message", event.message.as_ref())?;
    row.int4(event.repeat);
    row.text_array("labels", &event.labels)?;
    row.json_or_null(event.attributes.as_ref())?;
    row.int4(event.flags);
    row.uuid_or_null(event.event_uid);
    identity.put(&mut row);
    Ok(())
}
