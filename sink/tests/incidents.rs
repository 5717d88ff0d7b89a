//! Incident changes against a real database.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use common::*;
use schemas::{Edit, EventRef, IncidentChange, Micros, Pair, Window};
use uuid::Uuid;

fn change(incident: u128, at: i64) -> IncidentChange<'static> {
    IncidentChange {
        org: "demo".into(),
        incident_id: Uuid::from_u128(incident),
        change_id: Uuid::new_v4(),
        at: Micros(Micros::now().0 + at),
        actor: "correlate".into(),
        window: None,
        edit: None,
        merged_into: None,
    }
}

fn activity(incident: u128, at: i64, events: std::ops::Range<i64>) -> IncidentChange<'static> {
    let event = |offset: i64| EventRef {
        stream: "events".into(),
        partition: 1,
        offset,
        index: 2,
        time: Micros(1_800_000_000_000_001 + offset),
        rule: None,
    };
    let window = Window {
        rule_id: "ssh-brute-force".into(),
        rule_hash: "ab12".into(),
        title: "It's \"quoted\" \\ and \0".into(),
        description: "".into(),
        severity_id: 4,
        tags: vec!["attack.t1110".into(), "a,\"b\"".into()],
        references: vec!["https://example.org/".into()],
        false_positives: vec![],
        group_key: vec![Pair { name: "src_ip".into(), value: "10.0.0.1".into() }],
        entities: vec![Pair { name: "user".into(), value: format!("u{}", events.start).into() }],
        first_time: event(events.start).time,
        last_time: event(events.end - 1).time,
        count: events.end - events.start,
        evidence: events.map(event).collect(),
        evidence_truncated: false,
        flags: 1,
    };
    IncidentChange { window: Some(window), ..change(incident, at) }
}

fn edit(incident: u128, at: i64, status: &'static str, if_version: Option<i32>) -> IncidentChange<'static> {
    let edit = Edit {
        status: Some(status.into()),
        assignee: Some("ada".into()),
        note: Some("it's me".into()),
        if_version,
    };
    IncidentChange { edit: Some(edit), actor: "ada".into(), ..change(incident, at) }
}

#[tokio::test]
async fn changes_over_transactions_come_to_one_row_with_its_history() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[incidents(7)]).await;
    for batch in [
        vec![activity(1, 1, 0..5), activity(2, 1, 0..3)],
        vec![activity(1, 2, 3..90), edit(1, 3, "acknowledged", Some(2))],
        vec![edit(1, 4, "resolved", Some(2)), edit(1, 5, "resolved", Some(3)), activity(1, 6, 3..90)],
        vec![
            activity(1, 7, 80..180),
            IncidentChange { merged_into: Some(Uuid::from_u128(1)), ..change(2, 8) },
        ],
        vec![activity(3, 9, 0..1), edit(4, 9, "resolved", None)],
    ] {
        for change in batch {
            sink.feed(incidents(7), change_record(&change));
        }
        sink.commit().await;
        database.assert_consistent().await;
    }

    let one = "SELECT concat_ws(' ', status, reopened, version, event_count, jsonb_array_length(evidence), evidence_truncated,
        assignee, array_length(tags, 1), tags[2], group_key -> 0 ->> 'value', jsonb_array_length(entities), evidence -> 99 ->> 'offset',
        (extract(epoch FROM last_time) * 1000000)::bigint - 1800000000000001) FROM incidents WHERE id = '00000000-0000-0000-0000-000000000001'";
    assert_eq!(database.text(one).await, r#"open t 5 100 100 t ada 2 a,"b" 10.0.0.1 3 179 179"#);
    assert_eq!(
        database.text("SELECT title FROM incidents WHERE id = '00000000-0000-0000-0000-000000000001'").await,
        "It's \"quoted\" \\ and \u{fffd}"
    );
    let history = "SELECT string_agg(action, ' ' ORDER BY at) FROM audit_log WHERE object = 'incident' AND object_id = '00000000-0000-0000-0000-000000000001'";
    assert_eq!(database.text(history).await, "opened changed refused changed reopened");
    let refused =
        "SELECT detail ->> 'reason' FROM audit_log WHERE action = 'refused' AND object_id LIKE '%1'";
    assert_eq!(database.text(refused).await, "the incident is at version 3, not 2");
    let merged = "SELECT status || ' ' || merged_into FROM incidents WHERE id = '00000000-0000-0000-0000-000000000002'";
    assert_eq!(database.text(merged).await, "resolved 00000000-0000-0000-0000-000000000001");
    assert_eq!(database.number("SELECT sum(n)::bigint FROM incident_counts").await, 3);
    assert_eq!(database.number("SELECT count(*) FROM sink_ledger WHERE topic = 'incidents'").await, 5);
}

#[tokio::test]
async fn windows_merge_to_the_same_row_in_whatever_order_they_come() {
    let mut rows = Vec::new();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let database = Database::new().await;
        let mut sink = Sink::taking(&database, &[incidents(0)]).await;
        let windows = [activity(1, 0, 0..70), activity(1, 0, 50..160), activity(1, 0, 10..20)];
        for at in order {
            sink.feed(incidents(0), change_record(&windows[at]));
            sink.commit().await;
        }
        let row = "SELECT (to_jsonb(i) - 'created_at' - 'updated_at' - 'version')::text FROM incidents i";
        rows.push(database.text(row).await);
    }
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0], rows[2]);
}

#[tokio::test]
async fn what_is_no_change_is_quarantined_and_the_next_one_applied() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[incidents(0)]).await;
    sink.feed(incidents(0), b"nonsense".to_vec());
    sink.feed(incidents(0), change_record(&IncidentChange { org: "No Org".into(), ..activity(1, 0, 0..1) }));
    sink.feed(incidents(0), change_record(&activity(1, 0, 0..1)));
    sink.commit().await;
    assert_eq!(
        database.text("SELECT string_agg(concat_ws(' ', stream, koffset, kindex, reason), ', ' ORDER BY koffset) FROM quarantine").await,
        "incidents 0 -1 undecodable, incidents 1 -1 invalid_org"
    );
    assert_eq!(database.number("SELECT count(*) FROM incidents").await, 1);
    database.assert_consistent().await;
}
