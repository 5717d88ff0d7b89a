//! Rows of `quarantine`. Nothing is refused here: what Postgres would not take is replaced.

use std::borrow::Cow;

use memchr::memchr;
use schemas::Micros;

use super::Row;
use super::time::Planned;
use crate::identity::Identity;

/// The COPY, its columns in the order they are encoded in.
pub const COPY: &str = "COPY quarantine (received_at, org, stream, kpart, koffset, kindex, reason, detail, payload, digest) \
                        FROM STDIN BINARY";
const COLUMNS: u16 = 10;

/// Longest reason and detail, in bytes; both may come from a foreign record.
const MAX_REASON: usize = 64;
const MAX_DETAIL: usize = 1024;

/// What goes into a row.
#[derive(Debug, Clone, Copy)]
pub struct Quarantined<'a> {
    /// When it was received; replaced by now where no partition is planned for it.
    pub received_at: Micros,
    /// Its org, where it is one.
    pub org: Option<&'a str>,
    /// `events`, `findings` or `incidents`.
    pub stream: &'static str,
    /// The raw record, or the Kafka record itself with index -1 where it could not be read at all.
    pub identity: Identity,
    /// A short code.
    pub reason: &'a str,
    /// What exactly is wrong.
    pub detail: &'a str,
    /// What it was.
    pub payload: &'a [u8],
    /// SHA-256 of the whole, where the payload was cut.
    pub digest: Option<&'a [u8]>,
}

/// Appends a row.
pub fn put(what: &Quarantined<'_>, planned: &Planned, out: &mut Vec<u8>) {
    let org = what.org.filter(|org| org.parse::<schemas::OrgId>().is_ok());
    let mut row = Row::begin(out, COLUMNS);
    // Planned months are within Postgres' range.
    let received_at = super::time::to_postgres(planned.or_now(what.received_at)).unwrap_or_default();
    row.int8(received_at);
    match org {
        Some(org) => row.bytea(org.as_bytes()),
        None => row.null(),
    }
    row.bytea(what.stream.as_bytes());
    what.identity.put(&mut row);
    row.bytea(cut(&clean(what.reason), MAX_REASON).as_bytes());
    row.bytea(cut(&clean(what.detail), MAX_DETAIL).as_bytes());
    row.bytea(what.payload);
    match what.digest {
        Some(digest) => row.bytea(digest),
        None => row.null(),
    }
}

/// NUL becomes U+FFFD.
pub fn clean(text: &str) -> Cow<'_, str> {
    if memchr(0, text.as_bytes()).is_some() {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// At most `bytes` of the text, ending with a whole character.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_a_character() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        assert_eq!(cut("", 3), "");
    }
}
