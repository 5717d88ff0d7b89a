//! Kafka loses something, a service stops, an operator accepts it, and everything goes on and adds up.

use kafka::{Admin, KafkaArgs};
use tidewatch_tests::{Identity, Pipeline};

/// Pushes `count` events.
async fn push(pipeline: &Pipeline, org: &Identity, count: usize) {
    let body = "{\"message\":\"m\"}\n".repeat(count);
    let answer = pipeline.org(org).push("/v1/events", "application/x-ndjson", body).await;
    assert_eq!(answer["accepted"], count);
}

async fn until_rows(pipeline: &Pipeline, rows: i64) {
    let stored = async || (pipeline.count("SELECT count(*) FROM events").await == rows).then_some(());
    pipeline.until(&format!("{rows} rows"), stored).await;
}

/// Where each partition of a topic ends.
async fn ends(pipeline: &Pipeline, admin: &Admin, topic: &str) -> Vec<i64> {
    let topic = pipeline.topic(topic);
    let mut ends = Vec::new();
    for partition in 0..admin.partitions(&topic).await.unwrap() {
        ends.push(admin.watermarks(&topic, partition).await.unwrap().1);
    }
    ends
}

async fn accept(pipeline: &Pipeline, flag: &str, topic: &str, partitions: &[usize]) -> String {
    let named: Vec<String> = partitions.iter().map(|partition| format!("{topic}/{partition}")).collect();
    let named = named.iter().map(String::as_str);
    pipeline.partitions(&["accept", flag].into_iter().chain(named).collect::<Vec<_>>()).await
}

#[tokio::test]
async fn raw_offsets_that_are_gone_are_passed_by_enrich_and_then_by_the_sink() {
    let mut pipeline = Pipeline::own().await;
    let org = pipeline.new_org().await.detach();
    let admin = Admin::new(&KafkaArgs::new(pipeline.brokers())).unwrap();
    push(&pipeline, &org, 10).await;
    until_rows(&pipeline, 10).await;
    assert!(pipeline.terminate("enrich").await.success());
    let read = ends(&pipeline, &admin, "events.raw").await;
    push(&pipeline, &org, 20).await;
    let lost = ends(&pipeline, &admin, "events.raw").await;
    push(&pipeline, &org, 5).await;
    let gaps: Vec<usize> = (0..lost.len()).filter(|at| lost[*at] > read[*at]).collect();
    assert!(!gaps.is_empty());
    for gap in &gaps {
        let partition = i32::try_from(*gap).unwrap();
        admin.delete_records(&pipeline.topic("events.raw"), partition, lost[*gap]).await.unwrap();
    }

    let said = accept(&pipeline, "--gap", "events.raw", &gaps).await;
    assert!(said.contains("the sink will stop at this gap"), "{said}");
    pipeline.start_again("enrich").await;
    let dead = async || pipeline.services().dead().any(|(name, _)| name == "sink").then_some(());
    pipeline.until("the sink stops at the gap", dead).await;
    assert_eq!(pipeline.count("SELECT count(*) FROM events").await, 10);
    let said = accept(&pipeline, "--gap", "events", &gaps).await;
    assert!(said.contains("were never stored"), "{said}");
    pipeline.start_again("sink").await;
    push(&pipeline, &org, 7).await;
    until_rows(&pipeline, 22).await;
    pipeline.partitions(&["doctor"]).await;
}

#[tokio::test]
async fn an_enriched_topic_that_is_gone_with_what_the_sink_had_not_stored_is_written_again() {
    let mut pipeline = Pipeline::own().await;
    let org = pipeline.new_org().await.detach();
    let admin = Admin::new(&KafkaArgs::new(pipeline.brokers())).unwrap();
    push(&pipeline, &org, 10).await;
    until_rows(&pipeline, 10).await;
    assert!(pipeline.terminate("sink").await.success());
    let stored = ends(&pipeline, &admin, "events").await;
    push(&pipeline, &org, 20).await;
    let enriched = async || {
        let now = ends(&pipeline, &admin, "events").await;
        (now.iter().sum::<i64>() > stored.iter().sum::<i64>()).then_some(())
    };
    pipeline.until("enrich has written more", enriched).await;
    assert!(pipeline.terminate("enrich").await.success());
    assert!(pipeline.terminate("detect").await.success());

    let events = pipeline.topic("events");
    admin.delete_topics(&[&events]).await.unwrap();
    let gone = async || admin.topic_ids(&[&events]).await.unwrap().is_empty().then_some(());
    pipeline.until("the topic is gone", gone).await;
    pipeline.partitions(&["topics", "--partitions", &stored.len().to_string()]).await;
    let all: Vec<usize> = (0..stored.len()).collect();
    let said = accept(&pipeline, "--new-topic", "events", &all).await;
    assert!(said.contains("once more"), "{said}");
    for service in ["enrich", "detect", "sink"] {
        pipeline.start_again(service).await;
    }
    push(&pipeline, &org, 7).await;
    until_rows(&pipeline, 37).await;
    pipeline.assert_adds_up(37).await;
    pipeline.partitions(&["doctor"]).await;
}
