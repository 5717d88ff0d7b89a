//! The service: from joining the group to leaving it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use kafka::{Admin, ConsumeError, Consumer, ConsumerOptions, Input, Record, Reply, StartAt, TopicPartition};
use schemas::Micros;
use service::{Dependency, Shutdown, metrics};
use tokio::time::MissedTickBehavior;

use crate::batch::Incoming;
use crate::config::Config;
use crate::intake::Intake;
use crate::pipeline::Pipeline;
use crate::position::{Halt, PartitionKey, Position, Topic};
use crate::stages::Event;
use crate::write::{self, Writer};

/// Bytes that the consumer reads ahead.
const MAX_READ_AHEAD_BYTES: usize = 24 << 20;
/// How often lag is shown, the group's offsets included.
const TICK: Duration = Duration::from_secs(1);
/// How long a revocation waits for the transaction under way. It need not: a late one is refused.
const REVOKE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the answer to an assignment may wait for the database; less than Kafka's max.poll.interval.ms.
const ASSIGN_PATIENCE: Duration = Duration::from_secs(240);
/// Kept of the time for stopping, for leaving the group.
const LEAVE_TIME: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Tables whose absence means that the migrations have not run.
const TABLES: [&str; 5] = ["events", "counts", "sink_partition", "sink_ledger", "push_key"];

/// Runs until a stop is asked for, then writes what is buffered.
///
/// # Errors
/// A gap in the source, another raw topic, or something that neither waiting nor repeating would mend; the message says
/// what to do. Nothing is lost: what was not committed is read again.
pub async fn run(config: Config, service: service::Context) -> anyhow::Result<()> {
    let kafka = service.health.dependency("kafka").at(config.kafka.brokers.clone());
    let postgres = service.health.dependency("postgres").at(config.postgres.database_url.address());
    let schema = service.health.dependency("schema");
    let names = Topic::ALL.map(|topic| config.kafka.topic(topic.name()));
    if !wait_for_database(&config, &service.shutdown, &postgres, &schema).await
        || !wait_for_topics(&config, &names, &service.shutdown, &kafka).await?
    {
        return Ok(());
    }

    let group = config.kafka.group("tidewatch-sink");
    let options = ConsumerOptions {
        max_buffered_bytes: MAX_READ_AHEAD_BYTES,
        max_batch_bytes: 1 << 20,
        reply_timeout: ASSIGN_PATIENCE,
        ..ConsumerOptions::new("tidewatch-sink", group, names.to_vec())
    };
    let consumer = Consumer::start(&config.kafka, options)?;
    let url = config.postgres.database_url.clone();
    let writer = Writer::new(url, postgres.clone(), schema, service.shutdown.clone());
    let mut sink = Sink {
        intake: Intake::new(config.limits(), config.linger()),
        pipeline: Pipeline::new(writer),
        names: names.map(Arc::from),
        committed: BTreeMap::new(),
        revoking: Vec::new(),
        config,
        consumer,
        kafka,
        postgres,
        shutdown: service.shutdown,
    };
    let ended = sink.run().await;
    let positions = sink.group_positions();
    let Sink { consumer, .. } = sink;
    // For display only.
    let _ = consumer.commit_and_wait(positions).await;
    consumer.close().await;
    ended
}

async fn wait_for_database(
    config: &Config,
    shutdown: &Shutdown,
    postgres: &Dependency,
    schema: &Dependency,
) -> bool {
    loop {
        let token = shutdown.token();
        let waiting = |reason: &str| postgres.down(reason);
        let Some(client) = postgres::wait_until_migrated(&config.postgres, &TABLES, &token, waiting).await
        else {
            return false;
        };
        postgres.up();
        let found = client.query_one("SELECT to_regproc('sink_keys') IS NOT NULL", &[]).await;
        match found.and_then(|row| row.try_get(0)) {
            Ok(true) => {
                schema.up();
                return true;
            }
            Ok(false) => schema.down("function sink_keys; run `tidewatch-partitions migrate`"),
            Err(error) => postgres.down(postgres::describe(&error)),
        }
        if shutdown.unless_requested(tokio::time::sleep(RETRY_PAUSE)).await.is_none() {
            return false;
        }
    }
}

async fn wait_for_topics(
    config: &Config,
    names: &[String],
    shutdown: &Shutdown,
    kafka: &Dependency,
) -> anyhow::Result<bool> {
    let admin = Admin::new(&config.kafka)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let there = admin.wait_for_topics(&names, &shutdown.token(), |reason| kafka.down(reason)).await;
    if there {
        kafka.up();
    }
    Ok(there)
}

struct Sink {
    config: Config,
    names: [Arc<str>; 3],
    consumer: Consumer,
    intake: Intake,
    pipeline: Pipeline,
    /// Next offsets that are in the database and not yet shown to the group.
    committed: BTreeMap<PartitionKey, i64>,
    /// Revocations that wait for the transaction under way, and until when.
    revoking: Vec<(Reply<()>, Instant)>,
    kafka: Dependency,
    postgres: Dependency,
    shutdown: Shutdown,
}

impl Sink {
    async fn run(&mut self) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(TICK);
        // A process that stood still has one tick to make up for.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.shutdown.requested();
        tokio::pin!(stop);
        loop {
            self.pipeline.advance(&mut self.intake, false);
            if self.intake.halt().is_some() {
                break;
            }
            let due = self.intake.due().filter(|due| *due > Instant::now());
            tokio::select! {
                () = &mut stop => break,
                event = self.pipeline.next(&mut self.intake) => {
                    if !self.event(event?) {
                        return Ok(());
                    }
                }
                () = until(due) => {}
                _ = tick.tick() => self.tick()?,
                input = self.consumer.next(), if self.intake.has_room() => {
                    let input = input.ok_or_else(|| anyhow!("the consumer ended"))?;
                    if !self.input(input).await? {
                        break;
                    }
                }
            }
        }
        self.drain().await
    }

    /// Writes what is buffered, as far as the time for stopping allows.
    async fn drain(&mut self) -> anyhow::Result<()> {
        let patience = self.shutdown.remaining().saturating_sub(LEAVE_TIME);
        let drained = tokio::time::timeout(patience, async {
            loop {
                self.pipeline.advance(&mut self.intake, true);
                if self.pipeline.is_empty() && self.intake.is_empty() {
                    return anyhow::Ok(());
                }
                let event = self.pipeline.next(&mut self.intake).await?;
                if !self.event(event) {
                    return Ok(());
                }
            }
        })
        .await;
        match drained {
            Ok(drained) => drained?,
            Err(_) => {
                tracing::warn!("not everything was written in time; nothing is lost, it will be read again")
            }
        }
        match self.intake.halt() {
            Some(halt) => {
                metrics::SINK_GAPS.add(1);
                Err(anyhow!("{halt}"))
            }
            None => Ok(()),
        }
    }

    /// False when there is no point in going on.
    fn event(&mut self, event: Event) -> bool {
        match event {
            Event::Prepared | Event::Known => {}
            Event::Committed(batch) => {
                let ranges = batch.ranges().iter();
                self.committed.extend(ranges.map(|(partition, range)| (*partition, range.next.next_offset)));
            }
            // The writer has told of it.
            Event::Fenced(_) => {}
            Event::GivenUp => {
                tracing::warn!(
                    "the database did not answer; nothing is lost, what was not written is read again"
                );
                return false;
            }
        }
        if !self.pipeline.is_writing() {
            self.let_go();
        }
        true
    }

    /// Answers the revocations that wait.
    fn let_go(&mut self) {
        for (done, _) in self.revoking.drain(..) {
            done.send(());
        }
    }

    /// False when a stop was asked for meanwhile.
    async fn input(&mut self, input: Input) -> anyhow::Result<bool> {
        match input {
            Input::Records(records) => self.records(records),
            Input::Assigned { partitions, reply } => {
                let keys: Vec<PartitionKey> =
                    partitions.iter().map(|at| self.key(at)).collect::<anyhow::Result<_>>()?;
                let Some(held) = self.acquire(&keys).await? else { return Ok(false) };
                let start = |(at, key): (TopicPartition, &PartitionKey)| {
                    let position = held.get(key).map_or(Position::START, |held| held.position);
                    StartAt { at, start: position.start() }
                };
                reply.send(partitions.into_iter().zip(&keys).map(start).collect());
                self.intake.assign(&held);
                self.rebalanced("assigned", &keys);
            }
            Input::Revoked { partitions, lost, done } => {
                let keys: Vec<PartitionKey> =
                    partitions.iter().map(|at| self.key(at)).collect::<anyhow::Result<_>>()?;
                self.intake.revoke(&keys);
                if lost || !self.pipeline.is_writing() {
                    done.send(());
                } else {
                    self.revoking.push((done, Instant::now() + REVOKE_PATIENCE));
                }
                self.rebalanced(if lost { "lost" } else { "revoked" }, &keys);
                for (key, at) in keys.iter().zip(&partitions) {
                    self.committed.remove(key);
                    metrics::KAFKA_LAG.with([&at.topic, &at.partition.to_string()]).set(0.0);
                }
            }
            Input::Failed(ConsumeError::OffsetOutOfRange { partition, position, low, high }) => {
                metrics::SINK_GAPS.add(1);
                return Err(Halt::out_of_range(self.key(&partition)?, position, low, high).into());
            }
            Input::Failed(error) => return Err(error).context("reading cannot go on"),
        }
        Ok(true)
    }

    fn records(&mut self, records: Vec<Record>) {
        let (mut counts, mut bytes) = ([0u64; 3], [0u64; 3]);
        for record in records {
            let Some(place) = self.names.iter().position(|name| *name == record.topic) else { continue };
            let Some(topic) = Topic::ALL.get(place) else { continue };
            if let (Some(count), Some(bytes)) = (counts.get_mut(place), bytes.get_mut(place)) {
                *count += 1;
                *bytes += record.payload.len() as u64;
            }
            let partition = PartitionKey { topic: *topic, partition: record.partition };
            let incoming = Incoming {
                offset: record.offset,
                read_from: record.position_before,
                timestamp: Micros::from_millis(record.timestamp_ms),
                payload: record.payload,
            };
            self.intake.take(partition, incoming);
        }
        for (name, (count, bytes)) in self.names.iter().zip(counts.into_iter().zip(bytes)) {
            if count > 0 {
                metrics::KAFKA_CONSUMED.with([name]).add(count);
                metrics::KAFKA_CONSUMED_BYTES.with([name]).add(bytes);
            }
        }
    }

    /// Takes partitions over in the database, waiting for it if need be. None when a stop was asked for.
    async fn acquire(
        &self,
        keys: &[PartitionKey],
    ) -> anyhow::Result<Option<BTreeMap<PartitionKey, write::Held>>> {
        loop {
            let attempt = async {
                let client = postgres::connect_with(&self.config.postgres.database_url, &write::settings())
                    .await
                    .map_err(|error| error.to_string())?;
                write::acquire(&client, keys).await.map_err(|error| postgres::describe(&error))
            };
            match self.shutdown.unless_requested(attempt).await {
                None => return Ok(None),
                Some(Ok(held)) => {
                    self.postgres.up();
                    return Ok(Some(held));
                }
                Some(Err(reason)) => self.postgres.down(format!("taking partitions over: {reason}")),
            }
            if self.shutdown.unless_requested(tokio::time::sleep(RETRY_PAUSE)).await.is_none() {
                return Ok(None);
            }
        }
    }

    fn key(&self, at: &TopicPartition) -> anyhow::Result<PartitionKey> {
        let topic = self.names.iter().zip(Topic::ALL).find(|(name, _)| **name == at.topic);
        let (_, topic) = topic.ok_or_else(|| anyhow!("{at} is of no topic that was subscribed to"))?;
        Ok(PartitionKey { topic, partition: at.partition })
    }

    fn at(&self, key: PartitionKey) -> Option<TopicPartition> {
        let (name, _) = self.names.iter().zip(Topic::ALL).find(|(_, topic)| *topic == key.topic)?;
        Some(TopicPartition { topic: Arc::clone(name), partition: key.partition })
    }

    fn rebalanced(&self, change: &str, keys: &[PartitionKey]) {
        metrics::KAFKA_REBALANCES.with([change]).add(1);
        for (name, topic) in self.names.iter().zip(Topic::ALL) {
            let held = self.intake.held().filter(|key| key.topic == topic).count();
            metrics::KAFKA_ASSIGNED.with([name]).set(held as f64);
        }
        let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
        tracing::info!("{change}: {}", names.join(" "));
    }

    fn group_positions(&self) -> Vec<(TopicPartition, i64)> {
        self.committed.iter().filter_map(|(key, next)| Some((self.at(*key)?, *next))).collect()
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        if self.revoking.iter().any(|(_, until)| *until <= Instant::now()) {
            tracing::warn!(
                "let partitions go with a transaction under way; it is refused if it comes too late"
            );
            self.let_go();
        }
        if let Some(partition) = self.intake.fenced_for_long() {
            bail!(
                "{partition} was taken by another sink long ago and is still assigned here: do two groups write to one \
                 database? Restarting takes it back"
            );
        }
        metrics::SINK_BUFFERED.set(self.intake.bytes() as f64);
        let positions = self.group_positions();
        if !positions.is_empty() {
            self.consumer.commit(&positions);
            metrics::KAFKA_COMMITS.with(["ok"]).add(1);
        }
        let stats = self.consumer.stats();
        match kafka::trouble(&stats, None) {
            Some(reason) => self.kafka.down(reason),
            None => self.kafka.up(),
        }
        let stored: HashMap<_, _> = positions.into_iter().collect();
        for partition in &stats.partitions {
            let at = &partition.partition;
            if let (Some(end), Some(next)) = (partition.end, stored.get(at).copied().or(partition.position)) {
                let lag = end.saturating_sub(next).max(0) as f64;
                metrics::KAFKA_LAG.with([&at.topic, &at.partition.to_string()]).set(lag);
            }
        }
        Ok(())
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
