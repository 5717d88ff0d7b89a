//! The id of a receipt: everything in it, as text for a URL.
//!
//! Base64url of a version, the receipt as variable-length integers, and the first bytes of a SHA-256 over org and receipt,
//! by which an id that was cut off, or is another org's, is told. It is no secret: whoever makes one up learns how far
//! partitions are, and of rows only those of the own org.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemas::Stream;
use sha2::{Digest as _, Sha256};

use super::{Receipt, Trace};
use crate::ticket::{At, Placed};

const VERSION: u8 = 1;
const CHECK_BYTES: usize = 8;
/// Most raw records that a receipt can name, so that its id fits the head of a request.
pub const MAX_RANGES: usize = 1_500;
/// Longest id that is looked at.
const MAX_ID_BYTES: usize = 24 * 1024;

/// The text is no receipt of this org's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no receipt of this org has this id")]
pub struct NoReceipt;

impl Receipt {
    /// Its id for `org`; none where the push is in more than [`MAX_RANGES`] raw records.
    pub fn id(&self, org: &str) -> Option<String> {
        let mut out = vec![VERSION, u8::from(self.stream == Stream::Findings)];
        put(u64::try_from(self.acknowledged_at).ok()?, &mut out);
        put(u64::from(self.accepted), &mut out);
        match &self.trace {
            Trace::Placed(placed) if placed.len() > MAX_RANGES => return None,
            Trace::Placed(placed) => {
                out.push(0);
                let mut before = At { partition: 0, offset: 0 };
                for Placed { at, first, count } in placed {
                    put(u64::try_from(at.partition).ok()?, &mut out);
                    let from = if at.partition == before.partition { before.offset } else { 0 };
                    put(u64::try_from(at.offset.checked_sub(from)?).ok()?, &mut out);
                    put(u64::from(*first), &mut out);
                    put(u64::from(*count), &mut out);
                    before = *at;
                }
            }
            Trace::Keyed { key, parts, digest } => {
                out.push(1);
                put(u64::from(*parts), &mut out);
                out.extend_from_slice(digest);
                out.extend_from_slice(key.as_bytes());
            }
        }
        out.extend_from_slice(&check(org, &out));
        Some(URL_SAFE_NO_PAD.encode(out))
    }

    /// The receipt with that id.
    ///
    /// # Errors
    /// There is none of `org`'s.
    pub fn of(id: &str, org: &str) -> Result<Receipt, NoReceipt> {
        if id.len() > MAX_ID_BYTES {
            return Err(NoReceipt);
        }
        let bytes = URL_SAFE_NO_PAD.decode(id).map_err(|_| NoReceipt)?;
        let (body, found) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(NoReceipt)?;
        if check(org, body) != *found {
            return Err(NoReceipt);
        }
        read(body).ok_or(NoReceipt)
    }
}

fn check(org: &str, body: &[u8]) -> [u8; CHECK_BYTES] {
    let digest = Sha256::new().chain_update(org).chain_update([0]).chain_update(body).finalize();
    let mut check = [0; CHECK_BYTES];
    for (to, from) in check.iter_mut().zip(digest) {
        *to = from;
    }
    check
}

fn read(mut body: &[u8]) -> Option<Receipt> {
    let from = &mut body;
    if byte(from)? != VERSION {
        return None;
    }
    let stream = match byte(from)? {
        0 => Stream::Events,
        1 => Stream::Findings,
        _ => return None,
    };
    let acknowledged_at = i64::try_from(take(from)?).ok()?;
    let accepted = u32::try_from(take(from)?).ok()?;
    let trace = match byte(from)? {
        0 => Trace::Placed(placed(from)?),
        1 => {
            let parts = u32::try_from(take(from)?).ok()?;
            let (digest, key) = from.split_first_chunk::<32>()?;
            Trace::Keyed { key: std::str::from_utf8(key).ok()?.into(), parts, digest: *digest }
        }
        _ => return None,
    };
    Some(Receipt { stream, acknowledged_at, accepted, trace })
}

fn placed(from: &mut &[u8]) -> Option<Vec<Placed>> {
    let mut placed: Vec<Placed> = Vec::new();
    while !from.is_empty() && placed.len() < MAX_RANGES {
        let partition = i32::try_from(take(from)?).ok()?;
        let before = placed.last().filter(|last| last.at.partition == partition);
        let offset = before.map_or(0, |last| last.at.offset).checked_add(i64::try_from(take(from)?).ok()?)?;
        let (first, count) = (u32::try_from(take(from)?).ok()?, u32::try_from(take(from)?).ok()?);
        placed.push(Placed { at: At { partition, offset }, first, count });
    }
    from.is_empty().then_some(placed)
}

fn byte(from: &mut &[u8]) -> Option<u8> {
    let (byte, rest) = from.split_first()?;
    *from = rest;
    Some(*byte)
}

/// LEB128.
fn put(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = byte(from)?;
        let bits = u64::from(byte & 0x7f);
        if bits.checked_shl(shift)?.checked_shr(shift)? != bits {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trace() -> impl Strategy<Value = Trace> {
        let placed = (0..64i32, 0..i64::MAX, any::<u32>(), any::<u32>()).prop_map(
            |(partition, offset, first, count)| Placed { at: At { partition, offset }, first, count },
        );
        prop_oneof![
            prop::collection::vec(placed, 0..50).prop_map(|mut placed| {
                placed.sort_by_key(|placed| (placed.at.partition, placed.at.offset));
                Trace::Placed(placed)
            }),
            ("[!-~]{1,255}", any::<u32>(), any::<[u8; 32]>()).prop_map(|(key, parts, digest)| Trace::Keyed {
                key: key.into(),
                parts,
                digest
            }),
        ]
    }

    proptest! {
        #[test]
        fn an_id_is_the_receipt(trace in trace(), accepted in any::<u32>(), findings in any::<bool>(), at in 0..i64::MAX) {
            let stream = if findings { Stream::Findings } else { Stream::Events };
            let receipt = Receipt { stream, acknowledged_at: at, accepted, trace };
            let id = receipt.id("demo").unwrap();
            prop_assert_eq!(Receipt::of(&id, "demo"), Ok(receipt));
            prop_assert_eq!(Receipt::of(&id, "other"), Err(NoReceipt));
            prop_assert_eq!(Receipt::of(&id[..id.len() - 1], "demo"), Err(NoReceipt));
        }

        #[test]
        fn whatever_else_is_no_receipt(text in "[A-Za-z0-9_-]{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(Receipt::of(&text, "demo"), Err(NoReceipt));
            let mut signed = bytes;
            signed.extend_from_slice(&check("demo", &signed));
            // Signed by somebody who knows how: anything but a panic.
            let _ = Receipt::of(&URL_SAFE_NO_PAD.encode(signed), "demo");
        }
    }

    #[test]
    fn the_id_of_the_largest_push_fits_a_head() {
        let place = |n: i64| Placed {
            at: At { partition: 999, offset: i64::MAX / 2 + n * 1_000 },
            first: 499,
            count: 500,
        };
        let of = |count: i64| Receipt {
            stream: Stream::Events,
            acknowledged_at: 1_800_000_000,
            accepted: 200_000,
            trace: Trace::Placed((0..count).map(place).collect()),
        };
        let id = of(MAX_RANGES as i64).id("demo").unwrap();
        assert!(id.len() <= MAX_ID_BYTES, "{}", id.len());
        assert_eq!(Receipt::of(&id, "demo"), Ok(of(MAX_RANGES as i64)));
        assert_eq!(of(MAX_RANGES as i64 + 1).id("demo"), None);
    }
}
