//! The consumer: librdkafka on a thread of its own, rebalances as messages.

mod assignment;
mod context;
mod input;
mod options;
mod reading;
mod rebalance;
#[cfg(test)]
mod simulation;
mod stats;
mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use tokio::sync::watch;

use crate::args::KafkaArgs;
use crate::error::{Class, Error};
use crate::queue::Queue;
use crate::record::{TopicPartition, offsets};

use assignment::Assignment;
use context::Context;
use stats::Counters;
use worker::Worker;

pub use input::{ConsumeError, Input, Reply, Start, StartAt};
pub use options::ConsumerOptions;
pub use stats::{ConsumerStats, PartitionStats};

/// Leaving a group is a request to the broker; without one the group notices by the session's timeout.
const CLOSE_PATIENCE: Duration = Duration::from_secs(6);
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);

/// A member of a consumer group (classic protocol, cooperative-sticky; committed transactions only).
///
/// It never chooses an offset by itself: the owner says where each assigned partition starts, and an offset that the
/// log does not have is an error. Dropping it leaves the group in the background; [`Consumer::close`] waits for that.
pub struct Consumer {
    committer: Committer,
    ended: watch::Receiver<bool>,
}

/// What the thread and the owner's handle have in common.
struct Shared {
    queue: Queue<Input>,
    assignment: Assignment,
    counters: Counters,
    stop: AtomicBool,
}

impl Shared {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

impl Consumer {
    /// Makes the client and starts its thread, which joins the group. Needs no broker yet.
    ///
    /// # Errors
    /// The configuration does not fit together, or no thread could be started.
    pub fn start(args: &KafkaArgs, options: ConsumerOptions) -> Result<Self, Error> {
        let action = || format!("making a consumer of group {}", options.group);
        let shared = Arc::new(Shared {
            queue: Queue::new(options.max_buffered_bytes / 2),
            assignment: Assignment::default(),
            counters: Counters::default(),
            stop: AtomicBool::new(false),
        });
        let client: BaseConsumer<Context> = options
            .client_config(args)
            .create_with_context(Context::new(Arc::clone(&shared)))
            .map_err(|error| Error::new(action(), &error))?;
        let client = Arc::new(client);
        let committer = Committer { client: Arc::downgrade(&client), shared: Arc::clone(&shared) };
        let (end, ended) = watch::channel(false);
        let worker = Worker::new(client, shared, options.clone());
        std::thread::Builder::new()
            .name("kafka-consumer".into())
            .spawn(move || {
                worker.run();
                // Nobody may be waiting.
                let _ = end.send(true);
            })
            .map_err(|error| Error::other(action(), error, Class::Fatal))?;
        Ok(Self { committer, ended })
    }

    /// The next thing to do; `None` after [`Input::Failed`]. May be dropped at any await without losing one.
    pub async fn next(&self) -> Option<Input> {
        self.committer.shared.queue.pop().await
    }

    /// Sends positions (next offsets to read) to the group and does not wait; a failure is logged and counted.
    /// Partitions that are not assigned any more are left out: they are another member's to commit. Do it about once
    /// a second: a commit that meets a rebalance may cost another one.
    pub fn commit(&self, positions: &[(TopicPartition, i64)]) {
        if let Err(error) = self.committer.commit(positions, CommitMode::Async) {
            self.committer.shared.counters.commit_failed();
            tracing::warn!(%error, "offsets were not committed");
        }
    }

    /// [`commit`](Self::commit) that waits for the group's answer, at most 5 s: before [`close`](Self::close), or
    /// before a revocation is acknowledged.
    ///
    /// # Errors
    /// The positions may not have been committed.
    pub async fn commit_and_wait(&self, positions: Vec<(TopicPartition, i64)>) -> Result<(), Error> {
        let committer = self.committer.clone();
        let commit = tokio::task::spawn_blocking(move || committer.commit(&positions, CommitMode::Sync));
        let failed = |reason: &dyn std::fmt::Display| Error::other(COMMITTING, reason, Class::Transient);
        match tokio::time::timeout(COMMIT_PATIENCE, commit).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(failed(&error)),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Stops reading these partitions until [`resume`](Self::resume) or their revocation. Records already on their way
    /// still come. Partitions that are not assigned are left out.
    ///
    /// # Errors
    /// The client refused; nothing has changed.
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<(), Error> {
        let Some(client) = self.committer.client.upgrade() else { return Ok(()) };
        self.committer.shared.assignment.pause(&*client, partitions)
    }

    /// Reads these partitions on, from where they were paused.
    ///
    /// # Errors
    /// The client refused; nothing has changed.
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<(), Error> {
        let Some(client) = self.committer.client.upgrade() else { return Ok(()) };
        self.committer.shared.assignment.resume(&*client, partitions)
    }

    /// Counts, and the last statistics of the client.
    pub fn stats(&self) -> ConsumerStats {
        let shared = &self.committer.shared;
        shared.counters.read(shared.queue.weight(), &shared.assignment)
    }

    /// Leaves the group, so that others take over at once, and ends the thread. What has not been taken by
    /// [`next`](Self::next) is dropped, and no revocation is sent: whoever closes has finished. Waits at most 6 s.
    pub async fn close(mut self) {
        self.stop();
        if tokio::time::timeout(CLOSE_PATIENCE, self.ended.wait_for(|ended| *ended)).await.is_err() {
            tracing::warn!("the consumer did not leave its group in time; the group notices by itself");
        }
    }

    fn stop(&self) {
        self.committer.shared.stop.store(true, Ordering::Release);
        self.committer.shared.queue.abandon();
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

const COMMITTING: &str = "committing offsets";

/// Commits from any thread but the consumer's: that one may be in a rebalance.
#[derive(Clone)]
struct Committer {
    client: Weak<BaseConsumer<Context>>,
    shared: Arc<Shared>,
}

impl Committer {
    fn commit(&self, positions: &[(TopicPartition, i64)], mode: CommitMode) -> Result<(), Error> {
        let assigned = self.shared.assignment.only_assigned(positions);
        if assigned.is_empty() {
            return Ok(());
        }
        let Some(client) = self.client.upgrade() else {
            return Err(Error::other(COMMITTING, "the consumer has ended", Class::Fatal));
        };
        let list = offsets(&assigned).map_err(|error| Error::new(COMMITTING, &error))?;
        client.commit(&list, mode).map_err(|error| Error::new(COMMITTING, &error))
    }
}
