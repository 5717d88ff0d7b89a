//! Publishing changes of incidents.

use std::time::Duration;

use kafka::{KafkaArgs, Outgoing, Producer, ProducerOptions, SendError};
use schemas::{INCIDENTS_TOPIC, IncidentChange, KEYED_PARTITIONS, partition_of};
use service::metrics;
use tokio::sync::oneshot;

use crate::problem::Problem;

/// The broker has this long to acknowledge a change.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(8);
/// Then the completion has come, or never will.
const COMPLETION_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_BUFFERED_BYTES: usize = 16 << 20;

/// The way to the topic `incidents`.
pub(crate) struct Publisher {
    producer: Producer,
    topic: String,
}

impl Publisher {
    pub(crate) fn new(args: &KafkaArgs) -> Result<Self, kafka::Error> {
        let options = ProducerOptions {
            message_timeout: Some(MESSAGE_TIMEOUT),
            // One analyst's change: nothing to wait for.
            linger: Duration::ZERO,
            max_buffered_bytes: MAX_BUFFERED_BYTES,
            ..ProducerOptions::new("tidewatch-api")
        };
        Ok(Self { producer: Producer::new(args, options)?, topic: args.topic(INCIDENTS_TOPIC) })
    }

    /// Publishes a change and returns when the brokers have it.
    ///
    /// # Errors
    /// 503: not acknowledged in time. It may be applied all the same.
    pub(crate) async fn publish(
        &self,
        change: &IncidentChange<'_>,
        kind: &'static str,
    ) -> Result<(), Problem> {
        let mut payload = Vec::new();
        schemas::encode(change, &mut payload);
        let org = change.org.as_bytes();
        let key = format!("{}/{}", change.org, change.incident_id);
        let record = Outgoing {
            topic: &self.topic,
            partition: partition_of(&[org, change.incident_id.as_bytes()], KEYED_PARTITIONS),
            key: Some(key.as_bytes()),
            headers: &[],
            payload: &payload,
        };
        let (sender, receiver) = oneshot::channel();
        let completion = Box::new(move |result: Result<i64, kafka::Error>| {
            // The client may have gone away.
            let _ = sender.send(result.err());
        });
        self.producer.send(record, completion).map_err(|error| self.not_taken(&error))?;
        match tokio::time::timeout(COMPLETION_TIMEOUT, receiver).await {
            Ok(Ok(None)) => {
                metrics::API_CHANGES.with([kind]).add(1);
                metrics::KAFKA_PRODUCED.with([&self.topic]).add(1);
                metrics::KAFKA_PRODUCED_BYTES.with([&self.topic]).add(payload.len() as u64);
                Ok(())
            }
            Ok(Ok(Some(error))) => {
                metrics::KAFKA_DELIVERY_ERRORS.with([&self.topic, error.class().name()]).add(1);
                tracing::warn!("a change was not acknowledged: {error}");
                Err(unavailable())
            }
            Ok(Err(_)) | Err(_) => Err(unavailable()),
        }
    }

    fn not_taken(&self, error: &SendError) -> Problem {
        match error {
            SendError::QueueFull => metrics::KAFKA_QUEUE_FULL.with([&self.topic]).add(1),
            _ => tracing::error!("a change was not taken: {error}"),
        }
        match error {
            SendError::TooLarge { .. } => Problem::internal(),
            _ => unavailable(),
        }
    }

    /// Resolves when it is of no more use.
    pub(crate) async fn failed(&self) -> kafka::Error {
        self.producer.failed().await
    }
}

fn unavailable() -> Problem {
    Problem::unavailable(
        "the broker did not acknowledge the change in time; it may be applied all the same: look before repeating it",
    )
}
