//! Threads that convert records and hand them to the producer.
//!
//! A partition belongs to one thread, so its records stay in order; different partitions run in parallel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender};
use kafka::{Outgoing, Producer, Record, SendError};
use schemas::{Micros, Stream};
use service::metrics;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

use crate::context::Context;
use crate::convert::{Converter, Tally};
use crate::lanes::Ticket;

/// A record to convert.
pub struct Job {
    /// The record.
    pub record: Record,
    /// What its delivery is told with.
    pub ticket: Ticket,
    /// Its stream.
    pub stream: Stream,
    /// Id of its topic.
    pub topic_id: Uuid,
}

/// A record's delivery, or why there will be none.
pub type Delivered = (Ticket, Result<(), SendError>);

/// What the threads have in common.
pub struct Shared {
    /// Where records go.
    pub producer: Producer,
    /// Topics of the enriched records: events, findings.
    pub topics: [String; 2],
    /// Converts events, findings.
    pub converters: [Converter; 2],
    /// Context of now.
    pub context: Arc<ArcSwap<Context>>,
    /// Where deliveries are told.
    pub delivered: UnboundedSender<Delivered>,
    /// A record will never be delivered: none behind it may be, or the enriched partition would have a gap.
    pub broken: AtomicBool,
}

/// The threads. They end when this is dropped and what they were given is handed over.
pub struct Workers {
    queues: Vec<Sender<Job>>,
}

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(count: usize, shared: &Arc<Shared>) -> std::io::Result<Self> {
        let runtime = Handle::current();
        let mut queues = Vec::with_capacity(count);
        for number in 0..count.max(1) {
            // Bounded by the bytes that the owner lets under way.
            let (queue, jobs) = crossbeam_channel::unbounded();
            let (shared, runtime) = (Arc::clone(shared), runtime.clone());
            std::thread::Builder::new()
                .name(format!("enrich-{number}"))
                .spawn(move || work(&jobs, &shared, &runtime))?;
            queues.push(queue);
        }
        Ok(Self { queues })
    }

    /// Gives a record to the thread of its partition.
    pub fn give(&self, job: Job) {
        // By number, so that the partitions of a topic are spread evenly.
        let number = usize::try_from(job.ticket.at.partition).unwrap_or(0);
        if let Some(queue) = self.queues.get(number % self.queues.len().max(1)) {
            // The thread lives as long as the queue.
            let _ = queue.send(job);
        }
    }
}

fn work(jobs: &Receiver<Job>, shared: &Shared, runtime: &Handle) {
    let mut out = Vec::new();
    for job in jobs {
        if shared.broken.load(Ordering::Acquire) {
            return;
        }
        out.clear();
        convert(&job, shared, &mut out);
        service::failpoint("enrich.converted");
        let result = deliver(&job, shared, runtime, &out);
        service::failpoint("enrich.produced");
        if let Err(error) = result {
            shared.broken.store(true, Ordering::Release);
            // The owner has gone: nobody commits any more.
            let _ = shared.delivered.send((job.ticket, Err(error)));
        }
        if out.capacity() > MAX_KEPT_BYTES {
            out = Vec::new();
        }
    }
}

/// A thread does not hold on to more for the next record.
const MAX_KEPT_BYTES: usize = 4 << 20;

fn of_stream<T>(pair: &[T; 2], stream: Stream) -> &T {
    let [events, findings] = pair;
    match stream {
        Stream::Events => events,
        Stream::Findings => findings,
    }
}

fn convert(job: &Job, shared: &Shared, out: &mut Vec<u8>) {
    let started = Instant::now();
    let converter = of_stream(&shared.converters, job.stream);
    let context = shared.context.load();
    let now = Micros::now();
    let tally = service::contain(|| {
        let mut fresh = std::mem::take(out);
        let tally = converter.convert(&job.record, job.topic_id, &context, now, &mut fresh);
        (tally, fresh)
    });
    let tally = match tally {
        Ok((tally, fresh)) => {
            *out = fresh;
            tally
        }
        // One poisonous record must not stop all behind it.
        Err(panic) => {
            out.clear();
            converter.refuse(&job.record, job.topic_id, "defect", panic, now, out)
        }
    };
    count(job.stream, &tally);
    let stream = job.stream.name();
    metrics::ENRICH_BATCH_DURATION.with([stream]).record_duration(started.elapsed());
    metrics::ENRICH_BATCHES.with([stream]).add(1);
}

fn count(stream: Stream, tally: &Tally) {
    let stream = stream.name();
    for (format, count) in &tally.understood {
        metrics::ENRICH_EVENTS.with([stream, format]).add(*count);
    }
    for (reason, count) in &tally.rejected {
        metrics::ENRICH_REJECTS.with([stream, reason]).add(*count);
    }
    let matches = tally.matches;
    for (source, count) in [
        ("assets", matches.assets),
        ("threat_ip", matches.ips),
        ("threat_domain", matches.domains),
        ("threat_hash", matches.hashes),
    ] {
        if count > 0 {
            metrics::ENRICH_CONTEXT_MATCHES.with([source]).add(count);
        }
    }
}

/// Hands the payload to the producer, waiting while it has no room. An error means that it will never be delivered.
fn deliver(job: &Job, shared: &Shared, runtime: &Handle, payload: &[u8]) -> Result<(), SendError> {
    let topic = of_stream(&shared.topics, job.stream);
    loop {
        let ticket = job.ticket.clone();
        let (delivered, name, bytes) = (shared.delivered.clone(), topic.clone(), payload.len() as u64);
        let handed = Instant::now();
        let completion = Box::new(move |result: Result<i64, kafka::Error>| {
            match &result {
                Ok(_) => {
                    metrics::KAFKA_PRODUCED.with([&name]).add(1);
                    metrics::KAFKA_PRODUCED_BYTES.with([&name]).add(bytes);
                    metrics::KAFKA_DELIVERY_DURATION.with([&name]).record_duration(handed.elapsed());
                }
                Err(error) => metrics::KAFKA_DELIVERY_ERRORS.with([&name, error.class().name()]).add(1),
            }
            // The owner has gone: nobody commits any more.
            let _ = delivered.send((ticket, result.map(drop).map_err(SendError::Failed)));
        });
        let outgoing =
            Outgoing { topic, partition: job.ticket.at.partition, key: None, headers: &[], payload };
        match shared.producer.send(outgoing, completion) {
            Ok(()) => return Ok(()),
            Err(SendError::QueueFull) => {
                metrics::KAFKA_QUEUE_FULL.with([topic]).add(1);
                runtime.block_on(shared.producer.room(payload.len())).map_err(SendError::Failed)?;
            }
            Err(error) => return Err(error),
        }
    }
}
