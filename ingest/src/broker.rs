//! Kafka, as ingest uses it: a producer for batches, and how many partitions the raw topics have.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kafka::{Acks, Admin, Class, Outgoing, Producer, ProducerOptions, SendError};
use schemas::Stream;
use service::{Dependency, Shutdown};

use crate::config::Config;
use crate::publish::{Publisher, Sink};
use crate::ticket::{At, Failure, Shares};

/// A push's answer is not later than its records' fate, so a 503 mostly means that they are not stored.
const HEAD_START: Duration = Duration::from_millis(500);
/// librdkafka's own linger. Batches are full or have lingered already when they come.
const PRODUCER_LINGER: Duration = Duration::from_millis(1);
/// What the producer holds at most; then it takes no more and pushes are answered with 503.
const MAX_BUFFERED_BYTES: usize = 64 << 20;
/// Largest record: what the raw topics take.
const MAX_RECORD_BYTES: usize = 2 << 20;
/// Pause after Kafka could not be asked.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The brokers.
#[derive(Clone)]
pub struct Broker {
    producer: Arc<Producer>,
    admin: Arc<Admin>,
    health: Dependency,
    topics: Arc<[String; 2]>,
}

impl Broker {
    /// Sets the clients up; the brokers need not be there yet.
    ///
    /// # Errors
    /// A wrong setting.
    pub fn new(config: &Config, health: Dependency) -> anyhow::Result<Self> {
        let options = ProducerOptions {
            message_timeout: Some(
                config.delivery_timeout.saturating_sub(HEAD_START).max(config.delivery_timeout / 2),
            ),
            linger: PRODUCER_LINGER,
            max_buffered_bytes: MAX_BUFFERED_BYTES,
            max_record_bytes: MAX_RECORD_BYTES,
            acks: if service::guard_is_off("ingest.acks_all") { Acks::Leader } else { Acks::All },
            ..ProducerOptions::new("tidewatch-ingest")
        };
        Ok(Self {
            producer: Arc::new(Producer::new(&config.kafka, options).context("cannot set up the producer")?),
            admin: Arc::new(
                Admin::new(&config.kafka).context("cannot set up the Kafka client (--kafka-option?)")?,
            ),
            health,
            topics: Arc::new(Stream::ALL.map(|stream| config.kafka.topic(stream.raw_topic()))),
        })
    }

    /// Where the publisher sends its batches.
    pub fn sink(&self) -> impl Sink + use<> {
        Records {
            producer: Arc::clone(&self.producer),
            topics: Arc::clone(&self.topics),
            health: self.health.clone(),
        }
    }

    /// Tells `publisher` how many partitions the raw topics have, at first and every `refresh`, until a stop is asked
    /// for.
    ///
    /// # Errors
    /// The producer has failed for good.
    pub async fn watch(
        self,
        publisher: Arc<Publisher>,
        refresh: Duration,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        loop {
            let pause = match self.partitions().await {
                Ok([events, findings]) => {
                    publisher.set_partitions(events, findings);
                    self.health.up();
                    refresh
                }
                Err(reason) => {
                    self.health.down(reason);
                    RETRY_PAUSE
                }
            };
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                error = self.producer.failed() => return Err(error).context("the Kafka producer has failed for good"),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn partitions(&self) -> Result<[i32; 2], String> {
        let [events, findings] = &*self.topics;
        let of = async |topic: &str| self.admin.partitions(topic).await.map_err(|error| error.to_string());
        Ok([of(events).await?, of(findings).await?])
    }

    /// Waits until every record has been acknowledged or has failed.
    ///
    /// # Errors
    /// Neither within `timeout`.
    pub async fn flush(self, timeout: Duration) -> anyhow::Result<()> {
        Ok(self.producer.flush(timeout).await?)
    }
}

struct Records {
    producer: Arc<Producer>,
    topics: Arc<[String; 2]>,
    health: Dependency,
}

impl Sink for Records {
    fn send(&self, stream: Stream, partition: i32, payload: Vec<u8>, shares: Shares) {
        let [events, findings] = &*self.topics;
        let topic = match stream {
            Stream::Events => events,
            Stream::Findings => findings,
        };
        service::failpoint("ingest.batch");
        let shares = match service::guard_is_off("ingest.delivery_first") {
            true => {
                shares.settle(Ok(At { partition, offset: -1 }));
                Shares::default()
            }
            false => shares,
        };
        let health = self.health.clone();
        let record = Outgoing { topic, partition, key: None, headers: &[], payload: &payload };
        let sent = self.producer.send(
            record,
            Box::new(move |outcome| match outcome {
                Ok(offset) => {
                    service::failpoint("ingest.acknowledged");
                    shares.settle(Ok(At { partition, offset }));
                }
                Err(error) => {
                    if error.class() == Class::Transient {
                        health.down(error.to_string());
                    } else {
                        tracing::warn!(partition, "a batch was not stored: {error}");
                    }
                    shares.settle(Err(Failure::Delivery(error.to_string().into())));
                }
            }),
        );
        // The completion was dropped and with it the shares: their pushes are told that the queue is full.
        match sent {
            Ok(()) | Err(SendError::QueueFull) => {}
            Err(error) => tracing::error!(topic, partition, "a batch cannot be sent: {error}"),
        }
    }
}
