//! What travels.

use std::fmt;
use std::sync::Arc;

use rdkafka::error::KafkaResult;
use rdkafka::message::{BorrowedMessage, Message, Timestamp};
use rdkafka::{Offset, TopicPartitionList};

use crate::native;

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Full name of the topic, prefix included.
    pub topic: Arc<str>,
    /// Its number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// The partition of this number.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// Who set a record's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimestampKind {
    /// The producer.
    Create,
    /// The broker, on appending.
    LogAppend,
    /// Nobody: a record of a very old producer. Its time is 0.
    Missing,
}

/// A record as consumed.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Full name of its topic. Records of one consumer share it.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Whose clock that was.
    pub timestamp_kind: TimestampKind,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Names (bytes that are not UTF-8 replaced) and values (a missing one is empty), in order, repeats included.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Its value; empty for a tombstone.
    pub payload: Vec<u8>,
    /// The reader's position before this record: the offset after the record before it, or where reading started.
    /// Less than `offset` where control records or compaction left a hole; nothing to read lies between the two.
    pub position_before: i64,
}

impl Record {
    /// The reader's position after this record.
    pub fn position_after(&self) -> i64 {
        self.offset.saturating_add(1)
    }

    /// Where it was read.
    pub fn topic_partition(&self) -> TopicPartition {
        TopicPartition { topic: Arc::clone(&self.topic), partition: self.partition }
    }

    /// The last header of this name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_slice())
    }

    pub(crate) fn from_message(message: &BorrowedMessage<'_>, topic: Arc<str>, position_before: i64) -> Self {
        let (timestamp_ms, timestamp_kind) = match message.timestamp() {
            Timestamp::CreateTime(millis) => (millis, TimestampKind::Create),
            Timestamp::LogAppendTime(millis) => (millis, TimestampKind::LogAppend),
            Timestamp::NotAvailable => (0, TimestampKind::Missing),
        };
        Self {
            topic,
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms,
            timestamp_kind,
            key: message.key().map(<[u8]>::to_vec),
            headers: native::headers(message),
            payload: message.payload().unwrap_or_default().to_vec(),
            position_before,
        }
    }

    /// Bytes it occupies in a queue: content and an estimate of what holds it.
    pub(crate) fn weight(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        size_of::<Self>() + self.payload.len() + self.key.as_ref().map_or(0, Vec::len) + headers
    }
}

/// Without contents, which are an organisation's data and long.
impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({}[{}]@{}, ", self.topic, self.partition, self.offset)?;
        write!(f, "after {}, {} bytes)", self.position_before, self.payload.len())
    }
}

/// As librdkafka takes it, without offsets.
pub(crate) fn list(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for TopicPartition { topic, partition } in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

/// As librdkafka takes it, with offsets.
pub(crate) fn offsets(positions: &[(TopicPartition, i64)]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for (TopicPartition { topic, partition }, offset) in positions {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    Ok(list)
}

/// The offsets of a list; places without one are left out.
pub(crate) fn positions_of(list: &TopicPartitionList) -> Vec<(TopicPartition, i64)> {
    let elements = list.elements();
    let known =
        partitions_of(list).into_iter().zip(&elements).filter_map(|(at, element)| match element.offset() {
            Offset::Offset(offset) => Some((at, offset)),
            _ => None,
        });
    known.collect()
}

/// Without offsets; topics share their names.
pub(crate) fn partitions_of(list: &TopicPartitionList) -> Vec<TopicPartition> {
    let mut names: Vec<Arc<str>> = Vec::new();
    let mut name = |topic: &str| match names.iter().find(|name| ***name == *topic) {
        Some(name) => Arc::clone(name),
        None => {
            let name: Arc<str> = topic.into();
            names.push(Arc::clone(&name));
            name
        }
    };
    list.elements()
        .iter()
        .map(|element| TopicPartition::new(name(element.topic()), element.partition()))
        .collect()
}
