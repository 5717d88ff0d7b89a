//! The idempotent producer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::statistics::Statistics;
use tokio::sync::Notify;

use crate::args::KafkaArgs;
use crate::brokers::Brokers;
use crate::context::{self, ErrorLog};
use crate::error::{Class, Error};

/// How soon it is noticed that no broker is known any more.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(5);
/// How long the poll thread waits for an event at most before it looks whether it shall end.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Size of a produce batch per partition; a larger record travels alone.
const BATCH_BYTES: usize = 1_000_000;
/// Room for what the protocol adds to a record.
const OVERHEAD_BYTES: usize = 512;

/// Who must have a record before it counts as delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Every in-sync replica; repeated requests are told apart.
    All,
    /// The leader alone: what it has told nobody dies with it. For tests that show what `All` is for.
    Leader,
}

/// What one producer is for. [`ProducerOptions::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct ProducerOptions {
    /// Its name in the broker's logs and quotas.
    pub client_id: String,
    /// After this time an unacknowledged record fails (it may have been stored nevertheless). With `None` it waits for
    /// ever, and where the broker refuses one, those under way behind it are not stored in its place: the producer ends.
    /// Who sends on after a failure makes the gap himself. Default: `None`.
    pub message_timeout: Option<Duration>,
    /// How long a record waits for others to share a request with. Default: 5 ms.
    pub linger: Duration,
    /// Bytes taken and not acknowledged; more is [`SendError::QueueFull`]. Default: 64 MiB.
    pub max_buffered_bytes: usize,
    /// Records taken and not acknowledged; likewise. Default: 100,000.
    pub max_buffered_records: usize,
    /// Largest record (key, headers and payload, before compression). The topic must take 512 bytes more for the
    /// protocol. Default: 8 MiB less those.
    pub max_record_bytes: usize,
    /// Default: [`Acks::All`].
    pub acks: Acks,
}

impl ProducerOptions {
    /// The defaults under this client id.
    pub fn new(client_id: impl Into<String>) -> Self {
        Self {
            client_id: client_id.into(),
            message_timeout: None,
            linger: Duration::from_millis(5),
            max_buffered_bytes: 64 << 20,
            max_buffered_records: 100_000,
            max_record_bytes: (8 << 20) - OVERHEAD_BYTES,
            acks: Acks::All,
        }
    }
}

/// A record to send. Its bytes are copied.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Full name of the topic.
    pub topic: &'a str,
    /// The partition: whoever sends decides what belongs together.
    pub partition: i32,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Names and values.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Its value.
    pub payload: &'a [u8],
}

impl Outgoing<'_> {
    fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.payload.len() + self.key.map_or(0, <[u8]>::len) + headers
    }
}

/// Called once for every record taken, on the producer's thread, with the record's offset or why it was not (known to
/// be) stored. It must neither block nor take long: other completions wait.
pub type Completion = Box<dyn FnOnce(Result<i64, Error>) + Send>;

/// A record was not taken; its completion will not be called.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Too much is unacknowledged. Answer "later", or wait for [`Producer::room`].
    #[error("the producer's queue is full")]
    QueueFull,
    /// The record is over [`ProducerOptions::max_record_bytes`].
    #[error("a record of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The partition does not exist, or the producer is not usable any more (the class is fatal then).
    #[error(transparent)]
    Failed(Error),
}

/// Not everything was acknowledged in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{records} records were not acknowledged within {timeout:?}")]
pub struct FlushTimeout {
    /// Records still in flight.
    pub records: usize,
    /// The time there was.
    pub timeout: Duration,
}

/// Counts since the producer was made. `taken = delivered + failed + in flight`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProducerStats {
    /// Records taken and not completed.
    pub in_flight_records: usize,
    /// Their bytes.
    pub in_flight_bytes: usize,
    /// Records taken by `send`.
    pub taken_records: u64,
    /// Records acknowledged.
    pub delivered_records: u64,
    /// Their bytes, before compression.
    pub delivered_bytes: u64,
    /// Records whose completion got an error.
    pub failed_records: u64,
    /// Records refused because the queue was full.
    pub refused_records: u64,
    /// For how long records have been in flight and none has been completed.
    pub stalled: Duration,
}

/// An idempotent producer (acks=all, lz4, order kept per partition) with a thread of its own for acknowledgements.
///
/// Everything taken is completed once: delivered, failed, or failed by dropping the producer.
pub struct Producer {
    client: Option<Arc<BaseProducer<Context>>>,
    shared: Arc<Shared>,
    max_record_bytes: usize,
}

struct Shared {
    counts: Mutex<ProducerStats>,
    /// When a record was completed last, or taken while none was in flight.
    progressed: Mutex<Instant>,
    max_buffered_bytes: usize,
    max_buffered_records: usize,
    /// Somebody's record was completed.
    completed: Notify,
    fatal: OnceLock<Error>,
    failed: Notify,
    brokers: Brokers,
    stop: AtomicBool,
}

impl Producer {
    /// Makes the client and starts its thread. Needs no broker yet.
    ///
    /// # Errors
    /// The configuration does not fit together, or no thread could be started.
    pub fn new(args: &KafkaArgs, options: ProducerOptions) -> Result<Self, Error> {
        let action = || format!("making the producer {}", options.client_id);
        let shared = Arc::new(Shared {
            counts: Mutex::default(),
            progressed: Mutex::new(Instant::now()),
            // A record within its own limit can always be taken some time.
            max_buffered_bytes: options.max_buffered_bytes.max(options.max_record_bytes),
            max_buffered_records: options.max_buffered_records.max(1),
            completed: Notify::new(),
            fatal: OnceLock::new(),
            failed: Notify::new(),
            brokers: Brokers::default(),
            stop: AtomicBool::new(false),
        });
        let context = Context { shared: Arc::clone(&shared), errors: ErrorLog::default() };
        let message_bytes = options.max_record_bytes.saturating_add(OVERHEAD_BYTES);
        let mut config = args.client_config(&options.client_id);
        let (acks, idempotence) = match options.acks {
            Acks::All => ("all", "true"),
            Acks::Leader => ("1", "false"),
        };
        config
            .set("acks", acks)
            .set("enable.idempotence", idempotence)
            .set("message.timeout.ms", options.message_timeout.map_or(0, millis).to_string())
            .set("statistics.interval.ms", STATISTICS_INTERVAL.as_millis().to_string())
            .set("linger.ms", options.linger.as_millis().to_string())
            .set("message.max.bytes", message_bytes.to_string())
            // The limits are kept here, exactly; the library's stand behind them.
            .set("queue.buffering.max.messages", "0")
            .set("queue.buffering.max.kbytes", (shared.max_buffered_bytes.div_ceil(1024) * 2).to_string())
            .set("batch.size", BATCH_BYTES.min(message_bytes).to_string());
        if options.message_timeout.is_none() {
            // A record that the broker refuses must not be overtaken by those behind it.
            config.set("enable.gapless.guarantee", "true");
        }
        if !args.sets("compression.type") && !args.sets("compression.codec") {
            config.set("compression.type", "lz4");
        }
        let client: BaseProducer<Context> =
            config.create_with_context(context).map_err(|error| Error::new(action(), &error))?;
        let client = Arc::new(client);
        let polled = Arc::clone(&client);
        let ends = Arc::clone(&shared);
        let bootstrap = args.clone();
        std::thread::Builder::new()
            .name("kafka-producer".into())
            .spawn(move || {
                while !ends.stop.load(Ordering::Acquire) {
                    polled.poll(POLL_INTERVAL);
                    if let Err(error) = ends.brokers.mend(polled.client(), &bootstrap) {
                        ends.fail(error);
                    }
                }
                // What is still unacknowledged is completed with an error here.
                drop(polled);
            })
            .map_err(|error| Error::other(action(), error, Class::Fatal))?;
        Ok(Self { client: Some(client), shared, max_record_bytes: options.max_record_bytes })
    }

    /// Takes a record to send. Never blocks.
    ///
    /// # Errors
    /// It was not taken; see [`SendError`].
    pub fn send(&self, record: Outgoing<'_>, completion: Completion) -> Result<(), SendError> {
        if let Some(error) = self.shared.fatal.get() {
            return Err(SendError::Failed(error.clone()));
        }
        let bytes = record.bytes();
        if bytes > self.max_record_bytes {
            return Err(SendError::TooLarge { bytes, limit: self.max_record_bytes });
        }
        let Some(client) = &self.client else { return Err(SendError::QueueFull) };
        if !self.shared.reserve(bytes) {
            return Err(SendError::QueueFull);
        }
        let in_flight = Box::new(InFlight { bytes, completion: Mutex::new(completion) });
        let mut outgoing = BaseRecord::<[u8], [u8], _>::with_opaque_to(record.topic, in_flight)
            .partition(record.partition)
            .payload(record.payload);
        outgoing.key = record.key;
        if !record.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(record.headers.len());
            outgoing.headers =
                Some(record.headers.iter().fold(headers, |headers, (key, value)| {
                    headers.insert(Header { key, value: Some(*value) })
                }));
        }
        client.send(outgoing).map_err(|(error, _)| {
            self.shared.release(bytes);
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => {
                    self.shared.counts.lock().refused_records += 1;
                    SendError::QueueFull
                }
                Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                    SendError::TooLarge { bytes, limit: self.max_record_bytes }
                }
                _ => SendError::Failed(Error::new(
                    format!("sending to {}[{}]", record.topic, record.partition),
                    &error,
                )),
            }
        })
    }

    /// Waits until a record of this size would be taken, if nobody else takes the room.
    ///
    /// # Errors
    /// The producer is not usable any more.
    pub async fn room(&self, bytes: usize) -> Result<(), Error> {
        let fits = || self.shared.fits(&self.shared.counts.lock(), bytes.min(self.max_record_bytes));
        tokio::select! {
            () = self.until(fits) => Ok(()),
            error = self.failed() => Err(error),
        }
    }

    /// Waits until everything taken so far and meanwhile is completed.
    ///
    /// # Errors
    /// It was not in time; sending goes on.
    pub async fn flush(&self, timeout: Duration) -> Result<(), FlushTimeout> {
        let empty = || self.shared.counts.lock().in_flight_records == 0;
        tokio::time::timeout(timeout, self.until(empty))
            .await
            .map_err(|_| FlushTimeout { records: self.stats().in_flight_records, timeout })
    }

    /// Resolves when the producer is not usable any more: make another, or end.
    pub async fn failed(&self) -> Error {
        loop {
            let failed = self.shared.failed.notified();
            tokio::pin!(failed);
            failed.as_mut().enable();
            if let Some(error) = self.shared.fatal.get() {
                return error.clone();
            }
            failed.await;
        }
    }

    /// Counts, now.
    pub fn stats(&self) -> ProducerStats {
        let counts = *self.shared.counts.lock();
        let stalled = match counts.in_flight_records {
            0 => Duration::ZERO,
            _ => self.shared.progressed.lock().elapsed(),
        };
        ProducerStats { stalled, ..counts }
    }

    async fn until(&self, condition: impl Fn() -> bool) {
        loop {
            let completed = self.shared.completed.notified();
            tokio::pin!(completed);
            completed.as_mut().enable();
            if condition() {
                return;
            }
            completed.await;
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // In this order the thread is the last owner: dropping the client waits, which a runtime's worker must not.
        self.client = None;
        self.shared.stop.store(true, Ordering::Release);
    }
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> u128 {
    duration.as_millis().max(1)
}

impl Shared {
    /// The producer is not usable any more.
    fn fail(&self, error: Error) {
        if self.fatal.set(error).is_ok() {
            self.failed.notify_waiters();
        }
    }

    fn fits(&self, counts: &ProducerStats, bytes: usize) -> bool {
        counts.in_flight_records < self.max_buffered_records
            && counts.in_flight_bytes.saturating_add(bytes) <= self.max_buffered_bytes
    }

    fn reserve(&self, bytes: usize) -> bool {
        let mut counts = self.counts.lock();
        if !self.fits(&counts, bytes) {
            counts.refused_records += 1;
            return false;
        }
        if counts.in_flight_records == 0 {
            *self.progressed.lock() = Instant::now();
        }
        counts.in_flight_records += 1;
        counts.in_flight_bytes += bytes;
        counts.taken_records += 1;
        true
    }

    /// Takes back a reservation that the client did not take.
    fn release(&self, bytes: usize) {
        let mut counts = self.counts.lock();
        counts.in_flight_records -= 1;
        counts.in_flight_bytes -= bytes;
        counts.taken_records -= 1;
        drop(counts);
        self.completed.notify_waiters();
    }

    fn complete(&self, bytes: usize, delivered: bool) {
        let mut counts = self.counts.lock();
        *self.progressed.lock() = Instant::now();
        counts.in_flight_records -= 1;
        counts.in_flight_bytes -= bytes;
        if delivered {
            counts.delivered_records += 1;
            counts.delivered_bytes += bytes as u64;
        } else {
            counts.failed_records += 1;
        }
        drop(counts);
        self.completed.notify_waiters();
    }
}

/// What the client carries with a record.
struct InFlight {
    bytes: usize,
    /// The client asks for `Sync`; nobody ever contends.
    completion: Mutex<Completion>,
}

struct Context {
    shared: Arc<Shared>,
    errors: ErrorLog,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.errors.tell(&error, reason);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.shared.fail(Error::other("producing", reason, Class::Fatal));
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.shared.brokers.hear(&statistics, Instant::now());
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<InFlight>;

    fn delivery(&self, result: &DeliveryResult<'_>, in_flight: Box<InFlight>) {
        let InFlight { bytes, completion } = *in_flight;
        let completion = completion.into_inner();
        let outcome = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, message)) => {
                Err(Error::new(format!("delivering to {}[{}]", message.topic(), message.partition()), error))
            }
        };
        let delivered = outcome.is_ok();
        // A completion that panics must not take the others' thread with it.
        if catch_unwind(AssertUnwindSafe(|| completion(outcome))).is_err() {
            tracing::error!("a completion of the Kafka producer panicked; its record is accounted for");
        }
        self.shared.complete(bytes, delivered);
    }
}
