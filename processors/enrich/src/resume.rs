//! Where reading a raw partition goes on.

use kafka::{Admin, Committed, Error, Record, Start, StartAt, TopicPartition};
use schemas::start::{self, RawLog};
use schemas::{DecodeError, Stream};
use uuid::Uuid;

/// The enriched partition does not continue the raw one. Somebody has to decide what is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The raw topic was deleted and made anew, or the enriched one belongs to another.
    #[error(
        "{enriched}[{partition}] was made from topic id {was}, but {raw} has id {is}: it was deleted and made anew, or \
         the brokers are others; if the old one is gone for good, run `tidewatch-partitions accept --new-topic {place}`"
    )]
    AnotherTopic {
        /// Enriched topic.
        enriched: String,
        /// Raw topic.
        raw: String,
        /// The partition of both.
        partition: i32,
        /// Id in the last enriched record.
        was: Uuid,
        /// Id of the raw topic now.
        is: Uuid,
        /// As `accept` names the raw partition.
        place: String,
    },
    /// Retention was faster than this program.
    #[error(
        "{raw}[{partition}]: raw offsets {from} to {to} were never read, and Kafka has removed them (retention ran out); \
         if they are truly gone, run `tidewatch-partitions accept --gap {place}`"
    )]
    Gap {
        /// Raw topic.
        raw: String,
        /// Its partition.
        partition: i32,
        /// First offset that is gone.
        from: i64,
        /// First offset there is.
        to: i64,
        /// As `accept` names it.
        place: String,
    },
    /// The group's offset is none of this log.
    #[error(
        "{raw}[{partition}] ends at offset {end}, but the group has read it up to {at}: it was deleted and made anew; to go \
         on with the new one, run `tidewatch-partitions accept --new-topic {place}`"
    )]
    Beyond {
        /// Raw topic.
        raw: String,
        /// Its partition.
        partition: i32,
        /// Where reading was to go on.
        at: i64,
        /// The end of the log.
        end: i64,
        /// As `accept` names it.
        place: String,
    },
    /// The raw topic has lost records that were enriched. Its next ones would have their offsets, and be taken for them.
    #[error(
        "{raw}[{partition}] ends at offset {end}, but its records up to {at} have been enriched: Kafka has lost \
         acknowledged records (an unclean election of a leader?), and new ones would be taken for those. Make the topic \
         anew, then run `tidewatch-partitions accept --new-topic {place}`"
    )]
    Truncated {
        /// Raw topic.
        raw: String,
        /// Its partition.
        partition: i32,
        /// The offset after the last one enriched.
        at: i64,
        /// The end of the log.
        end: i64,
        /// As `accept` names it.
        place: String,
    },
    /// The last enriched record is none of this program's.
    #[error("the last record of {enriched}[{partition}], offset {offset}, is none of enrich's: {error}")]
    Foreign {
        /// Enriched topic.
        enriched: String,
        /// Its partition.
        partition: i32,
        /// Offset of the record.
        offset: i64,
        /// Why it cannot be read.
        error: DecodeError,
    },
}

/// The topics of a stream, by their full names, and the raw one's id.
#[derive(Debug, Clone)]
pub struct Topics {
    /// The stream.
    pub stream: Stream,
    /// Raw topic.
    pub raw: String,
    /// Enriched topic.
    pub enriched: String,
    /// The group that reads the raw one.
    pub group: String,
    /// Id of the raw topic.
    pub raw_id: Uuid,
}

impl Topics {
    /// Says of which partition it is, and what to do.
    fn broken(&self, partition: i32, why: start::Broken) -> Broken {
        let (raw, place) = (self.raw.clone(), format!("{}/{partition}", self.stream.raw_topic()));
        match why {
            start::Broken::AnotherTopic { was } => {
                let enriched = self.enriched.clone();
                Broken::AnotherTopic { enriched, raw, partition, was, is: self.raw_id, place }
            }
            start::Broken::Gap { from, to } => Broken::Gap { raw, partition, from, to, place },
            start::Broken::Beyond { at, end } => Broken::Beyond { raw, partition, at, end, place },
            start::Broken::Truncated { at, end } => Broken::Truncated { raw, partition, at, end, place },
        }
    }

    /// Why reading cannot go on at `position` in a log of offsets `low` to `high`.
    pub fn out_of_range(&self, partition: i32, position: i64, low: i64, high: i64) -> Broken {
        let why = if position < low {
            start::Broken::Gap { from: position, to: low }
        } else {
            start::Broken::Beyond { at: position, end: high }
        };
        self.broken(partition, why)
    }
}

/// The first offset not in the enriched partition, as [`start::start`] finds it.
fn start(
    topics: &Topics,
    partition: i32,
    committed: Option<&Committed>,
    last: Option<&Record>,
    (low, high): (i64, i64),
) -> Result<Start, Broken> {
    let source = |last: &Record| {
        start::source_of(topics.stream, &last.payload).map_err(|error| Broken::Foreign {
            enriched: topics.enriched.clone(),
            partition,
            offset: last.offset,
            error,
        })
    };
    let last = last.map(source).transpose()?;
    let committed = committed.map(|committed| (committed.offset, committed.metadata.as_str()));
    let raw = RawLog { topic_id: topics.raw_id, low, high };
    let start = start::start(committed, last.as_ref(), &raw);
    Ok(start.map_err(|why| topics.broken(partition, why))?.map_or(Start::Beginning, Start::Offset))
}

/// Why no start can be named.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// Kafka did not answer as it should.
    #[error(transparent)]
    Kafka(#[from] Error),
    /// A raw topic has gone.
    #[error("there is no topic {0}")]
    NoTopic(String),
    /// The partitions do not fit together.
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl ResumeError {
    /// Whether asking again may help.
    pub fn passes(&self) -> bool {
        match self {
            Self::Kafka(error) => error.is_retriable(),
            Self::NoTopic(_) => true,
            Self::Broken(_) => false,
        }
    }
}

/// Where to start raw partitions of one stream.
///
/// # Errors
/// Kafka did not answer, the enriched topic has fewer partitions, or they do not continue the raw ones and nobody has
/// accepted that.
pub async fn starts(
    admin: &Admin,
    topics: &Topics,
    partitions: &[TopicPartition],
) -> Result<Vec<StartAt>, ResumeError> {
    let mut starts = Vec::with_capacity(partitions.len());
    let numbers: Vec<i32> = partitions.iter().map(|at| at.partition).collect();
    let lasts = admin.last_records(&topics.enriched, &numbers).await?;
    let committed = admin.committed_with_metadata(&topics.group, partitions).await?;
    for ((at, committed), (_, last)) in committed.into_iter().zip(lasts) {
        let ends = admin.watermarks(&topics.raw, at.partition).await?;
        let start = start(topics, at.partition, committed.as_ref(), last.as_ref(), ends)?;
        tracing::info!(
            partition = %at,
            committed = committed.as_ref().map(|committed| committed.offset),
            decided = committed.map(|committed| committed.metadata).filter(|text| !text.is_empty()),
            last_enriched = last.as_ref().map(|last| last.offset),
            "starting at {start:?}"
        );
        starts.push(StartAt { at, start });
    }
    Ok(starts)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kafka::TimestampKind;
    use schemas::{EventBatch, Source};

    use super::*;

    fn topics() -> Topics {
        Topics {
            stream: Stream::Events,
            raw: "events.raw".into(),
            enriched: "events".into(),
            group: "g".into(),
            raw_id: Uuid::from_u128(1),
        }
    }

    fn record(payload: Vec<u8>) -> Record {
        Record {
            topic: Arc::from("events"),
            partition: 2,
            offset: 70,
            timestamp_ms: 0,
            timestamp_kind: TimestampKind::LogAppend,
            key: None,
            headers: Vec::new(),
            payload,
            position_before: 70,
        }
    }

    fn enriched(offset: i64, topic_id: Uuid) -> Record {
        let source = Source { topic_id, partition: 2, from: offset, offset };
        let batch = EventBatch { source, events: Vec::new(), rejects: Vec::new(), pushes: Vec::new() };
        let mut payload = Vec::new();
        schemas::encode(&batch, &mut payload);
        record(payload)
    }

    fn committed(offset: i64) -> Committed {
        Committed { offset, metadata: String::new() }
    }

    #[test]
    fn reading_goes_on_after_what_was_delivered() {
        let topics = topics();
        let last = enriched(41, topics.raw_id);
        let start = |committed: Option<Committed>, last| start(&topics, 2, committed.as_ref(), last, (0, 60));
        assert_eq!(start(None, None), Ok(Start::Beginning));
        assert_eq!(start(Some(committed(40)), Some(&last)), Ok(Start::Offset(42)));
        assert_eq!(start(Some(committed(50)), Some(&last)), Ok(Start::Offset(50)));
    }

    #[test]
    fn what_does_not_fit_stops_loudly_and_names_the_command() {
        let topics = topics();
        let (same, other) = (enriched(41, topics.raw_id), enriched(41, Uuid::from_u128(2)));
        for (at, last, ends, why, command) in [
            (5, Some(&other), (0, 60), "deleted and made anew", "accept --new-topic events.raw/2`"),
            (5, None, (9, 60), "raw offsets 5 to 9 were never read", "accept --gap events.raw/2`"),
            (5, Some(&same), (50, 60), "raw offsets 42 to 50 were", "accept --gap events.raw/2`"),
            (70, None, (0, 60), "the group has read it up to 70", "accept --new-topic events.raw/2`"),
            (
                5,
                Some(&same),
                (0, 20),
                "records up to 42 have been enriched",
                "accept --new-topic events.raw/2`",
            ),
        ] {
            let broken = start(&topics, 2, Some(&committed(at)), last, ends).unwrap_err().to_string();
            assert!(broken.contains(why) && broken.ends_with(command), "{broken}");
        }
    }

    #[test]
    fn a_reader_that_retention_overtook_says_the_same() {
        let topics = topics();
        assert_eq!(
            topics.out_of_range(2, 5, 9, 60),
            start(&topics, 2, Some(&committed(5)), None, (9, 60)).unwrap_err()
        );
        assert!(matches!(topics.out_of_range(2, 70, 9, 60), Broken::Beyond { at: 70, end: 60, .. }));
    }

    #[test]
    fn a_tail_that_is_not_ours_stops_loudly() {
        let broken = start(&topics(), 2, None, Some(&record(b"{}".to_vec())), (0, 60)).unwrap_err();
        assert!(matches!(broken, Broken::Foreign { offset: 70, .. }), "{broken}");
    }
}
