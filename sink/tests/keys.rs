//! Keyed pushes that come again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use common::*;
use schemas::{EventBatch, FindingBatch, Micros, Push};
use service::metrics;
use tidewatch_sink::prepare::{Prepared, Preparer};
use tidewatch_sink::write::{Work, Written};

const EVENTS: &str = "SELECT count(*) FROM events";
const DUPLICATES: &str = "SELECT coalesce(sum(duplicates), 0)::bigint FROM sink_ledger";
const QUARANTINE: &str = "SELECT coalesce(string_agg(concat_ws(' ', stream, koffset, kindex, reason), ', ' ORDER BY stream, koffset, kindex), '') FROM quarantine";
const KEYS: &str = "SELECT coalesce(string_agg(concat_ws(' ', org, key, part, stream, kpart, koffset, kindex, n), ', ' ORDER BY org, key, part), '') FROM push_key";

#[tokio::test]
async fn a_push_that_comes_again_is_stored_once_wherever_it_comes() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0), events(1)]).await;
    let before = metrics::value("tidewatch_sink_duplicate_events_total", &[("kind", "key")]).unwrap_or(0.0);
    // In one batch, in the same partition and in another one.
    sink.feed(events(0), keyed_record(0, 0, 10, vec![push("a", 0, 1, 0, 10)]));
    sink.feed(events(0), keyed_record(0, 1, 10, vec![push("a", 0, 1, 0, 10)]));
    sink.feed(events(1), keyed_record(1, 0, 10, vec![push("a", 0, 1, 0, 10)]));
    sink.commit().await;
    assert_eq!(database.number(EVENTS).await, 10);
    // In a later batch.
    sink.feed(events(1), keyed_record(1, 1, 10, vec![push("a", 0, 1, 0, 10)]));
    sink.feed(events(1), keyed_record(1, 2, 5, vec![push("b", 0, 1, 0, 5)]));
    sink.commit().await;
    // To a successor, which knows nothing but the database.
    let mut sink = Sink::taking(&database, &[events(1), events(2)]).await;
    sink.feed(events(2), keyed_record(2, 0, 10, vec![push("a", 0, 1, 0, 10)]));
    sink.feed(events(1), keyed_record(1, 3, 5, vec![push("b", 0, 1, 0, 5)]));
    sink.commit().await;

    assert_eq!(database.number(EVENTS).await, 15);
    assert_eq!(database.number(DUPLICATES).await, 45);
    assert_eq!(database.text(KEYS).await, "demo a 0 events 0 0 0 10, demo b 0 events 1 2 0 5");
    let after = metrics::value("tidewatch_sink_duplicate_events_total", &[("kind", "key")]).unwrap();
    assert!(after >= before + 45.0);
    database.assert_consistent().await;
}

#[tokio::test]
async fn of_two_batches_under_way_the_second_drops_what_the_first_stores() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0)]).await;
    sink.feed(events(0), keyed_record(0, 0, 10, vec![push("a", 0, 1, 0, 10)]));
    let mut first = sink.work();
    sink.feed(events(0), keyed_record(0, 1, 10, vec![push("a", 0, 1, 0, 10)]));
    sink.feed(events(0), keyed_record(0, 2, 10, vec![push("b", 0, 1, 0, 10)]));
    // Prepared before the first is written, as the pipeline does.
    let mut second = sink.work();
    assert_eq!(second.prepared.pushes.len(), 2);
    assert_eq!(sink.writer.write(&mut first).await.unwrap(), Written::Committed);
    let Written::Known(known) = sink.writer.write(&mut second).await.unwrap() else {
        panic!("the push is stored")
    };
    assert_eq!(known.keys().map(|push| &*push.key).collect::<Vec<_>>(), ["a"]);
    sink.learn(&mut second, known);
    assert_eq!(sink.writer.write(&mut second).await.unwrap(), Written::Committed);
    assert_eq!((database.number(EVENTS).await, database.number(DUPLICATES).await), (20, 10));
    database.assert_consistent().await;
}

#[tokio::test]
async fn another_body_under_the_same_key_is_quarantined_row_by_row() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0), findings(0)]).await;
    sink.feed(events(0), keyed_record(0, 0, 3, vec![push("a", 0, 1, 0, 3)]));
    sink.feed(events(0), keyed_record(0, 1, 2, vec![push("a", 0, 2, 0, 2)]));
    sink.commit().await;
    assert_eq!(
        database.text(QUARANTINE).await,
        "events 1 0 idempotency_conflict, events 1 1 idempotency_conflict"
    );
    // The first body is still the push, the second one still is not, and the other stream has the same keys.
    sink.feed(events(0), keyed_record(0, 2, 3, vec![push("a", 0, 1, 0, 3)]));
    sink.feed(events(0), keyed_record(0, 3, 1, vec![push("a", 0, 2, 0, 1)]));
    let payload = {
        let source = source(0, 0);
        let pushes = vec![push("a", 0, 3, 0, 3)];
        let (found, scans) = (vec![finding("demo", 0)], vec![scan("s1", 1, "queued")]);
        let mut payload = Vec::new();
        let batch = FindingBatch { source, findings: found, scans, rejects: vec![reject(2)], pushes };
        schemas::encode(&batch, &mut payload);
        payload
    };
    sink.feed(findings(0), payload);
    sink.commit().await;
    assert_eq!(
        database.text(QUARANTINE).await,
        "events 1 0 idempotency_conflict, events 1 1 idempotency_conflict, events 3 0 idempotency_conflict, \
         findings 0 0 idempotency_conflict, findings 0 1 idempotency_conflict, findings 0 2 idempotency_conflict"
    );
    assert_eq!((database.number(EVENTS).await, database.number(DUPLICATES).await), (3, 3));
    assert_eq!(database.number("SELECT count(*) FROM findings").await, 0);
    assert_eq!(database.number("SELECT count(*) FROM scans").await, 0);
    // What it was is kept.
    let of = |at: &str| format!("SELECT convert_from(payload, 'UTF8') || detail FROM quarantine WHERE {at}");
    let event = database.text(&of("stream = 'events' AND koffset = 1 AND kindex = 1")).await;
    assert!(
        event.contains("Failed password for root") && event.contains(r#"Idempotency-Key "a""#),
        "{event}"
    );
    let kept = "SELECT count(*) FROM quarantine WHERE kindex = 2 AND payload = '\\x7b00'";
    assert_eq!(database.number(kept).await, 1);
    database.assert_consistent().await;
}

#[tokio::test]
async fn rejects_scans_and_findings_of_a_push_come_once() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0), findings(0)]).await;
    for offset in 0..3 {
        let batch = EventBatch {
            source: source(0, offset),
            events: vec![event("demo", 0), event("demo", 2)],
            rejects: vec![reject(1), reject(3)],
            pushes: vec![push("a", 0, 1, 0, 4)],
        };
        let mut payload = Vec::new();
        schemas::encode(&batch, &mut payload);
        sink.feed(events(0), payload);
        let batch = FindingBatch {
            source: source(0, offset),
            findings: vec![finding("demo", 0)],
            scans: vec![scan("s1", 1 + offset, "running")],
            rejects: vec![],
            pushes: vec![push("b", 0, 1, 0, 2)],
        };
        let mut payload = Vec::new();
        schemas::encode(&batch, &mut payload);
        sink.feed(findings(0), payload);
        if offset != 0 {
            sink.commit().await;
        }
    }
    assert_eq!(database.text(QUARANTINE).await, "events 0 1 invalid_json, events 0 3 invalid_json");
    assert_eq!(database.number(EVENTS).await, 2);
    assert_eq!(database.number("SELECT count(*) FROM findings").await, 1);
    // Not of the push any more, which ends before the third one's scan.
    assert_eq!(database.number("SELECT max(sequence) FROM scans").await, 3);
    database.assert_consistent().await;
}

#[tokio::test]
async fn pushes_of_one_record_and_parts_of_one_push_are_told_apart() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0), events(1)]).await;
    let shares = || vec![push("a", 0, 1, 2, 3), push("a", 1, 1, 5, 2), push("b", 0, 1, 8, 2)];
    // Rows 0, 1 and 7 have no key.
    sink.feed(events(0), keyed_record(0, 0, 10, shares()));
    sink.commit().await;
    sink.feed(events(0), keyed_record(0, 1, 10, shares()));
    sink.commit().await;
    assert_eq!((database.number(EVENTS).await, database.number(DUPLICATES).await), (13, 7));
    let unkeyed = "SELECT count(*) FROM events WHERE koffset = 1 AND kindex IN (0, 1, 7)";
    assert_eq!(database.number(unkeyed).await, 3);
    // A push whose first try was stored in part only: the part that is missing is stored now.
    sink.feed(events(1), keyed_record(1, 0, 2, vec![push("b", 0, 1, 0, 2)]));
    sink.feed(events(1), keyed_record(1, 1, 4, vec![push("b", 1, 1, 0, 4)]));
    sink.commit().await;
    assert_eq!((database.number(EVENTS).await, database.number(DUPLICATES).await), (17, 9));
    assert_eq!(
        database.text(KEYS).await,
        "demo a 0 events 0 0 2 3, demo a 1 events 0 0 5 2, demo b 0 events 0 0 8 2, demo b 1 events 1 1 0 4"
    );
    database.assert_consistent().await;
}

#[tokio::test]
async fn a_key_is_free_again_after_24_hours() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0)]).await;
    sink.feed(events(0), keyed_record(0, 0, 2, vec![push("a", 0, 1, 0, 2)]));
    sink.commit().await;
    for (offset, age, rows) in [(1, "23 hours 59 minutes", 2), (2, "24 hours", 4)] {
        let sql = format!("UPDATE push_key SET received_at = now() - interval '{age}' WHERE key = 'a'");
        database.client.batch_execute(&sql).await.unwrap();
        sink.feed(events(0), keyed_record(0, offset, 2, vec![push("a", 0, 1, 0, 2)]));
        sink.commit().await;
        assert_eq!(database.number(EVENTS).await, rows, "{age}");
    }
    // Another body, long after: no conflict. And the key is its own now.
    database
        .client
        .batch_execute("UPDATE push_key SET received_at = now() - interval '25 hours'")
        .await
        .unwrap();
    sink.feed(events(0), keyed_record(0, 3, 2, vec![push("a", 0, 2, 0, 2)]));
    sink.feed(events(0), keyed_record(0, 4, 2, vec![push("a", 0, 2, 0, 2)]));
    sink.commit().await;
    assert_eq!(database.number(EVENTS).await, 6);
    assert_eq!(database.text(KEYS).await, "demo a 0 events 0 3 0 2");
    assert_eq!(database.text(QUARANTINE).await, "");
    database.assert_consistent().await;
}

#[tokio::test]
async fn a_key_that_nobody_checked_does_not_stop_the_sink() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0)]).await;
    let long: &'static str = "k".repeat(100_000).leak();
    let odd = [
        push(long, 0, 1, 0, 1),
        push("", 0, 1, 0, 1),
        push("a\0b", 0, 1, 0, 1),
        push("it's \\ \"quoted\" \u{1F600}", 0, 1, 0, 1),
        Push { org: "No Org\0".into(), ..push("a", 0, 1, 0, 1) },
        Push { digest: vec![1; 31].into(), ..push("b", 0, 1, 0, 1) },
        push("c", i32::MIN, 1, 0, 1),
        push("d", 0, 1, i32::MAX, i32::MAX),
    ];
    for offset in 0..2 {
        sink.feed(events(0), keyed_record(0, offset, 2, odd.to_vec()));
        sink.commit().await;
    }
    // Row 0 is of the one push among them that can be: the quoted one.
    assert_eq!((database.number(EVENTS).await, database.number(DUPLICATES).await), (3, 1));
    let far = Micros(Micros::now().0 + 1_000 * 365 * 86_400_000_000);
    for offset in 2..4 {
        let mut event = event("demo", 0);
        event.received_at = far;
        let batch = EventBatch {
            source: source(0, offset),
            events: vec![event],
            rejects: vec![],
            pushes: vec![push("far", 0, 1, 0, 1)],
        };
        let mut payload = Vec::new();
        schemas::encode(&batch, &mut payload);
        sink.feed(events(0), payload);
        sink.commit().await;
    }
    assert_eq!(database.number(DUPLICATES).await, 2);
    database.assert_consistent().await;
}

/// Stores a push through another sink while this one is held up between its look and its commit.
async fn race(database: &Database, body: u8) -> Written {
    let mut sink = Sink::taking(database, &[events(0)]).await;
    sink.feed(events(0), keyed_record(0, 0, 10, vec![push("a", 0, 1, 0, 10)]));
    sink.feed(events(0), keyed_record(0, 1, 10, vec![push("b", 0, 1, 0, 10)]));
    let mut holder = postgres::connect(&database.url).await.unwrap();
    let held = holder.transaction().await.unwrap();
    held.batch_execute("LOCK TABLE events IN SHARE MODE").await.unwrap();
    let writing = tokio::spawn(async move { (sink.flush().await.unwrap(), sink) });
    while database
        .number("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'events'::regclass")
        .await
        == 0
    {
        tokio::task::yield_now().await;
    }
    let mut other = Sink::taking(database, &[findings(0)]).await;
    let batch = FindingBatch {
        source: source(0, 0),
        findings: vec![finding("demo", 0)],
        scans: vec![],
        rejects: vec![],
        pushes: vec![push("a", 0, body, 0, 1)],
    };
    let mut payload = Vec::new();
    schemas::encode(&batch, &mut payload);
    other.feed(findings(0), payload);
    other.commit().await;
    held.commit().await.unwrap();
    writing.await.unwrap().0
}

#[tokio::test]
async fn a_push_that_another_sink_stores_in_the_same_moment_is_dropped() {
    let database = Database::new().await;
    let retried = || metrics::value("tidewatch_sink_batches_total", &[("result", "retried")]).unwrap_or(0.0);
    let before = retried();
    assert_eq!(race(&database, 1).await, Written::Committed);
    assert!(retried() > before, "sink_keys refused it once");
    assert_eq!((database.number(EVENTS).await, database.number(DUPLICATES).await), (10, 10));
    assert_eq!(database.text(KEYS).await, "demo a 0 findings 0 0 0 1, demo b 0 events 0 1 0 10");
    database.assert_consistent().await;
}

#[tokio::test]
async fn a_push_whose_key_another_sink_takes_in_the_same_moment_is_quarantined() {
    let database = Database::new().await;
    assert_eq!(race(&database, 2).await, Written::Committed);
    assert_eq!((database.number(EVENTS).await, database.number(DUPLICATES).await), (10, 0));
    let conflicts = "SELECT count(*) FROM quarantine WHERE reason = 'idempotency_conflict' AND koffset = 0";
    assert_eq!(database.number(conflicts).await, 10);
    database.assert_consistent().await;
}

/// The control of the two above: it is the refusal that keeps the second copy out.
#[tokio::test]
async fn without_the_refusal_both_copies_would_be_stored() {
    let database = Database::new().await;
    database
        .client
        .batch_execute(
            "DO $$ BEGIN EXECUTE replace(pg_get_functiondef('sink_keys'::regproc),
                'IF v_taken IS NOT NULL', 'IF false'); END $$",
        )
        .await
        .unwrap();
    assert_eq!(race(&database, 1).await, Written::Committed);
    assert_eq!(database.number(EVENTS).await, 20);
}

#[tokio::test]
async fn a_commit_whose_end_was_not_seen_is_not_taken_for_a_push_that_came_before() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0)]).await;
    sink.feed(events(0), keyed_record(0, 0, 10, vec![push("a", 0, 1, 0, 10)]));
    let first = sink.work();
    let mut work = Work {
        batch: first.batch,
        prepared: Preparer::default().prepare(&Default::default(), Micros::now(), Prepared::default()),
        epochs: first.epochs,
    };
    work.prepared = sink.preparer.prepare(&work.batch, Micros::now(), std::mem::take(&mut work.prepared));
    assert_eq!(sink.writer.write(&mut work).await.unwrap(), Written::Committed);
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()";
    assert_eq!(database.number(cut).await, 1);
    assert_eq!(sink.writer.write(&mut work).await.unwrap(), Written::Committed);
    assert_eq!((database.number(EVENTS).await, database.number(DUPLICATES).await), (10, 0));
    database.assert_consistent().await;
}

#[tokio::test]
async fn a_fenced_sink_keeps_no_keys_from_its_successor() {
    let database = Database::new().await;
    let mut zombie = Sink::taking(&database, &[events(0)]).await;
    zombie.feed(events(0), keyed_record(0, 0, 10, vec![push("a", 0, 1, 0, 10)]));
    let mut work = zombie.work();
    let mut successor = Sink::taking(&database, &[events(0)]).await;
    assert_eq!(zombie.writer.write(&mut work).await.unwrap(), Written::Fenced(vec![events(0)]));
    assert_eq!(database.text(KEYS).await, "");
    successor.feed(events(0), keyed_record(0, 0, 10, vec![push("a", 0, 1, 0, 10)]));
    successor.commit().await;
    assert_eq!((database.number(EVENTS).await, database.number(DUPLICATES).await), (10, 0));
    database.assert_consistent().await;
}

#[tokio::test]
async fn sinks_with_the_same_pushes_in_every_order_store_each_once_and_do_not_wait_for_ever() {
    const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let database = Database::new().await;
    let mut sinks = Vec::new();
    for partition in 0..3usize {
        let mut sink = Sink::taking(&database, &[events(partition as i32)]).await;
        sinks.push(tokio::spawn(async move {
            for round in 0..12usize {
                let partition = partition as i32;
                // Each begins elsewhere and goes on by another step.
                let key = KEYS[(round * (partition as usize * 2 + 1) + partition as usize) % KEYS.len()];
                let record =
                    keyed_record(partition, round as i64, 5, vec![push(key, round as i32 / 6, 1, 0, 5)]);
                sink.feed(events(partition), record);
                if round % 2 == 1 {
                    sink.commit().await;
                }
            }
        }));
    }
    for sink in sinks {
        sink.await.unwrap();
    }
    let stored = database.number("SELECT count(*) FROM push_key").await;
    assert_eq!(database.number(EVENTS).await, stored * 5);
    assert_eq!(database.number(DUPLICATES).await, 3 * 12 * 5 - stored * 5);
    database.assert_consistent().await;
}
