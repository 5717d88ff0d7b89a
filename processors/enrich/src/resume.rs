//! Where reading a raw partition goes on.

use kafka::{Admin, Error, Record, Start, StartAt, TopicPartition};
use schemas::{DecodeError, EventBatch, FindingBatch, Source, Stream};
use uuid::Uuid;

/// The enriched partition does not continue the raw one. Somebody has to decide what is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The raw topic was deleted and made anew, or the enriched one belongs to another.
    #[error(
        "{enriched}[{partition}] was made from topic id {was}, but {raw} has id {is}: it was deleted and made \
         anew, or the brokers are others. Delete the enriched topic too, or bring the old raw topic back"
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

/// The first offset not in the enriched partition: what is committed or, where more has been delivered than was
/// committed, what follows the last enriched record; the beginning where there is neither.
fn start(
    topics: &Topics,
    partition: i32,
    committed: Option<i64>,
    last: Option<&Record>,
) -> Result<Start, Broken> {
    let delivered = match last {
        Some(last) => {
            let source = source(topics.stream, last).map_err(|error| Broken::Foreign {
                enriched: topics.enriched.clone(),
                partition,
                offset: last.offset,
                error,
            })?;
            if source.topic_id != topics.raw_id {
                return Err(Broken::AnotherTopic {
                    enriched: topics.enriched.clone(),
                    raw: topics.raw.clone(),
                    partition,
                    was: source.topic_id,
                    is: topics.raw_id,
                });
            }
            Some(source.offset.saturating_add(1))
        }
        None => None,
    };
    Ok(committed.max(delivered).map_or(Start::Beginning, Start::Offset))
}

/// What an enriched record was made from.
fn source(stream: Stream, record: &Record) -> Result<Source, DecodeError> {
    match stream {
        Stream::Events => {
            let body = schemas::current_body::<EventBatch<'_>>(&record.payload)?;
            Ok(schemas::decode_body::<EventBatch<'_>>(&body)?.source)
        }
        Stream::Findings => {
            let body = schemas::current_body::<FindingBatch<'_>>(&record.payload)?;
            Ok(schemas::decode_body::<FindingBatch<'_>>(&body)?.source)
        }
    }
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
/// Kafka did not answer, the enriched topic has fewer partitions, or they do not continue the raw ones.
pub async fn starts(
    admin: &Admin,
    topics: &Topics,
    partitions: &[TopicPartition],
) -> Result<Vec<StartAt>, ResumeError> {
    let mut starts = Vec::with_capacity(partitions.len());
    let numbers: Vec<i32> = partitions.iter().map(|at| at.partition).collect();
    let lasts = admin.last_records(&topics.enriched, &numbers).await?;
    for ((at, committed), (_, last)) in
        admin.committed(&topics.group, partitions).await?.into_iter().zip(lasts)
    {
        let start = start(topics, at.partition, committed, last.as_ref())?;
        tracing::info!(
            partition = %at,
            committed,
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

    #[test]
    fn reading_goes_on_after_what_was_delivered() {
        let topics = topics();
        let last = enriched(41, topics.raw_id);
        for (committed, last, expected) in [
            (None, None, Start::Beginning),
            (None, Some(&last), Start::Offset(42)),
            (Some(40), None, Start::Offset(40)),
            (Some(40), Some(&last), Start::Offset(42)),
            (Some(50), Some(&last), Start::Offset(50)),
        ] {
            assert_eq!(start(&topics, 2, committed, last), Ok(expected));
        }
    }

    #[test]
    fn another_topic_of_the_same_name_stops_loudly() {
        let last = enriched(41, Uuid::from_u128(2));
        let broken = start(&topics(), 2, Some(5), Some(&last)).unwrap_err();
        assert!(broken.to_string().contains("deleted and made anew"), "{broken}");
    }

    #[test]
    fn a_tail_that_is_not_ours_stops_loudly() {
        let broken = start(&topics(), 2, None, Some(&record(b"{}".to_vec()))).unwrap_err();
        assert!(matches!(broken, Broken::Foreign { offset: 70, .. }), "{broken}");
    }
}
