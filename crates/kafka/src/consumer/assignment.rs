//! Which partitions are assigned, which of them are paused and by whom.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::context::Context;
use crate::error::Error;
use crate::record::{TopicPartition, list};

/// Shared by the consumer's thread, which changes what is assigned, and the owner, who pauses and commits.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    assigned: HashSet<TopicPartition>,
    /// Those assigned that the owner has paused.
    paused: HashSet<TopicPartition>,
    /// All of them are paused: the owner takes nothing.
    backpressure: bool,
}

impl Assignment {
    pub(super) fn add(&self, partitions: impl IntoIterator<Item = TopicPartition>) {
        self.state.lock().assigned.extend(partitions);
    }

    pub(super) fn remove(&self, partitions: &[TopicPartition]) {
        let mut state = self.state.lock();
        for partition in partitions {
            state.assigned.remove(partition);
            state.paused.remove(partition);
        }
    }

    pub(super) fn only_assigned(&self, positions: &[(TopicPartition, i64)]) -> Vec<(TopicPartition, i64)> {
        let state = self.state.lock();
        positions.iter().filter(|(partition, _)| state.assigned.contains(partition)).cloned().collect()
    }

    pub(super) fn contains(&self, partition: &TopicPartition) -> bool {
        self.state.lock().assigned.contains(partition)
    }

    pub(super) fn pause(
        &self,
        client: &BaseConsumer<Context>,
        wanted: &[TopicPartition],
    ) -> Result<(), Error> {
        let mut state = self.state.lock();
        let wanted: Vec<_> =
            wanted.iter().filter(|partition| state.assigned.contains(*partition)).cloned().collect();
        client.pause(&list(&wanted)).map_err(|error| Error::new("pausing partitions", &error))?;
        state.paused.extend(wanted);
        Ok(())
    }

    pub(super) fn resume(
        &self,
        client: &BaseConsumer<Context>,
        wanted: &[TopicPartition],
    ) -> Result<(), Error> {
        let mut state = self.state.lock();
        let wanted: Vec<_> =
            wanted.iter().filter(|partition| state.paused.contains(*partition)).cloned().collect();
        if !state.backpressure {
            client.resume(&list(&wanted)).map_err(|error| Error::new("resuming partitions", &error))?;
        }
        for partition in &wanted {
            state.paused.remove(partition);
        }
        Ok(())
    }

    /// Pauses everything, or everything again but what the owner has paused.
    pub(super) fn set_backpressure(&self, client: &BaseConsumer<Context>, on: bool) -> Result<(), Error> {
        let mut state = self.state.lock();
        let others: Vec<_> = state.assigned.difference(&state.paused).cloned().collect();
        let result = if on { client.pause(&list(&others)) } else { client.resume(&list(&others)) };
        result.map_err(|error| Error::new("pausing or resuming all partitions", &error))?;
        state.backpressure = on;
        Ok(())
    }
}

/// The reader's position in every partition assigned. The thread's own.
#[derive(Debug, Default)]
pub(super) struct Positions {
    positions: Vec<(TopicPartition, i64)>,
    /// Where the last record was found: records come in runs of a partition.
    recent: usize,
}

impl Positions {
    pub(super) fn add(&mut self, started: Vec<(TopicPartition, i64)>) {
        self.positions.extend(started);
    }

    pub(super) fn remove(&mut self, partitions: &[TopicPartition]) {
        self.positions.retain(|(partition, _)| !partitions.contains(partition));
    }

    pub(super) fn all(&self) -> &[(TopicPartition, i64)] {
        &self.positions
    }

    /// Moves the position past this record; gives the shared name of its partition and the position before. `None`
    /// when the partition is not assigned or the record was passed already.
    pub(super) fn advance(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Option<(TopicPartition, i64)> {
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

/// By topic and number, for messages.
pub(super) fn named(partitions: &[TopicPartition]) -> String {
    let mut by_topic: HashMap<&str, Vec<i32>> = HashMap::new();
    for partition in partitions {
        by_topic.entry(&partition.topic).or_default().push(partition.partition);
    }
    let mut topics: Vec<_> = by_topic.into_iter().collect();
    topics.sort_unstable();
    let one = |(topic, mut numbers): (&str, Vec<i32>)| {
        numbers.sort_unstable();
        format!("{topic}{numbers:?}")
    };
    topics.into_iter().map(one).collect::<Vec<_>>().join(", ")
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
        assert_eq!(positions.all(), [(TopicPartition::new("a", 1), 4)]);
    }

    #[test]
    fn partitions_are_named_by_topic() {
        let partitions =
            [("b", 1), ("a", 2), ("a", 0)].map(|(topic, number)| TopicPartition::new(topic, number));
        assert_eq!(named(&partitions), "a[0, 2], b[1]");
    }
}
