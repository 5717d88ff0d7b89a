//! Where the sink is in each partition, and what a record means for that: the rules that make a raw record count
//! once, as a pure state machine.

use std::fmt;

use kafka::Start;
use schemas::Source;
use uuid::Uuid;

/// What the sink reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Enriched events.
    Events,
    /// Enriched findings and scan activity.
    Findings,
    /// Changes of incidents.
    Incidents,
}

impl Topic {
    /// All of them.
    pub const ALL: [Topic; 3] = [Topic::Events, Topic::Findings, Topic::Incidents];

    /// Its name without the topic prefix, as in `sink_partition.topic`.
    pub const fn name(self) -> &'static str {
        match self {
            Topic::Events => schemas::Stream::Events.name(),
            Topic::Findings => schemas::Stream::Findings.name(),
            Topic::Incidents => schemas::INCIDENTS_TOPIC,
        }
    }

    /// The topic of that name, without prefix.
    pub fn from_name(name: &str) -> Option<Topic> {
        Self::ALL.into_iter().find(|topic| topic.name() == name)
    }
}

/// A partition of one of the topics; shown as `events/3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey {
    /// Its topic.
    pub topic: Topic,
    /// Its number.
    pub partition: i32,
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic.name(), self.partition)
    }
}

/// A place in a partition: what comes before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Next offset to read.
    pub next_offset: i64,
    /// Kafka's id of the raw topic, once a record has said it.
    pub source_topic_id: Option<Uuid>,
    /// Next raw offset to store; of no meaning for [`Topic::Incidents`].
    pub next_source: i64,
}

impl Position {
    /// Before the first record.
    pub const START: Position = Position { next_offset: 0, source_topic_id: None, next_source: 0 };

    /// Where reading starts. What has never been read begins where the log does.
    pub fn start(&self) -> Start {
        match self.next_offset {
            0 => Start::Beginning,
            next => Start::Offset(next),
        }
    }
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is stored.
    Apply,
    /// Its raw record is stored already: counted as duplicates and dropped.
    Repeat,
    /// It is no record of ours, or of another partition: quarantined whole, whatever it says of its source.
    Foreign,
}

/// Why the sink must stop: going on would lose events or store them twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// Raw records are missing between the last stored one and this.
    #[error(
        "{partition}: a gap: offset {offset} continues raw offset {from}, but raw offsets {expected} to {from} were \
         never stored (retention ran out, or the enriched topic lost records); if they are truly gone, run \
         `tidewatch-partitions accept --gap {partition}`"
    )]
    Gap {
        /// Where.
        partition: PartitionKey,
        /// Offset of the record that does not connect.
        offset: i64,
        /// The raw offset that was due.
        expected: i64,
        /// The raw offset it connects to.
        from: i64,
    },
    /// Records of a topic without source are missing.
    #[error(
        "{partition}: a gap: offset {offset} follows {expected}, what lay between is gone (retention ran out); if that \
         is to be, run `tidewatch-partitions accept --gap {partition}`"
    )]
    Missing {
        /// Where.
        partition: PartitionKey,
        /// Offset of the record that does not connect.
        offset: i64,
        /// The offset that was due.
        expected: i64,
    },
    /// The raw topic is another one than before: its offsets mean something else.
    #[error(
        "{partition}: offset {offset} comes from raw topic {found}, earlier ones from {known}: the raw topic was deleted \
         and created anew; to go on with the new one, run `tidewatch-partitions accept --new-topic {partition}`"
    )]
    OtherTopic {
        /// Where.
        partition: PartitionKey,
        /// Offset of the record that says so.
        offset: i64,
        /// The raw topic so far.
        known: Uuid,
        /// The raw topic it names.
        found: Uuid,
    },
    /// Retention was faster than the sink.
    #[error(
        "{partition}: a gap: offset {expected} was due, but Kafka has removed what lies before {low} (retention ran out); if \
         that is truly gone, run `tidewatch-partitions accept --gap {partition}`"
    )]
    Removed {
        /// Where.
        partition: PartitionKey,
        /// The offset that was due.
        expected: i64,
        /// First offset there is.
        low: i64,
    },
    /// The topic has fewer records than were read from it.
    #[error(
        "{partition}: offset {expected} was due, but Kafka has {low} to {high}: the topic was deleted and created anew; to \
         go on with the new one, run `tidewatch-partitions accept --new-topic {partition}`"
    )]
    Shorter {
        /// Where.
        partition: PartitionKey,
        /// The offset that was due.
        expected: i64,
        /// First offset there is.
        low: i64,
        /// The offset after the last.
        high: i64,
    },
}

impl Halt {
    /// Kafka has offsets `low` to `high`, and `expected` is none of them.
    pub fn out_of_range(partition: PartitionKey, expected: i64, low: i64, high: i64) -> Self {
        if expected < low {
            Self::Removed { partition, expected, low }
        } else {
            Self::Shorter { partition, expected, low, high }
        }
    }
}

impl Position {
    /// Judges the record at `offset`, and steps past it. `source` is what the record says it was made from, none when
    /// that cannot be read; `read_from` is the consumer's position before the record.
    ///
    /// # Errors
    /// The record must not be stored and the partition must not go on; the position stays.
    pub fn step(
        &mut self,
        partition: PartitionKey,
        offset: i64,
        read_from: i64,
        source: Option<&Source>,
    ) -> Result<Verdict, Halt> {
        let verdict = match (partition.topic, source) {
            (Topic::Incidents, _) => self.judge_plain(partition, offset, read_from)?,
            (_, None) => Verdict::Foreign,
            (_, Some(source)) => self.judge_source(partition, offset, source)?,
        };
        self.next_offset = offset.saturating_add(1);
        Ok(verdict)
    }

    fn judge_plain(&self, partition: PartitionKey, offset: i64, read_from: i64) -> Result<Verdict, Halt> {
        // A partition never read before may begin anywhere.
        if read_from > self.next_offset && self.next_offset > 0 {
            return Err(Halt::Missing { partition, offset, expected: self.next_offset });
        }
        Ok(if offset < self.next_offset { Verdict::Repeat } else { Verdict::Apply })
    }

    fn judge_source(
        &mut self,
        partition: PartitionKey,
        offset: i64,
        source: &Source,
    ) -> Result<Verdict, Halt> {
        let Some(next) = source.offset.checked_add(1) else { return Ok(Verdict::Foreign) };
        if source.partition != partition.partition || source.offset < 0 || source.from > source.offset {
            return Ok(Verdict::Foreign);
        }
        if let Some(known) = self.source_topic_id
            && known != source.topic_id
        {
            return Err(Halt::OtherTopic { partition, offset, known, found: source.topic_id });
        }
        if source.offset < self.next_source && !service::guard_is_off("sink.source_filter") {
            return Ok(Verdict::Repeat);
        }
        if source.from > self.next_source {
            return Err(Halt::Gap { partition, offset, expected: self.next_source, from: source.from });
        }
        self.source_topic_id = Some(source.topic_id);
        self.next_source = next.max(self.next_source);
        Ok(Verdict::Apply)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVENTS: PartitionKey = PartitionKey { topic: Topic::Events, partition: 2 };
    const INCIDENTS: PartitionKey = PartitionKey { topic: Topic::Incidents, partition: 0 };
    const TOPIC_ID: Uuid = Uuid::from_u128(7);

    fn source(from: i64, offset: i64) -> Source {
        Source { topic_id: TOPIC_ID, partition: 2, from, offset }
    }

    fn at(next_offset: i64, next_source: i64) -> Position {
        Position { next_offset, source_topic_id: Some(TOPIC_ID), next_source }
    }

    #[test]
    fn what_continues_is_applied_and_what_is_stored_is_a_repeat() {
        let mut position = at(10, 5);
        assert_eq!(position.step(EVENTS, 10, 10, Some(&source(4, 4))), Ok(Verdict::Repeat));
        assert_eq!(position, at(11, 5));
        assert_eq!(position.step(EVENTS, 11, 11, Some(&source(5, 5))), Ok(Verdict::Apply));
        // Raw offsets 6 and 7 hold nothing: a control record, or compaction.
        assert_eq!(position.step(EVENTS, 12, 12, Some(&source(6, 8))), Ok(Verdict::Apply));
        assert_eq!(position, at(13, 9));
    }

    #[test]
    fn a_gap_halts_and_leaves_the_position() {
        let mut position = at(10, 5);
        let halt = position.step(EVENTS, 10, 10, Some(&source(6, 6))).unwrap_err();
        assert_eq!(halt, Halt::Gap { partition: EVENTS, offset: 10, expected: 5, from: 6 });
        assert!(halt.to_string().contains("tidewatch-partitions accept --gap events/2"), "{halt}");
        assert_eq!(position, at(10, 5));
    }

    #[test]
    fn another_raw_topic_halts_even_where_its_offset_would_be_a_repeat() {
        let mut position = at(10, 5);
        let other = Source { topic_id: Uuid::from_u128(8), ..source(0, 0) };
        let halt = position.step(EVENTS, 10, 10, Some(&other)).unwrap_err();
        assert!(halt.to_string().contains("accept --new-topic events/2"), "{halt}");
        assert_eq!(position, at(10, 5));
    }

    #[test]
    fn an_offset_that_the_log_does_not_have_names_the_command() {
        let removed = Halt::out_of_range(EVENTS, 10, 15, 20).to_string();
        assert!(removed.ends_with("accept --gap events/2`"), "{removed}");
        let shorter = Halt::out_of_range(EVENTS, 10, 0, 5).to_string();
        assert!(shorter.ends_with("accept --new-topic events/2`"), "{shorter}");
    }

    #[test]
    fn the_first_record_adopts_its_topic() {
        let mut position = Position::START;
        assert_eq!(position.step(EVENTS, 0, 0, Some(&source(0, 0))), Ok(Verdict::Apply));
        assert_eq!(position, at(1, 1));
        let mut position = Position::START;
        assert!(position.step(EVENTS, 0, 0, Some(&source(3, 3))).is_err(), "raw 0 to 3 would be lost");
    }

    #[test]
    fn foreign_records_are_passed_without_touching_the_source() {
        let mut position = at(10, 5);
        let elsewhere = Source { partition: 3, ..source(5, 5) };
        for foreign in
            [None, Some(&elsewhere), Some(&source(5, i64::MAX)), Some(&source(0, -1)), Some(&source(9, 8))]
        {
            assert_eq!(position.step(EVENTS, 10, 10, foreign), Ok(Verdict::Foreign));
            assert_eq!(position, at(11, 5));
            position.next_offset = 10;
        }
    }

    #[test]
    fn a_topic_without_source_goes_by_its_own_offsets() {
        let mut position = Position::START;
        assert_eq!(position.step(INCIDENTS, 40, 40, None), Ok(Verdict::Apply));
        assert_eq!(position.step(INCIDENTS, 40, 40, None), Ok(Verdict::Repeat));
        assert_eq!(position.step(INCIDENTS, 43, 41, None), Ok(Verdict::Apply));
        assert!(position.step(INCIDENTS, 50, 49, None).is_err());
    }

    /// An enrich that crashes now and then: after a crash it starts again at some raw offset it has passed, or, with
    /// `skips`, past one it has not.
    fn enriched_topic(restarts: &[(u8, u8)], skips: bool) -> Vec<Source> {
        let mut topic = Vec::new();
        let mut next = 0i64;
        for (run, back) in restarts {
            for _ in 0..*run {
                topic.push(source(next, next));
                next += 1;
            }
            let back = i64::from(*back).min(next);
            next = if skips && back % 2 == 1 { next + 1 } else { next - back };
        }
        topic
    }

    /// Reads `topic` as a sink that crashes too: `commits` says after how many records it commits, and whether it then
    /// loses what it has in memory. Returns the raw offsets stored.
    fn stored(topic: &[Source], commits: &[(u8, bool)]) -> Result<Vec<i64>, Halt> {
        let (mut committed, mut rows) = (Position::START, Vec::new());
        let mut commits = commits.iter().cycle();
        loop {
            let (mut position, mut batch) = (committed, Vec::new());
            let (size, crash) = commits.next().copied().unwrap_or((1, false));
            let start = usize::try_from(committed.next_offset).unwrap();
            let records: Vec<_> = topic.iter().enumerate().skip(start).take(usize::from(size) + 1).collect();
            if records.is_empty() {
                return Ok(rows);
            }
            for (offset, source) in records {
                let offset = i64::try_from(offset).unwrap();
                if position.step(EVENTS, offset, offset, Some(source))? == Verdict::Apply {
                    batch.push(source.offset);
                }
            }
            if !crash {
                (committed, rows) = (position, [rows, batch].concat());
            }
        }
    }

    proptest! {
        #[test]
        fn every_raw_record_is_stored_once_whoever_crashes(
            restarts in prop::collection::vec((0u8..20, 0u8..30), 1..20),
            mut commits in prop::collection::vec((0u8..10, any::<bool>()), 1..10),
        ) {
            commits.push((3, false));
            let topic = enriched_topic(&restarts, false);
            let last = topic.iter().map(|source| source.offset + 1).max().unwrap_or(0);
            prop_assert_eq!(stored(&topic, &commits).unwrap(), (0..last).collect::<Vec<_>>());
        }

        #[test]
        fn what_is_stored_never_skips(
            restarts in prop::collection::vec((1u8..20, 0u8..30), 1..20),
            mut commits in prop::collection::vec((0u8..10, any::<bool>()), 1..10),
        ) {
            commits.push((3, false));
            let topic = enriched_topic(&restarts, true);
            let mut due = 0;
            let skipped = topic.iter().any(|source| {
                let skipped = source.from > due;
                due = due.max(source.offset + 1);
                skipped
            });
            match stored(&topic, &commits) {
                Ok(rows) => prop_assert_eq!(rows, (0..due).collect::<Vec<_>>()),
                Err(halt) => {
                    let is_gap = matches!(halt, Halt::Gap { .. });
                    prop_assert!(is_gap && skipped, "{halt}");
                }
            }
        }
    }
}
