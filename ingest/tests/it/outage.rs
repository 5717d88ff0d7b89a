//! Kafka or Postgres away.

use std::time::{Duration, Instant};

use crate::harness::{World, accepted, problem, refused, until};

#[tokio::test]
async fn without_a_broker_pushes_are_answered_503_at_once() {
    let world = World::new().await;
    let ingest = world.ingest(&["--kafka-brokers", "127.0.0.1:1"]).await;
    let started = Instant::now();
    let answer = refused(ingest.lines("{}"), 503).await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert!(answer["detail"].as_str().unwrap().contains("Kafka"), "{answer}");
    until("it says what it waits for", async || {
        let report = ingest.context.health.report(false);
        let kafka = report.dependencies.iter().find(|dependency| dependency.name == "kafka").unwrap();
        !report.ready && kafka.detail.as_deref().is_some_and(|detail| detail != "starting")
    })
    .await;
    ingest.stop().await;
}

#[tokio::test]
async fn a_broker_that_does_not_acknowledge_in_time_means_503() {
    let world = World::new().await;
    let ingest = world.ready(&["--delivery-timeout", "1s"]).await;
    accepted(ingest.lines("{}")).await;
    // From here on nobody can take a batch that ingest has a partition for.
    world.delete_topics().await;
    until("a push is not acknowledged", async || {
        let started = Instant::now();
        let answer = ingest.lines("{}").send().await.unwrap();
        // The topics are still there for a moment.
        if answer.status() == 200 {
            return false;
        }
        let answer = problem(answer, 503).await;
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        answer["detail"].as_str().unwrap().contains("did not acknowledge")
    })
    .await;
    ingest.stop().await;
}

#[tokio::test]
async fn ingest_started_before_its_topics_waits_for_them() {
    let world = World::without_topics().await;
    let ingest = world.ingest(&[]).await;
    refused(ingest.lines("{}"), 503).await;
    assert!(!ingest.context.health.is_ready());
    world.create_topics().await;
    until("ingest is ready", async || ingest.context.health.is_ready()).await;
    accepted(ingest.lines("{\"a\":1}")).await;
    ingest.stop().await;
    assert_eq!(world.texts().await, ["{\"a\":1}"]);
}

#[tokio::test]
async fn without_postgres_a_token_in_use_goes_on_working_and_an_unknown_one_gets_503() {
    let world = World::new().await;
    let new = world.new_token("demo", "ingest").await;
    let ingest = world.ready(&[]).await;
    accepted(ingest.lines("{}")).await;
    world.close_database().await;
    until("the database is seen to be away", async || !ingest.context.health.is_ready()).await;
    accepted(ingest.lines("{}")).await;
    let unknown = ingest.client.post(format!("http://{}/v1/events", ingest.http)).bearer_auth(new).body("x");
    refused(unknown, 503).await;
    ingest.stop().await;
}

#[tokio::test]
async fn partitions_that_are_added_under_way_are_used() {
    let world = World::new().await;
    let ingest = world.ready(&["--partition-refresh", "100ms"]).await;
    world.add_partitions(12).await;
    until("a push lands in a new partition", async || {
        let pushes = (0..40).map(|n| accepted(ingest.lines("{}").header("x-sender", n.to_string())));
        futures::future::join_all(pushes).await;
        world.events().await.iter().any(|arrived| arrived.partition >= 4)
    })
    .await;
    ingest.stop().await;
}
