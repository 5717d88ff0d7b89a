//! The consumer's thread: polls, batches, hands over.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::util::Timeout;

use super::context::Context;
use super::input::{ConsumeError, Input};
use super::options::ConsumerOptions;
use super::reading::Reading;
use super::{Shared, rebalance};
use crate::args::KafkaArgs;
use crate::error::{Class, Error};
use crate::queue::Refused;
use crate::record::Record;

/// How long a poll without records takes at most; also how soon a stop is noticed.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// After this time without room fetching is paused, and the group is kept alive by polling on.
const BACKPRESSURE_GRACE: Duration = Duration::from_secs(1);
/// Questions to the broker on this thread.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Worker {
    pub(super) client: Arc<BaseConsumer<Context>>,
    pub(super) shared: Arc<Shared>,
    pub(super) options: ConsumerOptions,
    pub(super) reading: Reading,
    args: KafkaArgs,
}

/// Why the thread ends.
pub(super) enum End {
    /// It was asked to.
    Stopped,
    /// It cannot go on.
    Failed(ConsumeError),
}

impl<E: Into<ConsumeError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Worker {
    pub(super) fn new(
        client: Arc<BaseConsumer<Context>>,
        shared: Arc<Shared>,
        options: ConsumerOptions,
        args: KafkaArgs,
    ) -> Self {
        Self { client, shared, options, reading: Reading::default(), args }
    }

    /// Consumes until stopped or failed, then leaves the group.
    pub(super) fn run(mut self) {
        if let Err(End::Failed(error)) = self.consume() {
            self.shared.queue.insist(Input::Failed(error), 0);
        }
        self.shared.queue.finish();
        self.leave();
    }

    fn consume(&mut self) -> Result<(), End> {
        let topics: Vec<&str> = self.options.topics.iter().map(String::as_str).collect();
        let action = || format!("subscribing to {}", topics.join(", "));
        self.client.subscribe(&topics).map_err(|error| Error::new(action(), &error))?;
        let client = Arc::clone(&self.client);
        while !self.shared.stopping() {
            // Waits for a first record, takes what is there besides, and hands over.
            let patience = if self.reading.is_empty() { POLL_INTERVAL } else { Duration::ZERO };
            match client.poll(Timeout::After(patience)) {
                Some(Ok(message)) => {
                    self.take(&message);
                    if !self.reading.is_full(self.options.max_batch_records, self.options.max_batch_bytes) {
                        continue;
                    }
                }
                Some(Err(error)) => self.judge(&error)?,
                None => {}
            }
            while !self.reading.is_empty() {
                self.hand_over()?;
            }
            while let Some(change) = client.context().next_change() {
                rebalance::make(self, change)?;
            }
            self.shared.brokers.mend(client.client(), &self.args)?;
        }
        Ok(())
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        let make = |topic, position_before| Record::from_message(message, topic, position_before);
        if !self.reading.take(topic, partition, offset, make) {
            tracing::debug!(topic, partition, offset, "dropped a record of a partition that is not assigned");
        }
    }

    /// Puts the batch into the queue. While there is no room, fetching is paused and polling goes on, so that the group
    /// sees a live member however long its owner waits for something else.
    fn hand_over(&mut self) -> Result<(), End> {
        let (records, weight) = self.reading.batch();
        let payload_bytes = records.iter().map(|record| record.payload.len()).sum();
        self.shared.counters.handed_over(records.len(), payload_bytes);
        let mut input = Input::Records(records);
        let mut patience = BACKPRESSURE_GRACE;
        let mut paused = false;
        loop {
            match self.shared.queue.push(input, weight, patience) {
                Ok(()) => break,
                Err(Refused::Abandoned) => return Err(End::Stopped),
                Err(Refused::Full(refused)) => input = refused,
            }
            if !paused {
                self.shared.assignment.set_backpressure(&*self.client, true)?;
                self.shared.counters.paused();
                (paused, patience) = (true, POLL_INTERVAL);
            }
            let client = Arc::clone(&self.client);
            match client.poll(Timeout::After(Duration::ZERO)) {
                // One that had been fetched before the pause.
                Some(Ok(message)) => self.take(&message),
                Some(Err(error)) => self.judge(&error)?,
                None => {}
            }
            if client.context().has_change() {
                // A rebalance cannot wait for room. It comes after the records, one batch over the limit.
                self.shared.queue.insist(input, weight);
                break;
            }
        }
        if paused {
            self.shared.assignment.set_backpressure(&*self.client, false)?;
        }
        Ok(())
    }

    /// Ends for what does not pass; what passes has been logged by the context.
    fn judge(&self, error: &KafkaError) -> Result<(), End> {
        let judged = Error::new("consuming", error);
        if judged.is_retriable() {
            return Ok(());
        }
        if error.rdkafka_error_code() == Some(Code::AutoOffsetReset) {
            self.find_out_of_range()?;
        }
        let reason = self.client.context().reason();
        let action = format!("consuming as group {}", self.options.group);
        let reason = if reason.is_empty() { judged.reason().to_owned() } else { reason };
        Err(Error::other(action, reason, Class::Fatal).into())
    }

    /// The client does not say which partition it was.
    fn find_out_of_range(&self) -> Result<(), End> {
        for (partition, position) in self.reading.positions() {
            let marks = self.client.fetch_watermarks(&partition.topic, partition.partition, REQUEST_TIMEOUT);
            if let Ok((low, high)) = marks
                && !(low..=high).contains(position)
            {
                let (partition, position) = (partition.clone(), *position);
                return Err(ConsumeError::OffsetOutOfRange { partition, position, low, high }.into());
            }
        }
        Ok(())
    }

    /// Leaves the group and destroys the client. Without a broker this can take as long as the process lives, which is
    /// why it is this thread's and nobody's else.
    fn leave(self) {
        let context = Arc::clone(self.client.context());
        context.leave();
        while let Some(change) = context.next_change() {
            rebalance::make_silently(&self.client, change);
        }
        drop(self);
    }
}
