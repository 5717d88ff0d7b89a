//! The stream: consume, correlate, publish, commit.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use detection::{Applied, Defect, Directory, When};
use kafka::{
    Admin, Consumer, ConsumerOptions, Input, Outgoing, Producer, ProducerOptions, Record, Reply, SendError,
    Start, StartAt, TopicPartition,
};
use schemas::framing::Record as _;
use schemas::{Micros, SIGNALS_TOPIC, SignalBatch, Watermark, framing};
use service::{Dependency, metrics};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::MissedTickBehavior;

use crate::config::{Config, StateArgs};
use crate::lane::{Lane, Position, Ticket};
use crate::publish::{self, Encoded};
use crate::resume;

/// Bytes that the consumer reads ahead.
const MAX_READ_AHEAD_BYTES: usize = 16 << 20;
/// Bytes of changes between here and the broker's acknowledgement.
const MAX_PRODUCED_BYTES: usize = 16 << 20;
/// How often an incident that goes on is published again, and positions are committed.
const ROUND: Duration = Duration::from_secs(1);
/// How often the rule directory is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How often windows that nothing can reach are dropped.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(30);
/// Rules remembered as missing; past that every batch for a missing rule costs a look at the directory.
const MAX_MISSING: usize = 10_000;
/// How often it is told, at most, that keys were dropped for want of memory.
const TELL_EVICTIONS_INTERVAL: Duration = Duration::from_secs(5);
/// Pauses between attempts to find out where to start, and how long they may take: less than the consumer waits.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const RESUME_PATIENCE: Duration = Duration::from_secs(45);

/// A change was delivered, or was not.
type Delivered = (Ticket, Result<(), kafka::Error>);

/// Runs until a stop is asked for, then publishes what has changed and commits it.
///
/// # Errors
/// A change could not be delivered, a record of `signals` cannot be read, or Kafka refuses for good. What was not
/// committed is read again by the next process.
pub async fn run(config: Config, service: service::Context) -> anyhow::Result<()> {
    let kafka = service.health.dependency("kafka").at(config.kafka.brokers.clone());
    let windows = service.health.dependency("windows");
    let path = config.rules.clone();
    let (directory, defects) =
        tokio::task::spawn_blocking(move || Directory::open(&path)).await.context("loading rules")??;
    tell(&directory, &defects);

    let signals = config.kafka.topic(SIGNALS_TOPIC);
    let incidents = config.kafka.topic(publish::TOPIC);
    let admin = Admin::new(&config.kafka)?;
    let token = service.shutdown.token();
    if !admin.wait_for_topics(&[&signals, &incidents], &token, |reason| kafka.down(reason)).await {
        return Ok(());
    }
    kafka.up();
    windows.up();

    let options = ProducerOptions {
        max_buffered_bytes: MAX_PRODUCED_BYTES,
        ..ProducerOptions::new("tidewatch-correlate")
    };
    let producer = Producer::new(&config.kafka, options)?;
    let group = config.kafka.group("tidewatch-correlate");
    let options = ConsumerOptions {
        max_buffered_bytes: MAX_READ_AHEAD_BYTES,
        ..ConsumerOptions::new("tidewatch-correlate", group.clone(), vec![signals.clone()])
    };
    let consumer = Consumer::start(&config.kafka, options)?;
    let (delivered, deliveries) = unbounded_channel();
    let mut pipeline = Pipeline {
        signals: signals.into(),
        incidents,
        group,
        admin,
        directory,
        looked: Instant::now(),
        missing: HashSet::new(),
        consumer,
        producer,
        delivered,
        deliveries,
        lanes: BTreeMap::new(),
        next_generation: 0,
        state: config.state.clone(),
        evicted: 0,
        told_evictions: Instant::now(),
        kafka,
        windows,
    };
    let ended = pipeline.run(&service.shutdown).await;
    let Pipeline { consumer, .. } = pipeline;
    consumer.close().await;
    ended
}

struct Pipeline {
    signals: Arc<str>,
    incidents: String,
    group: String,
    admin: Admin,
    directory: Directory,
    /// When the rule directory was looked at last.
    looked: Instant,
    /// Rules that signals were for and that were not there then.
    missing: HashSet<String>,
    consumer: Consumer,
    producer: Producer,
    delivered: UnboundedSender<Delivered>,
    deliveries: UnboundedReceiver<Delivered>,
    /// By partition of `signals`.
    lanes: BTreeMap<i32, Lane>,
    next_generation: u64,
    state: StateArgs,
    /// Keys dropped for want of memory that nobody was told of yet.
    evicted: u64,
    told_evictions: Instant,
    kafka: Dependency,
    windows: Dependency,
}

impl Pipeline {
    async fn run(&mut self, shutdown: &service::Shutdown) -> anyhow::Result<()> {
        let mut round = tokio::time::interval(ROUND);
        let mut expire = tokio::time::interval(EXPIRE_INTERVAL);
        // A process that stood still has one tick to make up for.
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        expire.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = shutdown.requested();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                delivered = self.deliveries.recv() => self.delivered(delivered)?,
                error = self.producer.failed() => return Err(error).context("the producer cannot go on"),
                _ = round.tick() => self.round().await?,
                _ = expire.tick() => self.expire(),
                input = self.consumer.next() => match input {
                    // To its end also when a stop is asked for: what was begun is to be committed.
                    Some(input) => self.input(input).await?,
                    None => bail!("the consumer ended"),
                },
            }
        }
        let patience = shutdown.remaining().saturating_sub(Duration::from_secs(1));
        let all: Vec<i32> = self.lanes.keys().copied().collect();
        match tokio::time::timeout(patience, self.finish(&all)).await {
            Ok(finished) => finished,
            Err(_) => bail!(
                "incident changes were not acknowledged in time; nothing is lost, the next process makes them again"
            ),
        }
    }

    /// Publishes what has changed in these partitions, waits until it is there and commits.
    async fn finish(&mut self, partitions: &[i32]) -> anyhow::Result<()> {
        for &partition in partitions {
            self.publish(partition, When::Changed).await?;
        }
        while partitions.iter().any(|at| self.lanes.get(at).is_some_and(|lane| !lane.is_idle())) {
            tokio::select! {
                delivered = self.deliveries.recv() => self.delivered(delivered)?,
                error = self.producer.failed() => return Err(error).context("the producer cannot go on"),
            }
        }
        let mut positions = Vec::new();
        for &partition in partitions {
            if let Some(position) = self.lanes.get_mut(&partition).and_then(Lane::take_moved) {
                positions.push(noted(&self.consumer, &self.signals, partition, position));
            }
        }
        if let Err(error) = self.consumer.commit_and_wait(positions).await {
            tracing::warn!(%error, "positions were not committed: their signals will be correlated again");
        }
        Ok(())
    }

    fn delivered(&mut self, delivered: Option<Delivered>) -> anyhow::Result<()> {
        let (ticket, result) = delivered.ok_or_else(|| anyhow!("the producer's completions ended"))?;
        result.context("an incident change was not delivered")?;
        let lane = self.lanes.get_mut(&ticket.partition);
        if let Some(lane) = lane.filter(|lane| lane.generation == ticket.generation) {
            lane.delivered(&ticket);
        }
        Ok(())
    }

    /// Once a second: publishes what has changed, commits what is acknowledged, looks at the world.
    async fn round(&mut self) -> anyhow::Result<()> {
        let all: Vec<i32> = self.lanes.keys().copied().collect();
        for partition in all {
            self.publish(partition, When::Changed).await?;
        }
        let mut positions = Vec::new();
        for (partition, lane) in &mut self.lanes {
            if let Some(position) = lane.take_moved() {
                positions.push(noted(&self.consumer, &self.signals, *partition, position));
            }
        }
        if !positions.is_empty() {
            metrics::KAFKA_COMMITS.with(["ok"]).add(1);
        }
        self.consumer.commit(&positions);
        self.look_at_kafka();
        self.look_at_windows();
        self.tell_evictions();
        if self.looked.elapsed() >= LOOK_INTERVAL {
            self.refresh_rules();
        }
        Ok(())
    }

    fn look_at_kafka(&self) {
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
    }

    fn look_at_windows(&self) {
        match self.lanes.values().filter(|lane| lane.is_rebuilding()).count() {
            0 => self.windows.up(),
            left => self.windows.down(format!("{left} of {} partitions are being rebuilt", self.lanes.len())),
        }
        let groups: usize = self.lanes.values().map(|lane| lane.correlator.groups()).sum();
        metrics::CORRELATE_OPEN_KEYS.set(groups as f64);
        let bytes: usize = self.lanes.values().map(|lane| lane.correlator.state_bytes()).sum();
        metrics::CORRELATE_STATE.set(bytes as f64);
        let times = self.lanes.values().filter_map(|lane| lane.correlator.event_time());
        if let Some(least) = times.min() {
            metrics::CORRELATE_WATERMARK_LAG.set(Micros::now().seconds_since(least).max(0.0));
        }
    }

    /// Keys are spread evenly over the partitions, and so is what they may take.
    fn share_limits(&mut self) {
        let limits = self.state.share(self.lanes.len());
        for lane in self.lanes.values_mut() {
            lane.correlator.limit(limits);
        }
    }

    fn tell_evictions(&mut self) {
        if self.evicted > 0 && self.told_evictions.elapsed() >= TELL_EVICTIONS_INTERVAL {
            tracing::warn!(
                keys = self.evicted,
                "windows were dropped for want of memory: incidents of their keys may miss events; see --max-keys"
            );
            self.evicted = 0;
            self.told_evictions = Instant::now();
        }
    }

    fn expire(&mut self) {
        for lane in self.lanes.values_mut() {
            let before = lane.correlator.groups();
            lane.expire();
            let dropped = before.saturating_sub(lane.correlator.groups());
            metrics::CORRELATE_EVICTIONS.with(["expired"]).add(dropped as u64);
        }
    }

    fn refresh_rules(&mut self) {
        self.looked = Instant::now();
        // Reading the directory's listing takes less than a millisecond, compiling some: nothing else runs on this
        // thread, and no signal is to be judged by old rules meanwhile.
        match tokio::task::block_in_place(|| self.directory.refresh()) {
            Ok(None) => {}
            Ok(Some(defects)) => {
                tell(&self.directory, &defects);
                let rules = self.directory.rules();
                self.missing.clear();
                for lane in self.lanes.values_mut() {
                    lane.correlator.replace_rules(rules.clone());
                }
            }
            Err(error) => {
                tracing::error!(%error, "the rule directory cannot be read: the rules stay as they are");
            }
        }
    }

    async fn input(&mut self, input: Input) -> anyhow::Result<()> {
        match input {
            Input::Records(records) => self.records(records).await,
            Input::Assigned { partitions, reply } => self.assigned(&partitions, reply).await,
            Input::Revoked { partitions, lost, done } => {
                let numbers: Vec<i32> = partitions.iter().map(|at| at.partition).collect();
                if !lost {
                    self.finish(&numbers).await?;
                }
                for number in &numbers {
                    self.lanes.remove(number);
                }
                done.send(());
                self.rebalanced(if lost { "lost" } else { "revoked" });
                for at in &partitions {
                    metrics::KAFKA_LAG.with([&at.topic, &at.partition.to_string()]).set(0.0);
                }
                Ok(())
            }
            Input::Failed(error) => Err(error).context("reading cannot go on"),
        }
    }

    async fn assigned(
        &mut self,
        partitions: &[TopicPartition],
        reply: Reply<Vec<StartAt>>,
    ) -> anyhow::Result<()> {
        let rules = self.directory.rules();
        let horizon_ms = resume::horizon_ms(&rules);
        let patience = Instant::now() + RESUME_PATIENCE;
        let resumes = loop {
            let error = match resume::starts(&self.admin, &self.group, partitions, horizon_ms).await {
                Ok(resumes) => break resumes,
                Err(error) => error,
            };
            if !error.is_retriable() || Instant::now() > patience {
                return Err(error).context("finding out where to start");
            }
            self.kafka.down(error.to_string());
            tokio::time::sleep(RETRY_PAUSE).await;
        };
        let mut starts = Vec::with_capacity(resumes.len());
        for resume in resumes {
            self.next_generation += 1;
            let lane = Lane::new(rules.clone(), &resume, self.next_generation);
            self.lanes.insert(resume.at.partition, lane);
            starts.push(StartAt { at: resume.at, start: Start::Offset(resume.start) });
        }
        reply.send(starts);
        self.rebalanced("assigned");
        self.look_at_windows();
        Ok(())
    }

    fn rebalanced(&mut self, change: &str) {
        self.share_limits();
        metrics::KAFKA_REBALANCES.with([change]).add(1);
        metrics::KAFKA_ASSIGNED.with([&self.signals]).set(self.lanes.len() as f64);
    }

    async fn records(&mut self, records: Vec<Record>) -> anyhow::Result<()> {
        let mut total = Applied::default();
        let (mut count, mut bytes) = (0, 0);
        for record in records {
            count += 1;
            bytes += record.payload.len() as u64;
            self.record(&record, &mut total).await?;
        }
        metrics::KAFKA_CONSUMED.with([&self.signals]).add(count);
        metrics::KAFKA_CONSUMED_BYTES.with([&self.signals]).add(bytes);
        for (outcome, signals) in [
            ("applied", total.counted),
            ("replayed", total.replayed),
            ("retried", total.retried),
            ("late", total.late),
            ("unknown_rule", total.unknown),
        ] {
            if signals > 0 {
                metrics::CORRELATE_SIGNALS.with([outcome]).add(signals);
            }
        }
        if total.evicted > 0 {
            metrics::CORRELATE_EVICTIONS.with(["limit"]).add(total.evicted);
            self.evicted += total.evicted;
        }
        if total.unknown > 0 {
            tracing::warn!(
                signals = total.unknown,
                "signals for rules that are not in the rule directory were dropped: do detect and correlate read the same?"
            );
        }
        Ok(())
    }

    async fn record(&mut self, record: &Record, total: &mut Applied) -> anyhow::Result<()> {
        // A record of a partition that has been given away is the next owner's.
        if !self.lanes.contains_key(&record.partition) {
            return Ok(());
        }
        if framing::fingerprint(&record.payload) == Some(Watermark::versions().fingerprint()) {
            return self.watermark(record).await;
        }
        let body = schemas::current_body::<SignalBatch<'_>>(&record.payload);
        let batch = body
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|body| schemas::decode_body::<SignalBatch<'_>>(body));
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                // Whoever may write to the topic must not be able to end detection for everybody.
                metrics::CORRELATE_UNREADABLE.add(1);
                let place = format!("{} offset {}", record.topic_partition(), record.offset);
                tracing::error!(record = place, "passed over, for it cannot be read: {error}");
                if let Some(lane) = self.lanes.get_mut(&record.partition) {
                    lane.before(record.offset);
                    lane.after(record.position_after(), record.timestamp_ms);
                }
                return Ok(());
            }
        };
        self.look_for_missing(record.partition, &batch);
        let Some(lane) = self.lanes.get_mut(&record.partition) else { return Ok(()) };
        lane.before(record.offset);
        let applied = lane.correlator.apply(&batch, record.timestamp_ms);
        lane.after(record.position_after(), record.timestamp_ms);
        let live = !lane.is_rebuilding();
        service::failpoint("correlate.applied");
        *total += applied;
        if applied.fired > 0 && live {
            let received = batch.signals.iter().map(|signal| signal.received_at).max().unwrap_or_default();
            let delay = Micros::now().seconds_since(received).max(0.0);
            metrics::CORRELATE_DETECTION_DELAY.record(delay);
        }
        if applied.fired + applied.moved > 0 && live {
            self.publish(record.partition, When::Fired).await?;
        }
        Ok(())
    }

    async fn watermark(&mut self, record: &Record) -> anyhow::Result<()> {
        let Some(lane) = self.lanes.get_mut(&record.partition) else { return Ok(()) };
        lane.before(record.offset);
        let fired = match schemas::decode::<Watermark<'_>>(&record.payload) {
            Ok(watermark) => lane.correlator.watermark(&watermark, record.timestamp_ms),
            Err(error) => {
                metrics::CORRELATE_UNREADABLE.add(1);
                let place = format!("{} offset {}", record.topic_partition(), record.offset);
                tracing::error!(record = place, "passed over, for it cannot be read: {error}");
                0
            }
        };
        lane.after(record.position_after(), record.timestamp_ms);
        if fired > 0 && !lane.is_rebuilding() {
            self.publish(record.partition, When::Fired).await?;
        }
        Ok(())
    }

    /// detect may have read a new rule a moment before: each rule that is missing is looked for once before its signals are
    /// dropped.
    fn look_for_missing(&mut self, partition: i32, batch: &SignalBatch<'_>) {
        let Some(lane) = self.lanes.get(&partition) else { return };
        let new: Vec<String> = lane
            .correlator
            .missing(batch)
            .filter(|id| !self.missing.contains(*id))
            .map(str::to_owned)
            .collect();
        if !new.is_empty() {
            self.refresh_rules();
            if self.missing.len() < MAX_MISSING {
                self.missing.extend(new);
            }
        }
    }

    /// Sends the changes of a partition, waiting while the producer has no room.
    async fn publish(&mut self, partition: i32, when: When) -> anyhow::Result<()> {
        let Some(lane) = self.lanes.get_mut(&partition) else { return Ok(()) };
        let changes = lane.changes(when);
        let tickets: Vec<Ticket> = changes.iter().map(|_| lane.sent()).collect();
        if when == When::Changed {
            lane.checkpoint();
        }
        for (change, ticket) in changes.iter().zip(tickets) {
            self.send(change, ticket).await?;
            let kind = match (when, change.merged) {
                (_, true) => "merged",
                (When::Fired, _) => "opened",
                (When::Changed, _) => "updated",
            };
            metrics::CORRELATE_INCIDENTS.with([kind]).add(1);
        }
        Ok(())
    }

    async fn send(&mut self, change: &Encoded, ticket: Ticket) -> anyhow::Result<()> {
        loop {
            let outgoing = Outgoing {
                topic: &self.incidents,
                partition: change.partition,
                key: Some(change.key.as_bytes()),
                headers: &[],
                payload: &change.payload,
            };
            match self.producer.send(outgoing, self.completion(change, ticket)) {
                Ok(()) => return Ok(()),
                Err(SendError::QueueFull) => {
                    metrics::KAFKA_QUEUE_FULL.with([&self.incidents]).add(1);
                    self.producer.room(change.payload.len()).await.context("the producer cannot go on")?;
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("publishing incident {}", change.key));
                }
            }
        }
    }

    fn completion(&self, change: &Encoded, ticket: Ticket) -> kafka::Completion {
        let (delivered, topic) = (self.delivered.clone(), self.incidents.clone());
        let (bytes, handed) = (change.payload.len() as u64, Instant::now());
        Box::new(move |result| {
            match &result {
                Ok(_) => {
                    metrics::KAFKA_PRODUCED.with([&topic]).add(1);
                    metrics::KAFKA_PRODUCED_BYTES.with([&topic]).add(bytes);
                    metrics::KAFKA_DELIVERY_DURATION.with([&topic]).record_duration(handed.elapsed());
                }
                Err(error) => metrics::KAFKA_DELIVERY_ERRORS.with([&topic, error.class().name()]).add(1),
            }
            // The owner has gone: nobody commits any more.
            let _ = delivered.send((ticket, result.map(drop)));
        })
    }
}

fn tell(directory: &Directory, defects: &[Defect]) {
    for defect in defects {
        tracing::error!("rule refused: {defect}");
    }
    let rules = directory.rules();
    tracing::info!(
        detections = rules.detections().len(),
        correlations = rules.correlations().len(),
        refused = defects.len(),
        "rules loaded"
    );
}

/// A position to commit, whose note stands beside it from now on.
fn noted(
    consumer: &Consumer,
    signals: &Arc<str>,
    partition: i32,
    position: Position,
) -> (TopicPartition, i64) {
    let at = TopicPartition::new(signals.clone(), partition);
    if let Some(since_ms) = position.since_ms {
        consumer.note(&at, resume::note(since_ms));
    }
    (at, position.offset)
}
