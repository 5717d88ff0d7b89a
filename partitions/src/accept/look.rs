//! What there is to know before a decision: read from Postgres and Kafka, nothing changed.

use std::ops::ControlFlow;

use anyhow::{Context as _, bail, ensure};
use kafka::{Admin, ConsumerOptions, KafkaArgs, TopicPartition};
use postgres::Client;
use schemas::start::{self, Broken, ENRICH_GROUP, RawLog};
use schemas::{Source, Stream};

use crate::place::Place;

use super::decide::Upstream;
use super::situation::{Held, Log, Look, Situation};
use super::target::Target;

/// Kafka, with the names that topics and groups have there.
pub(super) struct Kafka<'a> {
    pub(super) args: &'a KafkaArgs,
    pub(super) admin: &'a Admin,
}

/// The sink's position; none where it has never read the partition.
pub(super) async fn held(client: &Client, place: Place) -> anyhow::Result<Option<Held>> {
    let row = client
        .query_opt(
            "SELECT p.next_offset, p.source_topic_id, p.next_source_offset, coalesce(a.to_offset, 0)
             FROM sink_partition p
             LEFT JOIN sink_accepted a ON (a.topic, a.kpart, a.generation) = (p.topic, p.kpart, p.generation)
             WHERE p.topic = $1 AND p.kpart = $2",
            &[&place.topic.name(), &place.partition],
        )
        .await
        .context("reading sink_partition")?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Held {
        place,
        next_offset: row.try_get(0)?,
        topic_id: row.try_get(1)?,
        next_source: row.try_get(2)?,
        read_since: row.try_get(3)?,
    }))
}

fn stop(enough: bool) -> ControlFlow<()> {
    if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

impl Kafka<'_> {
    /// The topic is there and has such a partition.
    pub(super) async fn exists(&self, target: Target) -> anyhow::Result<()> {
        let topic = self.args.topic(target.topic());
        let count = match self.admin.partitions(&topic).await {
            Err(error) if error.is_unknown_topic() => {
                bail!("{target}: there is no topic {topic}; run tidewatch-partitions topics")
            }
            answer => answer?,
        };
        ensure!(target.partition() < count, "{target}: {topic} has {count} partitions, from 0 on");
        Ok(())
    }

    async fn ends(&self, topic: &str, partition: i32) -> anyhow::Result<Log> {
        let (low, high) = self.admin.watermarks(topic, partition).await?;
        Ok(Log { low, high })
    }

    /// What is wrong with a position of the sink's. `far`: also what comes behind the records that it can store.
    pub(super) async fn situation(&self, held: &Held, far: bool) -> anyhow::Result<(Log, Situation)> {
        let Place { topic, partition } = held.place;
        let name = self.args.topic(topic.name());
        let log = self.ends(&name, partition).await?;
        let source = move |payload: &[u8]| -> Option<Source> {
            topic.stream().and_then(|stream| start::source_of(stream, payload).ok())
        };

        let (position, before) = (*held, held.before(log));
        let (begin, end) = (before.start, before.end);
        let step = move |replaced: &mut bool, record: kafka::Record| {
            *replaced = record.offset < end && position.never_read(source(&record.payload));
            stop(*replaced || record.position_after() >= end)
        };
        let replaced = begin < end && self.admin.scan(&name, partition, begin, false, step).await?;

        let look = Look::new(*held, log, replaced, far);
        let begin = look.start();
        let step = move |look: &mut Look, record: kafka::Record| {
            stop(look.take(record.offset, source(&record.payload)))
        };
        let look = self.admin.scan(&name, partition, begin, look, step).await?;
        Ok((log, look.situation()))
    }

    /// The raw topic of a stream; none where there is none.
    pub(super) async fn raw(&self, stream: Stream, partition: i32) -> anyhow::Result<Option<RawLog>> {
        let topic = self.args.topic(stream.raw_topic());
        let ids = self.admin.topic_ids(&[&topic]).await?;
        let Some(topic_id) = ids.get(&topic).copied() else { return Ok(None) };
        match self.ends(&topic, partition).await {
            Ok(Log { low, high }) => Ok(Some(RawLog { topic_id, low, high })),
            // It has fewer partitions.
            Err(error) if error.downcast_ref().is_some_and(kafka::Error::is_unknown_topic) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The group that reads a raw topic, and the partition as it names it.
    pub(super) fn enrich(&self, stream: Stream, partition: i32) -> (String, TopicPartition) {
        let topics: Vec<String> =
            Stream::ALL.iter().map(|stream| self.args.topic(stream.raw_topic())).collect();
        let options = ConsumerOptions::new("tidewatch-partitions", self.args.group(ENRICH_GROUP), topics);
        let topic = self.args.topic(stream.raw_topic());
        (options.group_of(self.args, &topic), TopicPartition::new(topic, partition))
    }

    /// What is known of enrich's side of a stream's partition.
    pub(super) async fn upstream(&self, stream: Stream, partition: i32) -> anyhow::Result<Upstream> {
        let (group, at) = self.enrich(stream, partition);
        let committed = self.admin.committed(&group, &[at]).await?;
        let committed = committed.first().and_then(|(_, committed)| *committed);
        Ok(Upstream { raw: self.raw(stream, partition).await?, committed })
    }

    /// Where enrich would start.
    pub(super) async fn start(
        &self,
        stream: Stream,
        partition: i32,
        raw: &RawLog,
    ) -> anyhow::Result<Result<Option<i64>, Broken>> {
        let (group, at) = self.enrich(stream, partition);
        let enriched = self.args.topic(stream.name());
        let last = self.admin.last_records(&enriched, &[partition]).await?;
        let last = last.into_iter().find_map(|(_, last)| last);
        let source = last.as_ref().map(|last| {
            start::source_of(stream, &last.payload).with_context(|| {
                format!(
                    "the last record of {enriched}[{partition}], offset {}, is none of enrich's",
                    last.offset
                )
            })
        });
        let source = source.transpose()?;
        let committed = self.admin.committed_with_metadata(&group, &[at]).await?;
        let committed = committed.into_iter().find_map(|(_, committed)| committed);
        let committed = committed.as_ref().map(|found| (found.offset, found.metadata.as_str()));
        Ok(start::start(committed, source.as_ref(), raw))
    }
}
