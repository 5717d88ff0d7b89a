//! The topics and their settings.

use std::fmt;

use kafka::{Admin, Error, KafkaArgs, TopicSpec, TopicState};
use schemas::{INCIDENTS_TOPIC, KEYED_PARTITIONS, SIGNALS_TOPIC, Stream};

/// Raw batches are 512 KiB, a single event in them 256 KiB; twice as much leaves room for a foreign producer's.
const RAW_MESSAGE_BYTES: usize = 2 << 20;
/// What enrich adds, for a batch of 500 events of the largest kind.
const MESSAGE_BYTES: usize = 8 << 20;

/// Every topic as it should be: `partitions` for the streams, the fixed number for what is keyed.
pub fn specs(args: &KafkaArgs, partitions: i32, replication: i32) -> Vec<TopicSpec> {
    let spec = |name: &str, partitions, settings: &[(&str, String)]| TopicSpec {
        name: args.topic(name),
        partitions,
        replication: Some(replication),
        config: settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
    };
    let max_bytes = |bytes: usize| ("max.message.bytes", bytes.to_string());
    // A window is rebuilt from these in the order and at the times that the broker gave them.
    let keyed = [
        max_bytes(MESSAGE_BYTES),
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        ("cleanup.policy", "delete".to_owned()),
    ];
    let raw = Stream::ALL.map(|stream| spec(stream.raw_topic(), partitions, &[max_bytes(RAW_MESSAGE_BYTES)]));
    let enriched = Stream::ALL.map(|stream| spec(stream.name(), partitions, &[max_bytes(MESSAGE_BYTES)]));
    let keyed = [SIGNALS_TOPIC, INCIDENTS_TOPIC].map(|topic| spec(topic, KEYED_PARTITIONS, &keyed));
    [raw, enriched, keyed].into_iter().flatten().collect()
}

/// What became of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// As it is now.
    pub state: TopicState,
    /// Partitions that it had before it was grown.
    pub grown_from: Option<i32>,
    /// Partitions that were asked for, where it has more.
    pub asked: Option<i32>,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TopicState { name, created, partitions } = &self.state;
        match (created, self.grown_from, self.asked) {
            (true, ..) => write!(f, "made {name}, {partitions} partitions"),
            (_, Some(before), _) => write!(f, "grown {name}, {before} to {partitions} partitions"),
            (_, _, Some(asked)) => {
                write!(f, "there already: {name}, {partitions} partitions (a topic cannot shrink to {asked})")
            }
            _ => write!(f, "there already: {name}, {partitions} partitions"),
        }
    }
}

/// Makes the topics that are not there and grows those of the streams that have fewer partitions, and waits until they can be
/// used. An enriched topic is always the first, for enrich writes to the partition of the number that it reads. Nothing
/// shrinks. In the order of [`specs`].
///
/// # Errors
/// Kafka refuses; what was made or grown before stays.
pub async fn make(
    admin: &Admin,
    args: &KafkaArgs,
    partitions: i32,
    replication: i32,
) -> Result<Vec<Made>, Error> {
    let specs = specs(args, partitions, replication);
    let is_raw = |name: &str| Stream::ALL.iter().any(|stream| args.topic(stream.raw_topic()) == name);
    let is_enriched = |name: &str| Stream::ALL.iter().any(|stream| args.topic(stream.name()) == name);
    let mut made = Vec::with_capacity(specs.len());
    for raw in [false, true] {
        let now: Vec<TopicSpec> = specs.iter().filter(|spec| is_raw(&spec.name) == raw).cloned().collect();
        for (spec, mut state) in now.iter().zip(admin.ensure_topics(&now).await?) {
            let (mut grown_from, mut asked) = (None, None);
            if (raw || is_enriched(&spec.name)) && !state.created {
                if state.partitions < spec.partitions {
                    admin.add_partitions(&spec.name, spec.partitions).await?;
                    grown_from = Some(std::mem::replace(&mut state.partitions, spec.partitions));
                }
                asked = (state.partitions > spec.partitions).then_some(spec.partitions);
            }
            made.push(Made { state, grown_from, asked });
        }
    }
    made.sort_by_key(|made| specs.iter().position(|spec| spec.name == made.state.name));
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_six_topics_and_the_keyed_ones_never_change_their_partitions() {
        let args = KafkaArgs::new("b:1").with_prefix("t.".parse().unwrap());
        let shapes: Vec<_> = specs(&args, 7, 3)
            .into_iter()
            .map(|spec| (spec.name, spec.partitions, spec.replication))
            .collect();
        let expected = [
            ("t.events.raw", 7),
            ("t.findings.raw", 7),
            ("t.events", 7),
            ("t.findings", 7),
            ("t.signals", 32),
            ("t.incidents", 32),
        ];
        let expected: Vec<_> =
            expected.iter().map(|(name, partitions)| ((*name).to_owned(), *partitions, Some(3))).collect();
        assert_eq!(shapes, expected);
    }
}
