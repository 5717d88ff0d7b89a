//! The whole sink on a real Kafka and Postgres.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::*;
use kafka::{Admin, KafkaArgs, Outgoing, Producer, ProducerOptions, TopicPartition, TopicSpec};
use postgres::PostgresArgs;
use schemas::{IncidentChange, Micros, Source};
use service::{Context, metrics};
use tidewatch_sink::{Config, run};
use tokio::task::JoinHandle;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);

/// Topics of its own on the shared Kafka.
struct Topics {
    args: KafkaArgs,
    producer: Producer,
}

impl Topics {
    async fn new(partitions: i32) -> Self {
        let topics = Self::absent();
        topics.create(partitions).await;
        topics
    }

    fn absent() -> Self {
        let brokers = std::env::var("TIDEWATCH_TEST_KAFKA_BROKERS")
            .expect("TIDEWATCH_TEST_KAFKA_BROKERS: run through make test");
        let prefix = format!("t{}.", Uuid::new_v4().simple());
        let args = KafkaArgs::new(brokers).with_prefix(prefix.parse().unwrap());
        let producer = Producer::new(&args, ProducerOptions::new("test")).unwrap();
        Self { args, producer }
    }

    async fn create(&self, partitions: i32) {
        let specs = ["events", "findings", "incidents"].map(|name| TopicSpec {
            name: self.args.topic(name),
            partitions,
            replication: None,
            config: vec![("max.message.bytes".into(), (8 << 20).to_string())],
        });
        Admin::new(&self.args).unwrap().ensure_topics(&specs).await.unwrap();
    }

    /// Sends records and waits until the broker has them.
    async fn send(&self, topic: &str, partition: i32, payloads: Vec<Vec<u8>>) {
        let topic = self.args.topic(topic);
        let (delivered, deliveries) = mpsc::channel();
        let count = payloads.len();
        for payload in payloads {
            let delivered = delivered.clone();
            let outgoing = Outgoing { topic: &topic, partition, key: None, headers: &[], payload: &payload };
            let completion = Box::new(move |result| delivered.send(result).unwrap());
            self.producer.send(outgoing, completion).unwrap();
        }
        tokio::task::spawn_blocking(move || {
            for _ in 0..count {
                deliveries.recv_timeout(PATIENCE).unwrap().unwrap();
            }
        })
        .await
        .unwrap();
    }
}

/// A running sink.
struct Running {
    context: Context,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    fn start(topics: &Topics, database: &Database) -> Self {
        Self::start_with(topics, database, |_| {})
    }

    fn start_with(topics: &Topics, database: &Database, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(topics.args.clone(), PostgresArgs::new(database.url.clone()));
        config.flush_milliseconds = 20;
        change(&mut config);
        let context = Context::for_test();
        let task = tokio::spawn(run(config, context.clone()));
        Self { context, task }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.context.shutdown.request();
        self.task.await.unwrap()
    }
}

/// Waits until a query gives this number.
async fn until(database: &Database, query: &str, expected: i64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = database.number(query).await;
        if found == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{query}: {found}, not {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const EVENTS: &str = "SELECT count(*) FROM events";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_topics_comes_into_the_tables() {
    let (topics, database) = (Topics::new(2).await, Database::new().await);
    topics.send("events", 0, (0..50).map(|offset| plain_record(0, offset, 100)).collect()).await;
    topics.send("events", 1, (0..10).map(|offset| plain_record(1, offset, 3)).collect()).await;
    let findings = (0..5).map(|offset| {
        finding_record(source(1, offset), vec![finding("demo", 0)], vec![scan("s1", offset, "running")])
    });
    topics.send("findings", 1, findings.collect()).await;
    let before = metrics::value("tidewatch_sink_rows_total", &[("table", "events")]).unwrap_or(0.0);
    let sink = Running::start(&topics, &database);
    until(&database, EVENTS, 5030).await;
    until(&database, "SELECT count(*) FROM findings", 5).await;
    assert!(sink.context.health.is_ready());
    assert!(metrics::value("tidewatch_sink_rows_total", &[("table", "events")]).unwrap() >= before + 5030.0);
    sink.stop().await.unwrap();
    database.assert_consistent().await;

    let admin = Admin::new(&topics.args).unwrap();
    let at = TopicPartition { topic: topics.args.topic("events").into(), partition: 0 };
    let shown = admin
        .committed(&topics.args.group("tidewatch-sink-events"), std::slice::from_ref(&at))
        .await
        .unwrap();
    assert_eq!(shown, [(at, Some(50))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_that_die_and_records_that_repeat_leave_every_event_once() {
    let (topics, database) = (Topics::new(2).await, Database::new().await);
    for round in 0..6i64 {
        // Each round enrich has crashed: it repeats the round before.
        for partition in 0..2 {
            let records = (round * 20 - 20).max(0)..round * 20 + 20;
            topics
                .send(
                    "events",
                    partition,
                    records.map(|offset| plain_record(partition, offset, 50)).collect(),
                )
                .await;
        }
        let sink = Running::start_with(&topics, &database, |config| config.flush_rows = 300);
        until(&database, "SELECT (count(*) > 0)::int::bigint FROM events", 1).await;
        // Dies in the middle of things; a transaction that was under way goes on as a zombie's would.
        sink.task.abort();
        let _ = sink.task.await;
    }
    let sink = Running::start(&topics, &database);
    until(&database, EVENTS, 2 * 120 * 50).await;
    until(&database, "SELECT coalesce(sum(duplicates), 0)::bigint FROM sink_ledger", 2 * 100 * 50).await;
    sink.stop().await.unwrap();
    assert_eq!(database.number("SELECT count(DISTINCT (kpart, koffset, kindex)) FROM events").await, 12_000);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_that_come_and_go_share_the_partitions() {
    let (topics, database) = (Topics::new(4).await, Database::new().await);
    let mut sinks = vec![Running::start(&topics, &database)];
    for round in 0..6i64 {
        for partition in 0..4 {
            let records = (round * 10..round * 10 + 10).map(|offset| plain_record(partition, offset, 50));
            topics.send("events", partition, records.collect()).await;
        }
        match round {
            0 | 2 => sinks.push(Running::start(&topics, &database)),
            _ if sinks.len() > 1 => sinks.remove(0).stop().await.unwrap(),
            _ => {}
        }
        until(&database, EVENTS, (round + 1) * 4 * 10 * 50).await;
    }
    for sink in sinks {
        sink.stop().await.unwrap();
    }
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_stops_the_sink_after_what_precedes_it() {
    let (topics, database) = (Topics::new(1).await, Database::new().await);
    topics.send("events", 0, [0, 1, 5].map(|offset| plain_record(0, offset, 10)).into()).await;
    let sink = Running::start(&topics, &database);
    let error = sink.task.await.unwrap().unwrap_err().to_string();
    assert!(
        error.contains("raw offsets 2 to 5") && error.contains("tidewatch-partitions accept --gap events/0"),
        "{error}"
    );
    assert_eq!(database.number(EVENTS).await, 20);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_raw_topic_stops_the_sink() {
    let (topics, database) = (Topics::new(1).await, Database::new().await);
    let other = Source { topic_id: Uuid::from_u128(9), ..source(0, 1) };
    topics
        .send("events", 0, vec![plain_record(0, 0, 10), event_record(other, vec![event("demo", 0)], vec![])])
        .await;
    let error = Running::start(&topics, &database).task.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("tidewatch-partitions accept --new-topic events/0"), "{error}");
    assert_eq!(database.number(EVENTS).await, 10);
}

/// Deletes topics and waits until they are gone.
async fn delete(topics: &Topics, names: &[&str]) {
    let admin = Admin::new(&topics.args).unwrap();
    let names: Vec<String> = names.iter().map(|name| topics.args.topic(name)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    admin.delete_topics(&names).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !admin.topic_ids(&names).await.unwrap().is_empty() {
        assert!(Instant::now() < deadline, "{names:?} are still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enriched_topic_that_was_made_anew_stops_the_sink() {
    let (topics, database) = (Topics::new(1).await, Database::new().await);
    topics.send("events", 0, (0..5).map(|offset| plain_record(0, offset, 10)).collect()).await;
    let sink = Running::start(&topics, &database);
    until(&database, EVENTS, 50).await;
    sink.stop().await.unwrap();

    // Shorter than what was read of the old one.
    delete(&topics, &["events"]).await;
    topics.create(1).await;
    topics.send("events", 0, vec![plain_record(0, 5, 10)]).await;
    let error = Running::start(&topics, &database).task.await.unwrap().unwrap_err().to_string();
    let command = "tidewatch-partitions accept --new-topic events/0";
    assert!(error.contains("offset 5 was due, but Kafka has 0 to 1") && error.contains(command), "{error}");

    // Longer: enrich went on, and what it wrote first is before the sink's offset.
    topics.send("events", 0, (6..12).map(|offset| plain_record(0, offset, 10)).collect()).await;
    let error = Running::start(&topics, &database).task.await.unwrap().unwrap_err().to_string();
    let command = "tidewatch-partitions accept --gap events/0";
    assert!(error.contains("raw offsets 5 to 10 were never stored") && error.contains(command), "{error}");
    assert_eq!(database.number(EVENTS).await, 50);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_writes_what_is_buffered() {
    let (topics, database) = (Topics::new(1).await, Database::new().await);
    topics.send("events", 0, vec![plain_record(0, 0, 10)]).await;
    let read = "tidewatch_kafka_consumed_records_total";
    let topic = topics.args.topic("events");
    let sink = Running::start_with(&topics, &database, |config| config.flush_milliseconds = 60_000);
    let deadline = Instant::now() + PATIENCE;
    while metrics::value(read, &[("topic", &topic)]).is_none() {
        assert!(Instant::now() < deadline, "nothing was read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(database.number(EVENTS).await, 0);
    sink.stop().await.unwrap();
    assert_eq!(database.number(EVENTS).await, 10);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_migrations_and_topics_and_says_so() {
    let (topics, database) = (Topics::absent(), Database::empty().await);
    let sink = Running::start(&topics, &database);
    let says = async |what: &str| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = sink.context.health.report(false);
            if report
                .dependencies
                .iter()
                .any(|dependency| dependency.detail.as_deref().unwrap_or("").contains(what))
            {
                return;
            }
            assert!(Instant::now() < deadline, "{report:?} does not say {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    says("tidewatch-partitions migrate").await;
    assert!(!sink.context.health.is_ready());
    database.migrate().await;
    says("events").await;
    topics.create(1).await;
    topics.send("events", 0, vec![plain_record(0, 0, 10)]).await;
    until(&database, EVENTS, 10).await;
    assert!(sink.context.health.is_ready());
    sink.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn incidents_from_the_topic_are_applied_in_its_order() {
    let (topics, database) = (Topics::new(1).await, Database::new().await);
    let change = |edit: &'static str| IncidentChange {
        org: "demo".into(),
        incident_id: Uuid::from_u128(1),
        change_id: Uuid::new_v4(),
        at: Micros::now(),
        actor: "ada".into(),
        window: None,
        edit: Some(schemas::Edit { status: Some(edit.into()), assignee: None, note: None, if_version: None }),
        merged_into: None,
    };
    let window = schemas::Window {
        rule_id: "manual".into(),
        rule_hash: "".into(),
        title: "By hand".into(),
        description: "".into(),
        severity_id: 3,
        tags: vec![],
        references: vec![],
        false_positives: vec![],
        group_key: vec![],
        entities: vec![],
        first_time: Micros::now(),
        last_time: Micros::now(),
        count: 1,
        evidence: vec![],
        evidence_truncated: false,
        flags: 0,
    };
    let opening = IncidentChange { window: Some(window), edit: None, ..change("open") };
    let changes =
        [opening, change("acknowledged"), change("resolved"), change("open"), change("false_positive")];
    topics.send("incidents", 0, changes.iter().map(change_record).collect()).await;
    let sink = Running::start_with(&topics, &database, |config| config.flush_rows = 2);
    until(&database, "SELECT count(*) FROM incidents WHERE status = 'false_positive' AND version = 5", 1)
        .await;
    sink.stop().await.unwrap();
    assert_eq!(
        database.number("SELECT count(*) FROM audit_log WHERE action IN ('opened', 'changed')").await,
        5
    );
    database.assert_consistent().await;
}
