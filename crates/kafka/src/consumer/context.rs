//! Callbacks of librdkafka on the consumer's thread: they only note what the thread then does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};

use super::{Shared, rebalance};
use crate::context::{self, ErrorLog};
use crate::record::positions_of;

/// A change of the assignment that waits to be made.
#[derive(Debug)]
pub(super) enum Change {
    Assign(TopicPartitionList),
    Revoke(TopicPartitionList),
}

pub(super) struct Context {
    shared: Arc<Shared>,
    changes: Mutex<VecDeque<Change>>,
    /// What the client said of the error that the next poll returns.
    reason: Mutex<String>,
    errors: ErrorLog,
    /// On the way out changes are made at once and nobody is asked.
    leaving: AtomicBool,
}

impl Context {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            changes: Mutex::default(),
            reason: Mutex::default(),
            errors: ErrorLog::default(),
            leaving: AtomicBool::new(false),
        }
    }

    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    pub(super) fn next_change(&self) -> Option<Change> {
        self.changes.lock().pop_front()
    }

    pub(super) fn has_change(&self) -> bool {
        !self.changes.lock().is_empty()
    }

    pub(super) fn reason(&self) -> String {
        self.reason.lock().clone()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        context::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.errors.tell(&error, reason);
        reason.clone_into(&mut self.reason.lock());
    }

    fn stats(&self, statistics: Statistics) {
        self.shared.counters.hear(&statistics, &self.shared.assignment);
        self.shared.brokers.hear(&statistics, Instant::now());
    }
}

impl ConsumerContext for Context {
    /// Poll returns after this; the thread then makes the change. librdkafka waits for it.
    fn rebalance(
        &self,
        client: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let change = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Change::Assign,
            _ => Change::Revoke,
        };
        let change = change(partitions.clone());
        if self.leaving.load(Ordering::Acquire) {
            rebalance::make_silently(client, change);
        } else {
            self.changes.lock().push_back(change);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let refused = offsets.elements().iter().any(|element| element.error().is_err());
        match result {
            Ok(()) if !refused => self.shared.confirm(&positions_of(offsets)),
            Ok(()) => self.shared.counters.commit_failed(),
            Err(error) => {
                self.shared.counters.commit_failed();
                tracing::warn!(%error, "offsets were not committed; they are sent again");
            }
        }
    }
}
