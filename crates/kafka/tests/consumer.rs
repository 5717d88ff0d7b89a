//! The consumer against a real Kafka.

mod common;

use std::time::{Duration, Instant};

use common::{
    PATIENCE, Transactions, kafka, next, number, options, outgoing, producer, read, send, send_numbers,
    start_all, topic, until,
};
use tidewatch_kafka::{
    Admin, ConsumeError, Consumer, ConsumerOptions, Input, Ledger, Outgoing, Start, TimestampKind,
    TopicPartition,
};

#[tokio::test]
async fn records_come_in_order_with_everything_they_carry() {
    let args = kafka();
    let topic = topic(&args, "events", 2).await;
    let producer = producer(&args);
    let headers: [(&str, &[u8]); 3] = [("org", b"a"), ("x", &[0, 255]), ("org", b"b")];
    send(
        &producer,
        Outgoing { topic: &topic, partition: 1, key: Some(b"k"), headers: &headers, payload: b"-1" },
    );
    send_numbers(&producer, &topic, 0, 0..500).await;
    send_numbers(&producer, &topic, 1, 0..500).await;

    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    let records = read(&consumer, Start::Beginning, 1_001).await;
    for partition in 0..2 {
        let mut position = 0;
        for record in records.iter().filter(|record| record.partition == partition) {
            assert_eq!((record.position_before, record.offset), (position, position));
            assert_eq!(number(record), record.offset - i64::from(partition));
            assert_eq!(record.timestamp_kind, TimestampKind::Create);
            assert_eq!(&*record.topic, topic);
            position += 1;
        }
        assert_eq!(position, 500 + i64::from(partition));
    }
    let first = records.iter().find(|record| record.partition == 1).unwrap();
    assert_eq!(first.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(first.headers.len(), 3);
    assert_eq!((first.header("org"), first.header("x")), (Some(&b"b"[..]), Some(&[0, 255][..])));
    consumer.close().await;
}

#[tokio::test]
async fn control_records_and_aborted_ones_leave_no_false_gap() {
    let args = kafka();
    let topic = topic(&args, "events", 1).await;
    let (name, brokers) = (topic.clone(), args.clone());
    tokio::task::spawn_blocking(move || {
        let transactions = Transactions::new(&brokers);
        transactions.run(&name, 0, &["0", "1"], true);
        transactions.run(&name, 0, &["never", "never"], false);
        transactions.run(&name, 0, &["2"], true);
    })
    .await
    .unwrap();

    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    let records = read(&consumer, Start::Beginning, 3).await;
    assert_eq!(records.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 1, 6]);
    assert_eq!(records.iter().map(|record| record.position_before).collect::<Vec<_>>(), [0, 1, 2]);
    let mut ledger = Ledger::start(0);
    for record in records.iter().rev() {
        ledger.finish(record.position_before, record.position_after()).unwrap();
    }
    assert_eq!((ledger.next(), ledger.ahead()), (7, 0));
    consumer.close().await;
}

#[tokio::test]
async fn no_committed_offset_is_an_error_unless_a_beginning_was_asked_for() {
    let args = kafka();
    let topic = topic(&args, "events", 1).await;
    let producer = producer(&args);
    send_numbers(&producer, &topic, 0, 0..10).await;

    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    let Input::Assigned { partitions, reply } = next(&consumer).await else { panic!("assigned first") };
    reply.send(start_all(partitions, Start::Committed));
    match next(&consumer).await {
        Input::Failed(ConsumeError::NoCommittedOffset { group, partition }) => {
            assert_eq!((group, partition), (args.group("g"), TopicPartition::new(topic.as_str(), 0)));
        }
        other => panic!("{other:?}"),
    }
    assert!(consumer.next().await.is_none());
    consumer.close().await;

    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    let records = read(&consumer, Start::CommittedOrBeginning, 10).await;
    consumer
        .commit_and_wait(vec![(records[6].topic_partition(), records[6].position_after())])
        .await
        .unwrap();
    consumer.close().await;

    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    let records = read(&consumer, Start::Committed, 3).await;
    assert_eq!(records.iter().map(number).collect::<Vec<_>>(), [7, 8, 9]);
    assert_eq!(records[0].position_before, 7);
    consumer.close().await;
}

#[tokio::test]
async fn reading_starts_at_the_end_or_an_offset_when_told_so() {
    let args = kafka();
    let topic = topic(&args, "events", 1).await;
    let producer = producer(&args);
    send_numbers(&producer, &topic, 0, 0..10).await;

    let consumer = Consumer::start(&args, options(&args, "a", &topic)).unwrap();
    let records = read(&consumer, Start::Offset(8), 2).await;
    assert_eq!(records.iter().map(number).collect::<Vec<_>>(), [8, 9]);
    consumer.close().await;

    let consumer = Consumer::start(&args, options(&args, "b", &topic)).unwrap();
    let Input::Assigned { partitions, reply } = next(&consumer).await else { panic!("assigned first") };
    reply.send(start_all(partitions, Start::End));
    // The end is taken after the answer; a record that is sent now may be on either side of it, later ones are not.
    let sent = tokio::spawn({
        let topic = topic.clone();
        async move {
            for number in 10.. {
                send_numbers(&producer, &topic, 0, number..number + 1).await;
            }
        }
    });
    let records = read(&consumer, Start::End, 3).await;
    sent.abort();
    assert!(number(&records[0]) >= 10);
    consumer.close().await;
}

#[tokio::test]
async fn an_offset_that_the_log_does_not_have_is_named_and_not_replaced() {
    let args = kafka();
    let topic = topic(&args, "events", 1).await;
    send_numbers(&producer(&args), &topic, 0, 0..10).await;
    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    let Input::Assigned { partitions, reply } = next(&consumer).await else { panic!("assigned first") };
    reply.send(start_all(partitions, Start::Offset(11)));
    match next(&consumer).await {
        Input::Failed(ConsumeError::OffsetOutOfRange { partition, position: 11, low: 0, high: 10 }) => {
            assert_eq!(partition, TopicPartition::new(topic.as_str(), 0));
        }
        other => panic!("{other:?}"),
    }
    consumer.close().await;
}

#[tokio::test]
async fn an_owner_that_does_not_answer_ends_the_consumer_and_frees_its_partitions() {
    let args = kafka();
    let topic = topic(&args, "events", 1).await;
    send_numbers(&producer(&args), &topic, 0, 0..1).await;
    let hasty = ConsumerOptions { reply_timeout: Duration::from_millis(200), ..options(&args, "g", &topic) };
    for dropped in [true, false] {
        let consumer = Consumer::start(&args, hasty.clone()).unwrap();
        let Input::Assigned { reply, .. } = next(&consumer).await else { panic!("assigned first") };
        let kept = (!dropped).then_some(reply);
        let failed = next(&consumer).await;
        assert!(matches!(failed, Input::Failed(ConsumeError::OwnerSilent { .. })), "{failed:?}");
        assert!(consumer.next().await.is_none());
        drop(kept);
        consumer.close().await;
    }
    // Long before the session of the last one would have timed out.
    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    let started = Instant::now();
    read(&consumer, Start::Beginning, 1).await;
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    consumer.close().await;
}

#[tokio::test]
async fn starts_that_do_not_fit_the_assignment_are_an_error() {
    let args = kafka();
    let topic = topic(&args, "events", 2).await;
    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    let Input::Assigned { mut partitions, reply } = next(&consumer).await else { panic!("assigned first") };
    partitions.pop();
    reply.send(start_all(partitions, Start::Beginning));
    let failed = next(&consumer).await;
    assert!(matches!(failed, Input::Failed(ConsumeError::WrongStarts(_))), "{failed:?}");
    consumer.close().await;
}

#[tokio::test]
async fn an_owner_that_takes_nothing_bounds_memory_stays_a_member_and_misses_nothing() {
    let args = kafka();
    let topic = topic(&args, "events", 2).await;
    let producer = producer(&args);
    let filler = vec![b' '; 10_000];
    for number in 0..4_000_i32 {
        let payload = [number.to_string().as_bytes(), &filler].concat();
        send(&producer, outgoing(&topic, number % 2, &payload));
    }
    producer.flush(PATIENCE).await.unwrap();

    let narrow = ConsumerOptions {
        max_buffered_bytes: 4 << 20,
        max_batch_bytes: 256 << 10,
        ..options(&args, "g", &topic)
    };
    let consumer = Consumer::start(&args, narrow).unwrap();
    let Input::Assigned { partitions, reply } = next(&consumer).await else { panic!("assigned first") };
    reply.send(start_all(partitions, Start::Beginning));
    until("reading to be paused", || consumer.stats().backpressure_pauses > 0).await;
    let waiting = consumer.stats().waiting_bytes;
    assert!(waiting > 1 << 20 && waiting <= 2 << 20, "{waiting}");

    let mut expected = [0, 1];
    let records = read(&consumer, Start::Beginning, 4_000).await;
    for record in &records {
        let text = std::str::from_utf8(&record.payload).unwrap().trim();
        let expected = &mut expected[record.partition as usize];
        assert_eq!(text.parse::<i32>().unwrap(), *expected);
        *expected += 2;
    }
    // Polling went on meanwhile: the group has not started over.
    assert_eq!(consumer.stats().rebalances, 1);
    consumer.close().await;
}

#[tokio::test]
async fn a_paused_partition_brings_nothing_until_resumed() {
    let args = kafka();
    let topic = topic(&args, "events", 2).await;
    let producer = producer(&args);
    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    send_numbers(&producer, &topic, 0, 0..1).await;
    read(&consumer, Start::Beginning, 1).await;
    let paused = [TopicPartition::new(topic.as_str(), 0)];
    consumer.pause(&paused).unwrap();
    send_numbers(&producer, &topic, 0, 1..10).await;
    send_numbers(&producer, &topic, 1, 0..10).await;
    let others = read(&consumer, Start::Beginning, 10).await;
    assert!(others.iter().all(|record| record.partition == 1));
    consumer.resume(&paused).unwrap();
    let records = read(&consumer, Start::Beginning, 9).await;
    assert_eq!(records.iter().map(number).collect::<Vec<_>>(), (1..10).collect::<Vec<_>>());
    assert_eq!(records[0].position_before, 1);
    consumer.close().await;
}

#[tokio::test]
async fn only_assigned_partitions_are_committed() {
    let args = kafka();
    let topic = topic(&args, "events", 1).await;
    let admin = Admin::new(&args).unwrap();
    let at = |partition| TopicPartition::new(topic.as_str(), partition);
    send_numbers(&producer(&args), &topic, 0, 0..5).await;
    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    read(&consumer, Start::Beginning, 5).await;
    consumer.commit_and_wait(vec![(at(0), 4), (at(1), 100)]).await.unwrap();
    let committed = admin.committed(&args.group("g"), &[at(0)]).await.unwrap();
    assert_eq!(committed, [(at(0), Some(4))]);

    consumer.commit(&[(at(0), 5)]);
    let deadline = Instant::now() + PATIENCE;
    while admin.committed(&args.group("g"), &[at(0)]).await.unwrap()[0].1 != Some(5) {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(consumer.stats().failed_commits, 0);
    consumer.close().await;
}

#[tokio::test]
async fn a_note_is_committed_beside_the_positions() {
    let args = kafka();
    let topic = topic(&args, "events", 2).await;
    let admin = Admin::new(&args).unwrap();
    let at = |partition| TopicPartition::new(topic.as_str(), partition);
    send_numbers(&producer(&args), &topic, 0, 0..5).await;
    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    read(&consumer, Start::Beginning, 5).await;
    consumer.note(&at(0), "of before".into());
    consumer.note(&at(0), "as of 4".into());
    consumer.commit_and_wait(vec![(at(0), 4), (at(1), 0)]).await.unwrap();
    let committed = admin.committed_with_metadata(&args.group("g"), &[at(0), at(1)]).await.unwrap();
    let notes: Vec<_> = committed.into_iter().map(|(_, committed)| committed.unwrap().metadata).collect();
    assert_eq!(notes, ["as of 4", ""]);
    consumer.close().await;
}

#[tokio::test]
async fn statistics_tell_positions_ends_and_brokers() {
    let args = kafka();
    let topic = topic(&args, "events", 2).await;
    send_numbers(&producer(&args), &topic, 1, 0..7).await;
    let often =
        ConsumerOptions { statistics_interval: Duration::from_millis(50), ..options(&args, "g", &topic) };
    let consumer = Consumer::start(&args, often).unwrap();
    read(&consumer, Start::Beginning, 7).await;
    until("statistics", || {
        let stats = consumer.stats();
        let read = stats.partitions.iter().find(|partition| partition.partition.partition == 1);
        stats.brokers_up == Some(1)
            && read.is_some_and(|read| read.position == Some(7) && read.end == Some(7))
    })
    .await;
    let stats = consumer.stats();
    assert_eq!((stats.records, stats.payload_bytes, stats.waiting_bytes), (7, 7, 0));
    consumer.close().await;
}

#[tokio::test]
async fn without_brokers_a_consumer_waits_and_closes_in_time() {
    let args = common::nowhere();
    let consumer = Consumer::start(&args, options(&args, "g", "t")).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), consumer.next()).await.is_err());
    let started = Instant::now();
    consumer.close().await;
    assert!(started.elapsed() < Duration::from_secs(7), "{:?}", started.elapsed());
}
