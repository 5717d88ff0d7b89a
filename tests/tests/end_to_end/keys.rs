//! Pushes with an Idempotency-Key that come again: to another ingest, from another sender, after restarts and into more
//! partitions.

use serde_json::{Value, json};
use tidewatch_tests::{Identity, Pipeline, brute_force};

const FAILED_LOGINS: i64 = 12;

/// Pushes lines with a key to one of the ingests.
async fn push(
    pipeline: &Pipeline,
    ingest: &str,
    org: &Identity,
    sender: &str,
    key: &str,
    lines: &str,
) -> Value {
    let headers = [("idempotency-key", key), ("x-sender", sender)];
    pipeline.push_to(ingest, org, "/v1/events", "text/plain", &headers, lines.to_owned()).await
}

/// The one incident of the org, once it counts as many events as there are failed logins.
async fn incident(pipeline: &Pipeline, org: &Identity) -> Value {
    let org = pipeline.org(org);
    org.until("the failed logins show as an incident", async || {
        let page = org.get("/v1/incidents").await;
        let incident = page["items"].as_array()?.first()?.clone();
        (incident["event_count"].as_i64()? >= FAILED_LOGINS).then_some(incident)
    })
    .await
}

async fn assert_once(pipeline: &Pipeline, org: &Identity, pushes: i64) {
    pipeline.until_received(pushes * FAILED_LOGINS).await;
    pipeline.assert_adds_up(pushes * FAILED_LOGINS).await;
    let incident = incident(pipeline, org).await;
    assert_eq!(incident["event_count"], FAILED_LOGINS, "{incident}");
}

#[tokio::test]
async fn a_push_sent_again_anywhere_at_any_time_is_stored_and_counted_once() {
    let mut pipeline = Pipeline::own().await;
    let org = pipeline.new_org().await.detach();
    let second = pipeline.another("ingest").await;
    let lines = brute_force("203.0.113.40");
    let taken = json!({"accepted": FAILED_LOGINS, "rejected": []});

    // Neither ingest can know of the other's: Postgres does not, while there is no sink.
    assert!(pipeline.terminate("sink").await.success());
    for (ingest, sender) in [("ingest", "a"), (&*second, "b"), ("ingest", "b")] {
        assert_eq!(push(&pipeline, ingest, &org, sender, "k", &lines).await, taken);
    }
    // Nor after a restart of its own.
    assert!(pipeline.terminate("ingest").await.success());
    pipeline.start_again("ingest").await;
    assert_eq!(push(&pipeline, "ingest", &org, "c", "k", &lines).await, taken);
    pipeline.start_again("sink").await;
    assert_once(&pipeline, &org, 1).await;
    let copies = "SELECT coalesce(sum(duplicates), 0)::bigint FROM sink_ledger WHERE topic = 'events'";
    assert_eq!(pipeline.count(copies).await, 2 * FAILED_LOGINS, "three copies came through Kafka");

    // Now Postgres knows, and a sink that has just started knows what it needs.
    for service in ["ingest", "sink"] {
        assert!(pipeline.terminate(service).await.success());
        pipeline.start_again(service).await;
    }
    assert_eq!(push(&pipeline, "ingest", &org, "a", "k", &lines).await, taken);
    assert_eq!(pipeline.metric("ingest", r#"keyed_pushes_total{outcome="stored"}"#).await, 1.0);
    // Another push after it, so that the repeat would be there by now.
    push(&pipeline, "ingest", &org, "a", "end", "the end\n").await;
    pipeline.until_received(FAILED_LOGINS + 1).await;
    pipeline.assert_adds_up(FAILED_LOGINS + 1).await;
    assert_eq!(pipeline.count("SELECT count(*) FROM push_key").await, 2);
    assert_eq!(incident(&pipeline, &org).await["event_count"], FAILED_LOGINS);
}

#[tokio::test]
async fn a_push_that_lands_in_another_partition_when_it_comes_again_is_stored_and_counted_once() {
    let mut pipeline = Pipeline::own().await;
    let org = pipeline.new_org().await.detach();
    assert!(pipeline.terminate("sink").await.success());
    let lines = brute_force("203.0.113.41");
    // Eight pushes of the same lines would be eight times as many failed logins: only the first has them.
    let body = |key: usize| if key == 0 { lines.clone() } else { lines.replace("Failed", "Unfailed") };
    let keys: Vec<String> = (0..8).map(|key| format!("push-{key}")).collect();
    for (n, key) in keys.iter().enumerate() {
        push(&pipeline, "ingest", &org, "a", key, &body(n)).await;
    }
    for topic in ["events", "events.raw"] {
        pipeline.grow(topic, 8).await;
    }
    for service in ["enrich", "detect", "ingest"] {
        assert!(pipeline.terminate(service).await.success());
        pipeline.start_again(service).await;
    }
    for (n, key) in keys.iter().enumerate() {
        push(&pipeline, "ingest", &org, "b", key, &body(n)).await;
    }
    pipeline.start_again("sink").await;
    pipeline
        .until("both copies of each push are in the ledger", async || {
            let received =
                "SELECT coalesce(sum(received), 0)::bigint FROM sink_ledger WHERE topic = 'events'";
            (pipeline.count(received).await >= 16 * FAILED_LOGINS).then_some(())
        })
        .await;
    assert_once(&pipeline, &org, 8).await;
    let partitions = "SELECT count(*) FROM sink_partition WHERE topic = 'events' AND kpart >= 4 AND next_source_offset > 0";
    assert!(pipeline.count(partitions).await > 0, "some copies went to new partitions");
}

#[tokio::test]
async fn of_two_pushes_with_one_key_the_second_is_quarantined_or_refused() {
    let mut pipeline = Pipeline::own().await;
    let org = pipeline.new_org().await.detach();
    let second = pipeline.another("ingest").await;
    assert!(pipeline.terminate("sink").await.success());
    push(&pipeline, "ingest", &org, "a", "k", "first one\nfirst two\n").await;
    // This ingest knows nothing of it.
    push(&pipeline, &second, &org, "a", "k", "second one\nsecond two\nsecond three\n").await;
    pipeline.start_again("sink").await;
    pipeline.until_received(5).await;
    pipeline.assert_adds_up(5).await;
    let kept = "SELECT convert_from(payload, 'UTF8') FROM quarantine WHERE reason = 'idempotency_conflict' ORDER BY kindex";
    let kept = pipeline.texts(kept).await;
    assert_eq!(kept.len(), 3);
    assert!(kept[2].contains("second three"), "{kept:?}");
    // Whoever asks Postgres knows.
    assert!(pipeline.terminate(&second).await.success());
    pipeline.start_again(&second).await;
    let headers = [("idempotency-key", "k")];
    let refused =
        pipeline.answer(&second, &org, "/v1/events", "text/plain", &headers, "second one\n".into()).await;
    assert_eq!(refused.status(), 422);
}
