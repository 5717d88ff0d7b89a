//! Migrations, partitions, orgs and tokens on a real Postgres.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use jiff::Timestamp;
use postgres::{Client, DatabaseUrl, Session, connect, connect_with};
use schemas::OrgId;
use sha2::{Digest as _, Sha256};
use tidewatch_partitions::{
    Horizon, Kind, Month, Revoked, Summariser, apply, create_org, create_token, forget_pushes, list,
    list_tokens, migrate, revoke_token,
};
use uuid::Uuid;

/// A database of this test alone.
async fn database() -> DatabaseUrl {
    let url = std::env::var("TIDEWATCH_TEST_DATABASE_URL").expect("run through make test");
    let url: DatabaseUrl = url.parse().unwrap();
    let name = format!("t_{}", Uuid::new_v4().simple());
    connect(&url).await.unwrap().batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    url.with_database(&name)
}

async fn migrated() -> (DatabaseUrl, Client) {
    let url = database().await;
    let mut client = connect(&url).await.unwrap();
    migrate(&mut client).await.unwrap();
    (url, client)
}

async fn applied() -> (DatabaseUrl, Client) {
    let (url, mut client) = migrated().await;
    apply(&mut client, Timestamp::now(), Horizon::default()).await.unwrap();
    (url, client)
}

async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn migrating_twice_changes_nothing() {
    let (_url, mut client) = migrated().await;
    assert_eq!(migrate(&mut client).await.unwrap(), [""; 0]);
    assert!(count(&client, "SELECT count(*) FROM org").await == 0);
}

#[tokio::test]
async fn two_migrations_at_once_wait_for_one_another() {
    let url = database().await;
    let (mut one, mut two) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    let (one, two) = tokio::join!(migrate(&mut one), migrate(&mut two));
    let applied = [one.unwrap(), two.unwrap()];
    assert!(applied.iter().any(Vec::is_empty) && applied.iter().any(|versions| !versions.is_empty()));
}

#[tokio::test]
async fn a_database_migrated_from_another_file_is_refused_with_advice() {
    let (_url, mut client) = migrated().await;
    client.execute("UPDATE refinery_schema_history SET checksum = '1' WHERE version = 1", &[]).await.unwrap();
    let error = format!("{:#}", migrate(&mut client).await.unwrap_err());
    assert!(error.starts_with("the database has another V1__tables than this program"), "{error}");
}

#[tokio::test]
async fn partitions_are_made_once_whoever_runs_when() {
    let (url, mut one) = migrated().await;
    let mut two = connect(&url).await.unwrap();
    let now = "2026-11-21T08:00:00Z".parse().unwrap();
    let (made_by_one, made_by_two) =
        tokio::join!(apply(&mut one, now, Horizon::default()), apply(&mut two, now, Horizon::default()));
    assert_eq!(made_by_one.unwrap().len() + made_by_two.unwrap().len(), 4 * 10);
    assert_eq!(apply(&mut one, now, Horizon::default()).await.unwrap(), []);

    let later = "2026-12-01T00:00:00Z".parse().unwrap();
    let made = apply(&mut one, later, Horizon::default()).await.unwrap();
    let names: Vec<_> = made.iter().map(|created| created.name.as_str()).collect();
    assert_eq!(names, ["events_2027_03", "findings_2027_03", "quarantine_2027_03", "audit_log_2027_03"]);
    // The partition's bounds are the month's, whatever time zone the server speaks.
    let leaves = list(&one).await.unwrap();
    let leaf = leaves.iter().find(|leaf| leaf.name == "events_2027_03").unwrap();
    let march = Month::of("2027-03-01T00:00:00Z".parse().unwrap());
    assert_eq!((leaf.from, leaf.to), (Some(march.start()), Some(march.end())));
}

#[tokio::test]
async fn a_partition_has_the_parents_index_and_no_check_to_pay_for() {
    let (_url, client) = applied().await;
    let indexes = "SELECT count(*) FROM pg_index WHERE indrelid = ANY
                   (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass)";
    assert_eq!(count(&client, indexes).await, 10);
    let attached = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events_time_org_brin'::regclass";
    assert_eq!(count(&client, attached).await, 10);
    let checks = "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conrelid = ANY
                  (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'events'::regclass)";
    assert_eq!(count(&client, checks).await, 0);
}

const ROW: &str = "INSERT INTO events (time, received_at, org, class_uid, activity_id, severity_id, source_type, repeat,
                                       flags, kpart, koffset, kindex)
                   SELECT now(), now(), 'demo', 0, 0, 1, 'test', 1, 0, 0, n, 0 FROM generate_series(1, $1::bigint) n";

#[tokio::test]
async fn an_open_write_does_not_hold_partitions_back_and_they_do_not_hold_writes_back() {
    let (url, mut client) = applied().await;
    let mut writer = connect(&url).await.unwrap();
    let writing = writer.transaction().await.unwrap();
    writing.execute(ROW, &[&1_i64]).await.unwrap();
    let horizon = Horizon { back: 6, ahead: 4 };
    let made = tokio::time::timeout(Duration::from_secs(5), apply(&mut client, Timestamp::now(), horizon));
    assert_eq!(made.await.expect("waits for a writer").unwrap().len(), 4);
    writing.commit().await.unwrap();

    // The other way round: an ATTACH that is not committed yet.
    let attaching = client.transaction().await.unwrap();
    attaching
        .batch_execute(
            "CREATE TABLE far (LIKE events INCLUDING ALL);
             ALTER TABLE events ATTACH PARTITION far FOR VALUES FROM ('2099-01-01') TO ('2099-02-01')",
        )
        .await
        .unwrap();
    let impatient = Session { lock_timeout: Some(Duration::from_millis(200)), ..Session::default() };
    let writer = connect_with(&url, &impatient).await.unwrap();
    assert_eq!(writer.execute(ROW, &[&1_i64]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_table_in_the_way_is_named() {
    let (_url, mut client) = migrated().await;
    client.batch_execute("CREATE TABLE findings_2026_11 (a int)").await.unwrap();
    let now = "2026-11-21T08:00:00Z".parse().unwrap();
    let error = format!("{:#}", apply(&mut client, now, Horizon::default()).await.unwrap_err());
    assert!(error.contains("findings_2026_11") && error.contains("already exists"), "{error}");
}

#[tokio::test]
async fn a_default_partition_is_refused() {
    let (_url, mut client) = migrated().await;
    client.batch_execute("CREATE TABLE rest PARTITION OF events DEFAULT").await.unwrap();
    let error = apply(&mut client, Timestamp::now(), Horizon::default()).await.unwrap_err();
    assert!(format!("{error:#}").contains("rest is a DEFAULT partition"), "{error:#}");
}

async fn unsummarised(client: &Client) -> i64 {
    list(client).await.unwrap().iter().filter_map(|leaf| leaf.unsummarised_pages).sum()
}

#[tokio::test]
async fn grown_partitions_are_summarised_once() {
    let (_url, client) = applied().await;
    client.batch_execute("ALTER TABLE events SET (autovacuum_enabled = off)").await.unwrap_or(());
    assert_eq!(client.execute(ROW, &[&20_000_i64]).await.unwrap(), 20_000);
    assert!(unsummarised(&client).await > 100, "{}", unsummarised(&client).await);
    let mut summariser = Summariser::default();
    let done = summariser.summarise(&client).await.unwrap();
    assert_eq!(done.iter().map(|done| done.table.as_str()).collect::<Vec<_>>(), ["events"]);
    assert!(done[0].ranges > 3, "{done:?}");
    assert_eq!(unsummarised(&client).await, 0);
    // Nothing has grown since.
    assert_eq!(summariser.summarise(&client).await.unwrap(), []);
    client.execute(ROW, &[&20_000_i64]).await.unwrap();
    assert_eq!(summariser.summarise(&client).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_partition_that_is_being_vacuumed_is_left_for_the_next_time() {
    let (url, mut holder) = applied().await;
    holder.execute(ROW, &[&1_000_i64]).await.unwrap();
    let session = Session { lock_timeout: Some(Duration::from_millis(50)), ..Session::default() };
    let client = connect_with(&url, &session).await.unwrap();
    let name: String =
        holder.query_one("SELECT tableoid::regclass::text FROM events LIMIT 1", &[]).await.unwrap().get(0);
    let vacuuming = holder.transaction().await.unwrap();
    // The lock that VACUUM takes.
    vacuuming.batch_execute(&format!("LOCK TABLE {name} IN SHARE UPDATE EXCLUSIVE MODE")).await.unwrap();
    let mut summariser = Summariser::default();
    assert_eq!(summariser.summarise(&client).await.unwrap(), []);
    vacuuming.commit().await.unwrap();
    assert_eq!(summariser.summarise(&client).await.unwrap().len(), 1);
}

async fn add_pushes(client: &Client, rows: i64, age: &str) {
    let sql = format!(
        "INSERT INTO push_key (org, key, part, digest, received_at, stored_at, stream, kpart, koffset, kindex, n)
         SELECT 'demo', '{age} ' || n, 0, '\\x00', now() - interval '{age}', now() - interval '{age}', 'events', 0, n, 0, 1
         FROM generate_series(1, {rows}) AS n"
    );
    client.batch_execute(&sql).await.unwrap();
}

#[tokio::test]
async fn keys_of_pushes_are_forgotten_after_two_days_in_small_statements() {
    let (_url, client) = migrated().await;
    add_pushes(&client, 2_500, "48 hours").await;
    add_pushes(&client, 10, "47 hours 59 minutes").await;
    assert_eq!(forget_pushes(&client).await.unwrap().forgotten, 2_500);
    assert_eq!(forget_pushes(&client).await.unwrap().forgotten, 0);
    assert_eq!(count(&client, "SELECT count(*) FROM push_key").await, 10);
    // A backlog takes several calls.
    add_pushes(&client, 51_000, "3 days").await;
    assert_eq!(forget_pushes(&client).await.unwrap().forgotten, 50_000);
    assert_eq!(forget_pushes(&client).await.unwrap().forgotten, 1_000);
}

#[tokio::test]
async fn a_key_that_a_sink_is_taking_over_is_left_and_nobody_waits() {
    let (url, mut client) = migrated().await;
    add_pushes(&client, 5, "3 days").await;
    let taking = client.transaction().await.unwrap();
    taking.batch_execute("UPDATE push_key SET stored_at = now() WHERE key = '3 days 3'").await.unwrap();
    let session = Session { lock_timeout: Some(Duration::from_millis(50)), ..Session::default() };
    let other = connect_with(&url, &session).await.unwrap();
    assert_eq!(forget_pushes(&other).await.unwrap().forgotten, 4);
    taking.commit().await.unwrap();
    assert_eq!(forget_pushes(&other).await.unwrap().forgotten, 0);
    assert_eq!(count(&other, "SELECT count(*) FROM push_key").await, 1);
}

#[tokio::test]
async fn orgs_and_tokens_are_audited_and_only_the_digest_of_a_token_is_stored() {
    let (_url, mut client) = applied().await;
    let org: OrgId = "demo".parse().unwrap();
    let missing = create_token(&mut client, &org, Kind::Ingest, "shipper", "tester").await.unwrap_err();
    assert!(missing.to_string().contains("tidewatch-partitions org create demo"), "{missing}");
    assert!(create_org(&mut client, &org, "Demo", "tester").await.unwrap());
    assert!(!create_org(&mut client, &org, "Other", "tester").await.unwrap());

    let made = create_token(&mut client, &org, Kind::Analyst, "alice", "tester").await.unwrap();
    assert!(made.token.starts_with("tw_analyst_") && made.token.len() == "tw_analyst_".len() + 43);
    let digest: Vec<u8> = client.query_one("SELECT digest FROM token", &[]).await.unwrap().get(0);
    assert_eq!(digest, Sha256::digest(&made.token).as_slice());

    assert_eq!(revoke_token(&mut client, made.id, "tester").await.unwrap(), Revoked::Now);
    assert_eq!(revoke_token(&mut client, made.id, "tester").await.unwrap(), Revoked::Before);
    assert!(revoke_token(&mut client, Uuid::nil(), "tester").await.is_err());
    let stored = list_tokens(&client, Some(&org)).await.unwrap();
    assert!(stored.len() == 1 && stored[0].revoked_at.is_some());
    assert_eq!(list_tokens(&client, Some(&"else".parse().unwrap())).await.unwrap(), []);

    let rows = client
        .query("SELECT org, actor, action, object, detail::text FROM audit_log ORDER BY at, id", &[])
        .await
        .unwrap();
    let audited: Vec<[String; 5]> =
        rows.iter().map(|row| std::array::from_fn(|column| row.get(column))).collect();
    let expected = [
        ["demo", "tester", "create", "org", r#"{"name":"Demo"}"#],
        ["demo", "tester", "create", "token", r#"{"kind":"analyst","label":"alice"}"#],
        ["demo", "tester", "revoke", "token", r#"{"kind":"analyst","label":"alice"}"#],
    ];
    assert_eq!(audited, expected);
}

#[tokio::test]
async fn without_partitions_the_audit_log_says_what_to_run_and_nothing_is_kept() {
    let (_url, mut client) = migrated().await;
    let error = create_org(&mut client, &"demo".parse().unwrap(), "Demo", "tester").await.unwrap_err();
    assert!(error.to_string().contains("run tidewatch-partitions apply"), "{error}");
    assert_eq!(count(&client, "SELECT count(*) FROM org").await, 0);
}
