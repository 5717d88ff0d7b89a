//! Two members of a group on a real Kafka: partitions move while records flow.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends by panicking")]

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{PATIENCE, kafka, next, number, options, outgoing, producer, send, start_all, topic, until};
use parking_lot::Mutex;
use tidewatch_kafka::{Consumer, ConsumerOptions, Input, KafkaArgs, Reply, Start, StartAt};
use tokio::sync::watch;

const PARTITIONS: i32 = 6;

/// What owners keep outside of Kafka, as the sink keeps it in its database.
#[derive(Default)]
struct Store {
    next: HashMap<i32, i64>,
    owner: HashMap<i32, &'static str>,
    seen: HashMap<i32, Vec<i64>>,
    by: HashMap<&'static str, usize>,
}

/// An owner that starts where the store says and records what it reads there. Ends when told to.
async fn own(
    args: KafkaArgs,
    topic: String,
    name: &'static str,
    store: Arc<Mutex<Store>>,
    mut stop: watch::Receiver<bool>,
) {
    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    loop {
        let input = tokio::select! {
            input = consumer.next() => input.unwrap(),
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let mut store = store.lock();
        match input {
            Input::Assigned { partitions, reply } => {
                let starts = partitions.into_iter().map(|at| {
                    let before = store.owner.insert(at.partition, name);
                    assert_eq!(before, None, "{at} was still owned");
                    let next = store.next.get(&at.partition).copied().unwrap_or(0);
                    StartAt { at, start: Start::Offset(next) }
                });
                reply.send(starts.collect());
            }
            Input::Revoked { partitions, lost, done } => {
                assert!(!lost);
                for at in partitions {
                    assert_eq!(store.owner.remove(&at.partition), Some(name));
                }
                done.send(());
            }
            Input::Records(records) => {
                *store.by.entry(name).or_default() += records.len();
                for record in records {
                    assert_eq!(
                        store.owner.get(&record.partition),
                        Some(&name),
                        "a record after its revocation"
                    );
                    let next = store.next.entry(record.partition).or_default();
                    assert_eq!(record.position_before, *next, "a gap or a repeat");
                    *next = record.position_after();
                    store.seen.entry(record.partition).or_default().push(number(&record));
                }
            }
            Input::Failed(error) => panic!("{name}: {error}"),
        }
    }
    store.lock().owner.retain(|_, owner| *owner != name);
    consumer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_move_between_members_without_loss_or_repeat() {
    let args = kafka();
    let topic = topic(&args, "events", PARTITIONS).await;
    let store = Arc::new(Mutex::new(Store::default()));
    let enough = Arc::new(AtomicBool::new(false));
    let sent = tokio::spawn({
        let (args, topic, enough) = (args.clone(), topic.clone(), Arc::clone(&enough));
        async move {
            let producer = producer(&args);
            let mut count = 0_i64;
            while !enough.load(Ordering::Relaxed) {
                for partition in 0..PARTITIONS {
                    send(&producer, outgoing(&topic, partition, count.to_string().as_bytes()));
                }
                count += 1;
                producer.flush(PATIENCE).await.unwrap();
            }
            count
        }
    });
    let start = |name| {
        let (stop, stopped) = watch::channel(false);
        (stop, tokio::spawn(own(args.clone(), topic.clone(), name, Arc::clone(&store), stopped)))
    };
    let read_by = |name| store.lock().by.get(name).copied().unwrap_or(0);

    let (stop_first, first) = start("first");
    until("the first member to read", || read_by("first") > 100).await;
    let (stop_second, second) = start("second");
    until("the second member to read", || read_by("second") > 100).await;
    let (stop_third, third) = start("third");
    until("the third member to read", || read_by("third") > 100).await;
    assert_eq!(store.lock().owner.len(), PARTITIONS as usize);
    stop_first.send(true).unwrap();
    first.await.unwrap();
    let before = read_by("second") + read_by("third");
    until("the others to go on", || read_by("second") + read_by("third") > before + 100).await;
    stop_second.send(true).unwrap();
    second.await.unwrap();

    enough.store(true, Ordering::Relaxed);
    let count = sent.await.unwrap();
    let all = || (0..PARTITIONS).all(|partition| store.lock().next.get(&partition) == Some(&count));
    until("the last member to read everything", all).await;
    stop_third.send(true).unwrap();
    third.await.unwrap();
    for (partition, seen) in &store.lock().seen {
        assert!(seen.iter().copied().eq(0..count), "partition {partition}");
    }
}

/// A member with both partitions, and the revocation of one of them that another member's joining has caused.
async fn contended(args: &KafkaArgs, reply_timeout: Duration) -> (Consumer, Consumer, Reply<()>) {
    let topic = topic(args, "events", 2).await;
    let options = ConsumerOptions { reply_timeout, ..options(args, "g", &topic) };
    let first = Consumer::start(args, options.clone()).unwrap();
    let Input::Assigned { partitions, reply } = next(&first).await else { panic!("assigned first") };
    assert_eq!(partitions.len(), 2);
    reply.send(start_all(partitions, Start::Beginning));
    let second = Consumer::start(args, options).unwrap();
    let Input::Revoked { partitions, lost: false, done } = next(&first).await else { panic!("then revoked") };
    assert_eq!(partitions.len(), 1);
    (first, second, done)
}

#[tokio::test]
async fn a_partition_is_another_members_only_after_its_revocation_was_acknowledged() {
    let (first, second, done) = contended(&kafka(), PATIENCE).await;
    // Several heartbeats long.
    let early = tokio::time::timeout(Duration::from_secs(3), second.next()).await;
    assert!(early.is_err(), "{early:?}");
    done.send(());
    assert!(matches!(next(&second).await, Input::Assigned { .. }));
    second.close().await;
    first.close().await;
}

#[tokio::test]
async fn a_revocation_that_nobody_acknowledges_goes_on_after_the_timeout() {
    let (first, second, done) = contended(&kafka(), Duration::from_millis(500)).await;
    assert!(matches!(next(&second).await, Input::Assigned { .. }));
    done.send(());
    second.close().await;
    first.close().await;
}
