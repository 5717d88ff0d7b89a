//! Administration of a real Kafka.

mod common;

use std::ops::ControlFlow;
use std::time::Duration;

use common::{
    PATIENCE, Transactions, kafka, next, nowhere, number, options, outgoing, producer, send, send_numbers,
    spec, start_all, topic,
};
use tidewatch_kafka::{Admin, Class, Committed, Consumer, Error, Input, Record, Start, TopicPartition};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn topics_are_made_once_and_grown() {
    let args = kafka();
    let admin = Admin::new(&args).unwrap();
    let (one, two) = (args.topic("one"), args.topic("two"));
    let error = admin.partitions(&one).await.unwrap_err();
    assert!(error.is_unknown_topic(), "{error}");

    let made = admin.ensure_topics(&[spec(&one, 3)]).await.unwrap();
    assert_eq!((made[0].created, made[0].partitions), (true, 3));
    let made = admin.ensure_topics(&[spec(&one, 5), spec(&two, 1)]).await.unwrap();
    assert_eq!((made[0].created, made[0].partitions), (false, 3));
    assert_eq!((made[1].created, made[1].partitions), (true, 1));

    admin.add_partitions(&one, 5).await.unwrap();
    assert_eq!(admin.partitions(&one).await.unwrap(), 5);
    let error = admin.add_partitions(&one, 4).await.unwrap_err();
    assert_eq!(error.class(), Class::Fatal, "{error}");
    let mut wrong = spec(&args.topic("wrong"), 1);
    wrong.config = vec![("retention.ms".into(), "soon".into())];
    let error = admin.ensure_topics(&[wrong]).await.unwrap_err();
    assert_eq!(error.class(), Class::Fatal, "{error}");
}

#[tokio::test]
async fn a_topic_made_again_has_another_id() {
    let args = kafka();
    let admin = Admin::new(&args).unwrap();
    let (one, two, absent) =
        (topic(&args, "one", 1).await, topic(&args, "two", 1).await, args.topic("absent"));
    let before = admin.topic_ids(&[&one, &two, &absent, &one]).await.unwrap();
    assert_eq!(before.len(), 2);
    assert_ne!(before[&one], before[&two]);
    assert_eq!(admin.topic_ids(&[&one]).await.unwrap()[&one], before[&one]);

    admin.delete_topics(&[&one, &absent]).await.unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !admin.topic_ids(&[&one]).await.unwrap().is_empty() {
        assert!(std::time::Instant::now() < deadline);
    }
    admin.ensure_topics(&[spec(&one, 1)]).await.unwrap();
    let after = admin.topic_ids(&[&one, &two]).await.unwrap();
    assert_ne!(after[&one], before[&one]);
    assert_eq!(after[&two], before[&two]);
    assert!(admin.topic_ids(&[]).await.unwrap().is_empty());
}

async fn last_record(admin: &Admin, topic: &str, partition: i32) -> Result<Option<Record>, Error> {
    let found = admin.last_records(topic, &[partition]).await?;
    Ok(found.into_iter().find(|(of, _)| *of == partition).and_then(|(_, last)| last))
}

#[tokio::test]
async fn the_last_record_is_found_past_whatever_follows_it() {
    let args = kafka();
    let admin = Admin::new(&args).unwrap();
    let topic = topic(&args, "events", 4).await;
    assert_eq!(last_record(&admin, &topic, 0).await.unwrap(), None);

    send_numbers(&producer(&args), &topic, 1, 0..100).await;
    let last = last_record(&admin, &topic, 1).await.unwrap().unwrap();
    assert_eq!((number(&last), last.offset), (99, 99));

    let (name, brokers) = (topic.clone(), args.clone());
    tokio::task::spawn_blocking(move || {
        let transactions = Transactions::new(&brokers);
        transactions.run(&name, 2, &["1", "2"], true);
        transactions.run(&name, 3, &["1", "2"], true);
        for _ in 0..20 {
            transactions.run(&name, 3, &["never", "never", "never"], false);
            transactions.run(&name, 0, &["never"], false);
        }
    })
    .await
    .unwrap();
    assert_eq!(admin.watermarks(&topic, 2).await.unwrap(), (0, 3));
    let last = last_record(&admin, &topic, 2).await.unwrap().unwrap();
    assert_eq!((number(&last), last.offset), (2, 1));
    assert_eq!(admin.watermarks(&topic, 3).await.unwrap(), (0, 83));
    let last = last_record(&admin, &topic, 3).await.unwrap().unwrap();
    assert_eq!((number(&last), last.offset), (2, 1));
    let together: Vec<_> = admin
        .last_records(&topic, &[3, 1, 0])
        .await
        .unwrap()
        .into_iter()
        .map(|(partition, last)| (partition, last.map(|last| last.offset)))
        .collect();
    assert_eq!(together, [(3, Some(1)), (1, Some(99)), (0, None)]);
    // Nothing but markers and aborted records.
    assert_eq!(admin.watermarks(&topic, 0).await.unwrap(), (0, 40));
    assert_eq!(last_record(&admin, &topic, 0).await.unwrap(), None);

    let error = admin.last_records(&args.topic("absent"), &[0]).await.unwrap_err();
    assert!(error.is_unknown_topic(), "{error}");
}

#[tokio::test]
async fn the_offsets_of_a_group_are_read_and_set() {
    let args = kafka();
    let admin = Admin::new(&args).unwrap();
    let topic = topic(&args, "events", 2).await;
    let group = args.group("g");
    let at = |partition| TopicPartition::new(topic.as_str(), partition);
    let both = [at(0), at(1)];
    assert_eq!(admin.committed(&group, &both).await.unwrap(), [(at(0), None), (at(1), None)]);
    admin.set_committed(&group, &[(at(1), 7)]).await.unwrap();
    assert_eq!(admin.committed(&group, &both).await.unwrap(), [(at(0), None), (at(1), Some(7))]);

    // A member that reads from the offsets set; while it is there they are its own.
    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    let Input::Assigned { partitions, reply } = next(&consumer).await else { panic!("assigned first") };
    reply.send(start_all(partitions, Start::CommittedOrBeginning));
    let error = admin.set_committed(&group, &[(at(1), 8)]).await.unwrap_err();
    assert!(error.to_string().contains("no members") && error.is_group_in_use(), "{error}");
    consumer.close().await;
    admin.set_committed(&group, &[(at(1), 8)]).await.unwrap();
}

#[tokio::test]
async fn a_text_beside_an_offset_is_there_until_a_member_commits() {
    let args = kafka();
    let admin = Admin::new(&args).unwrap();
    let topic = topic(&args, "events", 1).await;
    let (group, at) = (args.group("g"), TopicPartition::new(topic.as_str(), 0));
    let there = async || {
        let found = admin.committed_with_metadata(&group, std::slice::from_ref(&at)).await.unwrap();
        found.into_iter().next().and_then(|(_, committed)| committed)
    };
    assert_eq!(there().await, None);
    let committed = Committed { offset: 3, metadata: "decided: 3 ≠ 4".into() };
    admin.set_committed_with_metadata(&group, &at, committed.clone()).await.unwrap();
    assert_eq!(there().await, Some(committed));

    send_numbers(&producer(&args), &topic, 0, 0..5).await;
    let consumer = Consumer::start(&args, options(&args, "g", &topic)).unwrap();
    let Input::Assigned { partitions, reply } = next(&consumer).await else { panic!("assigned first") };
    reply.send(start_all(partitions, Start::Committed));
    let Input::Records(records) = next(&consumer).await else { panic!("records then") };
    assert_eq!(records[0].offset, 3);
    consumer.commit_and_wait(vec![(at.clone(), 4)]).await.unwrap();
    assert_eq!(there().await, Some(Committed { offset: 4, metadata: String::new() }));
    consumer.close().await;
}

#[tokio::test]
async fn a_partition_is_read_from_an_offset_until_something_is_found() {
    let args = kafka();
    let admin = Admin::new(&args).unwrap();
    let topic = topic(&args, "events", 2).await;
    let find = async |partition: i32, start: i64, wanted: i64| {
        let look = move |found: &mut Option<i64>, record: Record| {
            *found = (number(&record) == wanted).then_some(record.offset);
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        admin.scan(&topic, partition, start, None, look).await
    };
    assert_eq!(find(0, 0, 7).await.unwrap(), None);
    send_numbers(&producer(&args), &topic, 0, 0..100).await;
    assert_eq!(find(0, 0, 7).await.unwrap(), Some(7));
    assert_eq!(find(0, 8, 7).await.unwrap(), None);
    assert_eq!(find(0, 99, 99).await.unwrap(), Some(99));
    assert_eq!(find(0, 100, 99).await.unwrap(), None);

    // Records end before the log does.
    let (name, brokers) = (topic.clone(), args.clone());
    tokio::task::spawn_blocking(move || {
        let transactions = Transactions::new(&brokers);
        transactions.run(&name, 1, &["1", "2"], true);
        transactions.run(&name, 1, &["3"], false);
    })
    .await
    .unwrap();
    assert_eq!(find(1, 0, 2).await.unwrap(), Some(1));
    assert_eq!(find(1, 0, 3).await.unwrap(), None);
    assert_eq!(find(1, 3, 3).await.unwrap(), None);
    admin.delete_records(&topic, 0, 40).await.unwrap();
    assert_eq!(admin.watermarks(&topic, 0).await.unwrap(), (40, 100));
    assert!(find(0, 39, 99).await.is_err());
    assert_eq!(find(0, 40, 99).await.unwrap(), Some(99));
    assert!(admin.delete_records(&topic, 0, 101).await.is_err());
    let error =
        admin.scan(&args.topic("absent"), 0, 0, (), |(), _| ControlFlow::Break(())).await.unwrap_err();
    assert!(error.is_unknown_topic(), "{error}");
}

#[tokio::test]
async fn offsets_are_found_by_time() {
    let args = kafka();
    let admin = Admin::new(&args).unwrap();
    let topic = topic(&args, "events", 1).await;
    assert_eq!(admin.offset_for_time(&topic, 0, 0).await.unwrap(), None);
    let producer = producer(&args);
    send(&producer, outgoing(&topic, 0, b"0")).recv_timeout(PATIENCE).unwrap().unwrap();
    let first = last_record(&admin, &topic, 0).await.unwrap().unwrap().timestamp_ms;
    // Times are whole milliseconds.
    tokio::time::sleep(Duration::from_millis(2)).await;
    send(&producer, outgoing(&topic, 0, b"1")).recv_timeout(PATIENCE).unwrap().unwrap();
    let second = last_record(&admin, &topic, 0).await.unwrap().unwrap().timestamp_ms;
    assert_eq!(admin.offset_for_time(&topic, 0, first).await.unwrap(), Some(0));
    assert_eq!(admin.offset_for_time(&topic, 0, first + 1).await.unwrap(), Some(1));
    assert_eq!(admin.offset_for_time(&topic, 0, second + 1).await.unwrap(), None);
}

#[tokio::test]
async fn waiting_says_why_and_ends_when_told_or_ready() {
    let shutdown = CancellationToken::new();
    let mut reasons = Vec::new();
    let ready = Admin::new(&nowhere())
        .unwrap()
        .wait_until_ready(&shutdown, |reason| {
            reasons.push(reason.to_owned());
            shutdown.cancel();
        })
        .await;
    assert!(!ready);
    assert_eq!(reasons.len(), 1);

    let args = kafka();
    let admin = Admin::new(&args).unwrap();
    assert!(admin.wait_until_ready(&CancellationToken::new(), |_| ()).await);
    let name = args.topic("late");
    let (making, waited) = (admin.clone(), name.clone());
    let mut made = None;
    let on_wait = |reason: &str| {
        assert!(reason.contains(&waited), "{reason}");
        let (making, waited) = (making.clone(), waited.clone());
        made.get_or_insert_with(|| {
            tokio::spawn(async move { making.ensure_topics(&[spec(&waited, 1)]).await.unwrap() })
        });
    };
    assert!(admin.wait_for_topics(&[&name], &CancellationToken::new(), on_wait).await);
    made.unwrap().await.unwrap();
}
