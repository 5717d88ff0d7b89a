//! Names and numbers that mean something: orgs, times, streams, ids derived from content.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A point in time, microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Micros(pub i64);

impl Micros {
    /// Now, by this host's clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// From milliseconds since 1970, as Kafka's timestamps are.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Seconds from `earlier` to this, negative when it is later.
    pub fn seconds_since(self, earlier: Micros) -> f64 {
        self.0.saturating_sub(earlier.0) as f64 / 1e6
    }
}

/// An org's id: 1 to 64 of `a-z 0-9 . _ -`, the first a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrgId(Box<str>);

/// Why a string is no org id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an org id is 1 to 64 of a-z, 0-9, '.', '_', '-', the first a letter or digit")]
pub struct OrgIdError;

impl OrgId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OrgId {
    type Err = OrgIdError;

    fn from_str(text: &str) -> Result<Self, OrgIdError> {
        let allowed = |c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        let first = text.bytes().next().ok_or(OrgIdError)?;
        if text.len() > 64 || !first.is_ascii_alphanumeric() || !text.bytes().all(allowed) {
            return Err(OrgIdError);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for OrgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The two streams a shipper feeds; each has a raw and an enriched topic with the same partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Log events: `events.raw` → `events`.
    Events,
    /// Scan findings and scan activity: `findings.raw` → `findings`.
    Findings,
}

impl Stream {
    /// Both, in a fixed order.
    pub const ALL: [Stream; 2] = [Stream::Events, Stream::Findings];

    /// Name of the stream and of its enriched topic.
    pub const fn name(self) -> &'static str {
        match self {
            Stream::Events => "events",
            Stream::Findings => "findings",
        }
    }

    /// Name of its raw topic.
    pub const fn raw_topic(self) -> &'static str {
        match self {
            Stream::Events => "events.raw",
            Stream::Findings => "findings.raw",
        }
    }

    /// The stream of that name.
    pub fn from_name(name: &str) -> Option<Stream> {
        Self::ALL.into_iter().find(|stream| stream.name() == name)
    }
}

/// Topic of the signals, and how many partitions it has for good.
pub const SIGNALS_TOPIC: &str = "signals";
/// Topic of the incident changes, with as many partitions.
pub const INCIDENTS_TOPIC: &str = "incidents";
/// Partitions of `signals` and of `incidents`; keys are spread over them, so it never changes.
pub const KEYED_PARTITIONS: i32 = 32;

/// The partition of `parts` among `partitions`: XXH3-64 of the parts, each followed by a zero byte.
pub fn partition_of(parts: &[&[u8]], partitions: i32) -> i32 {
    let mut hash = xxhash_rust::xxh3::Xxh3Default::new();
    for part in parts {
        hash.update(part);
        hash.update(&[0]);
    }
    let partitions = u64::try_from(partitions).unwrap_or(1).max(1);
    i32::try_from(hash.digest() % partitions).unwrap_or(0)
}

/// What a client's retry of a keyed push shares with the first try: the first 16 bytes of
/// SHA-256(org, 0, key, 0, part, index), the numbers as big-endian i32.
pub fn event_uid(org: &str, key: &str, part: i32, index: i32) -> Uuid {
    let digest = Sha256::new()
        .chain_update(org)
        .chain_update([0])
        .chain_update(key)
        .chain_update([0])
        .chain_update(part.to_be_bytes())
        .chain_update(index.to_be_bytes())
        .finalize();
    Uuid::from_slice(digest.get(..16).unwrap_or_default()).unwrap_or_default()
}

/// Namespace of [`incident_id`], a random UUID of its own.
const INCIDENTS: Uuid = Uuid::from_u128(0x5a1c_b10f_37c4_4c8e_9f5e_0d2e_6f6b_a391);

/// Id of the incident that `rule` opens for `group_key` in the bucket of its first fire: UUIDv5 of the four,
/// each preceded by its length.
pub fn incident_id(org: &str, rule: &str, group_key: &[crate::Pair<'_>], bucket: i64) -> Uuid {
    let mut name = Vec::with_capacity(128);
    let mut add = |part: &[u8]| {
        name.extend_from_slice(&(part.len() as u64).to_be_bytes());
        name.extend_from_slice(part);
    };
    add(org.as_bytes());
    add(rule.as_bytes());
    for pair in group_key {
        add(pair.name.as_bytes());
        add(pair.value.as_bytes());
    }
    add(&bucket.to_be_bytes());
    Uuid::new_v5(&INCIDENTS, &name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn org_ids_are_plain_slugs() {
        for good in ["demo", "a", "0x", "team-1.eu_west", &"x".repeat(64)] {
            assert_eq!(good.parse::<OrgId>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "Demo", "a b", "a'b", "ä", "a/b", &"x".repeat(65)] {
            assert_eq!(bad.parse::<OrgId>(), Err(OrgIdError), "{bad}");
        }
    }

    #[test]
    fn partition_and_ids_never_change() {
        assert_eq!(partition_of(&[b"demo", b"10.0.0.1"], 4), partition_of(&[b"demo", b"10.0.0.1"], 4));
        assert_ne!(partition_of(&[b"ab", b"c"], i32::MAX), partition_of(&[b"a", b"bc"], i32::MAX));
        let pair = |value| crate::Pair { name: "user".into(), value: std::borrow::Cow::Borrowed(value) };
        assert_ne!(
            incident_id("demo", "r", &[pair("root")], 1),
            incident_id("demo", "r", &[pair("root")], 2)
        );
        insta::assert_debug_snapshot!((
            partition_of(&[b"demo", b"10.0.0.1"], KEYED_PARTITIONS),
            event_uid("demo", "push-1", 0, 7),
            incident_id("demo", "ssh-brute-force", &[pair("root")], 42),
        ));
    }
}
