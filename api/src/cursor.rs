//! Where a walk through pages stands: a position, and the beginning of the window the walk was started with.
//!
//! A cursor is base64url of a kind, the window's beginning, the position, and a checksum that also covers the org and the
//! filters: one that was altered, cut, or belongs to another query is told apart. It grants nothing; what may be seen is
//! decided by the token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::time::Time;

const CHECK_BYTES: usize = 8;
/// Longer than any that was given out.
const MAX_LEN: usize = 16 * 1024;

/// What a cursor belongs to, as a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Binding(pub(crate) u64);

/// A row's place in its order.
pub(crate) trait Position: Sized {
    /// Tells the cursors of different lists apart.
    const KIND: u8;

    fn put(&self, out: &mut Vec<u8>);
    fn take(bytes: &mut Bytes<'_>) -> Option<Self>;
}

/// A cursor's bytes, read from the front.
pub(crate) struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn int4(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn int8(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.int4()?).ok()?;
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        String::from_utf8(head.to_vec()).ok()
    }
}

/// The cursor of the page after `position`.
pub(crate) fn encode<P: Position>(from: Time, position: &P, binding: Binding) -> String {
    let mut bytes = vec![P::KIND];
    bytes.extend_from_slice(&from.0.to_be_bytes());
    position.put(&mut bytes);
    let check = check(&bytes, binding);
    bytes.extend_from_slice(&check);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The window's beginning and the position; none when it is not a cursor of this very query.
pub(crate) fn decode<P: Position>(text: &str, binding: Binding) -> Option<(Time, P)> {
    if text.len() > MAX_LEN {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (content, given) = bytes.split_last_chunk::<CHECK_BYTES>()?;
    let (kind, rest) = content.split_first()?;
    if *given != check(content, binding) || *kind != P::KIND {
        return None;
    }
    let mut rest = Bytes(rest);
    let from = Time(rest.int8()?);
    let position = P::take(&mut rest)?;
    rest.0.is_empty().then_some((from, position))
}

fn check(content: &[u8], binding: Binding) -> [u8; CHECK_BYTES] {
    xxh3_64_with_seed(content, binding.0).to_be_bytes()
}

/// The place of an event or finding: time, then identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventPosition {
    pub(crate) time: Time,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) index: i32,
}

impl EventPosition {
    /// After everything of this time and later, before anything earlier.
    pub(crate) fn before(time: Time) -> Self {
        Self { time, partition: i32::MIN, offset: i64::MIN, index: i32::MIN }
    }
}

impl Position for EventPosition {
    const KIND: u8 = b'e';

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.time.0.to_be_bytes());
        out.extend_from_slice(&self.partition.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.index.to_be_bytes());
    }

    fn take(bytes: &mut Bytes<'_>) -> Option<Self> {
        Some(Self {
            time: Time(bytes.int8()?),
            partition: bytes.int4()?,
            offset: bytes.int8()?,
            index: bytes.int4()?,
        })
    }
}

/// The place of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IncidentPosition {
    pub(crate) created_at: Time,
    pub(crate) id: Uuid,
}

impl Position for IncidentPosition {
    const KIND: u8 = b'i';

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.created_at.0.to_be_bytes());
        out.extend_from_slice(self.id.as_bytes());
    }

    fn take(bytes: &mut Bytes<'_>) -> Option<Self> {
        Some(Self { created_at: Time(bytes.int8()?), id: Uuid::from_bytes(bytes.array()?) })
    }
}

/// The place of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScanPosition {
    pub(crate) started_at: Time,
    pub(crate) scan_id: String,
}

impl Position for ScanPosition {
    const KIND: u8 = b's';

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.started_at.0.to_be_bytes());
        out.extend_from_slice(&i32::try_from(self.scan_id.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(self.scan_id.as_bytes());
    }

    fn take(bytes: &mut Bytes<'_>) -> Option<Self> {
        Some(Self { started_at: Time(bytes.int8()?), scan_id: bytes.text()? })
    }
}

/// The place of a count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CountPosition {
    pub(crate) hour: Time,
    pub(crate) stream: String,
    pub(crate) class_uid: i32,
    pub(crate) severity_id: i32,
}

impl Position for CountPosition {
    const KIND: u8 = b'c';

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hour.0.to_be_bytes());
        out.extend_from_slice(&i32::try_from(self.stream.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(self.stream.as_bytes());
        out.extend_from_slice(&self.class_uid.to_be_bytes());
        out.extend_from_slice(&self.severity_id.to_be_bytes());
    }

    fn take(bytes: &mut Bytes<'_>) -> Option<Self> {
        Some(Self {
            hour: Time(bytes.int8()?),
            stream: bytes.text()?,
            class_uid: bytes.int4()?,
            severity_id: bytes.int4()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> EventPosition {
        EventPosition { time: Time(5), partition: 3, offset: 1042, index: 17 }
    }

    proptest! {
        #[test]
        fn a_cursor_reads_back(time: i64, partition: i32, offset: i64, index: i32, from: i64, id: u128, scan_id: String, seed: u64) {
            let (from, binding) = (Time(from), Binding(seed));
            let at = EventPosition { time: Time(time), partition, offset, index };
            prop_assert_eq!(decode(&encode(from, &at, binding), binding), Some((from, at)));
            let at = IncidentPosition { created_at: Time(time), id: Uuid::from_u128(id) };
            prop_assert_eq!(decode(&encode(from, &at, binding), binding), Some((from, at)));
            let at = ScanPosition { started_at: Time(time), scan_id: scan_id.clone() };
            let text = encode(from, &at, binding);
            prop_assert_eq!(decode(&text, binding), (text.len() <= MAX_LEN).then_some((from, at)));
            let at = CountPosition { hour: Time(time), stream: "events".into(), class_uid: partition, severity_id: index };
            prop_assert_eq!(decode(&encode(from, &at, binding), binding), Some((from, at)));
        }

        #[test]
        fn no_text_makes_it_fail_and_hardly_one_is_a_cursor(text: String) {
            prop_assert_eq!(decode::<EventPosition>(&text, Binding(1)), None);
        }
    }

    #[test]
    fn any_altered_bit_is_noticed() {
        let text = encode(Time(1), &event(), Binding(9));
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode::<EventPosition>(&URL_SAFE_NO_PAD.encode(altered), Binding(9)), None);
        }
        for length in 0..text.len() {
            assert_eq!(decode::<EventPosition>(&text[..length], Binding(9)), None);
        }
    }

    #[test]
    fn a_cursor_of_another_query_or_list_is_none() {
        let text = encode(Time(1), &event(), Binding(9));
        assert_eq!(decode::<EventPosition>(&text, Binding(8)), None);
        assert_eq!(decode::<IncidentPosition>(&text, Binding(9)), None);
    }
}
