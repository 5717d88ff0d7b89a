//! What is wrong with a position of the sink's, as a pure function of the position and the log. Its twin, which judges records
//! one by one while they are stored, is `Position::step` in the sink.

use schemas::Source;
use uuid::Uuid;

use crate::place::Place;

/// Records looked at past those that the sink can store by itself, for the first of a new raw topic.
const LOOK_AHEAD: usize = 10_000;
/// Records before the position that are looked at, to tell whether they are those that the sink has read.
const LOOK_BACK: i64 = 20;

/// The sink's position, as in `sink_partition`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) place: Place,
    /// Next offset to read.
    pub(super) next_offset: i64,
    /// The raw topic, once a record has said it.
    pub(super) topic_id: Option<Uuid>,
    /// Next raw offset to store; none for `incidents`.
    pub(super) next_source: Option<i64>,
    /// What lies before this offset was passed over by an accepted move, or read before it.
    pub(super) read_since: i64,
}

/// The ends of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Log {
    /// First offset there is.
    pub(super) low: i64,
    /// The offset after the last.
    pub(super) high: i64,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Situation {
    /// Nothing, as far as one can see.
    Fine,
    /// The next record continues a later raw offset than the one that is due.
    SourceGap {
        /// That raw offset.
        from: i64,
    },
    /// Kafka has removed records before they were read.
    Removed {
        /// First offset there is to read.
        to: i64,
        /// What is there.
        then: Then,
    },
    /// The topic that the sink reads was deleted and created anew.
    NewLog {
        /// Where the new one begins.
        to: i64,
        /// What is there.
        then: Then,
    },
    /// The next record comes from another raw topic.
    NewRaw {
        /// Its offset.
        to: i64,
        /// The raw topic.
        topic_id: Uuid,
        /// The raw offset that it continues.
        from: i64,
        /// The topic that the sink reads is another one, too.
        new_log: bool,
    },
    /// As [`Situation::NewRaw`], behind records that are still to be stored.
    NewRawLater {
        /// The offset of the first record of the new raw topic.
        offset: i64,
    },
}

/// What a log goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// With nothing, or with nothing but what is stored already or tells no raw offset.
    Nothing,
    /// With what is due.
    Continues,
    /// With a later raw offset than the one that is due.
    Gap {
        /// That raw offset.
        from: i64,
    },
}

/// The source of a record, if it is one that the sink goes by.
fn own(place: Place, source: Option<Source>) -> Option<Source> {
    source.filter(|source| {
        source.partition == place.partition
            && (0..i64::MAX).contains(&source.offset)
            && source.from <= source.offset
    })
}

impl Held {
    /// Whether a record before the position proves that the log is another one than the sink has read: it would have
    /// stored it, or stopped.
    pub(super) fn never_read(&self, source: Option<Source>) -> bool {
        own(self.place, source).is_some_and(|source| {
            self.topic_id.is_some_and(|known| known != source.topic_id)
                || self.next_source.is_some_and(|next| source.offset >= next)
        })
    }

    /// Where such records may lie. Empty where none can.
    pub(super) fn before(&self, log: Log) -> std::ops::Range<i64> {
        if self.next_source.is_none() || self.next_offset > log.high {
            return 0..0;
        }
        let from = self.next_offset.saturating_sub(LOOK_BACK).max(log.low).max(self.read_since);
        from..self.next_offset.max(from)
    }
}

/// Looks at the records from the position on.
#[derive(Debug)]
pub(super) struct Look {
    held: Held,
    log: Log,
    replaced: bool,
    /// Whether records of another raw topic are looked for behind those that can be stored.
    far: bool,
    seen: usize,
    first: Option<i64>,
    /// Something of what was seen is not stored yet.
    unstored: bool,
    then: Then,
    other: Option<(i64, Source)>,
}

impl Look {
    /// `replaced`: a record before the position was [never read](Held::never_read).
    pub(super) fn new(held: Held, log: Log, replaced: bool, far: bool) -> Self {
        let replaced = replaced || held.next_offset > log.high;
        Self {
            held,
            log,
            replaced,
            far,
            seen: 0,
            first: None,
            unstored: false,
            then: Then::Nothing,
            other: None,
        }
    }

    /// Where the look begins.
    pub(super) fn start(&self) -> i64 {
        if self.replaced { self.log.low } else { self.held.next_offset.max(self.log.low) }
    }

    /// Takes the record at `offset`; true when enough was seen.
    pub(super) fn take(&mut self, offset: i64, source: Option<Source>) -> bool {
        self.first.get_or_insert(offset);
        self.seen += 1;
        let Some(next_source) = self.held.next_source else {
            self.then = Then::Continues;
            return true;
        };
        let Some(source) = own(self.held.place, source) else {
            // It goes into quarantine.
            self.unstored = true;
            return self.seen >= LOOK_AHEAD;
        };
        if self.held.topic_id.is_some_and(|known| known != source.topic_id) {
            self.other = Some((offset, source));
            return true;
        }
        if source.offset >= next_source {
            if self.then != Then::Continues && source.from > next_source {
                self.then = Then::Gap { from: source.from };
                return true;
            }
            self.unstored = true;
            self.then = Then::Continues;
        }
        (self.unstored && self.then == Then::Continues && !self.far) || self.seen >= LOOK_AHEAD
    }

    /// What is wrong, by what was seen.
    pub(super) fn situation(&self) -> Situation {
        let to = self.first.unwrap_or(self.log.low);
        // What was never read begins where the log does.
        let removed = (1..self.log.low).contains(&self.held.next_offset);
        match &self.other {
            Some((offset, source)) if !self.unstored => Situation::NewRaw {
                to: *offset,
                topic_id: source.topic_id,
                from: source.from,
                new_log: self.replaced,
            },
            _ if self.replaced => Situation::NewLog { to: self.log.low, then: self.then },
            _ if removed => Situation::Removed { to, then: self.then },
            Some((offset, _)) => Situation::NewRawLater { offset: *offset },
            None => match self.then {
                Then::Gap { from } => Situation::SourceGap { from },
                Then::Nothing | Then::Continues => Situation::Fine,
            },
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use rstest::rstest;

    use super::*;

    pub(in crate::accept) const OLD: Uuid = Uuid::from_u128(1);
    pub(in crate::accept) const NEW: Uuid = Uuid::from_u128(2);

    /// A record of `events/2`: (offset, topic, from, raw offset).
    type Told = (i64, Uuid, i64, i64);
    /// None of enrich's.
    const FOREIGN: Uuid = Uuid::nil();

    fn source((_, topic_id, from, offset): &Told) -> Option<Source> {
        (*topic_id != FOREIGN).then_some(Source {
            topic_id: *topic_id,
            partition: 2,
            from: *from,
            offset: *offset,
        })
    }

    /// At offset 10 and raw offset 100 of the old topic.
    pub(in crate::accept) fn held() -> Held {
        Held {
            place: "events/2".parse().unwrap(),
            next_offset: 10,
            topic_id: Some(OLD),
            next_source: Some(100),
            read_since: 0,
        }
    }

    fn look(held: Held, low: i64, high: i64, log: &[Told], far: bool) -> Situation {
        let ends = Log { low, high };
        let before = held.before(ends);
        let replaced =
            log.iter().filter(|told| before.contains(&told.0)).any(|told| held.never_read(source(told)));
        let mut look = Look::new(held, ends, replaced, far);
        let start = look.start();
        let _ = log.iter().filter(|told| told.0 >= start).any(|told| look.take(told.0, source(told)));
        look.situation()
    }

    const ID: Uuid = OLD;

    #[rstest]
    #[case::nothing_new(0, 10, &[(9, ID, 99, 99)], Situation::Fine)]
    #[case::the_next_one(0, 11, &[(9, ID, 99, 99), (10, ID, 100, 100)], Situation::Fine)]
    #[case::over_a_hole(0, 11, &[(10, ID, 98, 104)], Situation::Fine)]
    #[case::repeats_and_the_next_one(0, 13, &[(10, ID, 98, 98), (11, ID, 99, 99), (12, ID, 100, 100)], Situation::Fine)]
    #[case::a_gap(0, 11, &[(9, ID, 99, 99), (10, ID, 105, 105)], Situation::SourceGap { from: 105 })]
    #[case::a_gap_after_repeats(0, 13, &[(10, ID, 98, 98), (12, ID, 104, 106)], Situation::SourceGap { from: 104 })]
    #[case::a_gap_after_foreign_records(0, 12, &[(10, FOREIGN, 0, 0), (11, ID, 105, 105)], Situation::SourceGap { from: 105 })]
    #[case::a_gap_later_is_not_yet_one(0, 12, &[(10, ID, 100, 100), (11, ID, 105, 105)], Situation::Fine)]
    #[case::removed_and_nothing_left(15, 15, &[], Situation::Removed { to: 15, then: Then::Nothing })]
    #[case::removed_and_foreign(15, 17, &[(16, FOREIGN, 0, 0)], Situation::Removed { to: 16, then: Then::Nothing })]
    #[case::removed_repeats_only(15, 17, &[(15, ID, 99, 99), (16, ID, 100, 100)], Situation::Removed { to: 15, then: Then::Continues })]
    #[case::removed(15, 16, &[(15, ID, 105, 105)], Situation::Removed { to: 15, then: Then::Gap { from: 105 } })]
    #[case::removed_past_a_foreign_one(15, 17, &[(15, FOREIGN, 0, 0), (16, ID, 105, 105)], Situation::Removed { to: 15, then: Then::Gap { from: 105 } })]
    #[case::shorter_and_empty(0, 0, &[], Situation::NewLog { to: 0, then: Then::Nothing })]
    #[case::shorter_from_the_beginning(0, 1, &[(0, ID, 0, 0)], Situation::NewLog { to: 0, then: Then::Nothing })]
    #[case::shorter_going_on(0, 1, &[(0, ID, 100, 100)], Situation::NewLog { to: 0, then: Then::Continues })]
    #[case::shorter_with_a_gap(0, 1, &[(0, ID, 105, 105)], Situation::NewLog { to: 0, then: Then::Gap { from: 105 } })]
    #[case::grown_past_the_position(0, 11, &[(0, ID, 100, 100), (9, ID, 109, 109), (10, ID, 110, 110)], Situation::NewLog { to: 0, then: Then::Continues })]
    #[case::grown_past_it_with_a_gap(0, 11, &[(0, ID, 101, 101), (9, ID, 109, 109), (10, ID, 110, 110)], Situation::NewLog { to: 0, then: Then::Gap { from: 101 } })]
    #[case::new_raw(0, 11, &[(9, ID, 99, 99), (10, NEW, 0, 0)], Situation::NewRaw { to: 10, topic_id: NEW, from: 0, new_log: false })]
    #[case::new_raw_after_repeats(0, 12, &[(10, ID, 99, 99), (11, NEW, 3, 3)], Situation::NewRaw { to: 11, topic_id: NEW, from: 3, new_log: false })]
    #[case::new_raw_later(0, 12, &[(10, ID, 100, 100), (11, NEW, 0, 0)], Situation::NewRawLater { offset: 11 })]
    #[case::new_raw_after_a_foreign_one(0, 12, &[(10, FOREIGN, 0, 0), (11, NEW, 0, 0)], Situation::NewRawLater { offset: 11 })]
    #[case::a_gap_before_new_raw(0, 12, &[(10, ID, 105, 105), (11, NEW, 0, 0)], Situation::SourceGap { from: 105 })]
    #[case::new_raw_and_removed(15, 16, &[(15, NEW, 4, 4)], Situation::NewRaw { to: 15, topic_id: NEW, from: 4, new_log: false })]
    #[case::removed_then_new_raw_later(15, 17, &[(15, ID, 100, 100), (16, NEW, 0, 0)], Situation::Removed { to: 15, then: Then::Continues })]
    #[case::both_new(0, 1, &[(0, NEW, 0, 0)], Situation::NewRaw { to: 0, topic_id: NEW, from: 0, new_log: true })]
    #[case::both_new_and_grown_past_it(0, 11, &[(0, NEW, 0, 0), (9, NEW, 9, 9), (10, NEW, 10, 10)], Situation::NewRaw { to: 0, topic_id: NEW, from: 0, new_log: true })]
    fn what_the_log_shows(
        #[case] low: i64,
        #[case] high: i64,
        #[case] log: &[Told],
        #[case] expected: Situation,
    ) {
        assert_eq!(look(held(), low, high, log, true), expected);
    }

    #[test]
    fn records_of_another_partition_or_without_sense_are_foreign() {
        for (partition, from, offset) in [(3, 105, 105), (2, 106, 105), (2, -1, -1), (2, 105, i64::MAX)] {
            let mut look = Look::new(held(), Log { low: 0, high: 11 }, false, true);
            assert!(!look.take(10, Some(Source { topic_id: NEW, partition, from, offset })));
            assert_eq!(look.situation(), Situation::Fine);
        }
    }

    #[test]
    fn what_was_never_read_begins_where_the_log_does() {
        let held = Held { next_offset: 0, topic_id: None, next_source: Some(0), ..held() };
        assert_eq!(look(held, 5, 6, &[(5, NEW, 0, 3)], true), Situation::Fine);
        assert_eq!(look(held, 5, 6, &[(5, NEW, 3, 3)], true), Situation::SourceGap { from: 3 });
    }

    #[test]
    fn a_gap_asks_for_no_more_than_the_next_record() {
        let mut look = Look::new(held(), Log { low: 0, high: 12 }, false, false);
        assert!(look.take(10, Some(Source { topic_id: OLD, partition: 2, from: 100, offset: 100 })));
        assert_eq!(look.situation(), Situation::Fine);
    }

    #[test]
    fn what_an_accepted_move_passed_over_proves_nothing() {
        let held = Held { read_since: 10, ..held() };
        let log = [(9, NEW, 4, 4), (10, OLD, 100, 100)];
        assert_eq!(look(held, 0, 11, &log, true), Situation::Fine);
    }

    #[test]
    fn a_topic_without_source_goes_by_its_ends() {
        let held = Held {
            place: "incidents/2".parse().unwrap(),
            next_offset: 10,
            topic_id: None,
            next_source: None,
            read_since: 0,
        };
        let log = [(9, FOREIGN, 0, 0), (12, FOREIGN, 0, 0)];
        assert_eq!(look(held, 0, 13, &log, true), Situation::Fine);
        assert_eq!(look(held, 11, 13, &log, true), Situation::Removed { to: 12, then: Then::Continues });
        assert_eq!(look(held, 0, 5, &[], true), Situation::NewLog { to: 0, then: Then::Nothing });
        assert_eq!(look(Held { next_offset: 0, ..held }, 11, 13, &log, true), Situation::Fine);
    }
}
