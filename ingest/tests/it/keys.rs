//! Pushes with an Idempotency-Key that come again.

use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use schemas::Stream;
use serde_json::json;
use service::metrics;
use sha2::{Digest, Sha256};

use crate::harness::{Running, World, accepted, problem, refused, until};

const LINES: &str = "application/x-ndjson";

fn keyed(ingest: &Running, key: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    ingest.lines(body).header("idempotency-key", key)
}

fn outcome(outcome: &str) -> f64 {
    metrics::value("tidewatch_ingest_keyed_pushes_total", &[("outcome", outcome)]).unwrap_or(0.0)
}

/// What the sink writes of a part of a push to `/v1/events`, received some hours ago.
async fn store(world: &World, key: &str, part: i32, body: &str, hours: i32) {
    let digest = Sha256::new().chain_update(b"events\0lines\0").chain_update(body).finalize();
    world
        .database
        .execute(
            "INSERT INTO push_key (org, key, part, digest, received_at, stream, kpart, koffset, kindex, n)
             VALUES ('demo', $1, $2, $3, now() - make_interval(hours => $4), 'events', 0, 0, 0, 1)",
            &[&key, &part, &digest.as_slice(), &hours],
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn the_same_push_is_published_once_and_answered_the_same() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    let body = "{\"a\":1}\nno json\n{\"a\":2}\n";
    let first = accepted(keyed(&ingest, "k", body)).await;
    assert_eq!((&first["accepted"], &first["rejected"][0]["index"]), (&json!(2), &json!(1)));
    let zipped = zstd::encode_all(body.as_bytes(), 3).unwrap();
    for again in [
        keyed(&ingest, "k", body),
        keyed(&ingest, "\"k\"", body),
        keyed(&ingest, "k", body).header("x-sender", "another"),
        keyed(&ingest, "k", zipped).header("content-encoding", "zstd"),
        ingest.post("/v1/events", "application/jsonlines", body).header("idempotency-key", "k"),
    ] {
        assert_eq!(accepted(again).await, first);
    }
    // All at once, too.
    let together = (0..8).map(|_| accepted(keyed(&ingest, "together", "{\"b\":1}")));
    for answer in futures::future::join_all(together).await {
        assert_eq!(answer, json!({"accepted": 1, "rejected": []}));
    }
    ingest.stop().await;
    assert_eq!(world.texts().await, ["{\"a\":1}", "{\"a\":2}", "{\"b\":1}"]);
}

#[tokio::test]
async fn another_push_under_the_same_key_is_refused() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    accepted(keyed(&ingest, "k", "{\"a\":1}")).await;
    let other = refused(keyed(&ingest, "k", "{\"a\":2}"), 422).await;
    assert_eq!(other["type"], "urn:tidewatch:problem:idempotency-conflict");
    assert!(other["detail"].as_str().unwrap().contains("\"k\""), "{other}");
    for (path, content_type) in [("/v1/findings", LINES), ("/v1/events", "application/json")] {
        let request = ingest.post(path, content_type, "{\"a\":1}").header("idempotency-key", "k");
        refused(request, 422).await;
    }
    // Another org has keys of its own.
    let token = world.new_token("other", "ingest").await;
    let request = ingest.client.post(format!("http://{}/v1/events", ingest.http)).bearer_auth(token);
    let request = request.header("content-type", LINES).header("idempotency-key", "k").body("{\"a\":3}");
    accepted(request).await;
    ingest.stop().await;
    assert_eq!(world.texts().await, ["{\"a\":1}", "{\"a\":3}"]);
    assert!(world.arrived(Stream::Findings).await.is_empty());
}

#[tokio::test]
async fn what_could_not_be_taken_leaves_the_key_free() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    refused(keyed(&ingest, "k", "no json"), 400).await;
    refused(keyed(&ingest, "k", ""), 400).await;
    accepted(keyed(&ingest, "k", "{\"a\":1}")).await;
    ingest.stop().await;
    assert_eq!(world.texts().await, ["{\"a\":1}"]);
}

#[tokio::test]
async fn a_retry_waits_for_the_first_try_and_is_new_when_that_failed() {
    let world = World::new().await;
    let ingest = world.ready(&["--delivery-timeout", "2s", "--partition-refresh", "100ms"]).await;
    world.delete_topics().await;
    until("a push is not acknowledged", async || {
        ingest.lines("{\"gone\":1}").send().await.unwrap().status() == 503
    })
    .await;
    let joined = outcome("joined");
    let first = tokio::spawn(keyed(&ingest, "k", "{\"a\":1}").send());
    let retry = keyed(&ingest, "k", "{\"a\":1}");
    let (retry, started) = (tokio::spawn(retry.send()), Instant::now());
    until("the retry has joined the first try", async || outcome("joined") > joined).await;
    // Another push need not wait to be refused.
    refused(keyed(&ingest, "k", "{\"a\":2}"), 422).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    problem(first.await.unwrap().unwrap(), 503).await;
    problem(retry.await.unwrap().unwrap(), 503).await;
    world.create_topics().await;
    until("the push is taken", async || {
        keyed(&ingest, "k", "{\"a\":1}").send().await.unwrap().status() == 200
    })
    .await;
    assert_eq!(accepted(keyed(&ingest, "k", "{\"a\":1}")).await["accepted"], 1);
    ingest.stop().await;
}

#[tokio::test]
async fn a_push_that_postgres_knows_is_answered_without_publishing_it() {
    let world = World::new().await;
    let long: String = (0..700).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    store(&world, "whole", 0, "{\"a\":1}", 23).await;
    store(&world, "part", 0, &long, 1).await;
    store(&world, "old", 0, "{\"before\":1}", 24).await;
    let ingest = world.ready(&[]).await;
    let before = outcome("stored");
    assert_eq!(accepted(keyed(&ingest, "whole", "{\"a\":1}")).await, json!({"accepted": 1, "rejected": []}));
    assert!(outcome("stored") > before);
    refused(keyed(&ingest, "whole", "{\"a\":2}"), 422).await;
    // Its second part is missing.
    assert_eq!(accepted(keyed(&ingest, "part", long.clone())).await["accepted"], 700);
    // The other body under this key is too long ago to be of any matter.
    accepted(keyed(&ingest, "old", "{\"after\":1}")).await;
    refused(keyed(&ingest, "old", "{\"before\":1}"), 422).await;
    ingest.stop().await;
    let texts = world.texts().await;
    assert_eq!(texts.len(), 701);
    assert!(texts.contains(&"{\"after\":1}".to_owned()) && !texts.contains(&"{\"a\":1}".to_owned()));
}

#[tokio::test]
async fn without_postgres_keyed_pushes_go_on_and_do_not_wait() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    accepted(keyed(&ingest, "before", "{\"a\":0}")).await;
    world.close_database().await;
    until("the database is seen to be away", async || !ingest.context.health.is_ready()).await;
    let (before, started) = (outcome("unchecked"), Instant::now());
    for n in 1..=20 {
        accepted(keyed(&ingest, &format!("k{n}"), format!("{{\"a\":{n}}}"))).await;
        accepted(keyed(&ingest, &format!("k{n}"), format!("{{\"a\":{n}}}"))).await;
    }
    assert!(outcome("unchecked") >= before + 20.0);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    ingest.stop().await;
    assert_eq!(world.texts().await.len(), 21);
}
