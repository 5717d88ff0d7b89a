//! What becomes of a push. There is no sink here: its positions and rows are written by the tests.

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::harness::{Running, World, accepted, problem, refused, until};

/// The sink has stored the raw records of every partition of events below this offset.
async fn store_up_to(world: &World, offset: i64) {
    for partition in 0..4 {
        world
            .database
            .execute(
                "INSERT INTO sink_partition (topic, kpart, epoch, next_offset, next_source_offset)
                 VALUES ('events', $1, 1, $2, $2)
                 ON CONFLICT (topic, kpart) DO UPDATE SET next_source_offset = excluded.next_source_offset",
                &[&partition, &offset],
            )
            .await
            .unwrap();
    }
}

async fn quarantine(world: &World, org: &str, offset: i64, index: i32) {
    for partition in 0..4 {
        world
            .database
            .execute(
                "INSERT INTO quarantine (received_at, org, stream, kpart, koffset, kindex, reason, detail, payload)
                 VALUES (now(), $1, 'events', $2, $3, $4, 'invalid_json', '', '')",
                &[&org, &partition, &offset, &index],
            )
            .await
            .unwrap();
    }
}

fn pushed(ingest: &Running, query: &str, body: &'static str) -> RequestBuilder {
    ingest.post(&format!("/v1/events?{query}"), "application/x-ndjson", body)
}

async fn fate(ingest: &Running, token: Option<&str>, answer: &Value) -> reqwest::Response {
    let url = format!("http://{}/v1/receipts/{}", ingest.http, answer["receipt"].as_str().unwrap());
    let request = ingest.client.get(url);
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request.bearer_auth(&ingest.token),
    };
    request.send().await.unwrap()
}

async fn told(ingest: &Running, answer: &Value) -> Value {
    let response = fate(ingest, None, answer).await;
    assert_eq!(response.status(), 200);
    let mut told: Value = response.json().await.unwrap();
    assert!(told.as_object_mut().unwrap().remove("acknowledged_at").is_some());
    told
}

#[tokio::test]
async fn a_receipt_tells_whether_the_rows_are_there() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    let plain = accepted(pushed(&ingest, "", "{\"a\":1}\n")).await;
    assert_eq!(plain, json!({"accepted": 1, "rejected": []}), "who asks for nothing gets nothing");
    store_up_to(&world, 1).await;
    let answer = accepted(pushed(&ingest, "receipt=true", "{\"a\":1}\nno json\n{\"a\":2}\n")).await;
    assert_eq!((&answer["accepted"], &answer["rejected"][0]["index"]), (&json!(2), &json!(1)));
    assert_eq!(told(&ingest, &answer).await, json!({"state": "acknowledged", "accepted": 2}));

    store_up_to(&world, 2).await;
    let stored = json!({"state": "stored", "accepted": 2, "stored": 2, "quarantined": 0});
    assert_eq!(told(&ingest, &answer).await, stored);
    // Neighbours of the push, and rows of another org.
    quarantine(&world, "demo", 0, 0).await;
    quarantine(&world, "demo", 1, 2).await;
    quarantine(&world, "other", 1, 1).await;
    assert_eq!(told(&ingest, &answer).await, stored);
    quarantine(&world, "demo", 1, 0).await;
    let one = json!({"state": "stored", "accepted": 2, "stored": 1, "quarantined": 1});
    assert_eq!(told(&ingest, &answer).await, one);
    quarantine(&world, "demo", 1, 1).await;
    let none = json!({"state": "quarantined", "accepted": 2, "stored": 0, "quarantined": 2});
    assert_eq!(told(&ingest, &answer).await, none);

    let token = world.new_token("other", "ingest").await;
    problem(fate(&ingest, Some(&token), &answer).await, 404).await;
    problem(fate(&ingest, Some("tw_wrong"), &answer).await, 401).await;
    problem(fate(&ingest, None, &json!({"receipt": "nothing"})).await, 404).await;
    refused(ingest.post("/v1/receipts/nothing", "application/x-ndjson", ""), 405).await;
    ingest.stop().await;
}

#[tokio::test]
async fn what_an_operator_gave_up_is_lost() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    let answer = accepted(pushed(&ingest, "receipt=true", "{\"a\":1}\n")).await;
    for partition in 0..4 {
        world
            .database
            .execute(
                "INSERT INTO sink_accepted
                     (topic, kpart, generation, action, actor, from_offset, to_offset, from_source, to_source)
                 VALUES ('events', $1, 1, 'accepted_gap', 'ada', 0, 0, 0, 5)",
                &[&partition],
            )
            .await
            .unwrap();
    }
    store_up_to(&world, 5).await;
    assert_eq!(told(&ingest, &answer).await, json!({"state": "lost", "accepted": 1}));
    ingest.stop().await;
}

#[tokio::test]
async fn a_push_waits_for_its_rows_and_no_longer_than_it_may() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    let late = pushed(&ingest, "wait=stored&timeout=1", "{\"a\":1}\n").send().await.unwrap();
    assert_eq!(late.status(), 202);
    let location = late.headers()["location"].to_str().unwrap().to_owned();
    let late: Value = late.json().await.unwrap();
    assert_eq!(location, format!("/v1/receipts/{}", late["receipt"].as_str().unwrap()));
    assert_eq!((&late["accepted"], &late["state"]), (&json!(1), &json!("acknowledged")));

    let waiting = tokio::spawn(pushed(&ingest, "wait=stored&timeout=60", "{\"a\":2}\n").send());
    until("the push is in Kafka", async || world.texts().await.len() == 2).await;
    assert!(!waiting.is_finished(), "nothing of it is stored");
    store_up_to(&world, 2).await;
    let stored = waiting.await.unwrap().unwrap();
    assert_eq!(stored.status(), 200);
    let stored: Value = stored.json().await.unwrap();
    assert_eq!((&stored["state"], &stored["stored"]), (&json!("stored"), &json!(1)));

    for query in ["wait=applied", "wait=stored&timeout=61", "receipt=yes", "timeout=3"] {
        refused(pushed(&ingest, query, "{\"a\":3}\n"), 400).await;
    }
    ingest.stop().await;
}

#[tokio::test]
async fn a_stop_ends_the_waiting_with_a_receipt() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    let waiting = tokio::spawn(pushed(&ingest, "wait=stored&timeout=60", "{\"a\":1}\n").send());
    until("the push is in Kafka", async || world.texts().await.len() == 1).await;
    ingest.stop().await;
    assert_eq!(waiting.await.unwrap().unwrap().status(), 202);
}

#[tokio::test]
async fn the_receipt_of_a_keyed_push_is_that_of_the_stored_copy() {
    let world = World::new().await;
    let ingest = world.ready(&[]).await;
    let keyed = || pushed(&ingest, "receipt=true", "{\"a\":1}\n{\"a\":2}\n").header("idempotency-key", "k");
    let (first, second) = (accepted(keyed()).await, accepted(keyed()).await);
    store_up_to(&world, 100).await;
    assert_eq!(told(&ingest, &first).await, json!({"state": "acknowledged", "accepted": 2}));
    let store =
        "INSERT INTO push_key (org, key, part, digest, received_at, stream, kpart, koffset, kindex, n)
                 VALUES ('demo', 'k', 0, $1, now(), 'events', 0, 7, 0, 2)";
    let digest = {
        use sha2::{Digest, Sha256};
        Sha256::new().chain_update(b"events\0lines\0").chain_update("{\"a\":1}\n{\"a\":2}\n").finalize()
    };
    world.database.execute(store, &[&digest.as_slice()]).await.unwrap();
    quarantine(&world, "demo", 7, 1).await;
    for answer in [&first, &second] {
        let one = json!({"state": "stored", "accepted": 2, "stored": 1, "quarantined": 1});
        assert_eq!(told(&ingest, answer).await, one);
    }
    // Had another push won the key, this one's records would be in quarantine.
    world.database.execute("UPDATE push_key SET digest = decode('00', 'hex')", &[]).await.unwrap();
    let lost = json!({"state": "quarantined", "accepted": 2, "stored": 0, "quarantined": 2});
    assert_eq!(told(&ingest, &first).await, lost);
    ingest.stop().await;
}
