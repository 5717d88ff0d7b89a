//! Answers that are not what was asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use support::{Answer, Api, Counted, count, insert_events, read};
use uuid::Uuid;

fn is_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.body["status"], status);
    for member in ["type", "title", "detail"] {
        assert!(answer.body[member].is_string(), "{}", answer.body);
    }
}

const PATHS: [&str; 7] = [
    "/v1/incidents",
    "/v1/incidents/5a1cb10f-37c4-4c8e-9f5e-0d2e6f6ba391",
    "/v1/events",
    "/v1/findings",
    "/v1/scans",
    "/v1/counts",
    "/v1/summary",
];

#[tokio::test]
async fn nothing_is_answered_without_an_analysts_token() {
    let api = Api::start().await;
    let ingest = support::token(&api.db, "demo", "ingest", "shipper").await;
    for path in PATHS {
        let answer = read(api.anonymous(path)).await;
        is_problem(&answer, 401);
        assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        let answer = api.get(path, "tw_analyst_guessed").await;
        is_problem(&answer, 401);
        assert!(answer.headers["www-authenticate"].to_str().unwrap().contains("invalid_token"));
        is_problem(&api.get(path, &ingest).await, 403);
    }
    let created = api.request(Method::POST, "/v1/incidents", &ingest).json(&json!({}));
    is_problem(&read(created).await, 403);
}

#[tokio::test]
async fn a_token_that_was_revoked_before_its_first_use_is_refused() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    api.db.execute("UPDATE token SET revoked_at = now()", &[]).await.unwrap();
    is_problem(&api.get("/v1/summary", &token).await, 401);
}

const WRONG: &[(&str, &str)] = &[
    ("/v1/events?limit=0", "limit"),
    ("/v1/events?limit=1001", "limit"),
    ("/v1/events?from=yesterday", "from"),
    ("/v1/events?from=2026-11-21T10:00:00Z&to=2026-11-21T09:00:00Z", "from"),
    ("/v1/events?severity=awful", "severity"),
    ("/v1/events?class=abc", "class"),
    ("/v1/events?src_ip=300.1.1.1", "src_ip"),
    ("/v1/events?user=%00", "user"),
    ("/v1/events?usr=root", "usr"),
    ("/v1/events?user=a&user=b", "user"),
    ("/v1/incidents?status=closed", "status"),
    ("/v1/incidents?src_ip=10.0.0.0/8", "src_ip"),
    ("/v1/scans?status=open", "status"),
    ("/v1/findings?scan_type=disk", "scan_type"),
    ("/v1/counts?stream=signals", "stream"),
    ("/v1/summary?limit=5", "limit"),
    ("/v1/incidents/5a1cb10f-37c4-4c8e-9f5e-0d2e6f6ba391?x=1", "x"),
];

#[tokio::test]
async fn parameters_that_cannot_be_used_are_named() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    for (path, field) in WRONG {
        let answer = api.get(path, &token).await;
        is_problem(&answer, 400);
        assert_eq!(answer.body["errors"][0]["field"], *field, "{}", answer.body);
        assert!(answer.body["errors"][0]["reason"].is_string());
    }
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_are_problems_too() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    is_problem(&api.get("/v2/events", &token).await, 404);
    is_problem(&api.get("/v1/incidents/17", &token).await, 404);
    is_problem(&api.get(&format!("/v1/incidents/{}", Uuid::new_v4()), &token).await, 404);
    is_problem(&read(api.request(Method::DELETE, "/v1/events", &token)).await, 405);
}

#[tokio::test]
async fn bodies_that_cannot_be_used_are_told_field_by_field() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    let post = || api.request(Method::POST, "/v1/incidents", &token);
    is_problem(&read(post().body("title=x")).await, 415);
    let json = || post().header("content-type", "application/json");
    is_problem(&read(json().body("{\"title\": ")).await, 400);
    is_problem(&read(json().body("{\"title\": \"a\", \"severity\": 3} x")).await, 400);
    is_problem(&read(json().body(format!("{{\"title\": \"{}\"}}", "x".repeat(300_000)))).await, 413);

    let answer = read(post().json(&json!({"title": "a", "severity": 3, "titel": "b"}))).await;
    is_problem(&answer, 422);
    assert_eq!(answer.body["errors"][0]["field"], "titel", "{}", answer.body);
    let answer =
        read(post().json(&json!({"title": "a", "severity": 3, "evidence": [{"id": 7, "time": "x"}]}))).await;
    is_problem(&answer, 422);
    assert_eq!(answer.body["errors"][0]["field"], "evidence[0].id", "{}", answer.body);
    let answer = read(post().json(&json!({"title": "", "severity": "awful", "note": "a\u{0}b"}))).await;
    is_problem(&answer, 422);
    let fields: Vec<_> =
        answer.body["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
    assert_eq!(fields, ["title", "severity", "note"]);
    let patch = api.request(Method::PATCH, &format!("/v1/incidents/{}", Uuid::new_v4()), &token);
    is_problem(&read(patch.json(&json!({"status": "closed"}))).await, 422);
}

#[tokio::test]
async fn a_body_of_counts_is_not_sent_twice() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    let events = Counted { hours_ago: 0, stream: "events", class_uid: 0, severity_id: 1, slot: 0 };
    count(&api.db, "demo", events, 5).await;
    for path in ["/v1/counts", "/v1/summary"] {
        let tag = api.get(path, &token).await.headers["etag"].clone();
        let again = || api.request(Method::GET, path, &token).header("if-none-match", tag.clone());
        let answer = read(again()).await;
        assert_eq!(answer.status, 304);
        assert_eq!((answer.headers["etag"].clone(), answer.body.is_null()), (tag.clone(), true));
        count(&api.db, "demo", events, 1).await;
        let answer = read(again()).await;
        assert_eq!(answer.status, 200);
        assert_ne!(answer.headers["etag"], tag);
    }
}

#[tokio::test]
async fn answers_are_compressed_for_who_asks() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    insert_events(&api.db, "demo", 200, 1, 30).await;
    let plain = api.get("/v1/events", &token).await;
    // The client has the feature: it asks, decompresses and drops the header.
    assert_eq!(plain.body["items"].as_array().unwrap().len(), 100);
    let raw = reqwest::Client::builder().no_gzip().build().unwrap();
    let response = raw
        .get(format!("{}/v1/events", api.url))
        .bearer_auth(&token)
        .header("accept-encoding", "gzip")
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert!(response.bytes().await.unwrap().starts_with(&[0x1f, 0x8b]));
}

#[tokio::test]
async fn the_document_is_served_without_a_token() {
    let api = Api::start().await;
    let answer = read(api.anonymous("/openapi.json")).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body["paths"]["/v1/incidents/{id}"]["patch"].is_object());
}

/// Holds a lock that every read of incidents waits for.
async fn locked(api: &Api) {
    api.db.batch_execute("BEGIN; LOCK TABLE incidents IN ACCESS EXCLUSIVE MODE").await.unwrap();
}

#[tokio::test]
async fn without_a_free_connection_the_answer_is_503_and_the_next_is_fine() {
    let api = Api::start_with_pool(1).await;
    let token = api.analyst("demo").await;
    assert_eq!(api.get("/v1/scans", &token).await.status, 200);
    locked(&api).await;
    let (held, refused) = tokio::join!(api.get("/v1/incidents", &token), async {
        // Answered until the other request has the connection.
        let refused = loop {
            let answer = api.get("/v1/scans", &token).await;
            if answer.status != 200 {
                break answer;
            }
        };
        api.db.batch_execute("COMMIT").await.unwrap();
        refused
    });
    assert_eq!(held.status, 200);
    is_problem(&refused, 503);
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(api.get("/v1/scans", &token).await.status, 200);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_query_with_it() {
    let api = Api::start_with_pool(1).await;
    let token = api.analyst("demo").await;
    assert_eq!(api.get("/v1/scans", &token).await.status, 200);
    locked(&api).await;
    let gone =
        api.request(Method::GET, "/v1/incidents", &token).timeout(Duration::from_millis(300)).send().await;
    assert!(gone.unwrap_err().is_timeout());
    // Long before the query would have ended, and long before a wait for a connection would.
    let started = Instant::now();
    assert_eq!(api.get("/v1/scans", &token).await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let deadline = Instant::now() + Duration::from_secs(10);
    while api.db.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(Instant::now() < deadline, "the query goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_lost_connection_is_replaced_without_the_client_noticing() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    assert_eq!(api.get("/v1/scans", &token).await.status, 200);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    api.db.batch_execute(end).await.unwrap();
    assert_eq!(api.get("/v1/scans", &token).await.status, 200);
}

#[tokio::test]
async fn without_a_broker_reads_go_on_and_changes_are_answered_503() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    assert_eq!(api.get("/v1/incidents", &token).await.status, 200);
    let post =
        api.request(Method::POST, "/v1/incidents", &token).json(&json!({"title": "a", "severity": "high"}));
    let answer = read(post).await;
    is_problem(&answer, 503);
    assert!(answer.headers.contains_key("retry-after"));
    assert!(!api.context.health.is_ready());
    api.stop().await.unwrap();
}
