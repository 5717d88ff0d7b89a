//! Every column of `events` and `findings` comes back from Postgres as it was, whatever was in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use std::borrow::Cow;

use common::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use schemas::{Event, Finding, Micros};
use tokio_postgres::Row;
use uuid::Uuid;

/// Text without NUL, the awkward kinds often.
fn text() -> impl Strategy<Value = Cow<'static, str>> {
    prop_oneof!["[^\\x00]{0,20}", Just("\u{1F600} \"quoted\" \\ \t\r\n".to_owned()), Just("x".repeat(70_000))]
        .prop_map(Cow::Owned)
}

fn ip() -> impl Strategy<Value = Cow<'static, str>> {
    any::<std::net::IpAddr>().prop_map(|address| Cow::Owned(address.to_string()))
}

fn json() -> impl Strategy<Value = Cow<'static, str>> {
    prop::collection::btree_map("[^\\x00]{0,8}", "[^\\x00]{0,8}", 0..4)
        .prop_map(|map| Cow::Owned(serde_json::to_string(&map).unwrap()))
}

fn optional<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    prop::option::of(value)
}

fn event_strategy() -> impl Strategy<Value = Event<'static>> {
    let numbers = (any::<[i32; 5]>(), optional(any::<i32>()), optional(any::<i32>()), 0..1_000_000_000i64);
    let texts = (optional(text()), optional(text()), text(), optional(text()));
    let rest = (optional(ip()), optional(ip()), prop::collection::vec(text(), 0..4), optional(json()));
    (numbers, texts, rest, optional(any::<u128>())).prop_map(|(numbers, texts, rest, uid)| {
        let ([class_uid, activity_id, severity_id, repeat, flags], src_port, dst_port, back) = numbers;
        let (host, user, source_type, message) = texts;
        let (src_ip, dst_ip, labels, attributes) = rest;
        let now = Micros::now();
        Event {
            time: Micros(now.0 - back),
            class_uid,
            activity_id,
            severity_id,
            repeat,
            flags,
            src_port,
            dst_port,
            host,
            user,
            source_type,
            message,
            src_ip,
            dst_ip,
            labels,
            attributes,
            event_uid: uid.map(Uuid::from_u128),
            ..event("demo", 0)
        }
    })
}

fn finding_strategy() -> impl Strategy<Value = Finding<'static>> {
    let numbers = (any::<[i32; 3]>(), optional(any::<i32>()));
    let texts = (optional(text()), text(), text(), text(), optional(text()), optional(text()));
    let rest = (
        optional(text()),
        optional(text()),
        optional(text()),
        prop::collection::vec(text(), 0..4),
        optional(json()),
    );
    (numbers, texts, rest, optional(any::<u128>())).prop_map(|(numbers, texts, rest, uid)| {
        let ([class_uid, severity_id, flags], risk) = numbers;
        let (scan_id, uid_text, scan_type, kind, title, resource) = texts;
        let (host, user, message, labels, attributes) = rest;
        Finding {
            class_uid,
            severity_id,
            flags,
            risk,
            scan_id,
            uid: uid_text,
            scan_type,
            kind,
            title,
            resource,
            host,
            user,
            message,
            labels,
            attributes,
            event_uid: uid.map(Uuid::from_u128),
            ..finding("demo", 0)
        }
    })
}

const MICROS: &str = "(extract(epoch FROM time) * 1000000)::bigint AS time, (extract(epoch FROM received_at) * 1000000)::bigint AS received_at";

fn labels(row: &Row) -> Vec<Cow<'static, str>> {
    row.get::<_, Option<Vec<String>>>("labels").unwrap_or_default().into_iter().map(Cow::Owned).collect()
}

fn owned(row: &Row, column: &str) -> Option<Cow<'static, str>> {
    row.get::<_, Option<String>>(column).map(Cow::Owned)
}

fn event_of(row: &Row) -> Event<'static> {
    Event {
        index: row.get("kindex"),
        time: Micros(row.get("time")),
        received_at: Micros(row.get("received_at")),
        org: owned(row, "org").unwrap(),
        class_uid: row.get("class_uid"),
        activity_id: row.get("activity_id"),
        severity_id: row.get("severity_id"),
        host: owned(row, "host"),
        user: owned(row, "user"),
        src_ip: owned(row, "src_ip_text"),
        dst_ip: owned(row, "dst_ip_text"),
        src_port: row.get("src_port"),
        dst_port: row.get("dst_port"),
        source_type: owned(row, "source_type").unwrap(),
        message: owned(row, "message"),
        repeat: row.get("repeat"),
        labels: labels(row),
        attributes: owned(row, "attributes_text"),
        flags: row.get("flags"),
        event_uid: row.get("event_uid"),
    }
}

fn finding_of(row: &Row) -> Finding<'static> {
    Finding {
        index: row.get("kindex"),
        time: Micros(row.get("time")),
        received_at: Micros(row.get("received_at")),
        org: owned(row, "org").unwrap(),
        scan_id: owned(row, "scan_id"),
        uid: owned(row, "uid").unwrap(),
        scan_type: owned(row, "scan_type").unwrap(),
        class_uid: row.get("class_uid"),
        severity_id: row.get("severity_id"),
        kind: owned(row, "kind").unwrap(),
        title: owned(row, "title"),
        resource: owned(row, "resource"),
        risk: row.get("risk"),
        host: owned(row, "host"),
        user: owned(row, "user"),
        message: owned(row, "message"),
        labels: labels(row),
        attributes: owned(row, "attributes_text"),
        flags: row.get("flags"),
        event_uid: row.get("event_uid"),
    }
}

/// Values of a strategy, the same in every run.
fn samples<S: Strategy>(strategy: &S, count: usize) -> Vec<S::Value> {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

#[tokio::test]
async fn events_come_back_as_they_were() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(3)]).await;
    let mut expected = samples(&event_strategy(), 2000);
    for (index, event) in expected.iter_mut().enumerate() {
        event.index = index as i32;
    }
    sink.feed(events(3), event_record(source(3, 0), expected.clone(), vec![]));
    sink.commit().await;
    assert_eq!(database.number("SELECT count(*) FROM quarantine").await, 0);
    let query = format!(
        "SELECT org, class_uid, activity_id, severity_id, host, \"user\", host(src_ip) AS src_ip_text, host(dst_ip) AS dst_ip_text,
            src_port, dst_port, source_type, message, repeat, labels, attributes::text AS attributes_text, flags, event_uid, kpart,
            koffset, kindex, {MICROS} FROM events ORDER BY kindex"
    );
    let rows = database.client.query(&query, &[]).await.unwrap();
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(expected) {
        assert_eq!((row.get::<_, i32>("kpart"), row.get::<_, i64>("koffset")), (3, 0));
        let canonical = |ip: Option<Cow<'static, str>>| ip.map(|ip| ip.parse::<std::net::IpAddr>().unwrap());
        let (mut found, mut expected) = (event_of(row), expected);
        assert_eq!(canonical(found.src_ip.take()), canonical(expected.src_ip.take()));
        assert_eq!(canonical(found.dst_ip.take()), canonical(expected.dst_ip.take()));
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn findings_come_back_as_they_were() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[findings(2)]).await;
    let mut expected = samples(&finding_strategy(), 1000);
    for (index, finding) in expected.iter_mut().enumerate() {
        finding.index = index as i32;
    }
    sink.feed(findings(2), finding_record(source(2, 0), expected.clone(), vec![]));
    sink.commit().await;
    assert_eq!(database.number("SELECT count(*) FROM quarantine").await, 0);
    let query = format!(
        "SELECT org, scan_id, uid, scan_type, class_uid, severity_id, kind, title, resource, risk, host, \"user\", message, labels,
            attributes::text AS attributes_text, flags, event_uid, kpart, koffset, kindex, {MICROS} FROM findings ORDER BY kindex"
    );
    let rows = database.client.query(&query, &[]).await.unwrap();
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(expected) {
        assert_eq!((row.get::<_, i32>("kpart"), row.get::<_, i64>("koffset")), (2, 0));
        assert_eq!(finding_of(row), expected);
    }
}
