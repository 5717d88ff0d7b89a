//! What a consumer counts, as plain values.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use rdkafka::statistics::Statistics;

use super::assignment::Assignment;
use crate::brokers;
use crate::record::TopicPartition;

/// Counts since the consumer was started, and what librdkafka last said of the world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumerStats {
    /// Records handed over.
    pub records: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Bytes handed over and not yet taken.
    pub waiting_bytes: usize,
    /// Assignments and revocations.
    pub rebalances: u64,
    /// Commits that failed.
    pub failed_commits: u64,
    /// Times that reading was paused because nothing was taken.
    pub backpressure_pauses: u64,
    /// Brokers connected, the group's coordinator not counted, by the member that has fewest; `None` before the first
    /// statistics.
    pub brokers_up: Option<usize>,
    /// The partitions assigned, as of the last statistics.
    pub partitions: Vec<PartitionStats>,
}

impl ConsumerStats {
    /// Those of two members together.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.records += other.records;
        self.payload_bytes += other.payload_bytes;
        self.waiting_bytes += other.waiting_bytes;
        self.rebalances += other.rebalances;
        self.failed_commits += other.failed_commits;
        self.backpressure_pauses += other.backpressure_pauses;
        self.brokers_up = match (self.brokers_up, other.brokers_up) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        self.partitions.extend(other.partitions);
        self
    }
}

/// How far reading one partition has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStats {
    /// The partition.
    pub partition: TopicPartition,
    /// The next offset to hand over; `None` before the first record.
    pub position: Option<i64>,
    /// The offset after the last record that can be read; `None` before the first fetch, and while the broker that it is
    /// fetched from is not connected. Lag is the difference to what the owner has finished.
    pub end: Option<i64>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    records: AtomicU64,
    payload_bytes: AtomicU64,
    rebalances: AtomicU64,
    failed_commits: AtomicU64,
    backpressure_pauses: AtomicU64,
    heard: Mutex<Option<Heard>>,
}

#[derive(Debug)]
struct Heard {
    brokers_up: usize,
    partitions: Vec<PartitionStats>,
}

impl Counters {
    pub(super) fn handed_over(&self, records: usize, payload_bytes: usize) {
        self.records.fetch_add(records as u64, Relaxed);
        self.payload_bytes.fetch_add(payload_bytes as u64, Relaxed);
    }

    pub(super) fn rebalanced(&self) {
        self.rebalances.fetch_add(1, Relaxed);
    }

    pub(super) fn commit_failed(&self) {
        self.failed_commits.fetch_add(1, Relaxed);
    }

    pub(super) fn paused(&self) {
        self.backpressure_pauses.fetch_add(1, Relaxed);
    }

    /// Takes what matters from the client's statistics, which hold every broker and partition of the cluster.
    pub(super) fn hear(&self, statistics: &Statistics, assignment: &Assignment) {
        let brokers_up = brokers::connected(statistics);
        let known = |offset: i64| (offset >= 0).then_some(offset);
        let mut partitions = Vec::new();
        for (name, topic) in &statistics.topics {
            for (number, partition) in &topic.partitions {
                let at = TopicPartition::new(name.as_str(), *number);
                if assignment.contains(&at) {
                    let position = known(partition.app_offset);
                    let end = known(partition.ls_offset)
                        .filter(|_| brokers::is_connected(statistics, partition.broker));
                    partitions.push(PartitionStats { partition: at, position, end });
                }
            }
        }
        partitions.sort_unstable_by(|one, other| one.partition.cmp(&other.partition));
        *self.heard.lock() = Some(Heard { brokers_up, partitions });
    }

    pub(super) fn read(&self, assignment: &Assignment) -> ConsumerStats {
        let heard = self.heard.lock();
        let partitions = heard.iter().flat_map(|heard| &heard.partitions);
        ConsumerStats {
            records: self.records.load(Relaxed),
            payload_bytes: self.payload_bytes.load(Relaxed),
            waiting_bytes: 0,
            rebalances: self.rebalances.load(Relaxed),
            failed_commits: self.failed_commits.load(Relaxed),
            backpressure_pauses: self.backpressure_pauses.load(Relaxed),
            brokers_up: heard.as_ref().map(|heard| heard.brokers_up),
            partitions: partitions.filter(|heard| assignment.contains(&heard.partition)).cloned().collect(),
        }
    }
}
