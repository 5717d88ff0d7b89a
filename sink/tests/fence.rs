//! Two sinks, and connections that break.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod common;

use common::*;
use tidewatch_sink::write::{Written, acquire};

#[tokio::test]
async fn a_sink_with_an_older_epoch_writes_nothing() {
    let database = Database::new().await;
    let mut zombie = Sink::taking(&database, &[events(0), events(1)]).await;
    zombie.feed(events(0), plain_record(0, 0, 10));
    zombie.feed(events(1), plain_record(1, 0, 7));
    let mut work = zombie.work();

    let mut successor = Sink::taking(&database, &[events(0)]).await;
    successor.feed(events(0), plain_record(0, 0, 10));
    successor.commit().await;

    assert_eq!(zombie.writer.write(&mut work).await.unwrap(), Written::Fenced(vec![events(0)]));
    assert_eq!(database.number("SELECT count(*) FROM events").await, 10);
    // Without the partition it lost, it goes on.
    work.batch.remove(&[events(0)]);
    work.prepared = zombie.preparer.prepare(&work.batch, schemas::Micros::now(), Default::default());
    assert_eq!(zombie.writer.write(&mut work).await.unwrap(), Written::Committed);
    assert_eq!(database.number("SELECT count(*) FROM events WHERE kpart = 1").await, 7);
    database.assert_consistent().await;
}

/// The control of the test above: the check is what keeps the zombie's rows out.
#[tokio::test]
async fn without_the_check_the_older_epoch_would_write() {
    let database = Database::new().await;
    database
        .client
        .batch_execute(
            "DO $$ BEGIN EXECUTE replace(replace(pg_get_functiondef('sink_commit'::regproc),
                'IF v_fenced IS NOT NULL', 'IF false'), 'IF v_moved IS NOT NULL', 'IF false'); END $$",
        )
        .await
        .unwrap();
    let mut zombie = Sink::taking(&database, &[events(0)]).await;
    zombie.feed(events(0), plain_record(0, 0, 10));
    let mut work = zombie.work();
    let mut successor = Sink::taking(&database, &[events(0)]).await;
    successor.feed(events(0), plain_record(0, 0, 10));
    successor.commit().await;
    // The ledger's key is a second line of defence.
    database.client.batch_execute("ALTER TABLE sink_ledger DROP CONSTRAINT sink_ledger_pkey").await.unwrap();
    assert_eq!(zombie.writer.write(&mut work).await.unwrap(), Written::Committed);
    assert_eq!(database.number("SELECT count(*) FROM events").await, 20);
}

#[tokio::test]
async fn a_commit_whose_end_was_not_seen_is_found_out_and_not_repeated() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0)]).await;
    sink.feed(events(0), plain_record(0, 0, 10));
    sink.commit().await;
    sink.feed(events(0), plain_record(0, 1, 10));
    let mut first = sink.work();
    let mut second = tidewatch_sink::write::Work {
        batch: std::mem::take(&mut first.batch),
        prepared: std::mem::take(&mut first.prepared),
        epochs: first.epochs.clone(),
    };
    // What the sink would have sent was committed…
    assert_eq!(sink.writer.write(&mut second).await.unwrap(), Written::Committed);
    // …and it, not knowing that, has lost its connection.
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()";
    assert_eq!(database.number(cut).await, 1);
    assert_eq!(sink.writer.write(&mut second).await.unwrap(), Written::Committed);
    assert_eq!(database.number("SELECT count(*) FROM events").await, 20);
    assert_eq!(second.epochs[&events(0)], first.epochs[&events(0)] + 1);
    database.assert_consistent().await;
}

#[tokio::test]
async fn a_connection_lost_before_the_commit_is_begun_anew() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0)]).await;
    sink.feed(events(0), plain_record(0, 0, 10));
    sink.commit().await;
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()";
    assert_eq!(database.number(cut).await, 1);
    sink.feed(events(0), plain_record(0, 1, 10));
    sink.commit().await;
    assert_eq!(database.number("SELECT count(*) FROM events").await, 20);
    database.assert_consistent().await;
}

#[tokio::test]
async fn a_partition_taken_by_a_successor_is_not_taken_back_in_doubt() {
    let database = Database::new().await;
    let mut sink = Sink::taking(&database, &[events(0)]).await;
    sink.feed(events(0), plain_record(0, 0, 10));
    sink.commit().await;
    sink.feed(events(0), plain_record(0, 1, 10));
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()";
    assert_eq!(database.number(cut).await, 1);
    let successor = acquire(&database.client, &[events(0)]).await.unwrap();
    assert_eq!(sink.flush().await.unwrap(), Written::Fenced(vec![events(0)]));
    assert_eq!(database.number("SELECT epoch FROM sink_partition").await, successor[&events(0)].epoch);
    assert_eq!(database.number("SELECT count(*) FROM events").await, 10);
}

#[tokio::test]
async fn two_sinks_feeding_the_same_orgs_and_scans_do_not_wait_for_ever() {
    let database = Database::new().await;
    let mut sinks = Vec::new();
    for partition in 0..3 {
        sinks.push((partition, Sink::taking(&database, &[events(partition), findings(partition)]).await));
    }
    let feeding = sinks.into_iter().map(|(partition, mut sink)| {
        tokio::spawn(async move {
            for offset in 0..20 {
                sink.feed(events(partition), plain_record(partition, offset, 50));
                let scans = vec![
                    scan("s2", offset * 3 + i64::from(partition), "running"),
                    scan("s1", offset, "queued"),
                ];
                sink.feed(findings(partition), finding_record(source(partition, offset), vec![], scans));
                sink.commit().await;
            }
        })
    });
    for sink in feeding.collect::<Vec<_>>() {
        sink.await.unwrap();
    }
    assert_eq!(database.number("SELECT count(*) FROM events").await, 3000);
    assert_eq!(database.number("SELECT sequence FROM scans WHERE scan_id = 's2'").await, 59);
    database.assert_consistent().await;
}
