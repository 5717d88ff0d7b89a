//! The service on a real Kafka.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends by panicking"
)]

use std::time::Duration;

use kafka::{
    Admin, Committed, Consumer, ConsumerOptions, Input, KafkaArgs, Outgoing, Producer, ProducerOptions,
    Record, Start, StartAt, TopicPartition, TopicSpec,
};
use schemas::start::{Accepted, Decision};
use schemas::{EventBatch, FindingBatch, Micros, RawBatchWriter, RunHead, Source, Stream};
use service::{Context, ServiceArgs};
use tidewatch_enrich::Config;
use tokio::task::JoinHandle;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 4;

/// A topic prefix of its own on the Kafka that the tests are given.
fn kafka() -> KafkaArgs {
    let brokers = std::env::var("TIDEWATCH_TEST_KAFKA_BROKERS")
        .expect("TIDEWATCH_TEST_KAFKA_BROKERS is not set: run through make test");
    let prefix = format!("t-{}-", Uuid::new_v4().simple());
    KafkaArgs::new(brokers).with_prefix(prefix.parse().unwrap())
}

async fn make_topics(args: &KafkaArgs) -> Admin {
    let admin = Admin::new(args).unwrap();
    let spec = |name: &str| TopicSpec {
        name: args.topic(name),
        partitions: PARTITIONS,
        replication: None,
        config: vec![("max.message.bytes".into(), (8 << 20).to_string())],
    };
    let specs: Vec<_> =
        Stream::ALL.iter().flat_map(|stream| [spec(stream.raw_topic()), spec(stream.name())]).collect();
    admin.ensure_topics(&specs).await.unwrap();
    admin
}

struct Sender {
    args: KafkaArgs,
    producer: Producer,
}

impl Sender {
    fn new(args: &KafkaArgs) -> Self {
        let producer = Producer::new(args, ProducerOptions::new("test")).unwrap();
        Self { args: args.clone(), producer }
    }

    /// Sends a payload and returns its offset.
    async fn send(&self, topic: &str, partition: i32, headers: &[(&str, &[u8])], payload: &[u8]) -> i64 {
        let topic = self.args.topic(topic);
        let (done, offset) = tokio::sync::oneshot::channel();
        let outgoing = Outgoing { topic: &topic, partition, key: None, headers, payload };
        self.producer.send(outgoing, Box::new(|result| done.send(result.unwrap()).unwrap())).unwrap();
        offset.await.unwrap()
    }

    async fn send_lines(&self, stream: Stream, partition: i32, org: &str, lines: &[&str]) -> i64 {
        let mut writer = RawBatchWriter::new();
        let head = RunHead { org, protocol: "http", format: "json", key: None };
        writer.push_run(head, Micros::now(), "test", lines.iter().map(|line| line.as_bytes()));
        self.send(stream.raw_topic(), partition, &[], &writer.finish()).await
    }
}

struct Running {
    context: Context,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    fn start(args: &KafkaArgs) -> Self {
        let config = Config {
            kafka: args.clone(),
            default_org: None,
            assets: None,
            threat_lists: Vec::new(),
            service: ServiceArgs::default(),
        };
        let context = Context::for_test();
        let task = tokio::spawn(tidewatch_enrich::run(config, context.clone()));
        Self { context, task }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.context.shutdown.request();
        self.task.await.unwrap()
    }
}

/// Reads `count` records of a topic from the beginning.
async fn read(args: &KafkaArgs, topic: &str, count: usize) -> Vec<Record> {
    let group = args.group(&format!("reader-{}", Uuid::new_v4().simple()));
    let consumer =
        Consumer::start(args, ConsumerOptions::new("test", group, vec![args.topic(topic)])).unwrap();
    let mut records = Vec::new();
    let reading = async {
        while records.len() < count {
            match consumer.next().await.unwrap() {
                Input::Assigned { partitions, reply } => {
                    let start = Start::Beginning;
                    reply.send(partitions.into_iter().map(|at| StartAt { at, start }).collect());
                }
                Input::Records(read) => records.extend(read),
                Input::Revoked { done, .. } => done.send(()),
                Input::Failed(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("records in time");
    consumer.close().await;
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

/// Records of a topic, now.
async fn count(admin: &Admin, args: &KafkaArgs, topic: &str) -> i64 {
    let mut count = 0;
    for partition in 0..PARTITIONS {
        let (low, high) = admin.watermarks(&args.topic(topic), partition).await.unwrap();
        count += high - low;
    }
    count
}

fn events(record: &Record) -> EventBatch<'_> {
    schemas::decode(&record.payload).unwrap()
}

async fn committed(admin: &Admin, args: &KafkaArgs, partition: i32) -> Option<i64> {
    let at = TopicPartition::new(args.topic("events.raw"), partition);
    admin.committed(&args.group("tidewatch-enrich-events.raw"), &[at]).await.unwrap()[0].1
}

#[tokio::test(flavor = "multi_thread")]
async fn every_raw_record_becomes_one_in_the_partition_of_the_same_number() {
    let args = kafka();
    let admin = make_topics(&args).await;
    let sender = Sender::new(&args);
    let running = Running::start(&args);
    for number in 0..100 {
        let line = format!("{{\"message\":\"m\",\"seq\":{number}}}");
        sender.send_lines(Stream::Events, number % PARTITIONS, "a", &[&line, "second"]).await;
    }
    let finding = "{\"uid\":\"f\",\"kind\":\"pii\"}";
    sender.send_lines(Stream::Findings, 2, "a", &[finding, "{\"scan_id\":\"s\",\"progress\":3}"]).await;
    let with_org = sender.send("events.raw", 0, &[("org", b"team")], b"{\"user\":\"alice\"}").await;
    let without_org = sender.send("events.raw", 0, &[], b"a plain line").await;
    let garbage = sender.send("events.raw", 0, &[], b"\xc3\x01 looks framed and is not").await;
    let empty = sender.send("events.raw", 0, &[("org", b"team")], b"").await;

    let raw_id = admin.topic_ids(&[&args.topic("events.raw")]).await.unwrap()[&args.topic("events.raw")];
    let records = read(&args, "events", 104).await;
    for partition in 0..PARTITIONS {
        let of_partition = records.iter().filter(|record| record.partition == partition);
        for (offset, record) in (0..).zip(of_partition) {
            let source = Source { topic_id: raw_id, partition, from: offset, offset };
            assert_eq!(events(record).source, source);
        }
    }
    let at = |offset| events(&records[usize::try_from(offset).unwrap()]);
    assert_eq!(
        (at(with_org).events[0].org.as_ref(), at(with_org).events[0].user.as_deref()),
        ("team", Some("alice"))
    );
    assert_eq!((at(without_org).rejects[0].reason.as_ref(), at(without_org).events.len()), ("no_org", 0));
    assert_eq!((at(garbage).rejects[0].reason.as_ref(), at(garbage).events.len()), ("bad_record", 0));
    assert_eq!(at(empty).events[0].message.as_deref(), Some(""));
    assert_eq!(at(0).events.len(), 2);

    let findings = read(&args, "findings", 1).await;
    let batch: FindingBatch<'_> = schemas::decode(&findings[0].payload).unwrap();
    assert_eq!((findings[0].partition, batch.findings.len(), batch.scans.len()), (2, 1, 1));

    running.stop().await.unwrap();
    assert_eq!(count(&admin, &args, "events").await, 104);
    assert_eq!(committed(&admin, &args, 0).await, Some(29));
    assert_eq!(committed(&admin, &args, 1).await, Some(25));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_goes_on_where_the_last_one_committed() {
    let args = kafka();
    let admin = make_topics(&args).await;
    let sender = Sender::new(&args);
    for round in 1..=3 {
        for _ in 0..10 {
            sender.send_lines(Stream::Events, 1, "a", &["x"]).await;
        }
        let running = Running::start(&args);
        let records = read(&args, "events", 10 * round).await;
        assert!(records.iter().map(|record| events(record).source.offset).eq(0..10 * round as i64));
        running.stop().await.unwrap();
        assert_eq!(count(&admin, &args, "events").await, 10 * round as i64);
        assert_eq!(committed(&admin, &args, 1).await, Some(10 * round as i64));
    }
}

/// An enriched record as a former process left it.
fn enriched(topic_id: Uuid, partition: i32, offset: i64) -> Vec<u8> {
    let source = Source { topic_id, partition, from: offset, offset };
    let mut payload = Vec::new();
    let batch = EventBatch { source, events: Vec::new(), rejects: Vec::new(), pushes: Vec::new() };
    schemas::encode(&batch, &mut payload);
    payload
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_committed_offset_it_goes_on_after_the_last_enriched_record() {
    let args = kafka();
    let admin = make_topics(&args).await;
    let sender = Sender::new(&args);
    for _ in 0..10 {
        sender.send_lines(Stream::Events, 3, "a", &["x"]).await;
    }
    let raw_id = admin.topic_ids(&[&args.topic("events.raw")]).await.unwrap()[&args.topic("events.raw")];
    sender.send("events", 3, &[], &enriched(raw_id, 3, 6)).await;
    let running = Running::start(&args);
    let records = read(&args, "events", 4).await;
    let sources: Vec<_> = records.iter().map(|record| events(record).source).collect();
    assert!(sources.iter().map(|source| (source.from, source.offset)).eq((6..10).map(|at| (at, at))));
    running.stop().await.unwrap();
}

/// What the service ends with.
async fn error(args: &KafkaArgs) -> String {
    let running = Running::start(args);
    let ended = tokio::time::timeout(PATIENCE, running.task).await.expect("an end in time").unwrap();
    format!("{:#}", ended.unwrap_err())
}

/// Writes a decision as `tidewatch-partitions accept` does.
async fn accept(admin: &Admin, args: &KafkaArgs, partition: i32, offset: i64, what: Decision) {
    let raw = args.topic("events.raw");
    let topic_id = admin.topic_ids(&[&raw]).await.unwrap()[&raw];
    let committed = Committed { offset, metadata: Accepted { topic_id, what }.to_string() };
    let (group, at) = (args.group("tidewatch-enrich-events.raw"), TopicPartition::new(raw, partition));
    admin.set_committed_with_metadata(&group, &at, committed).await.unwrap();
}

/// From-offsets and offsets of raw records that those of a partition of `events` were made from, in order.
async fn sources(args: &KafkaArgs, partition: i32, count: usize) -> Vec<(i64, i64)> {
    let records = read(args, "events", count).await;
    let sources = records.iter().filter(|record| record.partition == partition).map(|record| {
        let source = events(record).source;
        (source.from, source.offset)
    });
    sources.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_raw_topic_of_the_same_name_stops_the_service_until_it_is_accepted() {
    let args = kafka();
    let admin = make_topics(&args).await;
    let sender = Sender::new(&args);
    for _ in 0..3 {
        sender.send_lines(Stream::Events, 2, "a", &["x"]).await;
    }
    let running = Running::start(&args);
    read(&args, "events", 3).await;
    running.stop().await.unwrap();

    let raw = args.topic("events.raw");
    admin.delete_topics(&[&raw]).await.unwrap();
    let gone = async { while !admin.topic_ids(&[&raw]).await.unwrap().is_empty() {} };
    tokio::time::timeout(PATIENCE, gone).await.expect("the topic is gone in time");
    make_topics(&args).await;
    for _ in 0..2 {
        sender.send_lines(Stream::Events, 2, "a", &["y"]).await;
    }
    let told = error(&args).await;
    let command = "tidewatch-partitions accept --new-topic events.raw/2";
    assert!(told.contains("deleted and made") && told.contains(command), "{told}");
    assert_eq!(count(&admin, &args, "events").await, 3);

    accept(&admin, &args, 2, 0, Decision::Topic).await;
    let running = Running::start(&args);
    assert_eq!(sources(&args, 2, 5).await, [(0, 0), (1, 1), (2, 2), (0, 0), (1, 1)]);
    running.stop().await.unwrap();
    // Once something of the new topic is there, nobody has to say anything any more.
    sender.send_lines(Stream::Events, 2, "a", &["y"]).await;
    let running = Running::start(&args);
    assert_eq!(sources(&args, 2, 6).await[5], (2, 2));
    running.stop().await.unwrap();
    assert_eq!(count(&admin, &args, "events").await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_about_another_topic_does_not_count() {
    let args = kafka();
    let admin = make_topics(&args).await;
    let sender = Sender::new(&args);
    sender.send_lines(Stream::Events, 0, "a", &["x"]).await;
    sender.send("events", 0, &[], &enriched(Uuid::new_v4(), 0, 6)).await;
    let accepted = Accepted { topic_id: Uuid::new_v4(), what: Decision::Topic };
    let (group, at) =
        (args.group("tidewatch-enrich-events.raw"), TopicPartition::new(args.topic("events.raw"), 0));
    let committed = Committed { offset: 0, metadata: accepted.to_string() };
    admin.set_committed_with_metadata(&group, &at, committed).await.unwrap();
    let told = error(&args).await;
    assert!(told.contains("tidewatch-partitions accept --new-topic events.raw/0"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_offsets_that_retention_removed_unread_stop_the_service_until_that_is_accepted() {
    let args = kafka();
    let admin = make_topics(&args).await;
    let sender = Sender::new(&args);
    for _ in 0..10 {
        sender.send_lines(Stream::Events, 1, "a", &["x"]).await;
    }
    let running = Running::start(&args);
    read(&args, "events", 10).await;
    running.stop().await.unwrap();
    for _ in 0..10 {
        sender.send_lines(Stream::Events, 1, "a", &["x"]).await;
    }
    // What was read may go.
    let raw = args.topic("events.raw");
    admin.delete_records(&raw, 1, 10).await.unwrap();
    let running = Running::start(&args);
    read(&args, "events", 20).await;
    running.stop().await.unwrap();

    for _ in 0..10 {
        sender.send_lines(Stream::Events, 1, "a", &["x"]).await;
    }
    admin.delete_records(&raw, 1, 25).await.unwrap();
    let told = error(&args).await;
    let command = "tidewatch-partitions accept --gap events.raw/1";
    assert!(told.contains("raw offsets 20 to 25 were never read") && told.contains(command), "{told}");
    assert_eq!(count(&admin, &args, "events").await, 20);

    accept(&admin, &args, 1, 25, Decision::Gap { from: 20, to: 25 }).await;
    let running = Running::start(&args);
    // The sink sees the gap by itself: nothing pretends that 20 to 25 were there.
    assert_eq!(sources(&args, 1, 25).await[20..], [25, 26, 27, 28, 29].map(|offset| (offset, offset)));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_enriched_again_is_enriched_once_more() {
    let args = kafka();
    let admin = make_topics(&args).await;
    let sender = Sender::new(&args);
    for _ in 0..6 {
        sender.send_lines(Stream::Events, 1, "a", &["x"]).await;
    }
    let running = Running::start(&args);
    read(&args, "events", 6).await;
    running.stop().await.unwrap();
    accept(&admin, &args, 1, 2, Decision::Again { from: 2, to: 6 }).await;
    let running = Running::start(&args);
    assert_eq!(sources(&args, 1, 10).await[6..], [2, 3, 4, 5].map(|offset| (offset, offset)));
    running.stop().await.unwrap();
    assert_eq!(committed(&admin, &args, 1).await, Some(6));
    let running = Running::start(&args);
    sender.send_lines(Stream::Events, 1, "a", &["x"]).await;
    assert_eq!(sources(&args, 1, 11).await[10], (6, 6));
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_its_topics_and_says_so() {
    let args = kafka();
    let running = Running::start(&args);
    let detail =
        || running.context.health.report(false).dependencies.first().and_then(|kafka| kafka.detail.clone());
    let waiting = async {
        while !detail().is_some_and(|detail| detail.contains(&args.topic("events"))) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("a word of the missing topic");
    assert!(!running.context.health.is_ready());
    make_topics(&args).await;
    Sender::new(&args).send_lines(Stream::Events, 0, "a", &["x"]).await;
    read(&args, "events", 1).await;
    assert!(running.context.health.is_ready());
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_the_partitions_without_a_gap() {
    let args = kafka();
    let admin = make_topics(&args).await;
    let sender = Sender::new(&args);
    let first = Running::start(&args);
    sender.send_lines(Stream::Events, 0, "a", &["x"]).await;
    read(&args, "events", 1).await;
    // The second one takes partitions over while records flow, and gives them back when it stops.
    let second = Running::start(&args);
    for number in 0..200 {
        sender.send_lines(Stream::Events, number % PARTITIONS, "a", &["x"]).await;
    }
    read(&args, "events", 201).await;
    second.stop().await.unwrap();
    for number in 0..40 {
        sender.send_lines(Stream::Events, number % PARTITIONS, "a", &["x"]).await;
    }
    let records = read(&args, "events", 241).await;
    first.stop().await.unwrap();
    let total = usize::try_from(count(&admin, &args, "events").await).unwrap();
    let records = if total > records.len() { read(&args, "events", total).await } else { records };
    for partition in 0..PARTITIONS {
        let mut next = 0;
        for record in records.iter().filter(|record| record.partition == partition) {
            let source = events(record).source;
            assert!(source.from <= next, "a gap in {partition}: {source:?} after {next}");
            next = next.max(source.offset + 1);
        }
        assert_eq!(next, if partition == 0 { 61 } else { 60 });
    }
}
