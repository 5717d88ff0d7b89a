//! No org sees another's, whatever it guesses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use reqwest::Method;
use serde_json::json;
use support::{Api, Counted, ago, count, insert_events, insert_incident, read};
use uuid::Uuid;

/// One row of every kind for an org, all under the same ids but the org's.
async fn fill(api: &Api, org: &str, incident: Uuid) {
    insert_events(&api.db, org, 20, 1, 30).await;
    let secret = format!("secret of {org}");
    let insert = |sql: &'static str| {
        let secret = &secret;
        async move { api.db.execute(sql, &[&org, secret]).await.unwrap() }
    };
    insert(
        "INSERT INTO findings (time, received_at, org, scan_id, uid, scan_type, class_uid, severity_id, kind, message, flags,
                               kpart, koffset, kindex)
         VALUES (now() - interval '30 s', now(), $1, 'scan', 'f', 'code', 2004, 4, 'pii', $2, 0, 0, 0, 0)",
    )
    .await;
    insert(
        "INSERT INTO scans (org, scan_id, scan_type, sequence, state, started_at, time, message)
         VALUES ($1, 'scan', 'code', 1, 'running', now() - interval '30 s', now(), $2)",
    )
    .await;
    insert(
        "INSERT INTO audit_log VALUES (now(), gen_random_uuid(), $1, 'correlate', 'opened', 'incident',
            '11111111-1111-1111-1111-111111111111', json_build_object('secret', $2::text))",
    )
    .await;
    let n = if org == "red" { 11_i64 } else { 22 };
    for sql in [
        "INSERT INTO incident_counts VALUES ($1, 'open', 4, 0, $2)",
        "INSERT INTO scan_counts VALUES ($1, 'running', 0, $2)",
    ] {
        api.db.execute(sql, &[&org, &n]).await.unwrap();
    }
    let events = Counted { hours_ago: 0, stream: "events", class_uid: 3002, severity_id: 4, slot: 0 };
    count(&api.db, org, events, n).await;
    // Evidence that points at rows under the identity that both orgs have.
    let time: jiff::Timestamp = api
        .db
        .query_one(
            "SELECT time FROM events WHERE org = $1 AND kpart = 0 AND koffset = 0 AND kindex = 0",
            &[&org],
        )
        .await
        .unwrap()
        .get(0);
    let other: jiff::Timestamp = api.db.query_one("SELECT max(time) FROM events", &[]).await.unwrap().get(0);
    let reference = |time: jiff::Timestamp| json!({"stream": "events", "partition": 0, "offset": 0, "index": 0, "time": time.as_microsecond()});
    let finding =
        json!({"stream": "findings", "partition": 0, "offset": 0, "index": 0, "time": time.as_microsecond()});
    insert_incident(&api.db, org, incident, 10.0, &json!([reference(time), reference(other), finding])).await;
}

#[tokio::test]
async fn two_orgs_never_see_each_others_data_on_any_endpoint() {
    let api = Api::start_with_kafka().await;
    let (red, blue) = (api.analyst("red").await, api.analyst("blue").await);
    // The very same incident id in both orgs, and one each that only one has.
    let shared = Uuid::from_u128(0x11111111_1111_1111_1111_111111111111);
    fill(&api, "red", shared).await;
    fill(&api, "blue", shared).await;
    let (of_red, of_blue) = (Uuid::new_v4(), Uuid::new_v4());
    insert_incident(&api.db, "red", of_red, 5.0, &json!([])).await;
    insert_incident(&api.db, "blue", of_blue, 5.0, &json!([])).await;
    api.db.batch_execute("UPDATE events SET message = 'secret of ' || org").await.unwrap();

    let from = ago(3600);
    for (token, own, other) in [(&red, "red", "blue"), (&blue, "blue", "red")] {
        let mine = if own == "red" { of_red } else { of_blue };
        let theirs = if own == "red" { of_blue } else { of_red };
        for path in [
            format!("/v1/events?from={from}&limit=1000"),
            format!("/v1/findings?from={from}"),
            format!("/v1/scans?from={from}"),
            format!("/v1/incidents?from={from}"),
            format!("/v1/incidents/{shared}"),
            format!("/v1/incidents/{mine}"),
            format!("/v1/counts?from={from}"),
            format!("/v1/summary?from={from}"),
        ] {
            let answer = api.get(&path, token).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
            let text = answer.body.to_string();
            assert!(!text.contains(&format!("secret of {other}")), "{own} sees {other}'s on {path}: {text}");
            assert!(!text.contains(&theirs.to_string()), "{own} sees {other}'s incident on {path}");
            let foreign_count = if own == "red" { "\"count\":22" } else { "\"count\":11" };
            assert!(!text.contains(foreign_count), "{own} sees {other}'s counts on {path}: {text}");
        }
        let events = api.items(&format!("/v1/events?from={from}&limit=1000"), token).await;
        assert_eq!(events.len(), 20);
        // Guessing does not help, and does not even tell that there is one.
        let guessed = api.get(&format!("/v1/incidents/{theirs}"), token).await;
        let nothing = api.get(&format!("/v1/incidents/{}", Uuid::new_v4()), token).await;
        assert_eq!((guessed.status, &guessed.body), (404, &nothing.body));
        let edit = api.request(Method::PATCH, &format!("/v1/incidents/{theirs}"), token);
        assert_eq!(read(edit.json(&json!({"status": "resolved"}))).await.status, 404);
        // Naming another org is no parameter.
        assert_eq!(api.get(&format!("/v1/events?org={other}"), token).await.status, 400);
        // Of the evidence under the identity that both have, only the own is shown.
        let shown = api.get(&format!("/v1/incidents/{shared}"), token).await.body;
        assert!(shown["evidence"].to_string().contains(&format!("secret of {own}")), "{shown}");
        assert_eq!(shown["history"].as_array().unwrap().len(), 1);
    }
}
