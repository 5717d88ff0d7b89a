//! From a shipper's line to an analyst's incident, and back.

use serde_json::{Value, json};
use tidewatch_tests::{Org, Pipeline, accepted_login, brute_force};

#[tokio::test]
async fn pushed_lines_become_rows_and_an_incident_with_its_evidence() {
    let pipeline = Pipeline::shared().await;
    let org = pipeline.new_org().await;
    let answer = org.push("/v1/events", "text/plain", brute_force("203.0.113.9")).await;
    assert_eq!(answer, json!({"accepted": 12, "rejected": []}));

    let incident = org
        .until("the brute force shows as an incident with all its evidence", async || {
            let page = org.get("/v1/incidents").await;
            let incident = page["items"].as_array()?.first()?.clone();
            (incident["event_count"].as_i64()? >= 12).then_some(incident)
        })
        .await;
    assert_eq!(incident["title"], "SSH brute force");
    assert_eq!(incident["status"], "open");

    let id = incident["id"].as_str().unwrap();
    let detail = org.get(&format!("/v1/incidents/{id}")).await;
    let evidence = detail["evidence"].as_array().unwrap();
    assert!(!evidence.is_empty());
    for event in evidence {
        let event = &event["event"];
        assert_eq!(event["src_ip"], "203.0.113.9");
        assert_eq!(event["host"], "bastion");
        assert!(event["message"].as_str().unwrap().contains("Failed password for root"), "{event}");
    }

    let events = org.get("/v1/events?src_ip=203.0.113.9&limit=5").await;
    assert_eq!(events["items"].as_array().unwrap().len(), 5);
    assert!(events["next_cursor"].is_string());
    let summary = org.get("/v1/summary").await;
    assert!(summary.to_string().contains("3002"), "{summary}");
}

/// A correlation of a correlation, in order: the brute force, then the login.
#[tokio::test]
async fn a_login_after_a_brute_force_is_an_incident_with_both_in_its_evidence() {
    let pipeline = Pipeline::shared().await;
    let org = pipeline.new_org().await;
    let address = "203.0.113.10";
    // In the other order it is none.
    org.push("/v1/events", "text/plain", accepted_login("ada", address)).await;
    org.push("/v1/events", "text/plain", brute_force(address)).await;
    org.until("the brute force shows", async || by_title(&org, "SSH brute force").await).await;
    assert_eq!(by_title(&org, BROKEN_IN).await, None);

    org.push("/v1/events", "text/plain", accepted_login("root", address)).await;
    let incident =
        org.until("the login after it shows as another", async || by_title(&org, BROKEN_IN).await).await;
    assert_eq!(incident["severity_id"], 5);
    assert!(incident["group_key"].to_string().contains(address), "{incident}");
    let detail = org.get(&format!("/v1/incidents/{}", incident["id"].as_str().unwrap())).await;
    let messages: Vec<&str> = detail["evidence"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["event"]["message"].as_str())
        .collect();
    assert!(messages.iter().any(|message| message.contains("Failed password for root")), "{detail}");
    assert!(messages.iter().any(|message| message.contains("Accepted password for root")), "{detail}");
}

const BROKEN_IN: &str = "SSH brute force that ended in a login";

async fn by_title(org: &Org<'_>, title: &str) -> Option<Value> {
    let page = org.get("/v1/incidents").await;
    page["items"].as_array()?.iter().find(|incident| incident["title"] == title).cloned()
}

#[tokio::test]
async fn an_analyst_takes_an_incident_and_its_history_says_so() {
    let pipeline = Pipeline::shared().await;
    let org = pipeline.new_org().await;
    let created = org
        .send("POST", "/v1/incidents?wait=applied", json!({"title": "Odd laptop", "severity": "high"}))
        .await;
    let id = created["id"].as_str().unwrap_or_else(|| panic!("no id in {created}")).to_owned();

    let path = format!("/v1/incidents/{id}?wait=applied");
    org.send("PATCH", &path, json!({"status": "acknowledged", "assignee": "ada", "note": "on it"})).await;
    let detail = org.get(&format!("/v1/incidents/{id}")).await;
    assert_eq!(detail["status"], "acknowledged");
    assert_eq!(detail["assignee"], "ada");
    assert!(detail["history"].to_string().contains("on it"), "{detail}");

    org.send("PATCH", &path, json!({"status": "resolved"})).await;
    assert_eq!(org.get(&format!("/v1/incidents/{id}")).await["status"], "resolved");
    assert_eq!(org.get("/v1/incidents?status=open").await["items"], json!([]));
}

#[tokio::test]
async fn a_scan_runs_finds_a_leak_and_raises_an_incident() {
    let pipeline = Pipeline::shared().await;
    let org = pipeline.new_org().await;
    let now = tidewatch_tests::now();
    let activity = |state: &str, progress: i32, sequence: i32| {
        json!({"class_uid": 6007, "scan_id": "scan-1", "scan_type": "database", "state": state,
               "progress": progress, "sequence": sequence, "time": now})
    };
    let finding = json!({"class_uid": 2004, "scan_id": "scan-1", "scan_type": "database", "uid": "f-1", "kind": "pii",
                         "severity_id": 5, "title": "Card numbers in clear", "resource": "db/customers.card", "time": now});
    // Out of order on purpose: the higher sequence holds.
    let lines =
        [activity("running", 40, 2), activity("completed", 100, 3), activity("queued", 0, 1), finding];
    let body = lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let answer = org.push("/v1/findings", "application/x-ndjson", body).await;
    assert_eq!(answer["accepted"], 4);

    org.until("the leak shows as an incident", async || {
        let page = org.get("/v1/incidents").await;
        (!page["items"].as_array()?.is_empty()).then_some(())
    })
    .await;
    let scans = org.get("/v1/scans").await;
    assert_eq!(scans["items"][0]["state"], "completed", "{scans}");
    assert_eq!(scans["items"].as_array().unwrap().len(), 1);
    let findings = org.get("/v1/findings").await;
    assert_eq!(findings["items"][0]["resource"], "db/customers.card");
}
