//! Walks through pages, filters and what is in an answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};
use support::{Api, Counted, ago, count, insert_events, insert_incident};
use uuid::Uuid;

fn ids(items: &[Value]) -> Vec<String> {
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_walk_gives_every_event_once_newest_first_though_many_share_a_time() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    // 700 of each time: pages end in the middle of them.
    insert_events(&api.db, "demo", 5_000, 700, 30).await;
    insert_events(&api.db, "other", 500, 1, 30).await;
    for limit in [1000, 333] {
        let all = api.walk(&format!("/v1/events?limit={limit}"), &token).await;
        assert_eq!(all.len(), 5_000);
        assert_eq!(ids(&all).into_iter().collect::<HashSet<_>>().len(), 5_000);
        let times: Vec<&str> = all.iter().map(|event| event["time"].as_str().unwrap()).collect();
        assert!(times.is_sorted_by(|newer, older| newer >= older));
    }
}

#[tokio::test]
async fn events_that_arrive_during_a_walk_neither_break_it_nor_repeat() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    insert_events(&api.db, "demo", 1_000, 10, 60).await;
    let first = api.get("/v1/events?limit=200", &token).await.body;
    let cursor = first["next_cursor"].as_str().unwrap().to_owned();
    // Newer ones, late ones at the very times of the walk, and older ones.
    for seconds in [1, 60, 600] {
        api.db
            .execute(
                "INSERT INTO events (time, received_at, org, class_uid, activity_id, severity_id, source_type, repeat,
                                     flags, kpart, koffset, kindex)
                 SELECT now() - make_interval(secs => $1) - n * interval '1 ms', now(), 'demo', 0, 0, 1, 'late', 1, 0, 9,
                        n, $2 FROM generate_series(0, 99) AS n",
                &[&f64::from(seconds), &seconds],
            )
            .await
            .unwrap();
    }
    let rest = api.walk_from("/v1/events?limit=200", &token, Some(cursor)).await;
    let mut seen = ids(first["items"].as_array().unwrap());
    seen.extend(ids(&rest));
    let distinct: HashSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len(), "some were given twice");
    let first_ones = seen.iter().filter(|id| !id.starts_with("events/9/")).count();
    assert_eq!(first_ones, 1_000, "some that were there from the start were not given");
    let newer = seen.iter().filter(|id| id.starts_with("events/9/") && id.ends_with("/1")).count();
    assert_eq!(newer, 0, "newer than the walk's position");
    assert_eq!(seen.iter().filter(|id| id.ends_with("/600")).count(), 100);
}

#[tokio::test]
async fn the_default_window_is_the_last_hour_and_stays_where_the_walk_began() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    insert_events(&api.db, "demo", 10, 1, 30).await;
    insert_events(&api.db, "demo", 10, 1, 3 * 3600).await;
    assert_eq!(api.walk("/v1/events?limit=3", &token).await.len(), 10);
    let from = ago(4 * 3600);
    assert_eq!(api.walk(&format!("/v1/events?limit=3&from={from}"), &token).await.len(), 20);
    let to = ago(2 * 3600);
    assert_eq!(api.walk(&format!("/v1/events?from={from}&to={to}"), &token).await.len(), 10);
}

#[tokio::test]
async fn an_event_shows_all_it_has() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    api.db
        .batch_execute(
            r#"INSERT INTO events VALUES (now(), '2026-11-21T08:30:00.000001Z', 'demo', 3002, 1, 4, 'web-1', 'röot',
                '203.0.113.7', '2001:db8::1', 50022, 22, 'sshd', E'say "hi"\n', 2, ARRAY['dmz', 'threat:x'],
                '{"a": {"b": [1, 2.50]}, "big": 12345678901234567890}', 9, '5a1cb10f-37c4-4c8e-9f5e-0d2e6f6ba391', 3, 1042, 17)"#,
        )
        .await
        .unwrap();
    let to = ago(-5);
    let mut event = api.items(&format!("/v1/events?to={to}"), &token).await.remove(0);
    let fields = event.as_object_mut().unwrap();
    assert!(fields.remove("time").unwrap().as_str().unwrap().ends_with('Z'));
    assert_eq!(
        event,
        json!({
            "id": "events/3/1042/17", "received_at": "2026-11-21T08:30:00.000001Z", "class_uid": 3002,
            "activity_id": 1, "severity_id": 4, "severity": "high", "host": "web-1", "user": "röot",
            "src_ip": "203.0.113.7", "dst_ip": "2001:db8::1", "src_port": 50022, "dst_port": 22,
            "source_type": "sshd", "message": "say \"hi\"\n", "repeat": 2, "labels": ["dmz", "threat:x"],
            "attributes": {"a": {"b": [1, 2.50]}, "big": 12345678901234567890_u64},
            "flags": ["time_clamped", "threat"], "event_uid": "5a1cb10f-37c4-4c8e-9f5e-0d2e6f6ba391",
        })
    );
}

const EVENT_FILTERS: &[(&str, usize)] = &[
    ("class=3002", 500),
    ("class=3002,4002", 1000),
    ("class=1", 0),
    ("severity=critical", 285),
    ("severity=1", 857),
    ("severity=0", 1000),
    ("user=user1", 333),
    ("host=host4&user=user1", 67),
    ("src_ip=10.0.1.1", 2),
    ("src_ip=10.0.1.0/24", 250),
    ("src_ip=10.0.0.0/15", 1000),
    ("src_ip=2001:db8::/32", 0),
    ("user=%27%3B+DROP+TABLE+events%3B--", 0),
];

#[tokio::test]
async fn filters_narrow_what_is_given() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    insert_events(&api.db, "demo", 1_000, 10, 30).await;
    for (filter, expected) in EVENT_FILTERS {
        assert_eq!(
            api.walk(&format!("/v1/events?limit=100&{filter}"), &token).await.len(),
            *expected,
            "{filter}"
        );
    }
}

#[tokio::test]
async fn a_cursor_that_was_altered_or_belongs_to_another_query_is_refused() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    insert_events(&api.db, "demo", 100, 1, 30).await;
    let page = api.get("/v1/events?limit=10&severity=low", &token).await.body;
    let cursor = page["next_cursor"].as_str().unwrap();
    let fine = api.get(&format!("/v1/events?limit=20&severity=low&cursor={cursor}"), &token).await;
    assert_eq!(fine.status, 200, "{}", fine.body);

    let other = api.analyst("other").await;
    let altered = format!("A{}", &cursor[1..]);
    let shortened = &cursor[..cursor.len() - 1];
    for (path, token) in [
        (format!("/v1/events?severity=low&cursor={altered}"), &token),
        (format!("/v1/events?severity=low&cursor={shortened}"), &token),
        ("/v1/events?severity=low&cursor=%00".to_owned(), &token),
        (format!("/v1/events?severity=high&cursor={cursor}"), &token),
        (format!("/v1/incidents?severity=low&cursor={cursor}"), &token),
        (format!("/v1/events?severity=low&cursor={cursor}"), &other),
    ] {
        let answer = api.get(&path, token).await;
        assert_eq!(answer.status, 400, "{path}");
        assert_eq!(answer.body["errors"][0]["field"], "cursor", "{}", answer.body);
    }
}

#[tokio::test]
async fn incidents_are_walked_by_creation_and_shown_with_evidence_and_history() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    insert_events(&api.db, "demo", 3_000, 10, 30).await;
    // Three at one time, and one of a week ago.
    let events = api.items("/v1/events?limit=1000", &token).await;
    let evidence: Vec<Value> = [2, 500, 999]
        .into_iter()
        .map(|at| {
            let id: Vec<&str> = events[at]["id"].as_str().unwrap().split('/').collect();
            let time: jiff::Timestamp = events[at]["time"].as_str().unwrap().parse().unwrap();
            json!({"stream": "events", "partition": id[1].parse::<i32>().unwrap(), "offset": id[2].parse::<i64>().unwrap(),
                   "index": id[3].parse::<i32>().unwrap(), "time": time.as_microsecond()})
        })
        .chain([json!({"stream": "events", "partition": 77, "offset": 1, "index": 2, "time": 5})])
        .collect();
    let id = Uuid::new_v4();
    insert_incident(&api.db, "demo", id, 10.0, &json!(evidence)).await;
    for _ in 0..24 {
        insert_incident(&api.db, "demo", Uuid::new_v4(), 20.0, &json!([])).await;
    }
    insert_incident(&api.db, "demo", Uuid::new_v4(), 7200.0, &json!([])).await;
    let all = api.walk("/v1/incidents?limit=7", &token).await;
    assert_eq!(ids(&all).into_iter().collect::<HashSet<_>>().len(), 25);
    assert_eq!(all[0]["id"], id.to_string());
    assert_eq!(all[0]["evidence_count"], 4);

    api.db
        .execute(
            "INSERT INTO audit_log VALUES (now(), $1, 'demo', 'correlate', 'opened', 'incident', $2, '{\"version\": 1}')",
            &[&Uuid::new_v4(), &id.to_string()],
        )
        .await
        .unwrap();
    let answer = api.get(&format!("/v1/incidents/{id}"), &token).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.headers["etag"], "\"1\"");
    let incident = answer.body;
    assert_eq!(incident["group_key"], json!([{"name": "src_ip", "value": "10.9.9.9"}]));
    let shown = incident["evidence"].as_array().unwrap();
    assert_eq!(shown.len(), 4);
    for (shown, at) in shown.iter().zip([2, 500, 999]) {
        assert_eq!(shown["event"], events[at]);
    }
    assert!(shown[3].get("event").is_none(), "what is not kept any more is named all the same");
    assert_eq!(incident["history"][0]["action"], "opened");
    assert_eq!(incident["history"][0]["detail"]["version"], 1);
}

const INCIDENT_FILTERS: &[(&str, usize)] = &[
    ("status=open", 1),
    ("status=resolved", 0),
    ("status=resolved,open", 1),
    ("severity=high", 1),
    ("severity=critical", 0),
    ("rule=ssh-brute-force", 1),
    ("rule=other", 0),
    ("user=root", 1),
    ("user=roo", 0),
    ("src_ip=10.9.9.9", 1),
    ("src_ip=10.9.9.8", 0),
    ("host=web-1", 0),
    ("assignee=bob", 0),
];

#[tokio::test]
async fn incidents_are_filtered() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    insert_incident(&api.db, "demo", Uuid::new_v4(), 10.0, &json!([])).await;
    for (filter, expected) in INCIDENT_FILTERS {
        assert_eq!(api.items(&format!("/v1/incidents?{filter}"), &token).await.len(), *expected, "{filter}");
    }
}

#[tokio::test]
async fn findings_and_scans_are_walked_and_filtered() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    api.db
        .batch_execute(
            "INSERT INTO findings (time, received_at, org, scan_id, uid, scan_type, class_uid, severity_id, kind, risk,
                                   flags, kpart, koffset, kindex)
             SELECT now() - interval '1 minute', now(), 'demo', 'scan' || n % 2, 'uid' || n, 'database', 2004, 5, 'pii', 90,
                    0, 0, n, 0 FROM generate_series(1, 40) AS n;
             INSERT INTO scans (org, scan_id, scan_type, sequence, state, progress, started_at, time)
             SELECT 'demo', 'scan' || n, 'database', 1, CASE WHEN n < 5 THEN 'running' ELSE 'completed' END, 50,
                    now() - interval '1 minute', now() FROM generate_series(1, 25) AS n",
        )
        .await
        .unwrap();
    assert_eq!(api.walk("/v1/findings?limit=7", &token).await.len(), 40);
    assert_eq!(api.items("/v1/findings?scan_id=scan1&kind=pii&severity=critical", &token).await.len(), 20);
    assert_eq!(api.items("/v1/findings?kind=secret", &token).await.len(), 0);
    let finding = api.items("/v1/findings?limit=1", &token).await.remove(0);
    assert_eq!((&finding["id"], &finding["risk"]), (&json!("findings/0/40/0"), &json!(90)));

    let scans = api.walk("/v1/scans?limit=4", &token).await;
    let names: HashSet<_> = scans.iter().map(|scan| scan["scan_id"].as_str().unwrap()).collect();
    assert_eq!((scans.len(), names.len()), (25, 25));
    assert_eq!(api.items("/v1/scans?status=running,queued&scan_type=database", &token).await.len(), 4);
    assert_eq!(api.items("/v1/scans?scan_id=scan7", &token).await[0]["state"], "completed");
}

#[tokio::test]
async fn counts_sum_the_slots_and_are_walked() {
    let api = Api::start().await;
    let token = api.analyst("demo").await;
    api.db
        .batch_execute(
            "INSERT INTO incident_counts VALUES ('demo', 'open', 4, 0, 5), ('demo', 'open', 4, 1, -2), ('demo', 'resolved', 4, 1, 1),
                                                ('demo', 'acknowledged', 4, 1, 0);
             INSERT INTO scan_counts VALUES ('demo', 'running', 0, 3), ('demo', 'running', 1, -1), ('demo', 'completed', 1, 8)",
        )
        .await
        .unwrap();
    let finding = Counted { hours_ago: 0, stream: "findings", class_uid: 2004, severity_id: 5, slot: 0 };
    count(&api.db, "demo", finding, 7).await;
    for (hours_ago, severity_id, slot) in
        (0..5).flat_map(|h| (1..4).flat_map(move |s| (0..2).map(move |p| (h, s, p))))
    {
        let events = Counted { hours_ago, stream: "events", class_uid: 3002, severity_id, slot };
        count(&api.db, "demo", events, 10).await;
        count(&api.db, "other", events, 1_000).await;
    }
    let from = ago(4 * 3600);
    let counts = api.walk(&format!("/v1/counts?limit=4&from={from}"), &token).await;
    assert_eq!(counts.len(), 5 * 3 + 1);
    let mut by_stream = BTreeMap::new();
    for count in &counts {
        *by_stream.entry(count["stream"].as_str().unwrap()).or_insert(0) += count["count"].as_i64().unwrap();
    }
    assert_eq!(by_stream, BTreeMap::from([("events", 300), ("findings", 7)]));
    let narrowed = format!("/v1/counts?from={from}&stream=events&severity=3&class=3002");
    assert_eq!(api.items(&narrowed, &token).await.len(), 5);

    let summary = api.get(&format!("/v1/summary?from={from}"), &token).await.body;
    assert_eq!(
        summary["incidents"],
        json!([
            {"status": "open", "severity_id": 4, "severity": "high", "count": 3},
            {"status": "resolved", "severity_id": 4, "severity": "high", "count": 1},
        ])
    );
    assert_eq!(summary["events"].as_array().unwrap().len(), 5);
    assert_eq!(summary["events"][0]["count"], 60);
    assert_eq!(summary["findings"][0]["count"], 7);
    assert_eq!(summary["active_scans"], json!([{"state": "running", "count": 2}]));
}
