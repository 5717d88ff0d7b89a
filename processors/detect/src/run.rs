//! The stream: consume, match, produce, commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use arc_swap::ArcSwap;
use detection::Rules;
use kafka::{
    Admin, Consumer, ConsumerOptions, Input, Outgoing, Producer, ProducerOptions, Record, SendError, StartAt,
    TopicPartition,
};
use schemas::{KEYED_PARTITIONS, Micros, SIGNALS_TOPIC, Stream};
use service::{Dependency, metrics};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::MissedTickBehavior;

use crate::config::Config;
use crate::lanes::{Lanes, Ticket};
use crate::live;
use crate::matching::{Encoded, match_record};
use crate::resume;
use crate::upstream::Upstreams;
use crate::watermarks::{Due, Watermarks};

/// Bytes that the consumer reads ahead.
const MAX_READ_AHEAD_BYTES: usize = 16 << 20;
/// Bytes of signals between here and the broker's acknowledgement.
const MAX_PRODUCED_BYTES: usize = 16 << 20;
/// How often positions are committed and the state of the world is looked at.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Pauses between attempts to find out where to start, and how long they may take: less than the consumer waits.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const RESUME_PATIENCE: Duration = Duration::from_secs(45);

/// The last signal of a record was delivered, or one was not.
type Delivered = (Ticket, Result<(), kafka::Error>);

/// Runs until a stop is asked for, then delivers what is under way and commits it.
///
/// # Errors
/// A signal could not be delivered, an enriched record cannot be read, or Kafka refuses for good. What was not committed
/// is read again by the next process.
pub async fn run(config: Config, service: service::Context) -> anyhow::Result<()> {
    let kafka = service.health.dependency("kafka").at(config.kafka.brokers.clone());
    let (rules, watch) = live::open(&config.rules).await?;
    let watcher = tokio::spawn(watch);

    let inputs = Stream::ALL.map(|stream| config.kafka.topic(stream.name()));
    let signals = config.kafka.topic(SIGNALS_TOPIC);
    let admin = Admin::new(&config.kafka)?;
    let names: Vec<&str> = inputs.iter().chain([&signals]).map(String::as_str).collect();
    let token = service.shutdown.token();
    if !admin.wait_for_topics(&names, &token, |reason| kafka.down(reason)).await {
        return Ok(());
    }
    kafka.up();

    let options = ProducerOptions {
        max_buffered_bytes: MAX_PRODUCED_BYTES,
        ..ProducerOptions::new("tidewatch-detect")
    };
    let producer = Producer::new(&config.kafka, options)?;
    let group = config.kafka.group("tidewatch-detect");
    let options = ConsumerOptions {
        max_buffered_bytes: MAX_READ_AHEAD_BYTES,
        ..ConsumerOptions::new("tidewatch-detect", group, inputs.to_vec())
    };
    let groups = inputs.each_ref().map(|topic| options.group_of(&config.kafka, topic));
    let consumer = Consumer::start(&config.kafka, options)?;
    let (delivered, deliveries) = unbounded_channel();
    let lanes = Lanes::default();
    let upstreams = Upstreams::new(&config.kafka, admin.clone());
    let mut pipeline = Pipeline {
        inputs,
        groups,
        admin,
        signals,
        rules,
        consumer,
        producer,
        delivered,
        deliveries,
        lanes,
        watermarks: Watermarks::new(),
        upstreams,
        kafka,
    };
    let ended = pipeline.run(&service.shutdown).await;
    watcher.abort();
    let Pipeline { consumer, .. } = pipeline;
    consumer.close().await;
    ended
}

struct Pipeline {
    /// Topics of events and findings, in the order of [`Stream::ALL`].
    inputs: [String; 2],
    /// The groups that read them.
    groups: [String; 2],
    admin: Admin,
    signals: String,
    rules: Arc<ArcSwap<Rules>>,
    consumer: Consumer,
    producer: Producer,
    delivered: UnboundedSender<Delivered>,
    deliveries: UnboundedReceiver<Delivered>,
    lanes: Lanes,
    watermarks: Watermarks,
    upstreams: Upstreams,
    kafka: Dependency,
}

impl Pipeline {
    async fn run(&mut self, shutdown: &service::Shutdown) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(COMMIT_INTERVAL);
        // A process that stood still has one tick to make up for.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = shutdown.requested();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                delivered = self.deliveries.recv() => self.delivered(delivered)?,
                error = self.producer.failed() => return Err(error).context("the producer cannot go on"),
                _ = tick.tick() => self.tick(),
                (clock, complete) = self.upstreams.answer() => {
                    complete.iter().for_each(|at| self.watermarks.complete(at, clock, Instant::now()));
                }
                input = self.consumer.next() => match input {
                    // To its end also when a stop is asked for: what was begun is to be committed.
                    Some(input) => self.input(input).await?,
                    None => bail!("the consumer ended"),
                },
            }
        }
        let patience = shutdown.remaining().saturating_sub(Duration::from_secs(1));
        let drained = tokio::time::timeout(patience, self.settle(None)).await;
        let positions = self.lanes.take_moved(None);
        if let Err(error) = self.consumer.commit_and_wait(positions).await {
            tracing::warn!(%error, "the last positions were not committed: their records will be matched again");
        }
        match drained {
            Ok(drained) => drained,
            Err(_) => bail!(
                "signals were not acknowledged in time; nothing is lost, the next process matches their records again"
            ),
        }
    }

    /// Waits until nothing of these partitions, or of any, is under way.
    async fn settle(&mut self, partitions: Option<&[TopicPartition]>) -> anyhow::Result<()> {
        while !self.lanes.idle(partitions) {
            tokio::select! {
                delivered = self.deliveries.recv() => self.delivered(delivered)?,
                error = self.producer.failed() => return Err(error).context("the producer cannot go on"),
            }
        }
        Ok(())
    }

    fn delivered(&mut self, delivered: Option<Delivered>) -> anyhow::Result<()> {
        let (ticket, result) = delivered.ok_or_else(|| anyhow!("the producer's completions ended"))?;
        result.with_context(|| format!("signals of {} were not delivered", ticket.place()))?;
        self.lanes.finish(&ticket).context("a record was finished twice")
    }

    fn tick(&mut self) {
        let positions = self.lanes.take_moved(None);
        if !positions.is_empty() {
            service::failpoint("detect.emitted");
            metrics::KAFKA_COMMITS.with(["ok"]).add(1);
        }
        self.consumer.commit(&positions);
        let (stats, produced) = (self.consumer.stats(), self.producer.stats());
        match kafka::trouble(&stats, Some(&produced)) {
            Some(reason) => self.kafka.down(reason),
            None => self.kafka.up(),
        }
        metrics::KAFKA_PRODUCER_QUEUED.set(produced.in_flight_records as f64);
        for partition in &stats.partitions {
            if let (Some(position), Some(end)) = (partition.position, partition.end) {
                let at = &partition.partition;
                let lag = metrics::KAFKA_LAG.with([&at.topic, &at.partition.to_string()]);
                lag.set(end.saturating_sub(position).max(0) as f64);
            }
        }
        let read_to_end = |at: &TopicPartition| {
            let known = stats.partitions.iter().find(|partition| partition.partition == *at);
            let end = known.and_then(|partition| Some((partition.position, partition.end?)));
            end.is_some_and(|(position, end)| position.is_none_or(|position| position >= end))
        };
        let now = Instant::now();
        let due = self.watermarks.due(now, Micros::now(), read_to_end);
        for due in due {
            // Without room in the producer there is no hurry: it is told the next time.
            if !self.tell(&due) {
                break;
            }
            self.watermarks.told(&due, now);
        }
        self.upstreams.ask(self.watermarks.silent(now));
    }

    /// Hands a watermark to the producer, for every partition of `signals`, behind the signals it speaks of. Whoever reads
    /// one twice is none the worse.
    fn tell(&self, due: &Due) -> bool {
        let mut payload = Vec::with_capacity(64);
        schemas::encode(&due.watermark, &mut payload);
        (0..KEYED_PARTITIONS).all(|partition| {
            let outgoing =
                Outgoing { topic: &self.signals, partition, key: None, headers: &[], payload: &payload };
            let (topic, bytes) = (self.signals.clone(), payload.len() as u64);
            let completion = Box::new(move |result: Result<_, kafka::Error>| match &result {
                Ok(_) => {
                    metrics::KAFKA_PRODUCED.with([&topic]).add(1);
                    metrics::KAFKA_PRODUCED_BYTES.with([&topic]).add(bytes);
                }
                Err(error) => metrics::KAFKA_DELIVERY_ERRORS.with([&topic, error.class().name()]).add(1),
            });
            self.producer.send(outgoing, completion).is_ok()
        })
    }

    async fn input(&mut self, input: Input) -> anyhow::Result<()> {
        match input {
            Input::Records(records) => self.records(records).await?,
            Input::Assigned { partitions, reply } => {
                self.lanes.assign(&partitions);
                for at in &partitions {
                    self.watermarks.assign(at.clone(), self.stream(&at.topic), Instant::now());
                }
                reply.send(self.starts(&partitions).await?);
                self.assigned("assigned");
            }
            Input::Revoked { partitions, lost, done } => {
                if !lost {
                    self.settle(Some(&partitions)).await?;
                    let positions = self.lanes.take_moved(Some(&partitions));
                    if let Err(error) = self.consumer.commit_and_wait(positions).await {
                        tracing::warn!(%error, "positions were not committed: the next owner matches records again");
                    }
                }
                self.lanes.remove(&partitions);
                partitions.iter().for_each(|at| self.watermarks.remove(at));
                done.send(());
                self.assigned(if lost { "lost" } else { "revoked" });
                for at in &partitions {
                    metrics::KAFKA_LAG.with([&at.topic, &at.partition.to_string()]).set(0.0);
                }
            }
            Input::Failed(error) => return Err(error).context("reading cannot go on"),
        }
        Ok(())
    }

    fn stream(&self, topic: &str) -> Stream {
        let [events, _] = &self.inputs;
        if topic == events { Stream::Events } else { Stream::Findings }
    }

    /// Where to start each partition; asks again while Kafka does not answer.
    async fn starts(&self, partitions: &[TopicPartition]) -> anyhow::Result<Vec<StartAt>> {
        let [events, findings] = &self.groups;
        let group_of = |topic: &str| {
            if Some(topic) == self.inputs.first().map(String::as_str) { events } else { findings }
        };
        let patience = Instant::now() + RESUME_PATIENCE;
        loop {
            let error = match resume::starts(&self.admin, |topic| group_of(topic).clone(), partitions).await {
                Ok(starts) => return Ok(starts),
                Err(error) => error,
            };
            if !error.is_retriable() || Instant::now() > patience {
                return Err(error).context("finding out where to start");
            }
            self.kafka.down(error.to_string());
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn assigned(&self, change: &str) {
        metrics::KAFKA_REBALANCES.with([change]).add(1);
        for topic in &self.inputs {
            metrics::KAFKA_ASSIGNED.with([topic]).set(self.lanes.of_topic(topic) as f64);
        }
    }

    async fn records(&mut self, records: Vec<Record>) -> anyhow::Result<()> {
        let rules = self.rules.load_full();
        let mut tallies = Stream::ALL.map(|stream| (stream, Tally::default()));
        for record in records {
            let stream = self.stream(&record.topic);
            // A record of a partition that has been given away is the next owner's.
            let Some(ticket) = self.lanes.begin(&record) else { continue };
            let started = Instant::now();
            let matched = match match_record(&rules, stream, &record.payload) {
                Ok(matched) => matched,
                Err(unreadable) => {
                    // Whoever may write to the topic must not be able to end detection for everybody.
                    metrics::DETECT_UNREADABLE.with([stream.name()]).add(1);
                    tracing::error!(record = ticket.place(), "passed over: {unreadable}");
                    self.lanes.finish(&ticket).context("a record was finished twice")?;
                    continue;
                }
            };
            metrics::DETECT_BATCH_DURATION.with([stream.name()]).record_duration(started.elapsed());
            if let Some((_, tally)) = tallies.iter_mut().find(|(of, _)| *of == stream) {
                tally.records += 1;
                tally.bytes += record.payload.len() as u64;
                tally.subjects += matched.subjects as u64;
            }
            for (rule, count) in &matched.signals {
                metrics::DETECT_SIGNALS.with([rule]).add(*count);
            }
            self.send(ticket, matched.batches).await?;
            if let Some(source) = matched.source {
                self.watermarks.seen(&record.topic_partition(), source, matched.event_time, Instant::now());
            }
        }
        for ((stream, tally), topic) in tallies.iter().zip(&self.inputs) {
            if tally.records > 0 {
                metrics::KAFKA_CONSUMED.with([topic]).add(tally.records);
                metrics::KAFKA_CONSUMED_BYTES.with([topic]).add(tally.bytes);
                metrics::DETECT_BATCHES.with([stream.name()]).add(tally.records);
                metrics::DETECT_EVENTS.with([stream.name()]).add(tally.subjects);
            }
        }
        Ok(())
    }

    /// Hands a record's signals to the producer, waiting while it has no room.
    async fn send(&mut self, ticket: Ticket, batches: Vec<Encoded>) -> anyhow::Result<()> {
        if batches.is_empty() {
            return self.lanes.finish(&ticket).context("a record was finished twice");
        }
        let left = Arc::new(AtomicUsize::new(batches.len()));
        for batch in &batches {
            loop {
                match self.producer.send(self.outgoing(batch), self.completion(&ticket, &left, batch)) {
                    Ok(()) => break,
                    Err(SendError::QueueFull) => {
                        metrics::KAFKA_QUEUE_FULL.with([&self.signals]).add(1);
                        self.producer.room(batch.payload.len()).await.context("the producer cannot go on")?;
                    }
                    Err(error) => {
                        return Err(error).with_context(|| format!("signals of {}", ticket.place()));
                    }
                }
            }
        }
        Ok(())
    }

    fn outgoing<'b>(&'b self, batch: &'b Encoded) -> Outgoing<'b> {
        Outgoing {
            topic: &self.signals,
            partition: batch.partition,
            key: Some(batch.key.as_bytes()),
            headers: &[],
            payload: &batch.payload,
        }
    }

    /// Tells of the record when the last of its batches is there, and of every failure.
    fn completion(&self, ticket: &Ticket, left: &Arc<AtomicUsize>, batch: &Encoded) -> kafka::Completion {
        let (delivered, ticket, left) = (self.delivered.clone(), ticket.clone(), left.clone());
        let (topic, bytes, handed) = (self.signals.clone(), batch.payload.len() as u64, Instant::now());
        Box::new(move |result| {
            match &result {
                Ok(_) => {
                    metrics::KAFKA_PRODUCED.with([&topic]).add(1);
                    metrics::KAFKA_PRODUCED_BYTES.with([&topic]).add(bytes);
                    metrics::KAFKA_DELIVERY_DURATION.with([&topic]).record_duration(handed.elapsed());
                }
                Err(error) => metrics::KAFKA_DELIVERY_ERRORS.with([&topic, error.class().name()]).add(1),
            }
            if left.fetch_sub(1, Ordering::AcqRel) == 1 || result.is_err() {
                // The owner has gone: nobody commits any more.
                let _ = delivered.send((ticket, result.map(drop)));
            }
        })
    }
}

#[derive(Default)]
struct Tally {
    records: u64,
    bytes: u64,
    subjects: u64,
}
