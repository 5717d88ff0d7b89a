//! Pushes that ask what becomes of them, with every service at work.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidewatch_tests::{Identity, Pipeline};

const LINES: &str = "application/x-ndjson";
/// Far above what storing takes: the sink writes at least five times a second.
const SOON: Duration = Duration::from_secs(2);

async fn push(pipeline: &Pipeline, org: &Identity, query: &str, body: &str) -> (u16, Value) {
    let path = format!("/v1/events?{query}");
    let answer = pipeline.answer("ingest", org, &path, LINES, &[], body.to_owned()).await;
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_push_that_waits_is_answered_when_its_rows_are_there() {
    let mut pipeline = Pipeline::own().await;
    let org = pipeline.new_org().await.detach();
    let body =
        "{\"message\":\"good\"}\n{\"message\":\"a\",\"note\":\"nul \\u0000\"}\n{\"message\":\"good\"}\n";
    let mut times = Vec::new();
    for number in 1..=20 {
        let started = Instant::now();
        let (status, answer) = push(&pipeline, &org, "wait=stored", body).await;
        times.push(started.elapsed());
        let told = ["state", "accepted", "stored", "quarantined"].map(|name| answer[name].clone());
        assert_eq!((status, told), (200, [json!("stored"), json!(3), json!(2), json!(1)]), "{answer}");
        assert_eq!(pipeline.count("SELECT count(*) FROM events").await, number * 2, "all of it is there");
        assert_eq!(pipeline.count("SELECT count(*) FROM quarantine").await, number);
    }
    times.sort_unstable();
    println!("from push to the answer that it is stored: median {:?}, longest {:?}", times[10], times[19]);
    assert!(times[19] < SOON, "{times:?}");

    assert!(pipeline.terminate("sink").await.success());
    let (status, waited) = push(&pipeline, &org, "wait=stored&timeout=1", body).await;
    assert_eq!((status, &waited["state"]), (202, &json!("acknowledged")), "{waited}");
    let keyed = [("idempotency-key", "k")];
    let path = "/v1/events?receipt=true";
    let keyed = pipeline.push_to("ingest", &org, path, LINES, &keyed, body.to_owned()).await;
    // A receipt is good after a restart, and on any ingest.
    assert!(pipeline.terminate("ingest").await.success());
    pipeline.start_again("ingest").await;
    pipeline.start_again("sink").await;
    for receipt in [&waited, &keyed].map(|answer| answer["receipt"].as_str().unwrap().to_owned()) {
        let told = pipeline
            .until("the receipt says that the push is stored", async || {
                let told = pipeline.receipt(&org, &receipt).await;
                (told["state"] != "acknowledged").then_some(told)
            })
            .await;
        let told = ["state", "accepted", "stored", "quarantined"].map(|name| told[name].clone());
        assert_eq!(told, [json!("stored"), json!(3), json!(2), json!(1)]);
    }
}
