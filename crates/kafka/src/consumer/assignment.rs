//! Which partitions are assigned, which of them are paused and by whom.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;

use super::context::Context;
use crate::error::Error;
use crate::record::{TopicPartition, list};

/// Whoever fetches records and can be told not to: the client, or a model of it.
pub(super) trait Fetcher {
    fn pause(&self, partitions: &[TopicPartition]) -> KafkaResult<()>;
    fn resume(&self, partitions: &[TopicPartition]) -> KafkaResult<()>;
}

impl Fetcher for BaseConsumer<Context> {
    fn pause(&self, partitions: &[TopicPartition]) -> KafkaResult<()> {
        Consumer::pause(self, &list(partitions))
    }

    fn resume(&self, partitions: &[TopicPartition]) -> KafkaResult<()> {
        Consumer::resume(self, &list(partitions))
    }
}

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

    pub(super) fn pause(&self, client: &impl Fetcher, wanted: &[TopicPartition]) -> Result<(), Error> {
        let mut state = self.state.lock();
        let wanted: Vec<_> =
            wanted.iter().filter(|partition| state.assigned.contains(*partition)).cloned().collect();
        client.pause(&wanted).map_err(|error| Error::new("pausing partitions", &error))?;
        state.paused.extend(wanted);
        Ok(())
    }

    pub(super) fn resume(&self, client: &impl Fetcher, wanted: &[TopicPartition]) -> Result<(), Error> {
        let mut state = self.state.lock();
        let wanted: Vec<_> =
            wanted.iter().filter(|partition| state.paused.contains(*partition)).cloned().collect();
        if !state.backpressure {
            client.resume(&wanted).map_err(|error| Error::new("resuming partitions", &error))?;
        }
        for partition in &wanted {
            state.paused.remove(partition);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn backpressure(&self) -> bool {
        self.state.lock().backpressure
    }

    /// Pauses everything, or everything again but what the owner has paused.
    pub(super) fn set_backpressure(&self, client: &impl Fetcher, on: bool) -> Result<(), Error> {
        let mut state = self.state.lock();
        let others: Vec<_> = state.assigned.difference(&state.paused).cloned().collect();
        let result = if on { client.pause(&others) } else { client.resume(&others) };
        result.map_err(|error| Error::new("pausing or resuming all partitions", &error))?;
        state.backpressure = on;
        Ok(())
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
    fn partitions_are_named_by_topic() {
        let partitions =
            [("b", 1), ("a", 2), ("a", 0)].map(|(topic, number)| TopicPartition::new(topic, number));
        assert_eq!(named(&partitions), "a[0, 2], b[1]");
    }
}
