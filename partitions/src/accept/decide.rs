//! What an operator asked for, and what is done about a situation: the smallest move that lets the reader go on, or a refusal
//! that says what is right.

use schemas::start::{Accepted, Broken, Decision, RawLog};
use uuid::Uuid;

use crate::place::Place;

use super::situation::{Held, Log, Situation, Then};
use super::target::Target;

/// What an operator accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// That records are gone.
    Gap,
    /// That a topic is another one than before.
    NewTopic,
}

impl Asked {
    /// As in `sink_accepted.action` and in the audit log.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Gap => "accepted_gap",
            Self::NewTopic => "accepted_new_topic",
        }
    }
}

/// Why nothing is moved although something is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Records are missing, and the topic is the same.
    #[error(
        "{target}: {what}. That is a gap, not a new topic: run `tidewatch-partitions accept --gap {target}`"
    )]
    IsGap {
        /// Where.
        target: Target,
        /// What was found.
        what: String,
    },
    /// The topic is another one.
    #[error(
        "{target}: {what}. That is a new topic, not a gap: run `tidewatch-partitions accept --new-topic {target}`"
    )]
    IsNewTopic {
        /// Where.
        target: Target,
        /// What was found.
        what: String,
    },
    /// Records of the old raw topic are there and not stored.
    #[error(
        "{place}: the sink must first store up to offset {offset}, where the records of the new raw topic begin: what is \
         before it would be lost. Let it run until it stops there, then repeat this"
    )]
    StoreFirst {
        /// Where.
        place: Place,
        /// The first offset of the new raw topic.
        offset: i64,
    },
    /// A raw topic has lost what was enriched.
    #[error(
        "{target}: the topic ends at offset {end}, but its records up to {at} have been enriched, and it is the same topic: \
         Kafka has lost acknowledged records. Its next records would have the offsets of stored ones and be dropped as \
         repeats. Delete the topic, make it anew (`tidewatch-partitions topics`), then repeat this with --new-topic"
    )]
    Truncated {
        /// Where.
        target: Target,
        /// The offset after the last one enriched.
        at: i64,
        /// The end of the log.
        end: i64,
    },
}

/// A position of the sink's, to move from or to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) offset: i64,
    pub(super) topic_id: Option<Uuid>,
    pub(super) source: Option<i64>,
}

impl Point {
    pub(super) fn of(held: &Held) -> Self {
        Self { offset: held.next_offset, topic_id: held.topic_id, source: held.next_source }
    }
}

/// What is known of enrich's side of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Upstream {
    /// The raw partition; none when there is no such topic.
    pub(super) raw: Option<RawLog>,
    /// Offset that enrich's group has committed for it.
    pub(super) committed: Option<i64>,
}

/// Raw offsets to be enriched once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Again {
    pub(super) from: i64,
    pub(super) to: i64,
}

/// A move of the sink's position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SinkMove {
    pub(super) to: Point,
    /// Enriched offsets that were never read and are gone.
    pub(super) skipped: i64,
    /// Raw offsets that are not stored and will not be.
    pub(super) skipped_raw: i64,
    /// What enrich has to do again, for that is the only way to it.
    pub(super) again: Option<Again>,
}

/// The move of the sink's position; none where nothing is wrong.
pub(super) fn sink_move(
    asked: Asked,
    held: &Held,
    log: Log,
    situation: &Situation,
    upstream: &Upstream,
) -> Result<Option<SinkMove>, Refusal> {
    let (place, at) = (held.place, Point::of(held));
    let target = Target::Sink(place);
    let due = held.next_source.unwrap_or_default();
    let moved =
        |to: Point, skipped: i64, skipped_raw: i64| SinkMove { to, skipped, skipped_raw, again: None };
    let what = || describe(held, log, situation);
    Ok(match (asked, *situation) {
        (_, Situation::Fine) | (Asked::Gap, Situation::NewRawLater { .. }) => None,
        (Asked::Gap, Situation::SourceGap { from }) => {
            Some(moved(Point { source: Some(from), ..at }, 0, from - due))
        }
        (Asked::Gap, Situation::Removed { to, then }) => {
            let source = match then {
                Then::Gap { from } => Some(from),
                Then::Nothing | Then::Continues => held.next_source,
            };
            let skipped_raw = source.unwrap_or_default() - due;
            Some(moved(Point { offset: to, source, ..at }, to - at.offset, skipped_raw))
        }
        (Asked::NewTopic, Situation::NewLog { to, then }) => {
            let again = again(held, then, upstream);
            // What the new log holds by now continues what is to be enriched again, so reading goes on behind it.
            let passes = again.is_some() && matches!(then, Then::Gap { .. });
            let to = if passes { log.high } else { to };
            Some(SinkMove { again, ..moved(Point { offset: to, ..at }, 0, 0) })
        }
        (Asked::NewTopic, Situation::NewRaw { to, topic_id, from, new_log }) => {
            let to = Point { offset: to, topic_id: Some(topic_id), source: Some(from) };
            let skipped = if new_log { 0 } else { (log.low - at.offset).max(0) };
            Some(moved(to, skipped, from))
        }
        (Asked::NewTopic, Situation::NewRawLater { offset }) => {
            return Err(Refusal::StoreFirst { place, offset });
        }
        (Asked::Gap, Situation::NewLog { .. } | Situation::NewRaw { .. }) => {
            return Err(Refusal::IsNewTopic { target, what: what() });
        }
        (Asked::NewTopic, Situation::SourceGap { .. } | Situation::Removed { .. }) => {
            return Err(Refusal::IsGap { target, what: what() });
        }
    })
}

/// Raw offsets whose enriched records went with the old log before the sink had stored them, and which the raw topic still has.
fn again(held: &Held, then: Then, upstream: &Upstream) -> Option<Again> {
    let (raw, due) = (upstream.raw?, held.next_source?);
    let to = match then {
        Then::Continues => return None,
        Then::Gap { from } => from,
        Then::Nothing => upstream.committed?,
    };
    let from = due.max(raw.low);
    (held.topic_id == Some(raw.topic_id) && from < to && to <= raw.high).then_some(Again { from, to })
}

/// What was found, for a person; without a full stop.
pub(super) fn describe(held: &Held, log: Log, situation: &Situation) -> String {
    let at = held.next_offset;
    let due = held.next_source.unwrap_or_default();
    let Log { low, high } = log;
    match *situation {
        Situation::Fine => format!("nothing is wrong at offset {at}"),
        Situation::NewRawLater { offset } => {
            format!("nothing is wrong at offset {at}; at {offset} the records of another raw topic begin")
        }
        Situation::SourceGap { from } => {
            format!("raw offsets {due} to {from} were never stored; the next record continues {from}")
        }
        Situation::Removed { to, then } => {
            let lost = format!("Kafka has removed offsets {at} to {to}, which were never read");
            match then {
                Then::Gap { from } => format!("{lost}; they held raw offsets {due} to {from}"),
                Then::Continues if held.next_source.is_some() => {
                    format!(
                        "{lost}; what follows continues raw offset {due}: they held nothing that is missing"
                    )
                }
                Then::Nothing if held.next_source.is_some() => {
                    format!("{lost}; which raw offsets they held will be seen from the next record")
                }
                Then::Nothing | Then::Continues => lost,
            }
        }
        Situation::NewLog { .. } if at > high => {
            format!("offset {at} was due, but the topic ends at {high}: it was deleted and created anew")
        }
        Situation::NewLog { .. } => {
            format!("what is before offset {at} was never read: the topic was deleted and created anew")
        }
        Situation::NewRaw { to, topic_id, new_log, .. } => {
            let known = held.topic_id.map_or("none".to_owned(), |id| id.to_string());
            let both = if new_log { "; this topic was created anew, too" } else { "" };
            let removed =
                if !new_log && at < low { "; Kafka has removed unread records before it" } else { "" };
            format!(
                "the record at offset {to} comes from raw topic {topic_id}, earlier ones from {known}{both}{removed}"
            )
        }
    }
}

/// A decision about a raw partition: where enrich starts, and what is written beside the offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawMove {
    /// Where it was to start; none where the old topic's offsets mean nothing.
    pub(super) from: Option<i64>,
    pub(super) to: i64,
    pub(super) accepted: Accepted,
    /// Raw offsets that were never read and are gone.
    pub(super) skipped: i64,
}

/// The decision about a raw partition where `start` is what enrich would do; none where nothing is wrong.
pub(super) fn raw_move(
    asked: Asked,
    target: Target,
    raw: &RawLog,
    start: &Result<Option<i64>, Broken>,
) -> Result<Option<RawMove>, Refusal> {
    let Err(broken) = start else { return Ok(None) };
    let accepted = |what| Accepted { topic_id: raw.topic_id, what };
    let what = || describe_raw(raw, start);
    Ok(match (asked, *broken) {
        (Asked::Gap, Broken::Gap { from, to }) => Some(RawMove {
            from: Some(from),
            to,
            accepted: accepted(Decision::Gap { from, to }),
            skipped: to - from,
        }),
        (Asked::NewTopic, Broken::AnotherTopic { .. } | Broken::Beyond { .. }) => {
            Some(RawMove { from: None, to: raw.low, accepted: accepted(Decision::Topic), skipped: raw.low })
        }
        (_, Broken::Truncated { at, end }) => return Err(Refusal::Truncated { target, at, end }),
        (Asked::Gap, _) => return Err(Refusal::IsNewTopic { target, what: what() }),
        (Asked::NewTopic, _) => return Err(Refusal::IsGap { target, what: what() }),
    })
}

/// What was found, for a person; without a full stop.
pub(super) fn describe_raw(raw: &RawLog, start: &Result<Option<i64>, Broken>) -> String {
    match start {
        Ok(None) => "nothing is wrong: nothing of it was ever read".to_owned(),
        Ok(Some(at)) => format!("nothing is wrong at raw offset {at}"),
        Err(Broken::Gap { from, to }) => {
            format!("Kafka has removed raw offsets {from} to {to}, which were never read")
        }
        Err(Broken::AnotherTopic { was }) => {
            format!("the last enriched record was made from topic {was}, the topic is now {}", raw.topic_id)
        }
        Err(Broken::Beyond { at, end } | Broken::Truncated { at, end }) => {
            format!("raw offset {at} was due, but the topic ends at {end}")
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::situation::tests::{NEW, OLD, held};
    use super::*;

    const LOG: Log = Log { low: 0, high: 20 };
    const UPSTREAM: Upstream = Upstream { raw: None, committed: None };

    fn point(offset: i64, topic_id: Uuid, source: i64) -> Point {
        Point { offset, topic_id: Some(topic_id), source: Some(source) }
    }

    const GAP: Situation = Situation::SourceGap { from: 105 };
    const REMOVED: Situation = Situation::Removed { to: 15, then: Then::Gap { from: 105 } };
    const NEW_LOG: Situation = Situation::NewLog { to: 0, then: Then::Nothing };
    const NEW_RAW: Situation = Situation::NewRaw { to: 12, topic_id: NEW, from: 3, new_log: false };

    // The position is offset 10, raw offset 100.
    #[rstest]
    #[case(Asked::Gap, GAP, point(10, OLD, 105), 0, 5)]
    #[case(Asked::Gap, REMOVED, point(15, OLD, 105), 5, 5)]
    #[case(Asked::Gap, Situation::Removed { to: 15, then: Then::Continues }, point(15, OLD, 100), 5, 0)]
    #[case(Asked::Gap, Situation::Removed { to: 15, then: Then::Nothing }, point(15, OLD, 100), 5, 0)]
    #[case(Asked::NewTopic, NEW_LOG, point(0, OLD, 100), 0, 0)]
    #[case(Asked::NewTopic, Situation::NewLog { to: 0, then: Then::Gap { from: 105 } }, point(0, OLD, 100), 0, 0)]
    #[case(Asked::NewTopic, NEW_RAW, point(12, NEW, 3), 0, 3)]
    #[case(Asked::NewTopic, Situation::NewRaw { to: 0, topic_id: NEW, from: 0, new_log: true }, point(0, NEW, 0), 0, 0)]
    fn a_move_is_the_smallest_that_lets_the_sink_go_on(
        #[case] asked: Asked,
        #[case] situation: Situation,
        #[case] to: Point,
        #[case] skipped: i64,
        #[case] skipped_raw: i64,
    ) {
        let moved = sink_move(asked, &held(), LOG, &situation, &UPSTREAM).unwrap().unwrap();
        assert_eq!(moved, SinkMove { to, skipped, skipped_raw, again: None });
    }

    #[rstest]
    #[case(Asked::Gap, Situation::Fine)]
    #[case(Asked::NewTopic, Situation::Fine)]
    #[case(Asked::Gap, Situation::NewRawLater { offset: 12 })]
    fn where_nothing_is_wrong_nothing_moves(#[case] asked: Asked, #[case] situation: Situation) {
        assert_eq!(sink_move(asked, &held(), LOG, &situation, &UPSTREAM), Ok(None));
    }

    #[rstest]
    #[case(Asked::Gap, NEW_LOG, "accept --new-topic events/2`")]
    #[case(Asked::Gap, NEW_RAW, "accept --new-topic events/2`")]
    #[case(Asked::NewTopic, GAP, "accept --gap events/2`")]
    #[case(Asked::NewTopic, REMOVED, "accept --gap events/2`")]
    #[case(Asked::NewTopic, Situation::NewRawLater { offset: 12 }, "the sink must first store up to offset 12")]
    fn what_is_not_so_is_refused(#[case] asked: Asked, #[case] situation: Situation, #[case] says: &str) {
        let refusal = sink_move(asked, &held(), LOG, &situation, &UPSTREAM).unwrap_err().to_string();
        assert!(refusal.contains(says), "{refusal}");
    }

    #[test]
    fn unread_records_that_went_with_the_unstored_of_the_old_raw_topic_are_told() {
        let situation = Situation::NewRaw { to: 15, topic_id: NEW, from: 0, new_log: false };
        let log = Log { low: 15, high: 20 };
        let moved = sink_move(Asked::NewTopic, &held(), log, &situation, &UPSTREAM).unwrap().unwrap();
        assert_eq!((moved.skipped, moved.skipped_raw), (5, 0));
    }

    #[test]
    fn incidents_have_no_raw_offsets() {
        let place = "incidents/2".parse().unwrap();
        let held = Held { place, topic_id: None, next_source: None, ..held() };
        let situation = Situation::Removed { to: 15, then: Then::Continues };
        let moved = sink_move(Asked::Gap, &held, LOG, &situation, &UPSTREAM).unwrap().unwrap();
        assert_eq!(moved.to, Point { offset: 15, topic_id: None, source: None });
        assert_eq!((moved.skipped, moved.skipped_raw), (5, 0));
    }

    /// A new enriched log while raw offsets 100 and on are not stored.
    #[rstest]
    // enrich was further than the sink, and has written nothing to the new log.
    #[case(Then::Nothing, Some(130), 0, 0, Some((100, 130)))]
    // It has: what is there comes once more.
    #[case(Then::Gap { from: 130 }, Some(140), 0, 20, Some((100, 130)))]
    // The raw topic has lost some of it, or all.
    #[case(Then::Nothing, Some(130), 110, 0, Some((110, 130)))]
    #[case(Then::Nothing, Some(130), 130, 0, None)]
    #[case(Then::Gap { from: 130 }, Some(140), 130, 0, None)]
    // The sink had everything, or what it has not is there.
    #[case(Then::Nothing, Some(100), 0, 0, None)]
    #[case(Then::Nothing, Some(90), 0, 0, None)]
    #[case(Then::Nothing, None, 0, 0, None)]
    #[case(Then::Continues, Some(130), 0, 0, None)]
    fn what_went_with_the_old_log_is_enriched_again(
        #[case] then: Then,
        #[case] committed: Option<i64>,
        #[case] low: i64,
        #[case] to: i64,
        #[case] expected: Option<(i64, i64)>,
    ) {
        let raw = |topic_id| Some(RawLog { topic_id, low, high: 150 });
        let moved = |raw| {
            let situation = Situation::NewLog { to: 0, then };
            let upstream = Upstream { raw, committed };
            sink_move(Asked::NewTopic, &held(), LOG, &situation, &upstream).unwrap().unwrap()
        };
        let found = moved(raw(OLD));
        assert_eq!(found.to, point(to, OLD, 100));
        assert_eq!(found.again, expected.map(|(from, to)| Again { from, to }));
        // Of another raw topic, or without one, nothing can be had.
        for raw in [raw(NEW), None] {
            assert_eq!((moved(raw).again, moved(raw).to), (None, point(0, OLD, 100)));
        }
    }

    const RAW: RawLog = RawLog { topic_id: NEW, low: 20, high: 90 };

    fn raw(asked: Asked, start: Result<Option<i64>, Broken>) -> Result<Option<RawMove>, Refusal> {
        raw_move(asked, "events.raw/2".parse().unwrap(), &RAW, &start)
    }

    #[test]
    fn enrich_starts_where_the_raw_log_does() {
        let accepted = |what| Accepted { topic_id: NEW, what };
        let gap = raw(Asked::Gap, Err(Broken::Gap { from: 10, to: 20 })).unwrap().unwrap();
        let decision = Decision::Gap { from: 10, to: 20 };
        assert_eq!(gap, RawMove { from: Some(10), to: 20, accepted: accepted(decision), skipped: 10 });
        for broken in [Broken::AnotherTopic { was: OLD }, Broken::Beyond { at: 95, end: 90 }] {
            let moved = raw(Asked::NewTopic, Err(broken)).unwrap().unwrap();
            let expected = RawMove { from: None, to: 20, accepted: accepted(Decision::Topic), skipped: 20 };
            assert_eq!(moved, expected);
        }
        for asked in [Asked::Gap, Asked::NewTopic] {
            assert_eq!(raw(asked, Ok(Some(30))), Ok(None));
            assert_eq!(raw(asked, Ok(None)), Ok(None));
        }
    }

    #[rstest]
    #[case(Asked::Gap, Broken::AnotherTopic { was: OLD }, "accept --new-topic events.raw/2`")]
    #[case(Asked::Gap, Broken::Beyond { at: 95, end: 90 }, "accept --new-topic events.raw/2`")]
    #[case(Asked::NewTopic, Broken::Gap { from: 10, to: 20 }, "accept --gap events.raw/2`")]
    #[case(Asked::Gap, Broken::Truncated { at: 95, end: 90 }, "make it anew")]
    #[case(Asked::NewTopic, Broken::Truncated { at: 95, end: 90 }, "make it anew")]
    fn what_is_not_so_of_a_raw_topic_is_refused(
        #[case] asked: Asked,
        #[case] broken: Broken,
        #[case] says: &str,
    ) {
        let refusal = raw(asked, Err(broken)).unwrap_err().to_string();
        assert!(refusal.contains(says), "{refusal}");
    }
}
