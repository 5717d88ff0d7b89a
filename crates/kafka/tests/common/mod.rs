//! A real Kafka (`make test` starts one), a prefix per test.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends by panicking")]

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tidewatch_kafka::{
    Admin, Consumer, ConsumerOptions, Error, Input, KafkaArgs, Outgoing, Producer, ProducerOptions, Record,
    Start, StartAt, TopicPartition, TopicSpec,
};

/// Far above what anything takes; a test that needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The brokers under a prefix of this test's own.
pub fn kafka() -> KafkaArgs {
    let brokers = std::env::var("TIDEWATCH_TEST_KAFKA_BROKERS")
        .expect("TIDEWATCH_TEST_KAFKA_BROKERS is not set: run through make test");
    KafkaArgs::new(brokers).with_prefix(format!("t{}-", uuid::Uuid::new_v4().simple()).parse().unwrap())
}

/// Brokers that are not there.
pub fn nowhere() -> KafkaArgs {
    KafkaArgs::new("127.0.0.1:1")
}

pub fn spec(name: &str, partitions: i32) -> TopicSpec {
    TopicSpec { name: name.into(), partitions, replication: None, config: vec![] }
}

/// A new topic, by its full name.
pub async fn topic(args: &KafkaArgs, name: &str, partitions: i32) -> String {
    let name = args.topic(name);
    Admin::new(args).unwrap().ensure_topics(&[spec(&name, partitions)]).await.unwrap();
    name
}

pub fn producer(args: &KafkaArgs) -> Producer {
    Producer::new(args, ProducerOptions::new("test")).unwrap()
}

pub fn outgoing<'a>(topic: &'a str, partition: i32, payload: &'a [u8]) -> Outgoing<'a> {
    Outgoing { topic, partition, key: None, headers: &[], payload }
}

/// Sends one record; its fate comes out of the receiver.
pub fn send(producer: &Producer, record: Outgoing<'_>) -> Receiver<Result<i64, Error>> {
    let (sender, receiver) = channel();
    producer.send(record, Box::new(move |outcome| drop(sender.send(outcome)))).unwrap();
    receiver
}

/// Sends the numbers `from..to` as text, in order, and waits for them.
pub async fn send_numbers(producer: &Producer, topic: &str, partition: i32, numbers: std::ops::Range<i64>) {
    for number in numbers {
        send(producer, outgoing(topic, partition, number.to_string().as_bytes()));
    }
    producer.flush(PATIENCE).await.unwrap();
}

pub fn number(record: &Record) -> i64 {
    std::str::from_utf8(&record.payload).unwrap().parse().unwrap()
}

pub fn options(args: &KafkaArgs, group: &str, topic: &str) -> ConsumerOptions {
    ConsumerOptions::new("test", args.group(group), vec![topic.into()])
}

pub fn start_all(partitions: Vec<TopicPartition>, start: Start) -> Vec<StartAt> {
    partitions.into_iter().map(|at| StartAt { at, start }).collect()
}

pub async fn next(consumer: &Consumer) -> Input {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await;
    next.expect("something happens in time").expect("the consumer has not ended")
}

/// Records until there are `count`, everything assigned read from `start`.
pub async fn read(consumer: &Consumer, start: Start, count: usize) -> Vec<Record> {
    let mut all = Vec::new();
    while all.len() < count {
        match next(consumer).await {
            Input::Assigned { partitions, reply } => reply.send(start_all(partitions, start)),
            Input::Records(records) => all.extend(records),
            Input::Revoked { done, .. } => done.send(()),
            Input::Failed(error) => panic!("{error}"),
        }
    }
    all
}

/// Waits for a condition.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waited).await.is_ok(), "waited in vain for {what}");
}

/// A transactional producer, which this crate has no other use for. Blocks.
pub struct Transactions(BaseProducer);

impl Transactions {
    pub fn new(args: &KafkaArgs) -> Self {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &args.brokers)
            .set("transactional.id", args.topic("transactions"))
            .create()
            .unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        Self(producer)
    }

    pub fn run(&self, topic: &str, partition: i32, payloads: &[&str], commit: bool) {
        self.0.begin_transaction().unwrap();
        for payload in payloads {
            self.0.send(BaseRecord::<(), str>::to(topic).partition(partition).payload(payload)).unwrap();
        }
        self.0.flush(PATIENCE).unwrap();
        if commit {
            self.0.commit_transaction(PATIENCE).unwrap();
        } else {
            self.0.abort_transaction(PATIENCE).unwrap();
        }
    }
}
