//! Two orgs on every endpoint.

use serde_json::json;
use tidewatch_tests::Pipeline;

#[tokio::test]
async fn no_endpoint_shows_another_orgs_data() {
    let pipeline = Pipeline::shared().await;
    let (alice, mallory) = (pipeline.new_org().await, pipeline.new_org().await);
    let now = tidewatch_tests::now();
    let secret = "crown-jewels";
    let event =
        json!({"message": secret, "host": secret, "user": secret, "src_ip": "192.0.2.77", "time": now});
    alice.push("/v1/events", "application/json", event.to_string()).await;
    let finding = json!({"class_uid": 2004, "scan_id": secret, "scan_type": "code", "uid": secret, "kind": "pii",
                         "severity_id": 5, "title": secret, "resource": secret, "time": now});
    let scan = json!({"class_uid": 6007, "scan_id": secret, "scan_type": "code", "state": "running", "progress": 5,
                      "sequence": 1, "time": now});
    alice.push("/v1/findings", "application/json", json!([finding, scan]).to_string()).await;
    let created =
        alice.send("POST", "/v1/incidents?wait=applied", json!({"title": secret, "severity": "high"})).await;
    let id = created["id"].as_str().unwrap().to_owned();
    alice
        .until("alice sees her own data", async || {
            let (events, findings) = (alice.get("/v1/events").await, alice.get("/v1/findings").await);
            (events.to_string().contains(secret) && findings.to_string().contains(secret)).then_some(())
        })
        .await;

    // Her counts, as she sees them, are what must not show up elsewhere.
    assert_ne!(alice.get("/v1/counts").await, mallory.get("/v1/counts").await);
    for path in ["/v1/events", "/v1/findings", "/v1/scans", "/v1/incidents", "/v1/counts", "/v1/summary"] {
        let seen = mallory.get(path).await.to_string();
        assert!(!seen.contains(secret) && !seen.contains(&id), "{path}: {seen}");
        let filtered = mallory.raw("GET", &format!("{path}?from=2020-01-01T00:00:00Z"), None).await;
        assert!(!filtered.text().await.unwrap().contains(secret), "{path}");
    }
    let guessed = mallory.raw("GET", &format!("/v1/incidents/{id}"), None).await;
    assert_eq!(guessed.status(), 404);
    let edited = mallory
        .raw("PATCH", &format!("/v1/incidents/{id}?wait=applied"), Some(json!({"status": "resolved"})))
        .await;
    assert_eq!(edited.status(), 404);
    assert_eq!(alice.get(&format!("/v1/incidents/{id}")).await["status"], "open");

    // A cursor of hers is worth nothing with another token.
    let page = alice.get("/v1/findings?limit=1").await;
    if let Some(cursor) = page["next_cursor"].as_str() {
        let stolen = mallory.raw("GET", &format!("/v1/findings?limit=1&cursor={cursor}"), None).await;
        assert!(!stolen.text().await.unwrap().contains(secret));
    }
}

#[tokio::test]
async fn tokens_open_only_the_door_they_are_for() {
    let pipeline = Pipeline::shared().await;
    let org = pipeline.new_org().await;
    let http = reqwest::Client::new();
    let push = |token: Option<&str>| {
        let request =
            http.post(format!("{}/v1/events", pipeline.ingest_url())).header("content-type", "text/plain");
        let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
        request.body("hello\n").send()
    };
    assert_eq!(push(None).await.unwrap().status(), 401);
    assert_eq!(push(Some("tw_ingest_nonsense")).await.unwrap().status(), 401);
    assert_eq!(push(Some(org.analyst_token())).await.unwrap().status(), 403);
    assert_eq!(push(Some(org.ingest_token())).await.unwrap().status(), 200);
    let read = http.get(format!("{}/v1/events", pipeline.api_url())).bearer_auth(org.ingest_token());
    assert_eq!(read.send().await.unwrap().status(), 403);
}
