//! The service on a real broker: signals in, incident changes out.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use kafka::{
    Admin, Consumer, ConsumerOptions, Input, KafkaArgs, Outgoing, Producer, ProducerOptions, Start, StartAt,
    TopicSpec,
};
use schemas::{IncidentChange, KEYED_PARTITIONS, Micros, Pair, Signal, SignalBatch, Source};
use tidewatch_correlate::{Config, StateArgs, run};
use tokio::task::JoinHandle;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);
const RULES: &str = "\
title: Failed login
id: failed
level: low
logsource: {category: authentication}
detection: {selection: {outcome: failure}, condition: selection}
---
title: Brute force
id: brute
level: high
tags: [attack.t1110]
correlation:
  type: event_count
  rules: [failed]
  group-by: [src_ip]
  timespan: 5m
  condition: {gte: 10}
";

struct Broker {
    kafka: KafkaArgs,
    producer: Producer,
    rules: tempfile::TempDir,
}

/// What the tests look at of a change.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    incident: Uuid,
    source: String,
    count: i64,
    evidence: usize,
}

impl Broker {
    async fn new() -> Self {
        let brokers = std::env::var("TIDEWATCH_TEST_KAFKA_BROKERS").expect("run through make test");
        let prefix = format!("t{}-", Uuid::new_v4().simple());
        let kafka = KafkaArgs::new(brokers).with_prefix(prefix.parse().unwrap());
        let topic = |name: &str| TopicSpec {
            name: kafka.topic(name),
            partitions: KEYED_PARTITIONS,
            replication: None,
            config: vec![("message.timestamp.type".into(), "LogAppendTime".into())],
        };
        Admin::new(&kafka).unwrap().ensure_topics(&[topic("signals"), topic("incidents")]).await.unwrap();
        let producer = Producer::new(&kafka, ProducerOptions::new("test")).unwrap();
        let rules = tempfile::tempdir().unwrap();
        std::fs::write(rules.path().join("rules.yml"), RULES).unwrap();
        Self { kafka, producer, rules }
    }

    fn start(&self) -> Service {
        Service::start(Config {
            kafka: self.kafka.clone(),
            rules: self.rules.path().to_owned(),
            state: StateArgs::default(),
            service: service::ServiceArgs::default(),
        })
    }

    /// Publishes a batch of failed logins from `address`, as detect does for the raw record at `offset`.
    async fn push(&self, address: &str, offset: i64, count: i32) {
        let pair = |name: &'static str| Pair { name: name.into(), value: address.to_owned().into() };
        let signal = |index| Signal {
            index,
            org: "demo".into(),
            correlation_id: Some("brute".into()),
            chain_id: None,
            base_rule_id: "failed".into(),
            rule_hash: "".into(),
            group_key: vec![pair("src_ip")],
            event_time: Micros(1_800_000_000_000_000 + offset * 1_000_000 + i64::from(index)),
            received_at: Micros::now(),
            event_uid: None,
            value: None,
            weight: 1,
            severity_id: 2,
            entities: vec![pair("ip")],
            flags: 0,
        };
        let source = Source { topic_id: Uuid::from_u128(1), partition: 0, from: offset, offset };
        let batch =
            SignalBatch { stream: "events".into(), source, signals: (0..count).map(signal).collect() };
        let mut payload = Vec::new();
        schemas::encode(&batch, &mut payload);
        let topic = self.kafka.topic("signals");
        // All in one partition, so that what comes later is read later.
        let outgoing =
            Outgoing { topic: &topic, partition: 5, key: Some(b"demo"), headers: &[], payload: &payload };
        self.producer.send(outgoing, Box::new(|result| assert!(result.is_ok()))).unwrap();
        self.producer.flush(PATIENCE).await.unwrap();
    }

    /// Reads changes from the first until `enough` of them.
    async fn changes(&self, enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
        let group = self.kafka.group(&format!("reader-{}", Uuid::new_v4()));
        let options = ConsumerOptions::new("test", group, vec![self.kafka.topic("incidents")]);
        let consumer = Consumer::start(&self.kafka, options).unwrap();
        let mut seen = Vec::new();
        let read = async {
            while !enough(&seen) {
                match consumer.next().await.unwrap() {
                    Input::Assigned { partitions, reply } => reply.send(
                        partitions.into_iter().map(|at| StartAt { at, start: Start::Beginning }).collect(),
                    ),
                    Input::Records(records) => seen.extend(records.iter().map(|record| {
                        let change: IncidentChange<'_> = schemas::decode(&record.payload).unwrap();
                        let key = format!("demo/{}", change.incident_id);
                        assert_eq!(record.key.as_deref(), Some(key.as_bytes()));
                        let window = change.window.unwrap();
                        assert_eq!((window.title.as_ref(), window.severity_id), ("Brute force", 4));
                        Seen {
                            incident: change.incident_id,
                            source: window.group_key[0].value.to_string(),
                            count: window.count,
                            evidence: window.evidence.len(),
                        }
                    })),
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

    /// Every change there is; nothing may be writing.
    async fn all(&self) -> Vec<Seen> {
        let admin = Admin::new(&self.kafka).unwrap();
        let mut total = 0;
        for partition in 0..KEYED_PARTITIONS {
            let (low, high) = admin.watermarks(&self.kafka.topic("incidents"), partition).await.unwrap();
            total += usize::try_from(high - low).unwrap();
        }
        self.changes(|seen| seen.len() >= total).await
    }
}

fn of<'s>(seen: &'s [Seen], address: &str) -> Vec<&'s Seen> {
    seen.iter().filter(|seen| seen.source == address).collect()
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enough_signals_become_an_incident_and_repeats_of_them_nothing() {
    let broker = Broker::new().await;
    let service = broker.start();
    broker.push("203.0.113.9", 0, 6).await;
    broker.push("203.0.113.9", 1, 4).await;
    let seen = broker.changes(|seen| !seen.is_empty()).await;
    assert_eq!((seen[0].count, seen[0].evidence), (10, 10));

    broker.push("203.0.113.9", 0, 6).await;
    broker.push("203.0.113.9", 1, 4).await;
    broker.push("198.51.100.1", 2, 10).await;
    broker.changes(|seen| !of(seen, "198.51.100.1").is_empty()).await;
    service.stop().await;
    let seen = broker.all().await;
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_with_the_windows_and_publishes_nothing_twice() {
    let broker = Broker::new().await;
    let service = broker.start();
    broker.push("203.0.113.9", 0, 12).await;
    broker.push("203.0.113.10", 1, 9).await;
    broker.push("203.0.113.11", 2, 10).await;
    // They are in different partitions, which are read in any order.
    let first = broker
        .changes(|seen| !of(seen, "203.0.113.9").is_empty() && !of(seen, "203.0.113.11").is_empty())
        .await;
    service.stop().await;
    let before = broker.all().await;
    assert_eq!(before.len(), first.len());

    // One more for each: the windows of before the restart count.
    let service = broker.start();
    broker.push("203.0.113.9", 3, 1).await;
    broker.push("203.0.113.10", 4, 1).await;
    broker
        .changes(|seen| {
            !of(seen, "203.0.113.10").is_empty()
                && of(seen, "203.0.113.9").iter().any(|seen| seen.count == 13)
        })
        .await;
    service.stop().await;
    let seen = broker.all().await;
    let (a, b) = (of(&seen, "203.0.113.9"), of(&seen, "203.0.113.10"));
    assert_eq!(a.iter().map(|seen| seen.count).collect::<Vec<_>>(), [12, 13]);
    assert_eq!(a[0].incident, a[1].incident);
    assert_eq!(b.iter().map(|seen| seen.count).collect::<Vec<_>>(), [10]);
    assert_eq!(of(&seen, "203.0.113.11").len(), 1, "it did not change");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attack_that_goes_on_is_published_once_a_second_at_most() {
    let broker = Broker::new().await;
    let service = broker.start();
    let started = std::time::Instant::now();
    for offset in 0..200 {
        broker.push("203.0.113.9", offset, 50).await;
    }
    let total = 200 * 50;
    broker.changes(|seen| seen.iter().any(|seen| seen.count == total)).await;
    let seconds = started.elapsed().as_secs() as usize;
    service.stop().await;
    let seen = broker.all().await;
    assert!(seen.len() <= seconds + 3, "{} changes in {seconds} s", seen.len());
    let incidents: HashMap<Uuid, i64> = seen.iter().map(|seen| (seen.incident, seen.count)).collect();
    assert_eq!(incidents.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_appears_is_taken_up_before_its_first_signal_is_dropped() {
    let broker = Broker::new().await;
    let path = broker.rules.path().join("rules.yml");
    let later = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    let service = broker.start();
    // Every partition is assigned, with the rules of before.
    let ready = async {
        while !service.context.health.is_ready() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.unwrap();
    write_at_once(&path, &later);
    broker.push("203.0.113.9", 0, 10).await;
    let seen = broker.changes(|seen| !seen.is_empty()).await;
    assert_eq!(seen[0].count, 10);
    service.stop().await;
}

fn write_at_once(path: &Path, text: &str) {
    let staged = path.with_extension("staged");
    std::fs::write(&staged, text).unwrap();
    std::fs::rename(staged, path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_waits_for_kafka_saying_so_and_stops_when_asked_to() {
    let rules = tempfile::tempdir().unwrap();
    // Nothing listens on port 1.
    let kafka = KafkaArgs::new("127.0.0.1:1");
    let config = Config {
        kafka,
        rules: rules.path().to_owned(),
        state: StateArgs::default(),
        service: service::ServiceArgs::default(),
    };
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
