//! What a batch leaves in a real database.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use common::*;
use schemas::{Event, Micros};
use tidewatch_sink::write::Written;

#[tokio::test]
async fn a_batch_is_stored_with_counts_ledger_and_position() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0), events(1), findings(0)]).await;
    let both = (0..500).map(|index| event(if index % 2 == 0 { "zeta" } else { "alpha" }, index)).collect();
    sink.feed(events(0), event_record(source(0, 0), both, vec![reject(500), reject(501)]));
    sink.feed(events(1), plain_record(1, 0, 20));
    sink.feed(
        findings(0),
        finding_record(
            source(0, 0),
            vec![finding("demo", 0), finding("demo", 1)],
            vec![scan("s1", 2, "running"), scan("s1", 1, "queued")],
        ),
    );
    sink.commit().await;

    assert_eq!(database.number("SELECT count(*) FROM events").await, 520);
    assert_eq!(database.number("SELECT count(*) FROM findings").await, 2);
    assert_eq!(database.number("SELECT count(*) FROM quarantine WHERE payload = '\\x7b00'").await, 2);
    assert_eq!(
        database.text("SELECT string_agg(concat_ws(' ', topic, kpart, first_offset, next_offset, received, stored, quarantined, duplicates), ', ' ORDER BY topic, kpart) FROM sink_ledger").await,
        "events 0 0 1 502 500 2 0, events 1 0 1 20 20 0 0, findings 0 0 1 4 4 0 0",
    );
    assert_eq!(database.text("SELECT state || ' ' || sequence FROM scans").await, "running 2");
    // Rows lie in the order (org, time).
    let sorted = "SELECT count(*) FROM (SELECT (org, time) < lag((org, time)) OVER (ORDER BY ctid) AS back FROM events) AS o WHERE back";
    assert_eq!(database.number(sorted).await, 0);
    database.assert_consistent().await;
    assert!(sink.context.health.is_ready());
}

#[tokio::test]
async fn every_org_has_its_own_counts() {
    let database = Database::new().await;
    let names: Vec<&'static str> = (0..200).map(|org| &*format!("org-{org}").leak()).collect();
    let mut sinks = Vec::new();
    for partition in 0..2 {
        sinks.push(Sink::taking(&database, &[events(partition), findings(partition)]).await);
    }
    for round in 0..3i64 {
        for (partition, sink) in sinks.iter_mut().enumerate() {
            let partition = partition as i32;
            // Each round brings new orgs, and each sink some that the other one has.
            let of_round = |index: i32| {
                names[(index as usize * 7 + partition as usize * 20) % (50 + round as usize * 50)]
            };
            let batch = (0..400).map(|index| event(of_round(index), index)).collect();
            sink.feed(events(partition), event_record(source(partition, round), batch, vec![]));
            let batch = (0..50).map(|index| finding(of_round(index), index)).collect();
            sink.feed(findings(partition), finding_record(source(partition, round), batch, vec![]));
            sink.commit().await;
        }
    }
    database.assert_consistent().await;
    assert_eq!(database.number("SELECT count(DISTINCT org) FROM counts").await, 150);
    assert_eq!(database.number("SELECT count(DISTINCT block) FROM count_block").await, 3);
}

#[tokio::test]
async fn repeats_are_counted_and_not_stored_again() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0)]).await;
    sink.feed(events(0), plain_record(0, 0, 10));
    sink.feed(events(0), plain_record(0, 1, 10));
    sink.feed(events(0), plain_record(0, 0, 10));
    sink.commit().await;
    // A successor, to which enrich repeats the same once more.
    let mut sink = Sink::taking(&database, &[events(0)]).await;
    sink.feed(events(0), plain_record(0, 1, 10));
    sink.feed(events(0), plain_record(0, 2, 10));
    sink.commit().await;

    assert_eq!(database.number("SELECT count(*) FROM events").await, 30);
    assert_eq!(database.number("SELECT sum(duplicates)::bigint FROM sink_ledger").await, 20);
    database.assert_consistent().await;
}

#[tokio::test]
async fn scans_merge_over_transactions_and_sinks() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[findings(0), findings(1)]).await;
    let activity = |offset, sequence, state| {
        finding_record(source(0, offset), vec![], vec![scan("s1", sequence, state)])
    };
    sink.feed(findings(0), activity(0, 2, "running"));
    sink.commit().await;
    sink.feed(findings(0), activity(1, 1, "queued"));
    sink.commit().await;
    assert_eq!(database.text("SELECT state FROM scans").await, "running");
    sink.feed(findings(0), activity(2, 3, "completed"));
    sink.feed(
        findings(1),
        finding_record(source(1, 0), vec![], vec![scan("s1", 9, "failed"), scan("s2", 1, "queued")]),
    );
    sink.commit().await;
    assert_eq!(
        database.text("SELECT string_agg(concat_ws(' ', scan_id, state, sequence, attributes ->> 'a'), ', ' ORDER BY scan_id) FROM scans").await,
        r"s1 failed 9 it's \ fine, s2 queued 1 it's \ fine"
    );
    database.assert_consistent().await;
}

#[tokio::test]
async fn poison_is_quarantined_with_its_neighbours_stored() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0)]).await;
    let mut batch: Vec<Event<'_>> = (0..1000).map(|index| event("demo", index)).collect();
    let year = 365 * 86_400_000_000;
    batch[100].message = Some("a\0b".into());
    batch[200].attributes = Some(r#"{"a":"\u0000"}"#.into());
    batch[300].attributes = Some(r#"{"a":"\ud800"}"#.into());
    batch[400].src_ip = Some("999.1.1.1".into());
    batch[500].time = Micros(0);
    batch[600].time = Micros(i64::MIN);
    batch[700].org = "Not An Org\0".into();
    // What only the server finds.
    batch[250].attributes = Some("{not json".into());
    batch[450].attributes = Some(format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)).into());
    batch[800].time = Micros(Micros::now().0 + 5 * year);
    sink.feed(events(0), event_record(source(0, 0), batch, vec![]));
    sink.feed(events(0), b"{\"message\":\"no batch\"}".to_vec());
    sink.feed(events(0), plain_record(0, 1, 10));
    sink.commit().await;

    assert_eq!(
        database
            .text("SELECT string_agg(kindex || ' ' || reason, ', ' ORDER BY kindex) FROM quarantine")
            .await,
        "-1 undecodable, 100 nul_character, 200 nul_character, 250 refused, 300 lone_surrogate, 400 invalid_ip, \
         450 refused, 500 too_old, 600 too_old, 700 invalid_org, 800 no_partition"
    );
    assert_eq!(database.number("SELECT count(*) FROM events").await, 1000);
    let payload = "SELECT convert_from(payload, 'UTF8') FROM quarantine WHERE kindex = 250";
    assert!(database.text(payload).await.contains(r#""attributes":"{not json""#));
    database.assert_consistent().await;

    // The session goes on.
    sink.feed(events(0), plain_record(0, 2, 10));
    sink.commit().await;
    database.assert_consistent().await;
}

#[tokio::test]
async fn an_org_full_of_poison_is_set_aside_without_its_neighbours() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0)]).await;
    let mut batch: Vec<Event<'_>> = Vec::new();
    for index in 0..3000 {
        let mut event = event(if index % 3 == 0 { "bad" } else { "good" }, index);
        if event.org == "bad" {
            event.attributes = Some("{".into());
        }
        batch.push(event);
    }
    sink.feed(events(0), event_record(source(0, 0), batch, vec![]));
    sink.commit().await;
    assert_eq!(database.number("SELECT count(*) FROM events WHERE org = 'good'").await, 2000);
    assert_eq!(database.number("SELECT count(*) FROM quarantine WHERE org = 'bad'").await, 1000);
    let examined = database.number("SELECT count(*) FROM quarantine WHERE reason = 'refused'").await;
    assert!(
        (64..80).contains(&examined),
        "{examined}: the budget, and what was on the way when it was spent"
    );
    database.assert_consistent().await;
}

#[tokio::test]
async fn a_missing_month_is_waited_for() {
    let database = Database::new().await;
    let month = database.text("SELECT tableoid::regclass::text FROM (SELECT 1) AS o, LATERAL (SELECT format('events_%s', to_char(now() AT TIME ZONE 'UTC', 'YYYYMM'))::regclass AS tableoid) AS t").await;
    database.client.batch_execute(&format!("DROP TABLE {month}")).await.unwrap();
    let mut sink = Sink::taking(&database, &[events(0)]).await;
    sink.feed(events(0), plain_record(0, 0, 100));
    let mut work = sink.work();
    let health = sink.context.health.clone();
    let writing = tokio::spawn(async move { (sink.writer.write(&mut work).await.unwrap(), sink) });
    while !health.report(false).dependencies.iter().any(|dependency| {
        dependency.detail.as_deref().is_some_and(|detail| detail.contains("tidewatch-partitions apply"))
    }) {
        tokio::task::yield_now().await;
    }
    assert!(!health.is_ready());
    database.add_month("events", 0).await;
    assert_eq!(writing.await.unwrap().0, Written::Committed);
    assert!(health.is_ready());
    assert_eq!(database.number("SELECT count(*) FROM events").await, 100);
    assert_eq!(database.number("SELECT count(*) FROM quarantine").await, 0);
    database.assert_consistent().await;
}
