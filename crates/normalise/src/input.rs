//! The way in: one raw record, and what becomes of it.

use std::borrow::Cow;

use schemas::{Event, Micros, Reject, flags};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::draft::Draft;
use crate::text;

/// The largest raw record that becomes an event or finding; larger ones are rejected as `too_large`.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

/// One raw record and what its batch says of it.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The bytes as they came, without framing.
    pub bytes: &'a [u8],
    /// `json`, `text` or `syslog`: a hint. Only `syslog` changes anything: what would else be unknown text is
    /// then a generic syslog message.
    pub format: &'a str,
    /// The org it belongs to.
    pub org: &'a str,
    /// When it was taken in: the time of records without one, and what times are judged against.
    pub received_at: Micros,
    /// Ordinal in its batch.
    pub index: i32,
    /// Of a keyed push.
    pub event_uid: Option<Uuid>,
}

impl<'a> Input<'a> {
    /// A reject of this record; `bytes` are cut to [`MAX_EVENT_BYTES`] and then have a digest.
    pub fn reject(&self, reason: &'static str, detail: impl Into<Cow<'a, str>>) -> Reject<'a> {
        reject(self.bytes, self.index, self.received_at, Some(self.org), reason, detail)
    }

    pub(crate) fn too_large(&self) -> Option<Reject<'a>> {
        (self.bytes.len() > MAX_EVENT_BYTES).then(|| {
            let detail = format!("{} bytes; an event may have {MAX_EVENT_BYTES}", self.bytes.len());
            self.reject("too_large", detail)
        })
    }
}

/// A reject of a raw record; `bytes` are cut to [`MAX_EVENT_BYTES`] and then have a digest.
pub fn reject<'a>(
    bytes: &'a [u8],
    index: i32,
    received_at: Micros,
    org: Option<&'a str>,
    reason: &'static str,
    detail: impl Into<Cow<'a, str>>,
) -> Reject<'a> {
    let (kept, digest) = match bytes.get(..MAX_EVENT_BYTES) {
        Some(kept) if kept.len() < bytes.len() => (kept, Some(Cow::Owned(digest(bytes).to_vec()))),
        _ => (bytes, None),
    };
    Reject {
        index,
        received_at,
        org: org.map(Cow::Borrowed),
        reason: Cow::Borrowed(reason),
        detail: detail.into(),
        bytes: Cow::Borrowed(kept),
        digest,
    }
}

/// SHA-256, as rejects carry it for what was cut.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Normalises one raw record of `events.raw`.
///
/// # Errors
/// A record larger than [`MAX_EVENT_BYTES`], as a reject.
#[expect(clippy::result_large_err, reason = "what it returns otherwise is larger still")]
pub fn event<'a>(input: &Input<'a>) -> Result<Event<'a>, Reject<'a>> {
    if let Some(reject) = input.too_large() {
        return Err(reject);
    }
    Ok(match std::str::from_utf8(input.bytes) {
        Ok(line) => finish(text::read(line, input), input),
        Err(_) => {
            let line = String::from_utf8_lossy(input.bytes);
            let event = finish(text::read(&line, input).into_owned(), input);
            Event { flags: event.flags | flags::INVALID_UTF8, ..event }
        }
    })
}

/// How far in the future an event's time may lie before it is taken for wrong.
const MAX_AHEAD_MICROS: i64 = 5 * 60 * 1_000_000;

/// What became of the time a record states.
pub(crate) struct Settled {
    pub time: Micros,
    pub flags: i32,
    /// The time it stated, where that was not believed.
    pub original: Option<Micros>,
}

/// Applies the rules of time: none stated means when it was received; more than five minutes in the future
/// means the same, the stated one being kept.
pub(crate) fn settle(stated: Option<Micros>, received_at: Micros) -> Settled {
    match stated {
        None => Settled { time: received_at, flags: flags::TIME_ASSUMED, original: None },
        Some(time) if time.0 > received_at.0.saturating_add(MAX_AHEAD_MICROS) => {
            Settled { time: received_at, flags: flags::TIME_CLAMPED, original: Some(time) }
        }
        Some(time) => Settled { time, flags: 0, original: None },
    }
}

fn finish<'a>(mut draft: Draft<'a>, input: &Input<'a>) -> Event<'a> {
    let settled = settle(draft.time, input.received_at);
    if let Some(original) = settled.original {
        draft.attributes.text("original_time", &crate::time::rfc3339(original));
    }
    Event {
        index: input.index,
        time: settled.time,
        received_at: input.received_at,
        org: Cow::Borrowed(input.org),
        class_uid: draft.class_uid.unwrap_or(0),
        activity_id: draft.activity_id.unwrap_or(0),
        severity_id: draft.severity_id.unwrap_or(0),
        host: draft.host,
        user: draft.user,
        src_ip: draft.src_ip,
        dst_ip: draft.dst_ip,
        src_port: draft.src_port,
        dst_port: draft.dst_port,
        source_type: draft.source_type,
        message: draft.message,
        repeat: draft.repeat,
        labels: Vec::new(),
        attributes: draft.attributes.finish().map(Cow::Owned),
        flags: settled.flags,
        event_uid: input.event_uid,
    }
}
