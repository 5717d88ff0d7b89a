//! Records of pushes → batches per partition → Kafka.
//!
//! Pushes of a partition share a batch until it is full ([`MAX_EVENTS`], [`MAX_BATCH_BYTES`]) or has waited for
//! `linger`. A push waits on one countdown over the batches that it has a share in; nothing is kept per record.
//! Batches of a partition reach the producer in the order in which they were begun.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use schemas::{Micros, RawBatchWriter, RunHead, Stream, partition_of};
use service::metrics;
use tokio::sync::Notify;

use crate::ticket::{Failure, Shares, Ticket};

/// Most records in a batch.
pub const MAX_EVENTS: usize = 500;
/// Largest batch, bytes; a single record may be half of it.
pub const MAX_BATCH_BYTES: usize = 512 * 1024;
/// Longest sender, bytes: it stands beside every record.
pub const MAX_SENDER_BYTES: usize = 128;
/// Upper bound of what a record takes in a batch beside its bytes. A constant, as the limits above are, so that a keyed
/// push is cut at the same places whenever and from wherever it is sent again: a part is stored once by its number.
const OVERHEAD_BYTES: usize = MAX_SENDER_BYTES + 16;
/// The same for what stands before the records of a push: org, key and digest.
const HEAD_BYTES: usize = 512;

/// Where batches go: the producer, or a test's list.
pub trait Sink: Send + Sync {
    /// Queues one Kafka record without blocking. Settles `shares` once its fate is known; dropping them unsettled
    /// tells every push in it that the queue was full.
    fn send(&self, stream: Stream, partition: i32, payload: Vec<u8>, shares: Shares);
}

/// Records that share an org, a sender and a time.
#[derive(Debug, Clone, Copy)]
pub struct Push<'a> {
    /// Where they go.
    pub stream: Stream,
    /// The org, `http` or `syslog_…`, `json`, `text` or `syslog`.
    pub org: &'a str,
    /// See [`RunHead::protocol`].
    pub protocol: &'static str,
    /// See [`RunHead::format`].
    pub format: &'static str,
    /// Whoever sent them: at most [`MAX_SENDER_BYTES`].
    pub sender: &'a str,
    /// Idempotency-Key and the SHA-256 of the push.
    pub key: Option<(&'a str, &'a [u8; 32])>,
    /// When they arrived.
    pub received_at: Micros,
    /// The records, none larger than half a batch.
    pub records: &'a [&'a [u8]],
}

/// The topics' partitions are not known: the broker has not been reached yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Kafka has not been reached yet")]
pub struct NotConnected;

/// Batches pushes per partition.
pub struct Publisher {
    sink: Box<dyn Sink>,
    linger: Duration,
    lanes: ArcSwap<Lanes>,
    opened: Notify,
}

#[derive(Default)]
struct Lanes {
    events: Vec<Arc<Lane>>,
    findings: Vec<Arc<Lane>>,
}

impl Lanes {
    fn of(&self, stream: Stream) -> &[Arc<Lane>] {
        match stream {
            Stream::Events => &self.events,
            Stream::Findings => &self.findings,
        }
    }
}

/// One partition.
struct Lane {
    stream: Stream,
    partition: i32,
    open: Mutex<Option<Open>>,
}

/// A batch that still takes records.
struct Open {
    batch: RawBatchWriter,
    weight: usize,
    since: Instant,
    shares: Shares,
}

impl Open {
    fn new() -> Self {
        Self { batch: RawBatchWriter::new(), weight: 0, since: Instant::now(), shares: Shares::default() }
    }

    fn fits(&self, records: usize, weight: usize) -> bool {
        self.batch.records() + records <= MAX_EVENTS && self.weight + weight <= MAX_BATCH_BYTES
    }

    fn is_full(&self) -> bool {
        !self.fits(1, OVERHEAD_BYTES)
    }

    fn add(
        &mut self,
        push: &Push<'_>,
        records: &[&[u8]],
        weight: usize,
        part: Option<i32>,
        ticket: &Arc<Ticket>,
    ) {
        let key = push.key.zip(part).map(|((key, digest), part)| (key, digest, part));
        let head = RunHead { org: push.org, protocol: push.protocol, format: push.format, key };
        self.shares.add(ticket, self.batch.records(), records.len());
        self.batch.push_run(head, push.received_at, push.sender, records.iter().copied());
        self.weight += weight;
    }
}

impl Publisher {
    /// A publisher that sends to `sink`. It takes nothing before [`set_partitions`](Self::set_partitions).
    pub fn new(sink: Box<dyn Sink>, linger: Duration) -> Self {
        Self { sink, linger, lanes: ArcSwap::default(), opened: Notify::new() }
    }

    /// Sets how many partitions the raw topics have, at first and when they have grown.
    pub fn set_partitions(&self, events: i32, findings: i32) {
        let before = self.lanes.load_full();
        let lanes = |stream: Stream, wanted: i32| -> Vec<Arc<Lane>> {
            let mut lanes = before.of(stream).to_vec();
            for partition in i32::try_from(lanes.len()).unwrap_or(i32::MAX)..wanted {
                lanes.push(Arc::new(Lane { stream, partition, open: Mutex::new(None) }));
            }
            lanes
        };
        let after =
            Lanes { events: lanes(Stream::Events, events), findings: lanes(Stream::Findings, findings) };
        self.lanes.store(Arc::new(after));
    }

    /// Adds the records of a push to its partition's batches; `ticket` is told of every batch they are in.
    ///
    /// # Errors
    /// [`NotConnected`]; nothing was added.
    pub fn add(&self, push: &Push<'_>, ticket: &Arc<Ticket>) -> Result<(), NotConnected> {
        let lanes = self.lanes.load();
        let lanes = lanes.of(push.stream);
        let partitions = i32::try_from(lanes.len()).unwrap_or(i32::MAX);
        let spread = push.key.map_or(push.sender, |(key, _)| key);
        let partition = partition_of(&[push.org.as_bytes(), spread.as_bytes()], partitions);
        let lane =
            usize::try_from(partition).ok().and_then(|partition| lanes.get(partition)).ok_or(NotConnected)?;
        match push.key {
            Some(_) => self.add_alone(lane, push, ticket),
            None => self.add_shared(lane, push, ticket),
        }
        Ok(())
    }

    /// A keyed push shares no batch, so that dropping its repeat drops nobody else's records.
    fn add_alone(&self, lane: &Lane, push: &Push<'_>, ticket: &Arc<Ticket>) {
        // Keeps its place among the partition's batches.
        let _order = lane.open.lock();
        for (part, (records, weight)) in (0..).zip(pieces(push.records)) {
            let mut alone = Open::new();
            alone.add(push, records, weight, Some(part), ticket);
            self.send(lane, alone);
        }
    }

    fn add_shared(&self, lane: &Lane, push: &Push<'_>, ticket: &Arc<Ticket>) {
        let mut slot = lane.open.lock();
        for (records, weight) in pieces(push.records) {
            // A piece is not split to fill a batch up: its push would wait for two.
            if slot.as_ref().is_some_and(|open| !open.fits(records.len(), weight)) {
                slot.take().into_iter().for_each(|full| self.send(lane, full));
            }
            if slot.is_none() {
                self.opened.notify_one();
            }
            slot.get_or_insert_with(Open::new).add(push, records, weight, None, ticket);
            if slot.as_ref().is_some_and(Open::is_full) {
                slot.take().into_iter().for_each(|full| self.send(lane, full));
            }
        }
    }

    fn send(&self, lane: &Lane, open: Open) {
        metrics::INGEST_BATCH_EVENTS.record(open.batch.records() as f64);
        metrics::INGEST_BATCH_SIZE.record(open.batch.len_bytes() as f64);
        self.sink.send(lane.stream, lane.partition, open.batch.finish(), open.shares);
    }

    /// Sends batches that have waited for `linger`. Runs for ever.
    pub async fn keep_flushing(self: Arc<Self>) {
        loop {
            self.opened.notified().await;
            while self.flush_older_than(self.linger) {
                // Half the linger: a batch waits for one and a half at most.
                tokio::time::sleep(self.linger / 2).await;
            }
        }
    }

    /// Sends everything that is open.
    pub fn flush(&self) {
        self.flush_older_than(Duration::ZERO);
    }

    /// Whether batches are left open.
    fn flush_older_than(&self, age: Duration) -> bool {
        let lanes = self.lanes.load();
        let mut left = false;
        for lane in lanes.events.iter().chain(&lanes.findings) {
            let mut slot = lane.open.lock();
            match slot.take_if(|open| open.since.elapsed() >= age) {
                Some(open) => self.send(lane, open),
                None => left |= slot.is_some(),
            }
        }
        left
    }
}

/// Into how many parts a keyed push of these records is cut.
pub fn parts(records: &[&[u8]]) -> usize {
    pieces(records).count()
}

/// Cuts records into pieces that fit a batch each, with their weights.
fn pieces<'a>(mut records: &'a [&'a [u8]]) -> impl Iterator<Item = (&'a [&'a [u8]], usize)> {
    std::iter::from_fn(move || {
        let mut weight = HEAD_BYTES;
        let mut count = 0;
        for record in records.iter().take(MAX_EVENTS) {
            let heavier = weight + record.len() + OVERHEAD_BYTES;
            if heavier > MAX_BATCH_BYTES && count > 0 {
                break;
            }
            weight = heavier;
            count += 1;
        }
        let (piece, rest) = records.split_at_checked(count)?;
        records = rest;
        (count > 0).then_some((piece, weight))
    })
}

/// Why a push was not published, for its answer and the log.
pub fn explain(failure: &Failure) -> String {
    match failure {
        Failure::QueueFull => "Kafka does not take records as fast as they come".to_owned(),
        Failure::Delivery(reason) => format!("Kafka did not acknowledge the push: {reason}"),
        Failure::Dropped => "ingest is stopping".to_owned(),
    }
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
