//! The stream: consume, convert, produce, commit.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use kafka::{
    Admin, ConsumeError, Consumer, ConsumerOptions, Input, Producer, ProducerOptions, Record, StartAt,
    TopicPartition,
};
use schemas::Stream;
use service::{Dependency, metrics};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::MissedTickBehavior;

use crate::config::Config;
use crate::context::Live;
use crate::convert::Converter;
use crate::lanes::Lanes;
use crate::resume::{self, ResumeError, Topics};
use crate::workers::{Delivered, Job, Shared, Workers};

/// Raw bytes between the consumer and the broker's acknowledgement. Enriched they are about twice as many, all of
/// which the producer has room for.
const MAX_UNDER_WAY_BYTES: usize = 16 << 20;
/// Bytes that the producer holds.
const MAX_PRODUCED_BYTES: usize = 48 << 20;
/// Bytes that the consumer reads ahead.
const MAX_READ_AHEAD_BYTES: usize = 16 << 20;
/// How often positions are committed and the state of the world is looked at.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether the raw topics are still the same.
const TOPIC_INTERVAL: Duration = Duration::from_secs(1);
/// Pauses between attempts to find out where to start.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long those attempts may take: less than the consumer waits for the answer.
const RESUME_PATIENCE: Duration = Duration::from_secs(45);

/// Runs until a stop is asked for, then delivers what is under way and commits it.
///
/// # Errors
/// A record could not be delivered, the enriched topics do not continue the raw ones, or Kafka refuses for good. What
/// was not committed is read again by the next process.
pub async fn run(config: Config, service: service::Context) -> anyhow::Result<()> {
    let kafka = service.health.dependency("kafka").at(config.kafka.brokers.clone());
    let live = Live::read(&config.sources())?;
    let context = live.current();
    let watcher = tokio::spawn(live.watch());

    let mut topics = Stream::ALL.map(|stream| Topics {
        stream,
        raw: config.kafka.topic(stream.raw_topic()),
        enriched: config.kafka.topic(stream.name()),
        group: String::new(),
        raw_id: uuid::Uuid::nil(),
    });
    let admin = Admin::new(&config.kafka)?;
    let names: Vec<&str> =
        topics.iter().flat_map(|topics| [topics.raw.as_str(), topics.enriched.as_str()]).collect();
    let token = service.shutdown.token();
    if !admin.wait_for_topics(&names, &token, |reason| kafka.down(reason)).await {
        return Ok(());
    }
    kafka.up();

    let options = ProducerOptions {
        max_buffered_bytes: MAX_PRODUCED_BYTES,
        ..ProducerOptions::new("tidewatch-enrich")
    };
    let producer = Producer::new(&config.kafka, options)?;
    let (delivered, deliveries) = unbounded_channel();
    let converter = |stream| Converter { stream, default_org: config.default_org.clone() };
    let shared = Arc::new(Shared {
        producer,
        topics: topics.each_ref().map(|topics| topics.enriched.clone()),
        converters: Stream::ALL.map(converter),
        context,
        delivered,
        broken: AtomicBool::new(false),
    });
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let workers = Workers::start(threads, &shared).context("starting the threads that convert")?;
    let group = config.kafka.group(schemas::start::ENRICH_GROUP);
    let raw = topics.iter().map(|topics| topics.raw.clone()).collect();
    let options = ConsumerOptions {
        max_buffered_bytes: MAX_READ_AHEAD_BYTES,
        ..ConsumerOptions::new("tidewatch-enrich", group, raw)
    };
    for topics in &mut topics {
        topics.group = options.group_of(&config.kafka, &topics.raw);
    }
    let consumer = Consumer::start(&config.kafka, options)?;
    let mut pipeline =
        Pipeline { topics, admin, consumer, workers, shared, deliveries, lanes: Lanes::default(), kafka };
    let ended = pipeline.run(&service.shutdown).await;
    watcher.abort();
    let Pipeline { consumer, .. } = pipeline;
    consumer.close().await;
    ended
}

/// Returns the name of the first of these topics that is not the one any more that it was. A consumer would not notice when
/// the new one has grown past its position, and go on there.
async fn made_anew(admin: Admin, names: [String; 2]) -> String {
    let names = names.each_ref().map(String::as_str);
    let mut known = HashMap::new();
    loop {
        // Who does not answer is asked again.
        if let Ok(ids) = admin.topic_ids(&names).await {
            for (name, id) in ids {
                if *known.entry(name.clone()).or_insert(id) != id {
                    return name;
                }
            }
        }
        tokio::time::sleep(TOPIC_INTERVAL).await;
    }
}

struct Pipeline {
    topics: [Topics; 2],
    admin: Admin,
    consumer: Consumer,
    workers: Workers,
    shared: Arc<Shared>,
    deliveries: UnboundedReceiver<Delivered>,
    lanes: Lanes,
    kafka: Dependency,
}

impl Pipeline {
    async fn run(&mut self, shutdown: &service::Shutdown) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(COMMIT_INTERVAL);
        // A process that stood still has one tick to make up for.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = shutdown.requested();
        let names = self.topics.each_ref().map(|topics| topics.raw.clone());
        let anew = made_anew(self.admin.clone(), names);
        tokio::pin!(stop, anew);
        loop {
            let has_room = self.lanes.under_way_bytes() < MAX_UNDER_WAY_BYTES;
            tokio::select! {
                biased;
                () = &mut stop => break,
                delivered = self.deliveries.recv() => self.delivered(delivered)?,
                topic = &mut anew => bail!(
                    "{topic} was deleted and made anew while it was read: where to go on is found out at the next start"
                ),
                error = self.shared.producer.failed() => return Err(error).context("the producer cannot go on"),
                _ = tick.tick() => self.tick(),
                input = self.consumer.next(), if has_room => match input {
                    Some(input) => {
                        let answered = shutdown.unless_requested(self.input(input)).await;
                        match answered {
                            Some(result) => result?,
                            None => break,
                        }
                    }
                    None => bail!("the consumer ended"),
                },
            }
        }
        self.drain(shutdown).await
    }

    /// Waits for what is under way and commits it.
    async fn drain(&mut self, shutdown: &service::Shutdown) -> anyhow::Result<()> {
        let patience = shutdown.remaining().saturating_sub(Duration::from_secs(1));
        let drained = tokio::time::timeout(patience, async {
            while self.lanes.under_way() > 0 {
                let delivered = self.deliveries.recv().await;
                self.delivered(delivered)?;
            }
            anyhow::Ok(())
        })
        .await;
        let positions = self.lanes.take_moved(None);
        if let Err(error) = self.consumer.commit_and_wait(positions).await {
            tracing::warn!(%error, "the last positions were not committed: their records will be repeated");
        }
        match drained {
            Ok(drained) => drained,
            Err(_) => bail!(
                "{} records were not acknowledged in time; nothing is lost, the next process reads them again",
                self.lanes.under_way()
            ),
        }
    }

    fn delivered(&mut self, delivered: Option<Delivered>) -> anyhow::Result<()> {
        let (ticket, result) = delivered.ok_or_else(|| anyhow!("the producer's completions ended"))?;
        result.with_context(|| {
            format!("the enriched record of {} offset {} was not delivered", ticket.at, ticket.to - 1)
        })?;
        if service::guard_is_off("enrich.delivery_first") {
            return Ok(());
        }
        self.lanes.finish(&ticket).context("a record was delivered twice")
    }

    fn tick(&mut self) {
        let positions = self.lanes.take_moved(None);
        if !positions.is_empty() {
            service::failpoint("enrich.delivered");
            metrics::KAFKA_COMMITS.with(["ok"]).add(1);
        }
        self.consumer.commit(&positions);
        let (stats, produced) = (self.consumer.stats(), self.shared.producer.stats());
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
    }

    async fn input(&mut self, input: Input) -> anyhow::Result<()> {
        match input {
            Input::Records(records) => self.records(records),
            Input::Assigned { partitions, reply } => {
                let starts = self.starts(&partitions).await?;
                self.lanes.assign(&partitions);
                reply.send(starts);
                self.assigned("assigned");
            }
            Input::Revoked { partitions, lost, done } => {
                if !lost {
                    while !self.lanes.idle(&partitions) {
                        tokio::select! {
                            delivered = self.deliveries.recv() => self.delivered(delivered)?,
                            error = self.shared.producer.failed() => {
                                return Err(error).context("the producer cannot go on");
                            }
                        }
                    }
                    let positions = self.lanes.take_moved(Some(&partitions));
                    if let Err(error) = self.consumer.commit_and_wait(positions).await {
                        tracing::warn!(%error, "positions were not committed: the next owner repeats records");
                    }
                }
                self.lanes.remove(&partitions);
                done.send(());
                self.assigned(if lost { "lost" } else { "revoked" });
                for at in &partitions {
                    metrics::KAFKA_LAG.with([&at.topic, &at.partition.to_string()]).set(0.0);
                }
            }
            Input::Failed(error) => return Err(self.explain(error)).context("reading cannot go on"),
        }
        Ok(())
    }

    /// Names the way out where there is one.
    fn explain(&self, error: ConsumeError) -> anyhow::Error {
        let ConsumeError::OffsetOutOfRange { partition: at, position, low, high } = &error else {
            return error.into();
        };
        match self.topics.iter().find(|topics| *topics.raw == *at.topic) {
            Some(topics) => topics.out_of_range(at.partition, *position, *low, *high).into(),
            None => error.into(),
        }
    }

    fn assigned(&self, change: &str) {
        metrics::KAFKA_REBALANCES.with([change]).add(1);
        for topics in &self.topics {
            metrics::KAFKA_ASSIGNED.with([&topics.raw]).set(self.lanes.of_topic(&topics.raw) as f64);
        }
    }

    fn records(&mut self, records: Vec<Record>) {
        let [events, findings] = &self.topics;
        let (mut counts, mut bytes) = ([0u64; 2], [0u64; 2]);
        for record in records {
            let topics = if *record.topic == *events.raw { events } else { findings };
            let place = usize::from(topics.stream == Stream::Findings);
            if let (Some(count), Some(bytes)) = (counts.get_mut(place), bytes.get_mut(place)) {
                *count += 1;
                *bytes += record.payload.len() as u64;
            }
            // A record of a partition that has been given away is the next owner's.
            if let Some(ticket) = self.lanes.begin(&record) {
                if service::guard_is_off("enrich.delivery_first") {
                    // A record just begun is none that was finished.
                    let _ = self.lanes.finish(&ticket);
                    self.consumer.commit(&self.lanes.take_moved(None));
                }
                self.workers.give(Job { record, ticket, stream: topics.stream, topic_id: topics.raw_id });
            }
        }
        for (topics, (count, bytes)) in self.topics.iter().zip(counts.into_iter().zip(bytes)) {
            if count > 0 {
                metrics::KAFKA_CONSUMED.with([&topics.raw]).add(count);
                metrics::KAFKA_CONSUMED_BYTES.with([&topics.raw]).add(bytes);
            }
        }
    }

    /// Where to start each partition; asks again while Kafka does not answer.
    async fn starts(&mut self, partitions: &[TopicPartition]) -> anyhow::Result<Vec<StartAt>> {
        let patience = tokio::time::Instant::now() + RESUME_PATIENCE;
        loop {
            let error = match self.try_starts(partitions).await {
                Ok(starts) => return Ok(starts),
                Err(error) => error,
            };
            if !error.passes() || tokio::time::Instant::now() > patience {
                return Err(error).context("finding out where to start");
            }
            self.kafka.down(error.to_string());
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn try_starts(&mut self, partitions: &[TopicPartition]) -> Result<Vec<StartAt>, ResumeError> {
        let names: Vec<&str> = self.topics.iter().map(|topics| topics.raw.as_str()).collect();
        let ids = self.admin.topic_ids(&names).await?;
        let mut starts = Vec::with_capacity(partitions.len());
        for topics in &mut self.topics {
            topics.raw_id = *ids.get(&topics.raw).ok_or_else(|| ResumeError::NoTopic(topics.raw.clone()))?;
            let of_topic: Vec<_> = partitions.iter().filter(|at| *at.topic == *topics.raw).cloned().collect();
            if !of_topic.is_empty() {
                starts.extend(resume::starts(&self.admin, topics, &of_topic).await?);
            }
        }
        Ok(starts)
    }
}
