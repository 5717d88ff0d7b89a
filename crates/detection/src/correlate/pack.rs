//! A group at rest: a few loose events in as few bytes as they need.
//!
//! Most groups never come near their threshold. There may be a million of them, so what they hold is written as numbers of
//! variable length, each event as what tells it from the one before, and each entity once.

use schemas::Stream;

use super::mark::{Details, Held, Mark, Place};

/// Names that most entities have, by number.
const NAMES: [&str; 3] = ["host", "user", "ip"];

const FINDINGS: u8 = 1;
const HAS_VALUE: u8 = 1 << 1;
const HAS_UID: u8 = 1 << 2;
const HAS_WEIGHT: u8 = 1 << 3;
const SAME_DETAILS: u8 = 1 << 4;
/// Hashes, as they are; small numbers are shorter by length.
const LONG_VALUE: u8 = 1 << 5;

/// What is packed.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Ascending.
    pub loose: Vec<Held>,
    pub newest: i64,
    pub thinned: bool,
}

/// Packs it, to the end of `out`.
pub(super) fn rest(out: &mut Vec<u8>, rest: &Rest) {
    out.reserve(64 + 32 * rest.loose.len());
    let mut entities: Vec<(&str, &str)> = Vec::new();
    for held in &rest.loose {
        for entity in held.details.entities() {
            if !entities.contains(&entity) {
                entities.push(entity);
            }
        }
    }
    out.push(u8::from(rest.thinned));
    signed(out, rest.newest);
    number(out, entities.len() as u64);
    for (name, value) in &entities {
        match NAMES.iter().position(|known| known == name) {
            Some(at) => out.push(u8::try_from(at).unwrap_or(u8::MAX)),
            None => {
                out.push(u8::MAX);
                text(out, name.as_bytes());
            }
        }
        text(out, value.as_bytes());
    }
    let mut before: Option<&Held> = None;
    for held in &rest.loose {
        let mark = &held.mark;
        let same = before.is_some_and(|before| before.details == held.details);
        let long = mark.value > u64::from(u32::MAX);
        let flags = [
            (mark.place.stream == Stream::Findings, FINDINGS),
            (mark.value != 0, HAS_VALUE),
            (mark.uid != 0, HAS_UID),
            (mark.weight != 1, HAS_WEIGHT),
            (same, SAME_DETAILS),
            (long, LONG_VALUE),
        ];
        out.push(flags.iter().filter(|(is, _)| *is).fold(0, |all, (_, flag)| all | flag));
        signed(out, mark.time.wrapping_sub(before.map_or(rest.newest, |before| before.mark.time)));
        signed(out, i64::from(mark.place.partition));
        signed(out, mark.place.offset.wrapping_sub(before.map_or(0, |before| before.mark.place.offset)));
        signed(out, i64::from(mark.place.index));
        if long {
            out.extend_from_slice(&mark.value.to_le_bytes());
        } else if mark.value != 0 {
            number(out, mark.value);
        }
        if mark.uid != 0 {
            out.extend_from_slice(&mark.uid.to_le_bytes());
        }
        if mark.weight != 1 {
            signed(out, i64::from(mark.weight));
        }
        if !same {
            signed(out, i64::from(held.details.flags()));
            number(out, held.details.entities().count() as u64);
            for entity in held.details.entities() {
                let at = entities.iter().position(|known| *known == entity).unwrap_or(0);
                number(out, at as u64);
            }
        }
        before = Some(held);
    }
}

/// Reads what was packed.
pub(super) struct Reader<'p>(&'p [u8]);

impl<'p> Reader<'p> {
    pub(super) fn new(packed: &'p [u8]) -> Self {
        Self(packed)
    }

    /// Unpacks what [`rest`] made, to the end.
    pub(super) fn unpack(mut self) -> Rest {
        let mut rest = Rest::default();
        let Some(()) = self.rest(&mut rest) else { return rest };
        rest
    }

    /// Reads all of it; none where it ends early.
    fn rest(&mut self, rest: &mut Rest) -> Option<()> {
        rest.thinned = self.byte()? != 0;
        rest.newest = self.signed()?;
        let count = self.number()?;
        let mut entities: Vec<(&str, &str)> = Vec::with_capacity(usize::try_from(count).ok()?.min(64));
        for _ in 0..count {
            let name = match NAMES.get(usize::from(self.byte()?)) {
                Some(name) => name,
                None => self.text()?,
            };
            entities.push((name, self.text()?));
        }
        let (mut time, mut offset) = (rest.newest, 0i64);
        let mut details: Option<Details> = None;
        let mut these = Vec::new();
        while !self.0.is_empty() {
            let flags = self.byte()?;
            time = time.wrapping_add(self.signed()?);
            let partition = i32::try_from(self.signed()?).ok()?;
            offset = offset.wrapping_add(self.signed()?);
            let index = i32::try_from(self.signed()?).ok()?;
            let stream = if flags & FINDINGS == 0 { Stream::Events } else { Stream::Findings };
            let value = if flags & LONG_VALUE != 0 {
                self.long()?
            } else if flags & HAS_VALUE != 0 {
                self.number()?
            } else {
                0
            };
            let uid = if flags & HAS_UID != 0 { self.long()? } else { 0 };
            let weight = if flags & HAS_WEIGHT != 0 { i32::try_from(self.signed()?).ok()? } else { 1 };
            if flags & SAME_DETAILS == 0 {
                let flags = i32::try_from(self.signed()?).ok()?;
                these.clear();
                for _ in 0..self.number()? {
                    these.push(*entities.get(usize::try_from(self.number()?).ok()?)?);
                }
                details = Some(Details::new(these.iter().copied(), flags));
            }
            let place = Place { stream, partition, offset, index };
            let mark = Mark { time, place, value, uid, weight };
            rest.loose.push(Held { mark, details: details.clone()? });
        }
        Some(())
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (&byte, after) = self.0.split_first()?;
        self.0 = after;
        Some(byte)
    }

    fn number(&mut self) -> Option<u64> {
        let (mut number, mut shift) = (0u64, 0u32);
        loop {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(number);
            }
            shift += 7;
        }
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
    }

    fn long(&mut self) -> Option<u64> {
        let (bytes, after) = self.0.split_first_chunk::<8>()?;
        self.0 = after;
        Some(u64::from_le_bytes(*bytes))
    }

    pub(super) fn bytes(&mut self) -> Option<&'p [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, after) = self.0.split_at_checked(length)?;
        self.0 = after;
        Some(bytes)
    }

    fn text(&mut self) -> Option<&'p str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

fn number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn signed(out: &mut Vec<u8>, signed: i64) {
    number(out, ((signed << 1) ^ (signed >> 63)).cast_unsigned());
}

/// Bytes, preceded by their length.
pub(super) fn text(out: &mut Vec<u8>, text: &[u8]) {
    number(out, text.len() as u64);
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn held() -> impl Strategy<Value = Held> {
        let numbers = (any::<i64>(), any::<i32>(), any::<i64>(), any::<i32>(), any::<i32>(), any::<bool>());
        let value = prop_oneof![Just(0u64), 0..300u64, any::<u64>()];
        let entity = (prop_oneof![Just("host"), Just("ip"), Just("other")], "[a-c]{0,3}");
        let entities = prop::collection::vec(entity, 0..4);
        (numbers, value, prop_oneof![Just(0u64), any::<u64>()], entities, any::<i32>()).prop_map(
            |((time, partition, offset, index, weight, events), value, uid, entities, flags)| {
                let stream = if events { Stream::Events } else { Stream::Findings };
                let place = Place { stream, partition, offset, index };
                let entities = entities.iter().map(|(name, value)| (*name, value.as_str()));
                Held {
                    mark: Mark { time, place, value, uid, weight },
                    details: Details::new(entities, flags),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_unpacked_is_what_was_packed(
            loose in prop::collection::vec(held(), 0..17),
            newest in any::<i64>(),
            thinned in any::<bool>(),
        ) {
            let rest = Rest { loose, newest, thinned };
            let mut packed = Vec::new();
            super::rest(&mut packed, &rest);
            let unpacked = Reader::new(&packed).unpack();
            prop_assert_eq!(unpacked.loose, rest.loose);
            prop_assert_eq!((unpacked.newest, unpacked.thinned), (rest.newest, rest.thinned));
        }
    }
}
