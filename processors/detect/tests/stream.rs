//! The service on a real broker: enriched records in, signals out.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use kafka::{
    Admin, Consumer, ConsumerOptions, Input, KafkaArgs, Outgoing, Producer, ProducerOptions, Start, StartAt,
    TopicSpec,
};
use schemas::{EventBatch, FindingBatch, KEYED_PARTITIONS, Micros, SignalBatch, Source, Stream, Watermark};
use tidewatch_detect::{Config, run};
use tokio::task::JoinHandle;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);

/// A prefix of its own on the test broker, with the topics of detect.
struct Broker {
    kafka: KafkaArgs,
    producer: Producer,
}

/// What the tests look at of a signal: rule, offset and index of its event.
type Seen = (String, i64, i32);

impl Broker {
    async fn new() -> Self {
        let brokers = std::env::var("TIDEWATCH_TEST_KAFKA_BROKERS").expect("run through make test");
        let prefix = format!("t{}-", Uuid::new_v4().simple());
        let kafka = KafkaArgs::new(brokers).with_prefix(prefix.parse().unwrap());
        let topic = |name: &str, partitions| TopicSpec {
            name: kafka.topic(name),
            partitions,
            replication: None,
            config: vec![],
        };
        let topics = [topic("events", 2), topic("findings", 2), topic("signals", KEYED_PARTITIONS)];
        Admin::new(&kafka).unwrap().ensure_topics(&topics).await.unwrap();
        let producer = Producer::new(&kafka, ProducerOptions::new("test")).unwrap();
        Self { kafka, producer }
    }

    fn config(&self, rules: &Path) -> Config {
        Config {
            kafka: self.kafka.clone(),
            rules: rules.to_owned(),
            service: service::ServiceArgs::default(),
        }
    }

    /// Publishes an enriched record as enrich does, of these raw lines.
    async fn push(&self, stream: Stream, partition: i32, offset: i64, lines: &[&str]) {
        let source = Source { topic_id: Uuid::from_u128(1), partition, from: offset, offset };
        let inputs = lines.iter().zip(0..).map(|(line, index)| normalise::Input {
            bytes: line.as_bytes(),
            format: "json",
            org: "demo",
            received_at: Micros::now(),
            index,
            event_uid: None,
        });
        let mut payload = Vec::new();
        match stream {
            Stream::Events => {
                let inputs: Vec<_> = inputs.collect();
                let events = inputs.iter().map(|input| normalise::event(input).unwrap()).collect();
                schemas::encode(
                    &EventBatch { source, events, rejects: vec![], pushes: vec![] },
                    &mut payload,
                );
            }
            Stream::Findings => {
                let inputs: Vec<_> = inputs.collect();
                let findings = inputs
                    .iter()
                    .map(|input| match normalise::finding(input).unwrap() {
                        normalise::FindingRecord::Finding(finding) => finding,
                        other => panic!("{other:?}"),
                    })
                    .collect();
                let batch = FindingBatch { source, findings, scans: vec![], rejects: vec![], pushes: vec![] };
                schemas::encode(&batch, &mut payload);
            }
        }
        let topic = self.kafka.topic(stream.name());
        let outgoing = Outgoing { topic: &topic, partition, key: None, headers: &[], payload: &payload };
        self.producer.send(outgoing, Box::new(|result| assert!(result.is_ok()))).unwrap();
        self.producer.flush(PATIENCE).await.unwrap();
    }

    /// Reads signals from the first until `enough` of them.
    async fn signals(&self, enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let group = self.kafka.group(&format!("reader-{}", Uuid::new_v4()));
        let options = ConsumerOptions::new("test", group, vec![self.kafka.topic("signals")]);
        let consumer = Consumer::start(&self.kafka, options).unwrap();
        let mut seen = Vec::new();
        let read = async {
            while !enough(&seen) {
                match consumer.next().await.unwrap() {
                    Input::Assigned { partitions, reply } => reply.send(
                        partitions.into_iter().map(|at| StartAt { at, start: Start::Beginning }).collect(),
                    ),
                    Input::Records(records) => {
                        for record in records {
                            if schemas::decode::<Watermark<'_>>(&record.payload).is_ok() {
                                continue;
                            }
                            let batch: SignalBatch<'_> = schemas::decode(&record.payload).unwrap();
                            assert_eq!(record.key.as_deref(), Some(b"demo".as_slice()));
                            for signal in &batch.signals {
                                let id = signal.base_rule_id.to_string();
                                seen.push((id, batch.source.offset, signal.index));
                            }
                        }
                    }
                    Input::Revoked { done, .. } => done.send(()),
                    Input::Failed(error) => panic!("{error}"),
                }
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, read).await;
        assert!(in_time.is_ok(), "only {seen:?}");
        consumer.close().await;
        seen
    }
}

struct Service {
    context: service::Context,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Service {
    fn start(config: Config) -> Self {
        let context = service::Context::for_test();
        let task = tokio::spawn(run(config, context.clone()));
        Self { context, task }
    }

    async fn stop(self) {
        self.context.shutdown.request();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }
}

fn rule(id: &str, category: &str, field: &str) -> String {
    format!(
        "title: {id}\nid: {id}\nlevel: high\nlogsource: {{category: {category}}}\n\
         detection: {{selection: {{{field}}}, condition: selection}}\n"
    )
}

const LOGIN: &str =
    r#"{"class_uid":3002,"user":"root","host":"db-01","src_ip":"203.0.113.9","outcome":"success"}"#;
const OTHER: &str = r#"{"class_uid":3002,"user":"ada","host":"db-01"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_findings_become_signals_once() {
    let broker = Broker::new().await;
    let rules = tempfile::tempdir().unwrap();
    std::fs::write(rules.path().join("login.yml"), rule("root-login", "authentication", "user: root"))
        .unwrap();
    std::fs::write(rules.path().join("pii.yml"), rule("pii", "finding", "kind: pii")).unwrap();
    let service = Service::start(broker.config(rules.path()));
    broker.push(Stream::Events, 1, 40, &[OTHER, LOGIN, OTHER, LOGIN]).await;
    broker.push(Stream::Findings, 0, 7, &[r#"{"scan_id":"s","uid":"f","kind":"pii","severity_id":5}"#]).await;
    let mut seen = broker.signals(|seen| seen.len() == 3).await;
    seen.sort();
    let expected = [("pii", 7, 0), ("root-login", 40, 1), ("root-login", 40, 3)];
    assert_eq!(seen, expected.map(|(rule, offset, index)| (rule.to_owned(), offset, index)));
    service.stop().await;

    // What was matched before the stop was committed: a second process begins after it.
    let service = Service::start(broker.config(rules.path()));
    broker.push(Stream::Events, 1, 41, &[LOGIN]).await;
    let seen = broker.signals(|seen| seen.iter().any(|(_, offset, _)| *offset == 41)).await;
    assert_eq!(seen.len(), 4, "{seen:?}");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_rule_keeps_its_last_good_version_and_a_new_one_is_taken_up() {
    let broker = Broker::new().await;
    let rules = tempfile::tempdir().unwrap();
    let file = rules.path().join("login.yml");
    std::fs::write(&file, rule("root-login", "authentication", "user: root")).unwrap();
    let service = Service::start(broker.config(rules.path()));
    broker.push(Stream::Events, 0, 0, &[LOGIN]).await;
    broker.signals(|seen| seen.len() == 1).await;

    // Both changes are seen in one look, whenever that comes: the new rule tells that the broken one was seen too.
    let broken = rule("root-login", "authentication", "user|contain: root");
    let staged = rules.path().join("staged");
    std::fs::write(&staged, rule("any-login", "authentication", "outcome: success")).unwrap();
    std::fs::write(&file, broken).unwrap();
    std::fs::rename(&staged, rules.path().join("any.yml")).unwrap();
    let reloads = || service::metrics::value("tidewatch_detect_rule_reloads_total", &[("result", "failed")]);
    let before = reloads().unwrap_or(0.0);
    let reloaded = async {
        while reloads().unwrap_or(0.0) <= before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reloaded).await.expect("the rules are read again");
    broker.push(Stream::Events, 0, 1, &[LOGIN]).await;
    let seen = broker.signals(|seen| seen.iter().filter(|(_, offset, _)| *offset == 1).count() == 2).await;
    let mut rules: Vec<&str> =
        seen.iter().filter(|(_, offset, _)| *offset == 1).map(|(rule, ..)| rule.as_str()).collect();
    rules.sort_unstable();
    assert_eq!(rules, ["any-login", "root-login"]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_partition_of_signals_is_told_how_far_event_time_has_got() {
    let broker = Broker::new().await;
    let rules = tempfile::tempdir().unwrap();
    std::fs::write(rules.path().join("login.yml"), rule("root-login", "authentication", "user: root"))
        .unwrap();
    let service = Service::start(broker.config(rules.path()));
    let before = Micros::now();
    broker.push(Stream::Events, 1, 40, &[LOGIN]).await;
    let group = broker.kafka.group("reader");
    let options = ConsumerOptions::new("test", group, vec![broker.kafka.topic("signals")]);
    let consumer = Consumer::start(&broker.kafka, options).unwrap();
    let mut told = std::collections::BTreeSet::new();
    let read = async {
        while told.len() < usize::try_from(KEYED_PARTITIONS).unwrap() {
            match consumer.next().await.unwrap() {
                Input::Assigned { partitions, reply } => reply
                    .send(partitions.into_iter().map(|at| StartAt { at, start: Start::Beginning }).collect()),
                Input::Records(records) => {
                    for record in &records {
                        let Ok(watermark) = schemas::decode::<Watermark<'_>>(&record.payload) else {
                            continue;
                        };
                        if watermark.source.offset == 40 {
                            assert_eq!(
                                (watermark.stream.as_ref(), watermark.source.partition),
                                ("events", 1)
                            );
                            assert!(watermark.event_time >= before && !watermark.idle);
                            told.insert(record.partition);
                        }
                    }
                }
                Input::Revoked { done, .. } => done.send(()),
                Input::Failed(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("all partitions are told");
    consumer.close().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_read_is_passed_over_and_counted() {
    let broker = Broker::new().await;
    let rules = tempfile::tempdir().unwrap();
    std::fs::write(rules.path().join("login.yml"), rule("root-login", "authentication", "user: root"))
        .unwrap();
    let unreadable = || service::metrics::value("tidewatch_detect_unreadable_total", &[("stream", "events")]);
    let before = unreadable().unwrap_or(0.0);
    let topic = broker.kafka.topic("events");
    let outgoing = Outgoing { topic: &topic, partition: 0, key: None, headers: &[], payload: b"no batch" };
    broker.producer.send(outgoing, Box::new(|result| assert!(result.is_ok()))).unwrap();
    let service = Service::start(broker.config(rules.path()));
    broker.push(Stream::Events, 0, 1, &[LOGIN]).await;
    broker.signals(|seen| seen.iter().any(|(_, offset, _)| *offset == 1)).await;
    assert!(unreadable().unwrap_or(0.0) > before);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_removed_unread_or_made_anew_does_not_hold_it_up() {
    let broker = Broker::new().await;
    let admin = Admin::new(&broker.kafka).unwrap();
    let rules = tempfile::tempdir().unwrap();
    std::fs::write(rules.path().join("login.yml"), rule("root-login", "authentication", "user: root"))
        .unwrap();
    let service = Service::start(broker.config(rules.path()));
    broker.push(Stream::Events, 0, 0, &[LOGIN]).await;
    broker.push(Stream::Events, 0, 1, &[LOGIN]).await;
    broker.signals(|seen| seen.len() == 2).await;
    service.stop().await;

    for offset in 2..6 {
        broker.push(Stream::Events, 0, offset, &[LOGIN]).await;
    }
    let events = broker.kafka.topic("events");
    admin.delete_records(&events, 0, 4).await.unwrap();
    let service = Service::start(broker.config(rules.path()));
    let seen = broker.signals(|seen| seen.len() == 4).await;
    let offsets = |seen: &[Seen]| {
        let mut offsets: Vec<i64> = seen.iter().map(|(_, offset, _)| *offset).collect();
        offsets.sort_unstable();
        offsets
    };
    assert_eq!(offsets(&seen), [0, 1, 4, 5]);
    service.stop().await;

    admin.delete_topics(&[&events]).await.unwrap();
    let gone = async { while !admin.topic_ids(&[&events]).await.unwrap().is_empty() {} };
    tokio::time::timeout(PATIENCE, gone).await.expect("the topic is gone in time");
    let spec = TopicSpec { name: events, partitions: 2, replication: None, config: vec![] };
    admin.ensure_topics(&[spec]).await.unwrap();
    broker.push(Stream::Events, 0, 6, &[LOGIN]).await;
    let service = Service::start(broker.config(rules.path()));
    let seen = broker.signals(|seen| seen.len() == 5).await;
    assert_eq!(offsets(&seen), [0, 1, 4, 5, 6]);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_waits_for_kafka_saying_so_and_stops_when_asked_to() {
    let rules = tempfile::tempdir().unwrap();
    // Nothing listens on port 1.
    let kafka = KafkaArgs::new("127.0.0.1:1");
    let config = Config { kafka, rules: rules.path().to_owned(), service: service::ServiceArgs::default() };
    let service = Service::start(config);
    let told = async {
        loop {
            let report = service.context.health.report(false);
            let detail = report.dependencies.iter().find(|found| found.name == "kafka");
            if detail.and_then(|found| found.detail.clone()).is_some_and(|detail| detail != "starting") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert!(!service.context.health.is_ready());
    service.stop().await;
}
