//! The topics and their settings.

use kafka::{KafkaArgs, TopicSpec};
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
