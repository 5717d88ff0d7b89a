//! The producer against a real Kafka.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{PATIENCE, kafka, nowhere, outgoing, producer, send, topic};
use tidewatch_kafka::{Class, Producer, ProducerOptions, SendError};

#[tokio::test]
async fn every_record_completes_once_in_order_with_its_offset() {
    let args = kafka();
    let topic = topic(&args, "events", 2).await;
    let producer = producer(&args);
    let (sender, completed) = channel();
    for number in 0..2_000_i64 {
        let (sender, partition) = (sender.clone(), (number % 2) as i32);
        let completion =
            Box::new(move |outcome: Result<i64, _>| sender.send((number, outcome.unwrap())).unwrap());
        producer.send(outgoing(&topic, partition, &[b'x'; 100]), completion).unwrap();
    }
    producer.flush(PATIENCE).await.unwrap();
    drop(sender);
    let mut completed: Vec<_> = completed.iter().collect();
    // Partitions complete independently of each other, each in order.
    completed.sort_by_key(|(number, _)| number % 2);
    let numbers: Vec<_> = completed.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (0..2_000).step_by(2).chain((1..2_000).step_by(2)).collect::<Vec<_>>());
    assert!(completed.iter().all(|(number, offset)| *offset == number / 2));

    let stats = producer.stats();
    assert_eq!((stats.taken_records, stats.delivered_records, stats.failed_records), (2_000, 2_000, 0));
    assert_eq!((stats.in_flight_records, stats.in_flight_bytes, stats.delivered_bytes), (0, 0, 200_000));
}

#[tokio::test]
async fn a_full_queue_is_a_typed_refusal_and_its_room_can_be_awaited() {
    let args = kafka();
    let topic = topic(&args, "events", 1).await;
    let options = ProducerOptions {
        max_buffered_bytes: 1_000,
        max_record_bytes: 1_000,
        ..ProducerOptions::new("test")
    };
    let producer = Producer::new(&args, options).unwrap();
    let first = send(&producer, outgoing(&topic, 0, &[0; 600]));
    let never = Box::new(|_: Result<i64, _>| panic!("a refused record completes nothing"));
    let refused = producer.send(outgoing(&topic, 0, &[0; 600]), never);
    assert!(matches!(refused, Err(SendError::QueueFull)), "{refused:?}");
    assert_eq!(producer.stats().refused_records, 1);

    tokio::time::timeout(PATIENCE, producer.room(600)).await.unwrap().unwrap();
    let second = send(&producer, outgoing(&topic, 0, &[0; 600]));
    producer.flush(PATIENCE).await.unwrap();
    assert_eq!((first.recv().unwrap().unwrap(), second.recv().unwrap().unwrap()), (0, 1));
}

#[tokio::test]
async fn the_number_of_records_in_flight_is_bounded_too() {
    let options = ProducerOptions { max_buffered_records: 3, ..ProducerOptions::new("test") };
    let producer = Producer::new(&nowhere(), options).unwrap();
    for _ in 0..3 {
        send(&producer, outgoing("t", 0, b"x"));
    }
    let refused = producer.send(outgoing("t", 0, b"x"), Box::new(|_| ()));
    assert!(matches!(refused, Err(SendError::QueueFull)), "{refused:?}");
    let timeout = producer.flush(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(timeout.records, 3);
}

#[tokio::test]
async fn a_record_over_the_limit_is_refused_at_once() {
    let producer = Producer::new(
        &nowhere(),
        ProducerOptions { max_record_bytes: 2_000, ..ProducerOptions::new("test") },
    )
    .unwrap();
    let refused = producer.send(outgoing("t", 0, &[0; 2_001]), Box::new(|_| ()));
    assert!(matches!(refused, Err(SendError::TooLarge { bytes: 2_001, limit: 2_000 })), "{refused:?}");
}

#[tokio::test]
async fn a_record_that_the_topic_refuses_fails_alone_where_records_may_be_missing() {
    let args = kafka();
    let mut spec = common::spec(&args.topic("small"), 1);
    spec.config = vec![("max.message.bytes".into(), "2000".into())];
    let topic = spec.name.clone();
    tidewatch_kafka::Admin::new(&args).unwrap().ensure_topics(&[spec]).await.unwrap();
    let patient =
        ProducerOptions { message_timeout: Some(Duration::from_secs(30)), ..ProducerOptions::new("test") };
    let producer = Producer::new(&args, patient).unwrap();
    // Does not compress; larger than a batch may be with the topic's limit, whatever shares it.
    let noise: Vec<u8> = (0..5_000).flat_map(|_| uuid::Uuid::new_v4().into_bytes()).collect();
    let refused = send(&producer, outgoing(&topic, 0, &noise));
    producer.flush(PATIENCE).await.unwrap();
    let error = refused.recv().unwrap().unwrap_err();
    assert_eq!(error.class(), Class::Data, "{error}");
    let fine = send(&producer, outgoing(&topic, 0, b"small"));
    assert_eq!(fine.recv_timeout(PATIENCE).unwrap().unwrap(), 0);
}

#[tokio::test]
async fn without_brokers_records_fail_after_the_timeout_and_the_producer_goes_on() {
    let options =
        ProducerOptions { message_timeout: Some(Duration::from_millis(300)), ..ProducerOptions::new("test") };
    let producer = Producer::new(&nowhere(), options).unwrap();
    let lost = send(&producer, outgoing("t", 0, b"x"));
    let error = lost.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert!(error.is_timeout() && error.is_retriable(), "{error}");
    assert!(error.to_string().starts_with("delivering to t[0]: "), "{error}");
    producer.flush(PATIENCE).await.unwrap();
    assert_eq!(producer.stats().failed_records, 1);
}

#[tokio::test]
async fn dropping_the_producer_fails_what_is_in_flight_once() {
    let producer = Producer::new(&nowhere(), ProducerOptions::new("test")).unwrap();
    let lost: Vec<_> = (0..10).map(|_| send(&producer, outgoing("t", 0, b"x"))).collect();
    drop(producer);
    for lost in lost {
        assert!(lost.recv_timeout(PATIENCE).unwrap().is_err());
        assert!(lost.recv_timeout(PATIENCE).is_err(), "completed twice");
    }
}

#[tokio::test]
async fn a_completion_that_panics_takes_no_other_with_it() {
    let args = kafka();
    let topic = topic(&args, "events", 1).await;
    let producer = producer(&args);
    let calls = Arc::new(AtomicUsize::new(0));
    for number in 0..10 {
        let calls = Arc::clone(&calls);
        let completion = move |_| {
            calls.fetch_add(1, Ordering::Relaxed);
            assert!(number != 3, "on purpose");
        };
        producer.send(outgoing(&topic, 0, b"x"), Box::new(completion)).unwrap();
    }
    producer.flush(PATIENCE).await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 10);
    assert_eq!(producer.stats().delivered_records, 10);
}

#[test]
fn options_that_do_not_fit_together_are_refused() {
    let mut args = nowhere();
    args.options = vec!["max.in.flight=100".parse().unwrap()];
    let error = Producer::new(&args, ProducerOptions::new("test")).unwrap_err();
    assert_eq!(error.class(), Class::Fatal, "{error}");
}
