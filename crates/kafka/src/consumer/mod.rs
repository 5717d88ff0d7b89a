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

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use tokio::sync::watch;

use crate::args::KafkaArgs;
use crate::brokers::Brokers;
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

/// A member of a consumer group (classic protocol, cooperative-sticky; committed transactions only) for each topic.
///
/// Each topic has a group of its own ([`ConsumerOptions::group_of`]): the assignor evens out the partitions of a group, not
/// those of a topic, and would give one member all of one topic and another all of the next.
///
/// It never chooses an offset by itself: the owner says where each assigned partition starts, and an offset that the
/// log does not have is an error. Dropping it leaves the group in the background; [`Consumer::close`] waits for that.
pub struct Consumer {
    members: Vec<Member>,
    queue: Arc<Queue<Input>>,
}

/// A client with its thread.
struct Member {
    committer: Committer,
    ended: watch::Receiver<bool>,
}

/// What the thread and the owner's handle have in common.
struct Shared {
    /// The same for all members.
    queue: Arc<Queue<Input>>,
    assignment: Assignment,
    /// Positions sent to the group and not confirmed: a commit that meets a rebalance is refused, and is repeated.
    unconfirmed: Mutex<HashMap<TopicPartition, i64>>,
    /// Texts to commit beside the positions of partitions.
    notes: Mutex<HashMap<TopicPartition, String>>,
    counters: Counters,
    brokers: Brokers,
    stop: AtomicBool,
}

impl Shared {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The group has these positions.
    fn confirm(&self, positions: &[(TopicPartition, i64)]) {
        let mut unconfirmed = self.unconfirmed.lock();
        for (partition, position) in positions {
            if unconfirmed.get(partition) == Some(position) {
                unconfirmed.remove(partition);
            }
        }
    }
}

impl Consumer {
    /// Makes a client for each topic and starts its thread, which joins the group. Needs no broker yet.
    ///
    /// # Errors
    /// The configuration does not fit together, or no thread could be started.
    pub fn start(args: &KafkaArgs, options: ConsumerOptions) -> Result<Self, Error> {
        let queue = Arc::new(Queue::new(options.max_buffered_bytes / 2));
        let share = options.max_buffered_bytes / options.topics.len().max(1);
        let members = options.topics.iter().map(|topic| {
            let options = ConsumerOptions {
                group: options.group_of(args, topic),
                topics: vec![topic.clone()],
                max_buffered_bytes: share,
                ..options.clone()
            };
            Member::start(args, options, Arc::clone(&queue))
        });
        Ok(Self { members: members.collect::<Result<_, _>>()?, queue })
    }

    /// The next thing to do; `None` after [`Input::Failed`]. May be dropped at any await without losing one.
    pub async fn next(&self) -> Option<Input> {
        self.queue.pop().await
    }

    /// Sends positions (next offsets to read) to the group and does not wait; a failure is logged and counted.
    /// Partitions that are not assigned any more are left out: they are another member's to commit. Do it about once
    /// a second, with or without new positions: those that were refused are sent again.
    pub fn commit(&self, positions: &[(TopicPartition, i64)]) {
        for Member { committer, .. } in &self.members {
            if let Err(error) = committer.commit(positions, CommitMode::Async) {
                committer.shared.counters.commit_failed();
                tracing::warn!(%error, "offsets were not committed");
            }
        }
    }

    /// From now on, this text is committed beside the positions of the partition, until it is given up;
    /// [`Admin::committed_with_metadata`](crate::Admin::committed_with_metadata) reads it. The broker takes 4 KB.
    pub fn note(&self, at: &TopicPartition, text: String) {
        for Member { committer, .. } in &self.members {
            if committer.shared.assignment.contains(at) {
                committer.shared.notes.lock().insert(at.clone(), text);
                return;
            }
        }
    }

    /// [`commit`](Self::commit) that waits for the group's answer, at most 5 s: before [`close`](Self::close), or
    /// before a revocation is acknowledged.
    ///
    /// # Errors
    /// The positions may not have been committed.
    pub async fn commit_and_wait(&self, positions: Vec<(TopicPartition, i64)>) -> Result<(), Error> {
        let positions = Arc::new(positions);
        let commits = self.members.iter().map(|Member { committer, .. }| {
            let (committer, positions) = (committer.clone(), Arc::clone(&positions));
            tokio::task::spawn_blocking(move || committer.commit(&positions, CommitMode::Sync))
        });
        let failed = |reason: &dyn std::fmt::Display| Error::other(COMMITTING, reason, Class::Transient);
        match tokio::time::timeout(COMMIT_PATIENCE, futures::future::join_all(commits)).await {
            Ok(results) => {
                results.into_iter().try_for_each(|result| result.map_err(|error| failed(&error))?)
            }
            Err(error) => Err(failed(&error)),
        }
    }

    /// Stops reading these partitions until [`resume`](Self::resume) or their revocation. Records already on their way
    /// still come. Partitions that are not assigned are left out.
    ///
    /// # Errors
    /// A client refused.
    pub fn pause(&self, partitions: &[TopicPartition]) -> Result<(), Error> {
        self.each(|shared, client| shared.assignment.pause(client, partitions))
    }

    /// Reads these partitions on, from where they were paused.
    ///
    /// # Errors
    /// A client refused.
    pub fn resume(&self, partitions: &[TopicPartition]) -> Result<(), Error> {
        self.each(|shared, client| shared.assignment.resume(client, partitions))
    }

    fn each(&self, act: impl Fn(&Shared, &BaseConsumer<Context>) -> Result<(), Error>) -> Result<(), Error> {
        self.members.iter().try_for_each(|Member { committer, .. }| match committer.client.upgrade() {
            Some(client) => act(&committer.shared, &client),
            None => Ok(()),
        })
    }

    /// Counts, and the last statistics of the clients.
    pub fn stats(&self) -> ConsumerStats {
        let of = |member: &Member| {
            let shared = &member.committer.shared;
            shared.counters.read(&shared.assignment)
        };
        let waiting_bytes = self.queue.weight();
        self.members
            .iter()
            .map(of)
            .fold(ConsumerStats { waiting_bytes, ..Default::default() }, |sum, stats| sum.and(stats))
    }

    /// Leaves the groups, so that others take over at once, and ends the threads. What has not been taken by
    /// [`next`](Self::next) is dropped, and no revocation is sent: whoever closes has finished. Waits at most 6 s.
    pub async fn close(mut self) {
        self.stop();
        let members = std::mem::take(&mut self.members);
        let ended = members.into_iter().map(|mut member| async move {
            // The thread has gone when nobody can tell.
            let _ = member.ended.wait_for(|ended| *ended).await;
        });
        if tokio::time::timeout(CLOSE_PATIENCE, futures::future::join_all(ended)).await.is_err() {
            tracing::warn!("the consumer did not leave its group in time; the group notices by itself");
        }
    }

    fn stop(&self) {
        for Member { committer, .. } in &self.members {
            committer.shared.stop.store(true, Ordering::Release);
        }
        self.queue.abandon();
    }
}

impl Member {
    fn start(args: &KafkaArgs, options: ConsumerOptions, queue: Arc<Queue<Input>>) -> Result<Self, Error> {
        let action = || format!("making a consumer of group {}", options.group);
        let shared = Arc::new(Shared {
            queue,
            assignment: Assignment::default(),
            unconfirmed: Mutex::default(),
            notes: Mutex::default(),
            counters: Counters::default(),
            brokers: Brokers::default(),
            stop: AtomicBool::new(false),
        });
        let client: BaseConsumer<Context> = options
            .client_config(args)
            .create_with_context(Context::new(Arc::clone(&shared)))
            .map_err(|error| Error::new(action(), &error))?;
        let client = Arc::new(client);
        let committer = Committer { client: Arc::downgrade(&client), shared: Arc::clone(&shared) };
        let (end, ended) = watch::channel(false);
        let worker = Worker::new(client, shared, options.clone(), args.clone());
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
        let assigned = {
            let mut unconfirmed = self.shared.unconfirmed.lock();
            unconfirmed.extend(self.shared.assignment.only_assigned(positions));
            unconfirmed.retain(|partition, _| self.shared.assignment.contains(partition));
            unconfirmed.iter().map(|(partition, position)| (partition.clone(), *position)).collect::<Vec<_>>()
        };
        if assigned.is_empty() {
            return Ok(());
        }
        let Some(client) = self.client.upgrade() else {
            return Err(Error::other(COMMITTING, "the consumer has ended", Class::Fatal));
        };
        let list = offsets(&assigned).map_err(|error| Error::new(COMMITTING, &error))?;
        for (at, note) in &*self.shared.notes.lock() {
            if let Some(mut element) = list.find_partition(&at.topic, at.partition) {
                element.set_metadata(note);
            }
        }
        client.commit(&list, mode).map_err(|error| Error::new(COMMITTING, &error))?;
        if matches!(mode, CommitMode::Sync) {
            self.shared.confirm(&assigned);
        }
        Ok(())
    }
}
