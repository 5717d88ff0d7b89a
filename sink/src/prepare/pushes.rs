//! Keyed pushes: which shares of a record are stored already, and which come twice in a batch.
//!
//! What the database has is known once it has been asked, which is when the batch is about to be written: everything
//! before it is committed then. A batch that holds pushes it has is prepared again, knowing them ([`Known`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashMap;
use schemas::{Micros, OrgId, Push, Stream};

use crate::identity::Identity;

/// How long after the stored copy was received the same key means the same push.
const WINDOW_MICROS: i64 = 24 * 3_600 * 1_000_000;
/// Longest key, bytes: what ingest takes, and what an index of Postgres can hold.
const MAX_KEY_BYTES: usize = 255;

/// A part of a keyed push, as `push_key` has it. Ordered as its primary key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PushKey {
    /// The org that pushed.
    pub org: Box<str>,
    /// Its Idempotency-Key.
    pub key: Box<str>,
    /// Part of the push, from 0.
    pub part: i32,
}

/// What a part held, and when it was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// SHA-256 of the push.
    pub digest: [u8; 32],
    /// When ingest took it in.
    pub received_at: Micros,
}

impl Sent {
    /// Whether the same key still meant the same push when something was received.
    fn covers(&self, received_at: Micros) -> bool {
        received_at.0.saturating_sub(self.received_at.0) < WINDOW_MICROS
    }
}

/// A part that is to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// What it holds.
    pub sent: Sent,
    /// Its stream.
    pub stream: Stream,
    /// Its first row.
    pub first: Identity,
    /// Its rows.
    pub count: i32,
}

/// The record that shares are in.
#[derive(Debug, Clone, Copy)]
pub struct Holder {
    /// Its stream.
    pub stream: Stream,
    /// The raw record's partition.
    pub partition: i32,
    /// The raw record's offset.
    pub offset: i64,
    /// When a share was received that has no rows.
    pub timestamp: Micros,
}

/// Parts that the database has.
pub type Known = AHashMap<PushKey, Sent>;

/// What becomes of a share that is not simply stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is stored already.
    Repeat,
    /// Its key, this one, is that of another push.
    Conflict(Arc<str>),
}

/// The shares of one record that are not simply stored.
#[derive(Debug, Default)]
pub struct Shares(Vec<(Span, Fate)>);

/// Indexes of a share.
#[derive(Debug, Clone, Copy)]
struct Span {
    first: i64,
    end: i64,
}

impl Span {
    fn of(push: &Push<'_>) -> Self {
        let first = i64::from(push.first_index);
        Self { first, end: first + i64::from(push.count) }
    }

    fn holds(self, index: i32) -> bool {
        (self.first..self.end).contains(&i64::from(index))
    }
}

impl Shares {
    /// Judges the keyed pushes of a record; the first of several with a key is kept. `rows` are the indexes of the
    /// record's rows and when they were received.
    pub fn judge<I: Iterator<Item = (i32, Micros)>>(
        pushes: &[Push<'_>],
        record: Holder,
        rows: impl Fn() -> I,
        known: &Known,
        kept: &mut BTreeMap<PushKey, Kept>,
    ) -> Self {
        let mut shares = Vec::new();
        for push in pushes {
            let Some((key, digest)) = named(push) else { continue };
            let span = Span::of(push);
            let received_at =
                rows().find(|(index, _)| span.holds(*index)).map(|(_, received_at)| received_at);
            let sent = Sent { digest, received_at: received_at.unwrap_or(record.timestamp) };
            let before = kept.get(&key).map(|kept| &kept.sent).or_else(|| known.get(&key));
            match before.filter(|before| before.covers(sent.received_at)) {
                Some(before) if before.digest == digest => shares.push((span, Fate::Repeat)),
                Some(_) => shares.push((span, Fate::Conflict(Arc::from(&*push.key)))),
                None => {
                    let Holder { stream, partition, offset, .. } = record;
                    let first = Identity { partition, offset, index: push.first_index };
                    kept.insert(key, Kept { sent, stream, first, count: push.count });
                }
            }
        }
        Self(shares)
    }

    /// What becomes of the row of an index; none where it is stored.
    pub fn other_than_new(&self, index: i32) -> Option<&Fate> {
        self.0.iter().find(|(span, _)| span.holds(index)).map(|(_, fate)| fate)
    }
}

/// A push's key and digest, if they are such as ingest gives. Others may come from elsewhere; they say nothing.
fn named(push: &Push<'_>) -> Option<(PushKey, [u8; 32])> {
    let digest = push.digest.as_ref().try_into().ok()?;
    let sound = (1..=MAX_KEY_BYTES).contains(&push.key.len())
        && !push.key.contains('\0')
        && push.org.parse::<OrgId>().is_ok()
        && push.part >= 0
        && push.first_index >= 0
        && push.count >= 0;
    sound.then(|| (PushKey { org: (*push.org).into(), key: (*push.key).into(), part: push.part }, digest))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const RECORD: Holder = Holder { stream: Stream::Events, partition: 0, offset: 7, timestamp: Micros(0) };
    const HOUR: i64 = 3_600_000_000;

    fn push(key: &'static str, body: u8, first_index: i32, count: i32) -> Push<'static> {
        Push {
            org: "demo".into(),
            key: key.into(),
            digest: vec![body; 32].into(),
            part: 0,
            first_index,
            count,
        }
    }

    fn key(key: &str) -> PushKey {
        PushKey { org: "demo".into(), key: key.into(), part: 0 }
    }

    fn judge(
        pushes: &[Push<'_>],
        hour: i64,
        known: &Known,
        kept: &mut BTreeMap<PushKey, Kept>,
    ) -> Vec<Option<Fate>> {
        let rows = || (0..10).map(|index| (index, Micros(hour * HOUR)));
        let shares = Shares::judge(pushes, RECORD, rows, known, kept);
        (0..10).map(|index| shares.other_than_new(index).cloned()).collect()
    }

    /// A letter a row: new, repeat, or the key of a conflict.
    fn fates(expected: &str) -> Vec<Option<Fate>> {
        let fate = |c| match c {
            'n' => None,
            'r' => Some(Fate::Repeat),
            c => Some(Fate::Conflict(c.to_string().into())),
        };
        expected.chars().map(fate).collect()
    }

    #[test]
    fn the_first_of_a_batch_is_kept_and_the_others_are_judged_by_it() {
        let mut kept = BTreeMap::new();
        let pushes = [push("a", 1, 0, 2), push("b", 1, 3, 1), push("a", 1, 4, 2), push("b", 2, 7, 2)];
        assert_eq!(judge(&pushes, 0, &Known::new(), &mut kept), fates("nnnnrrnbbn"));
        assert_eq!(
            judge(&[push("a", 2, 9, 1), push("c", 1, 0, 1)], 1, &Known::new(), &mut kept),
            fates("nnnnnnnnna")
        );
        assert_eq!(kept.keys().cloned().collect::<Vec<_>>(), [key("a"), key("b"), key("c")]);
        assert_eq!(kept[&key("b")].first, Identity { partition: 0, offset: 7, index: 3 });
    }

    #[test]
    fn what_the_database_has_goes_before_what_the_batch_has() {
        let known = Known::from_iter([(key("a"), Sent { digest: [1; 32], received_at: Micros(0) })]);
        let mut kept = BTreeMap::new();
        let pushes = [push("a", 2, 0, 1), push("a", 1, 1, 1), push("a", 2, 2, 1)];
        assert_eq!(judge(&pushes, 1, &known, &mut kept), fates("arannnnnnn"));
        assert!(kept.is_empty());
    }

    #[rstest]
    #[case(23, "r")]
    #[case(24, "n")]
    #[case(-40, "r")]
    fn a_key_means_the_same_push_for_24_hours(#[case] hour: i64, #[case] expected: &str) {
        let known = Known::from_iter([(key("a"), Sent { digest: [1; 32], received_at: Micros(0) })]);
        let judged = judge(&[push("a", 1, 0, 1)], hour, &known, &mut BTreeMap::new());
        assert_eq!(judged.first(), fates(expected).first());
    }

    #[rstest]
    #[case(Push { key: "".into(), ..push("a", 1, 0, 1) })]
    #[case(Push { key: "k".repeat(256).into(), ..push("a", 1, 0, 1) })]
    #[case(Push { key: "a\0".into(), ..push("a", 1, 0, 1) })]
    #[case(Push { org: "No Org".into(), ..push("a", 1, 0, 1) })]
    #[case(Push { digest: vec![].into(), ..push("a", 1, 0, 1) })]
    #[case(Push { part: -1, ..push("a", 1, 0, 1) })]
    #[case(push("a", 1, -1, 1))]
    #[case(push("a", 1, 0, -1))]
    fn a_key_that_ingest_would_not_give_says_nothing(#[case] push: Push<'static>) {
        let mut kept = BTreeMap::new();
        assert_eq!(judge(&[push.clone(), push], 0, &Known::new(), &mut kept), fates("nnnnnnnnnn"));
        assert!(kept.is_empty());
    }

    #[test]
    fn a_share_to_the_end_of_numbers_holds_its_rows() {
        let mut kept = BTreeMap::new();
        let pushes = [push("a", 1, 0, 1), push("a", 1, i32::MAX, i32::MAX)];
        let shares = Shares::judge(&pushes, RECORD, std::iter::empty, &Known::new(), &mut kept);
        assert_eq!((shares.other_than_new(0), shares.other_than_new(i32::MAX)), (None, Some(&Fate::Repeat)));
    }
}
