//! Keys of groups: rule, org and group values in a few bytes.

use std::borrow::Cow;

use schemas::Pair;

/// Writes a group's key: numbers of the rule's slot and of the org, then the texts, each preceded by its length.
pub(super) fn write<'t>(key: &mut Vec<u8>, slot: u32, org: u32, texts: impl Iterator<Item = &'t str>) {
    key.clear();
    key.extend_from_slice(&slot.to_le_bytes());
    key.extend_from_slice(&org.to_le_bytes());
    for text in texts {
        let mut length = text.len();
        while length >= 0x80 {
            key.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        key.push((length & 0x7f) as u8);
        key.extend_from_slice(text.as_bytes());
    }
}

/// Slot and org of a key.
pub(super) fn owner(key: &[u8]) -> Option<(u32, u32)> {
    let (slot, rest) = key.split_first_chunk::<4>()?;
    let org = rest.first_chunk::<4>()?;
    Some((u32::from_le_bytes(*slot), u32::from_le_bytes(*org)))
}

/// The texts of a key.
pub(super) fn texts(key: &[u8]) -> impl Iterator<Item = &str> {
    let mut rest = key.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 || shift > 56 {
                break;
            }
        }
        let (text, after) = rest.split_at_checked(length)?;
        rest = after;
        std::str::from_utf8(text).ok()
    })
}

/// The group values of a key: with the names given, or where there are none with those that stand before each value.
pub(super) fn group<'k>(key: &'k [u8], names: Option<&'k [String]>) -> Vec<Pair<'k>> {
    let pair =
        |name: &'k str, value: &'k str| Pair { name: Cow::Borrowed(name), value: Cow::Borrowed(value) };
    match names {
        Some(names) => names.iter().zip(texts(key)).map(|(name, value)| pair(name, value)).collect(),
        None => {
            let mut texts = texts(key);
            std::iter::from_fn(|| Some(pair(texts.next()?, texts.next()?))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_back_what_was_written() {
        let long = "x".repeat(20_000);
        let mut key = Vec::new();
        write(&mut key, 7, 9, ["", "a", &long, "ö"].into_iter());
        assert_eq!(owner(&key), Some((7, 9)));
        assert_eq!(texts(&key).collect::<Vec<_>>(), ["", "a", &long, "ö"]);
    }
}
