//! Topics: making, growing, identifying and measuring them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminOptions, NewPartitions, NewTopic, TopicReplication, TopicResult};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::{Admin, Inner, REQUEST_TIMEOUT};
use crate::error::Error;
use crate::native;

/// A topic made now is not at once known to every broker.
const VISIBLE_PATIENCE: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The broker's own default.
const DEFAULT_REPLICATION: i32 = -1;

/// A topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Full name.
    pub name: String,
    /// Partitions, if it is to be made.
    pub partitions: i32,
    /// Copies of each partition; `None` for the broker's default.
    pub replication: Option<i32>,
    /// Settings, as in Kafka's "Topic Configs".
    pub config: Vec<(String, String)>,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    /// Full name.
    pub name: String,
    /// Whether it was made now.
    pub created: bool,
    /// Its partitions; a topic that was there keeps its own number.
    pub partitions: i32,
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT))
}

impl Admin {
    /// Makes those of the topics that are not there and waits until they can be used. Those that are there are left as
    /// they are; the answer, in order, says how many partitions each has.
    ///
    /// # Errors
    /// A topic could not be made; those before it may have been.
    pub async fn ensure_topics(&self, topics: &[TopicSpec]) -> Result<Vec<TopicState>, Error> {
        let new: Vec<NewTopic<'_>> = topics
            .iter()
            .map(|topic| {
                let replication = TopicReplication::Fixed(topic.replication.unwrap_or(DEFAULT_REPLICATION));
                let new = NewTopic::new(&topic.name, topic.partitions, replication);
                topic.config.iter().fold(new, |new, (key, value)| new.set(key, value))
            })
            .collect();
        let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        let action = || format!("making topics {}", names.join(", "));
        let results = if new.is_empty() {
            Vec::new()
        } else {
            let made = self.inner.admin.create_topics(&new, &options()).await;
            made.map_err(|error| Error::new(action(), &error))?
        };
        let mut created = Vec::with_capacity(results.len());
        for result in results {
            match result {
                Ok(name) => created.push(name),
                Err((_, Code::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(Error::from_code(format!("making topic {name}"), code)),
            }
        }
        let mut states = Vec::with_capacity(topics.len());
        for topic in topics {
            let name = topic.name.clone();
            let at_least = if created.contains(&name) { topic.partitions } else { 1 };
            let partitions = self
                .blocking("waiting for a topic", move |inner| inner.wait_for_partitions(&name, at_least))
                .await?;
            states.push(TopicState {
                name: topic.name.clone(),
                created: created.contains(&topic.name),
                partitions,
            });
        }
        Ok(states)
    }

    /// Deletes topics; absent ones are none of its business.
    ///
    /// # Errors
    /// A topic could not be deleted; those before it may have been.
    pub async fn delete_topics(&self, topics: &[&str]) -> Result<(), Error> {
        let deleted = self.inner.admin.delete_topics(topics, &options()).await;
        let results =
            deleted.map_err(|error| Error::new(format!("deleting {}", topics.join(", ")), &error))?;
        check("deleting", results, &[Code::UnknownTopicOrPartition])
    }

    /// Removes the records of a partition before an offset, as retention does.
    ///
    /// # Errors
    /// No broker answered, there is no such partition, or it ends before that offset.
    pub async fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Result<(), Error> {
        let failed =
            |error| Error::new(format!("removing records of {topic}[{partition}] before {before}"), &error);
        let mut offsets = TopicPartitionList::with_capacity(1);
        offsets.add_partition_offset(topic, partition, Offset::Offset(before)).map_err(failed)?;
        let removed = self.inner.admin.delete_records(&offsets, &options()).await.map_err(failed)?;
        removed.elements().iter().try_for_each(|element| element.error().map_err(failed))
    }

    /// Grows a topic to this number of partitions and waits until they can be used. A topic cannot shrink.
    ///
    /// # Errors
    /// The topic is not there, or has as many or more.
    pub async fn add_partitions(&self, topic: &str, total: i32) -> Result<(), Error> {
        let count = usize::try_from(total).unwrap_or_default();
        let grown = self.inner.admin.create_partitions(&[NewPartitions::new(topic, count)], &options()).await;
        let results = grown.map_err(|error| Error::new(format!("growing {topic}"), &error))?;
        check("growing", results, &[])?;
        let topic = topic.to_owned();
        self.blocking("waiting for partitions", move |inner| inner.wait_for_partitions(&topic, total))
            .await?;
        Ok(())
    }

    /// Ids of those of the topics that exist. A topic that is deleted and made again has another.
    ///
    /// # Errors
    /// No broker answered.
    pub async fn topic_ids(&self, topics: &[&str]) -> Result<HashMap<String, Uuid>, Error> {
        let topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
        self.ask("asking for topic ids", move |inner| {
            let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
            native::topic_ids(inner.admin.inner(), &topics, REQUEST_TIMEOUT)
        })
        .await
    }

    /// How many partitions a topic has.
    ///
    /// # Errors
    /// No broker answered, or there is no such topic ([`Error::is_unknown_topic`]).
    pub async fn partitions(&self, topic: &str) -> Result<i32, Error> {
        let topic = topic.to_owned();
        self.ask("counting partitions", move |inner| inner.partitions(&topic).map(|(count, _)| count)).await
    }

    /// The first offset there is and the one after the last that a consumer can read.
    ///
    /// # Errors
    /// No broker answered, or there is no such partition.
    pub async fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), Error> {
        let topic = topic.to_owned();
        self.ask("asking for the ends of a partition", move |inner| inner.watermarks(&topic, partition)).await
    }

    /// The offset of the first record of this time (milliseconds since 1970) or later; `None` when there is none.
    ///
    /// # Errors
    /// No broker answered, or there is no such partition.
    pub async fn offset_for_time(
        &self,
        topic: &str,
        partition: i32,
        time_ms: i64,
    ) -> Result<Option<i64>, Error> {
        let topic = topic.to_owned();
        self.ask("asking for an offset by time", move |inner| {
            let action = || format!("asking for the offset of {topic}[{partition}] at {time_ms} ms");
            let failed = |error| Error::new(action(), &error);
            let mut question = TopicPartitionList::with_capacity(1);
            question
                .add_partition_offset(&topic, partition, Offset::Offset(time_ms.max(0)))
                .map_err(failed)?;
            let answer = inner.reader.offsets_for_times(question, REQUEST_TIMEOUT).map_err(failed)?;
            let Some(element) = answer.find_partition(&topic, partition) else { return Ok(None) };
            element.error().map_err(failed)?;
            match element.offset() {
                Offset::Offset(offset) => Ok(Some(offset)),
                _ => Ok(None),
            }
        })
        .await
    }
}

fn check(doing: &str, results: Vec<TopicResult>, fine: &[Code]) -> Result<(), Error> {
    results.into_iter().try_for_each(|result| match result {
        Err((name, code)) if !fine.contains(&code) => {
            Err(Error::from_code(format!("{doing} topic {name}"), code))
        }
        _ => Ok(()),
    })
}

impl Inner {
    /// Partitions, and whether all of them have a leader.
    fn partitions(&self, topic: &str) -> Result<(i32, bool), Error> {
        let action = || format!("asking for topic {topic}");
        let metadata = self.reader.fetch_metadata(Some(topic), REQUEST_TIMEOUT);
        let metadata = metadata.map_err(|error| Error::new(action(), &error))?;
        let unknown = || Error::from_code(action(), Code::UnknownTopicOrPartition);
        let found = metadata.topics().iter().find(|found| found.name() == topic).ok_or_else(unknown)?;
        if let Some(code) = found.error() {
            return Err(Error::from_code(action(), code.into()));
        }
        let led =
            found.partitions().iter().all(|partition| partition.leader() >= 0 && partition.error().is_none());
        Ok((i32::try_from(found.partitions().len()).unwrap_or(i32::MAX), led))
    }

    fn wait_for_partitions(&self, topic: &str, at_least: i32) -> Result<i32, Error> {
        let deadline = Instant::now() + VISIBLE_PATIENCE;
        loop {
            let missing = match self.partitions(topic) {
                Ok((count, true)) if count >= at_least => match self.serve(topic, count) {
                    Ok(()) => return Ok(count),
                    Err(error) => error,
                },
                Ok(_) => Error::from_code(format!("waiting for topic {topic}"), Code::LeaderNotAvailable),
                Err(error) => error,
            };
            if !missing.is_retriable() || Instant::now() > deadline {
                return Err(missing);
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Whether the leaders know themselves: the metadata names them a moment before.
    fn serve(&self, topic: &str, count: i32) -> Result<(), Error> {
        (0..count).try_for_each(|partition| self.watermarks(topic, partition).map(drop))
    }

    pub(super) fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), Error> {
        let marks = self.reader.fetch_watermarks(topic, partition, REQUEST_TIMEOUT);
        marks.map_err(|error| Error::new(format!("asking for the ends of {topic}[{partition}]"), &error))
    }
}
