//! Where reading a raw partition starts, and what an operator has decided about it.
//!
//! enrich starts after what it has delivered, and `tidewatch-partitions accept` decides where it cannot. A decision is kept
//! where the position is: as the metadata of the offset that enrich's group has committed for the partition. The group's next
//! commit replaces it; until then it is honoured, and only for the raw topic that it names.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::avro::{Field, Reader};
use crate::framing::Record;
use crate::{DecodeError, EventBatch, FindingBatch, Source, Stream, current_body};

/// Consumer group of enrich, without prefix; each raw topic has one of its own that begins so.
pub const ENRICH_GROUP: &str = "tidewatch-enrich";

/// What an enriched record of a stream was made from. Only its beginning is read.
///
/// # Errors
/// It is no enriched record of that stream.
pub fn source_of(stream: Stream, payload: &[u8]) -> Result<Source, DecodeError> {
    fn of<'r, R: Record<'r>>(payload: &[u8]) -> Result<Source, DecodeError> {
        Source::take(&mut Reader::new(current_body::<R>(payload)?.as_ref()))
    }
    match stream {
        Stream::Events => of::<EventBatch<'_>>(payload),
        Stream::Findings => of::<FindingBatch<'_>>(payload),
    }
}

/// An operator's decision about a raw partition, as written beside the committed offset:
/// `accepted gap 10..20 of topic <id>`, `accepted topic <id>`, `accepted again 10..20 of topic <id>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Kafka's id of the raw topic that it was decided for.
    pub topic_id: Uuid,
    /// What was decided.
    pub what: Decision,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Raw offsets `from..to` are gone and will not be enriched.
    Gap {
        /// First of them.
        from: i64,
        /// The one after the last.
        to: i64,
    },
    /// The raw topic is another one than that of the records enriched before.
    Topic,
    /// Raw offsets `from..to` were enriched, but the enriched records are gone: once more from `from` on.
    Again {
        /// First of them.
        from: i64,
        /// Where reading would have gone on.
        to: i64,
    },
}

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.topic_id;
        match self.what {
            Decision::Gap { from, to } => write!(f, "accepted gap {from}..{to} of topic {id}"),
            Decision::Topic => write!(f, "accepted topic {id}"),
            Decision::Again { from, to } => write!(f, "accepted again {from}..{to} of topic {id}"),
        }
    }
}

/// A text is no decision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no decision such as 'accepted gap 10..20 of topic <id>' or 'accepted topic <id>'")]
pub struct NotAccepted;

impl FromStr for Accepted {
    type Err = NotAccepted;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.split(' ').collect();
        let (what, id) = match words.as_slice() {
            ["accepted", "topic", id] => (Decision::Topic, id),
            ["accepted", "gap", offsets, "of", "topic", id] => {
                let (from, to) = range(offsets)?;
                (Decision::Gap { from, to }, id)
            }
            ["accepted", "again", offsets, "of", "topic", id] => {
                let (from, to) = range(offsets)?;
                (Decision::Again { from, to }, id)
            }
            _ => return Err(NotAccepted),
        };
        Ok(Self { topic_id: id.parse().map_err(|_| NotAccepted)?, what })
    }
}

fn range(text: &str) -> Result<(i64, i64), NotAccepted> {
    let (from, to) = text.split_once("..").ok_or(NotAccepted)?;
    let offset = |text: &str| text.parse::<i64>().ok().filter(|offset| *offset >= 0).ok_or(NotAccepted);
    Ok((offset(from)?, offset(to)?))
}

/// A raw partition as Kafka has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawLog {
    /// Kafka's id of the topic.
    pub topic_id: Uuid,
    /// First offset there is.
    pub low: i64,
    /// The offset after the last.
    pub high: i64,
}

/// Why reading cannot simply go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The last enriched record was made from another topic.
    AnotherTopic {
        /// Its id.
        was: Uuid,
    },
    /// Raw offsets that were never read are gone.
    Gap {
        /// First of them.
        from: i64,
        /// First offset there is.
        to: i64,
    },
    /// The group's position is beyond the end, and no enriched record says of which topic it is.
    Beyond {
        /// The position.
        at: i64,
        /// The end of the log.
        end: i64,
    },
    /// Records of this very topic were enriched that it does not have any more.
    Truncated {
        /// The offset after the last of them.
        at: i64,
        /// The end of the log.
        end: i64,
    },
}

/// Where reading a raw partition goes on: at the offset that the group has committed or, where more has been delivered than
/// was committed, after the last enriched record; none where there is neither, which is the beginning of the log.
/// `committed` is the group's offset and its metadata, `last` the source of the last enriched record.
///
/// # Errors
/// Somebody has to decide, and has not.
pub fn start(
    committed: Option<(i64, &str)>,
    last: Option<&Source>,
    raw: &RawLog,
) -> Result<Option<i64>, Broken> {
    let accepted = committed
        .and_then(|(_, metadata)| metadata.parse::<Accepted>().ok())
        .filter(|accepted| accepted.topic_id == raw.topic_id);
    let delivered = match last {
        Some(last) if last.topic_id == raw.topic_id => Some(last.offset.saturating_add(1)),
        Some(last) if accepted.is_none() => return Err(Broken::AnotherTopic { was: last.topic_id }),
        _ => None,
    };
    let committed = committed.map(|(offset, _)| offset);
    let again = accepted.is_some_and(|accepted| matches!(accepted.what, Decision::Again { .. }));
    let next = if again { committed } else { committed.max(delivered) };
    let Some(at) = next else { return Ok(None) };
    let RawLog { low, high, .. } = *raw;
    if at < low {
        return Err(Broken::Gap { from: at, to: low });
    }
    if at > high {
        return Err(match delivered {
            Some(at) if at > high => Broken::Truncated { at, end: high },
            _ => Broken::Beyond { at, end: high },
        });
    }
    Ok(Some(at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    fn decision() -> impl Strategy<Value = Accepted> {
        let offset = || 0..i64::MAX;
        let what = prop_oneof![
            Just(Decision::Topic),
            (offset(), offset()).prop_map(|(from, to)| Decision::Gap { from, to }),
            (offset(), offset()).prop_map(|(from, to)| Decision::Again { from, to }),
        ];
        (any::<u128>(), what).prop_map(|(id, what)| Accepted { topic_id: Uuid::from_u128(id), what })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(accepted in decision()) {
            prop_assert_eq!(accepted.to_string().parse(), Ok(accepted));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            if let Ok(accepted) = text.parse::<Accepted>() {
                prop_assert_eq!(accepted.to_string().parse(), Ok(accepted));
            }
        }
    }

    #[test]
    fn the_text_is_this_one() {
        let accepted = Accepted { topic_id: ID, what: Decision::Gap { from: 10, to: 20 } };
        let text = "accepted gap 10..20 of topic 00000000-0000-0000-0000-000000000001";
        assert_eq!(accepted.to_string(), text);
        for other in
            ["", "accepted", "accepted gap 10..20", &text.replace("10..", "-1.."), &format!("{text} ")]
        {
            assert_eq!(other.parse::<Accepted>(), Err(NotAccepted), "{other}");
        }
    }

    fn source(topic_id: Uuid, offset: i64) -> Source {
        Source { topic_id, partition: 2, from: offset, offset }
    }

    fn text(topic_id: Uuid, what: Decision) -> String {
        Accepted { topic_id, what }.to_string()
    }

    /// A log of offsets 30 to 60.
    fn at(committed: Option<(i64, &str)>, last: Option<Source>) -> Result<Option<i64>, Broken> {
        start(committed, last.as_ref(), &RawLog { topic_id: ID, low: 30, high: 60 })
    }

    #[test]
    fn reading_goes_on_after_what_was_delivered() {
        assert_eq!(at(None, None), Ok(None));
        assert_eq!(at(None, Some(source(ID, 41))), Ok(Some(42)));
        assert_eq!(at(Some((40, "")), None), Ok(Some(40)));
        assert_eq!(at(Some((40, "")), Some(source(ID, 41))), Ok(Some(42)));
        assert_eq!(at(Some((50, "a text of somebody else's")), Some(source(ID, 41))), Ok(Some(50)));
        assert_eq!(at(Some((30, "")), None), Ok(Some(30)));
        assert_eq!(at(Some((60, "")), None), Ok(Some(60)));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        assert_eq!(at(Some((29, "")), None), Err(Broken::Gap { from: 29, to: 30 }));
        assert_eq!(at(Some((10, "")), Some(source(ID, 19))), Err(Broken::Gap { from: 20, to: 30 }));
        assert_eq!(at(Some((40, "")), Some(source(OTHER, 5))), Err(Broken::AnotherTopic { was: OTHER }));
        assert_eq!(at(Some((61, "")), None), Err(Broken::Beyond { at: 61, end: 60 }));
        assert_eq!(at(Some((80, "")), Some(source(ID, 50))), Err(Broken::Beyond { at: 80, end: 60 }));
        assert_eq!(at(None, Some(source(ID, 60))), Err(Broken::Truncated { at: 61, end: 60 }));
    }

    #[test]
    fn a_decision_holds_for_the_topic_it_names() {
        let last = || Some(source(OTHER, 500));
        assert_eq!(at(Some((30, &text(ID, Decision::Topic))), last()), Ok(Some(30)));
        assert_eq!(
            at(Some((30, &text(OTHER, Decision::Topic))), last()),
            Err(Broken::AnotherTopic { was: OTHER })
        );
        // Something was delivered since, and not committed.
        assert_eq!(at(Some((30, &text(ID, Decision::Topic))), Some(source(ID, 33))), Ok(Some(34)));
        // The new topic lost offsets before anything of it was enriched.
        let gap = text(ID, Decision::Gap { from: 0, to: 30 });
        assert_eq!(at(Some((30, &gap)), last()), Ok(Some(30)));
        assert_eq!(at(Some((30, &gap)), Some(source(ID, 9))), Ok(Some(30)));
        // It lost more.
        assert_eq!(at(Some((5, &text(ID, Decision::Topic))), last()), Err(Broken::Gap { from: 5, to: 30 }));
    }

    #[test]
    fn what_is_to_be_enriched_again_is() {
        let again = text(ID, Decision::Again { from: 35, to: 50 });
        assert_eq!(at(Some((35, &again)), Some(source(ID, 49))), Ok(Some(35)));
        let again = text(OTHER, Decision::Again { from: 35, to: 50 });
        assert_eq!(at(Some((35, &again)), Some(source(ID, 49))), Ok(Some(50)));
    }

    #[test]
    fn the_source_is_at_the_beginning() {
        let source = source(ID, 7);
        let batch = EventBatch {
            source: source.clone(),
            events: Vec::new(),
            rejects: Vec::new(),
            pushes: Vec::new(),
        };
        let mut payload = Vec::new();
        crate::encode(&batch, &mut payload);
        assert_eq!(source_of(Stream::Events, &payload), Ok(source));
        assert!(source_of(Stream::Findings, &payload).is_err());
        assert!(source_of(Stream::Events, b"{}").is_err());
    }
}
