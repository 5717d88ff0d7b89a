//! What has been read and not handed over, and where reading is in each partition. Pure; the thread's own.

use std::sync::Arc;

use crate::record::{Record, TopicPartition};

/// Gathers records into batches.
#[derive(Debug, Default)]
pub(super) struct Reading {
    positions: Positions,
    records: Vec<Record>,
    bytes: usize,
}

impl Reading {
    /// These partitions are read from these positions on.
    pub(super) fn assign(&mut self, started: Vec<(TopicPartition, i64)>) {
        self.positions.add(started);
    }

    /// These partitions are not read any more. What was read of them has been handed over.
    pub(super) fn revoke(&mut self, partitions: &[TopicPartition]) {
        self.positions.remove(partitions);
    }

    /// The position in every partition assigned.
    pub(super) fn positions(&self) -> &[(TopicPartition, i64)] {
        &self.positions.positions
    }

    /// Takes a record that was read, made of its topic's shared name and the position before it. False when its partition
    /// is not assigned or it was read before.
    pub(super) fn take(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
        make: impl FnOnce(Arc<str>, i64) -> Record,
    ) -> bool {
        let Some((at, position_before)) = self.positions.advance(topic, partition, offset) else {
            return false;
        };
        let record = make(at.topic, position_before);
        self.bytes += record.weight();
        self.records.push(record);
        true
    }

    /// Whether nothing waits to be handed over.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether what waits is a whole batch.
    pub(super) fn is_full(&self, max_records: usize, max_bytes: usize) -> bool {
        self.records.len() >= max_records || self.bytes >= max_bytes
    }

    /// What waits, to be handed over, and its weight.
    pub(super) fn batch(&mut self) -> (Vec<Record>, usize) {
        (std::mem::take(&mut self.records), std::mem::take(&mut self.bytes))
    }
}

/// The reader's position in every partition assigned. The thread's own.
#[derive(Debug, Default)]
struct Positions {
    positions: Vec<(TopicPartition, i64)>,
    /// Where the last record was found: records come in runs of a partition.
    recent: usize,
}

impl Positions {
    fn add(&mut self, started: Vec<(TopicPartition, i64)>) {
        self.positions.extend(started);
    }

    fn remove(&mut self, partitions: &[TopicPartition]) {
        self.positions.retain(|(partition, _)| !partitions.contains(partition));
    }

    /// Moves the position past this record; gives the shared name of its partition and the position before. `None`
    /// when the partition is not assigned or the record was passed already.
    fn advance(&mut self, topic: &str, partition: i32, offset: i64) -> Option<(TopicPartition, i64)> {
        let is_it = |(at, _): &(TopicPartition, i64)| at.partition == partition && *at.topic == *topic;
        if !self.positions.get(self.recent).is_some_and(is_it) {
            self.recent = self.positions.iter().position(is_it)?;
        }
        let (at, position) = self.positions.get_mut(self.recent)?;
        if offset < *position {
            return None;
        }
        let before = std::mem::replace(position, offset.saturating_add(1));
        Some((at.clone(), before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_pass_holes_and_refuse_what_was_passed() {
        let mut positions = Positions::default();
        positions.add(vec![(TopicPartition::new("a", 0), 5), (TopicPartition::new("a", 1), 0)]);
        let mut before =
            |topic, partition, offset| positions.advance(topic, partition, offset).map(|(_, before)| before);
        assert_eq!(before("a", 0, 5), Some(5));
        assert_eq!(before("a", 1, 3), Some(0));
        assert_eq!(before("a", 0, 9), Some(6));
        assert_eq!(before("a", 0, 9), None);
        assert_eq!(before("b", 0, 9), None);
        positions.remove(&[TopicPartition::new("a", 0)]);
        assert_eq!(positions.advance("a", 0, 10), None);
        assert_eq!(positions.positions, [(TopicPartition::new("a", 1), 4)]);
    }
}
