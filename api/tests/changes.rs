//! Changes of incidents on their way through Kafka.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use kafka::{Consumer, ConsumerOptions, Input, Start, StartAt};
use reqwest::Method;
use schemas::IncidentChange;
use serde_json::{Value, json};
use support::{Api, insert_incident, read};
use tokio::sync::mpsc;
use uuid::Uuid;

/// A change as it was published.
#[derive(Debug)]
struct Published {
    partition: i32,
    key: String,
    payload: Vec<u8>,
}

impl Published {
    fn change(&self) -> IncidentChange<'_> {
        schemas::decode(&self.payload).unwrap()
    }
}

/// Reads what the API publishes.
fn published(api: &Api) -> mpsc::UnboundedReceiver<Published> {
    let topics = vec![api.kafka.topic("incidents")];
    let options = ConsumerOptions::new("test", api.kafka.group("test"), topics);
    let consumer = Consumer::start(&api.kafka, options).unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(input) = consumer.next().await {
            match input {
                Input::Assigned { partitions, reply } => {
                    reply.send(
                        partitions.into_iter().map(|at| StartAt { at, start: Start::Beginning }).collect(),
                    );
                }
                Input::Records(records) => {
                    for record in records {
                        let key = String::from_utf8(record.key.unwrap()).unwrap();
                        let published =
                            Published { partition: record.partition, key, payload: record.payload };
                        if sender.send(published).is_err() {
                            return;
                        }
                    }
                }
                Input::Revoked { done, .. } => done.send(()),
                Input::Failed(error) => panic!("{error}"),
            }
        }
    });
    receiver
}

/// Does for one change what a sink does at its end: the audit row, and the incident when it was not refused.
async fn settle(api: &Api, change: &IncidentChange<'_>, refused: Option<Value>) {
    let action = if refused.is_some() { "refused" } else { "changed" };
    let detail = refused.unwrap_or_else(|| json!({"version": 2}));
    let at = jiff::Timestamp::from_microsecond(change.at.0).unwrap();
    if action == "changed" {
        api.db
            .execute(
                "UPDATE incidents SET version = version + 1, status = coalesce($3, status) WHERE org = $1 AND id = $2",
                &[&&*change.org, &change.incident_id, &change.edit.as_ref().and_then(|edit| edit.status.as_deref())],
            )
            .await
            .unwrap();
    }
    api.db
        .execute(
            "INSERT INTO audit_log VALUES ($1, $2, $3, $4, $5, 'incident', $6, $7)",
            &[
                &at,
                &change.change_id,
                &&*change.org,
                &&*change.actor,
                &action,
                &change.incident_id.to_string(),
                &detail,
            ],
        )
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
}

#[tokio::test]
async fn a_change_is_published_where_all_changes_of_the_incident_are() {
    let api = Api::start_with_kafka().await;
    let token = api.analyst("demo").await;
    let mut published = published(&api);
    let id = Uuid::new_v4();
    insert_incident(&api.db, "demo", id, 10.0, &json!([])).await;
    let path = format!("/v1/incidents/{id}");
    let edit = json!({"status": "acknowledged", "assignee": null, "note": "looking"});
    let patch = api.request(Method::PATCH, &path, &token).header("if-match", "\"1\"").json(&edit);
    let answer = read(patch).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(answer.headers["location"], path);

    let record = published.recv().await.unwrap();
    assert_eq!(record.key, format!("demo/{id}"));
    assert_eq!(record.partition, schemas::partition_of(&[b"demo", id.as_bytes()], 32));
    let change = record.change();
    assert_eq!((&*change.org, change.incident_id, &*change.actor), ("demo", id, "alice"));
    assert_eq!(answer.body["change_id"], change.change_id.to_string());
    let edit = change.edit.unwrap();
    assert_eq!(edit.status.as_deref(), Some("acknowledged"));
    assert_eq!(edit.assignee.as_deref(), Some(""), "nobody");
    assert_eq!((edit.note.as_deref(), edit.if_version), (Some("looking"), Some(1)));
    assert!(change.window.is_none() && change.merged_into.is_none());
}

#[tokio::test]
async fn an_incident_is_created_by_hand_once_a_key() {
    let api = Api::start_with_kafka().await;
    let token = api.analyst("demo").await;
    let mut published = published(&api);
    let new = json!({
        "title": "Odd traffic", "severity": "high", "tags": ["manual"],
        "entities": [{"name": "host", "value": "web-1"}],
        "evidence": [{"id": "events/3/1042/17", "time": "2026-11-21T08:30:00.000001Z"},
                     {"id": "findings/0/1/0", "time": "2026-11-21T08:00:00Z"}],
    });
    let post = |key: &'static str| {
        read(api.request(Method::POST, "/v1/incidents", &token).header("idempotency-key", key).json(&new))
    };
    let first = post("one").await;
    assert_eq!(first.status, 202, "{}", first.body);
    let (again, other) = (post("one").await, post("two").await);
    assert_eq!(first.body["incident_id"], again.body["incident_id"]);
    assert_ne!(first.body["incident_id"], other.body["incident_id"]);

    let record = published.recv().await.unwrap();
    let change = record.change();
    let window = change.window.unwrap();
    assert_eq!((&*window.rule_id, &*window.title, window.severity_id), ("manual", "Odd traffic", 4));
    assert_eq!((window.count, window.evidence.len()), (2, 2));
    assert_eq!(window.last_time.0 - window.first_time.0, 30 * 60 * 1_000_000 + 1);
    assert_eq!(window.evidence[0].time, window.last_time);
    assert!(change.edit.is_some(), "so that it is audited also when repeated");
}

#[tokio::test]
async fn waiting_for_a_change_answers_with_what_became_of_it() {
    let api = Api::start_with_kafka().await;
    let token = api.analyst("demo").await;
    let mut published = published(&api);
    let id = Uuid::new_v4();
    insert_incident(&api.db, "demo", id, 10.0, &json!([])).await;
    let path = format!("/v1/incidents/{id}?wait=applied");
    let patch = |body: Value, version: &'static str| {
        read(api.request(Method::PATCH, &path, &token).header("if-match", version).json(&body))
    };

    let (answer, ()) = tokio::join!(patch(json!({"status": "acknowledged"}), "\"1\""), async {
        let record = published.recv().await.unwrap();
        settle(&api, &record.change(), None).await;
    });
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!((&answer.body["status"], &answer.body["version"]), (&json!("acknowledged"), &json!(2)));
    assert_eq!(answer.headers["etag"], "\"2\"");
    assert_eq!(answer.body["history"][0]["actor"], "alice");

    // Somebody else's change came first.
    let (answer, ()) = tokio::join!(patch(json!({"status": "resolved"}), "\"2\""), async {
        let record = published.recv().await.unwrap();
        let why = json!({"reason": "the incident is at version 3, not 2", "version": 3});
        settle(&api, &record.change(), Some(why)).await;
    });
    assert_eq!(answer.status, 412, "{}", answer.body);
    let (answer, ()) = tokio::join!(patch(json!({"status": "resolved"}), "*"), async {
        let record = published.recv().await.unwrap();
        let why = json!({"reason": "false_positive cannot become resolved", "version": 3});
        settle(&api, &record.change(), Some(why)).await;
    });
    assert_eq!(answer.status, 409, "{}", answer.body);
    assert!(answer.body["detail"].as_str().unwrap().contains("cannot become"));
}

#[tokio::test]
async fn what_cannot_succeed_is_refused_at_once_and_not_published() {
    let api = Api::start_with_kafka().await;
    let token = api.analyst("demo").await;
    let mut published = published(&api);
    let id = Uuid::new_v4();
    insert_incident(&api.db, "demo", id, 10.0, &json!([])).await;
    api.db.batch_execute("UPDATE incidents SET status = 'resolved', version = 5").await.unwrap();
    let path = format!("/v1/incidents/{id}");
    let patch = |body: Value, version: &'static str| {
        read(api.request(Method::PATCH, &path, &token).header("if-match", version).json(&body))
    };
    assert_eq!(patch(json!({"status": "acknowledged"}), "*").await.status, 409);
    assert_eq!(patch(json!({"status": "open"}), "\"4\"").await.status, 412);
    assert_eq!(patch(json!({"status": "open"}), "soon").await.status, 400);
    // This one is, and nothing before it.
    assert_eq!(patch(json!({"status": "open"}), "\"5\"").await.status, 202);
    let record = published.recv().await.unwrap();
    assert_eq!(record.change().edit.unwrap().status.as_deref(), Some("open"));
}

#[tokio::test]
async fn a_change_that_nobody_applies_is_answered_202_in_the_end() {
    let api = Api::start_with_kafka().await;
    let token = api.analyst("demo").await;
    let post = api
        .request(Method::POST, "/v1/incidents?wait=applied", &token)
        .json(&json!({"title": "Odd traffic", "severity": 3}));
    let answer = read(post).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert!(answer.headers["location"].to_str().unwrap().starts_with("/v1/incidents/"));
}

#[tokio::test]
async fn it_is_ready_with_both_and_a_stop_answers_what_is_under_way() {
    let api = Api::start_with_kafka().await;
    let token = api.analyst("demo").await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !api.context.health.is_ready() {
        assert!(std::time::Instant::now() < deadline, "{:?}", api.context.health);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(api.get("/v1/scans", &token).await.status, 200);
    api.db.batch_execute("BEGIN; LOCK TABLE incidents IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let (answer, ()) = tokio::join!(api.get("/v1/incidents", &token), async {
        let waiting =
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database
                       WHERE datname = current_database())";
        while api.db.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::task::yield_now().await;
        }
        api.context.shutdown.request();
        api.db.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(answer.status, 200);
    api.stop().await.unwrap();
}
