//! The classification, against errors that a real server makes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use postgres::{Class, Session, classify, connect, connect_with};
use rstest::rstest;
use tidewatch_postgres as postgres;
use tokio::net::TcpListener;

const SCHEMA: &str = "
    CREATE TABLE events (time timestamptz NOT NULL, severity int CHECK (severity BETWEEN 0 AND 6), message text, attributes json)
        PARTITION BY RANGE (time);
    CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE TABLE keys (key text PRIMARY KEY);
    INSERT INTO keys VALUES ('a');
";

#[rstest]
// The row is right, the schema is behind: setting rows aside would empty live traffic into quarantine.
#[case::no_partition("INSERT INTO events VALUES ('2031-01-01')", Class::Fatal)]
#[case::wrong_partition("INSERT INTO events_2026 VALUES ('2031-01-01')", Class::Fatal)]
#[case::check_constraint("INSERT INTO events VALUES ('2026-02-01', 9)", Class::Data)]
#[case::not_null("INSERT INTO keys VALUES (NULL)", Class::Data)]
#[case::time_out_of_range("INSERT INTO events VALUES ('300000-01-01')", Class::Data)]
#[case::unique("INSERT INTO keys VALUES ('a')", Class::Data)]
#[case::nul_escaped_in_json("SELECT '{\"a\": \"\\u0000\"}'::json ->> 'a'", Class::Data)]
#[case::json_too_deep(
    "INSERT INTO events VALUES ('2026-02-01', 1, '', repeat('[', 1000000)::json)",
    Class::Data
)]
#[case::index_entry_too_large(
    "INSERT INTO keys SELECT string_agg(md5(n::text), '') FROM generate_series(1, 5000) n",
    Class::Data
)]
#[case::read_only("SET transaction_read_only = on; INSERT INTO keys VALUES ('b')", Class::Transient)]
#[case::statement_timeout("SET statement_timeout = 10; SELECT pg_sleep(60)", Class::Saturation)]
#[case::raised("DO $$ BEGIN RAISE 'fenced'; END $$", Class::Fatal)]
#[case::no_table("SELECT * FROM nowhere", Class::Fatal)]
#[case::terminated("SELECT pg_terminate_backend(pg_backend_pid())", Class::Transient)]
#[tokio::test]
async fn errors_of_statements(#[case] sql: &str, #[case] class: Class) {
    let (_, client) = common::database().await;
    client.batch_execute(SCHEMA).await.unwrap();
    let error = client.batch_execute(sql).await.unwrap_err();
    assert_eq!(classify(&error), class, "{error:?}");
}

#[tokio::test]
async fn a_nul_in_a_text_parameter_is_data() {
    let (_, client) = common::database().await;
    let error = client.query("SELECT $1::text", &[&"a\0b"]).await.unwrap_err();
    assert_eq!(classify(&error), Class::Data, "{error:?}");
}

#[tokio::test]
async fn a_parameter_of_the_wrong_type_is_fatal() {
    let (_, client) = common::database().await;
    let error = client.query("SELECT $1::int", &[&"a"]).await.unwrap_err();
    assert_eq!(classify(&error), Class::Fatal, "{error:?}");
}

#[tokio::test]
async fn a_lost_race_between_transactions_is_transient() {
    let (url, first) = common::database().await;
    let second = connect(&url).await.unwrap();
    first.batch_execute("CREATE TABLE slots (n int); INSERT INTO slots VALUES (1)").await.unwrap();
    for client in [&first, &second] {
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT n FROM slots").await.unwrap();
    }
    first.batch_execute("UPDATE slots SET n = 2; COMMIT").await.unwrap();
    let error = second.batch_execute("UPDATE slots SET n = 3").await.unwrap_err();
    assert_eq!(classify(&error), Class::Transient, "{error:?}");
}

#[tokio::test]
async fn a_statement_planned_before_a_migration_is_transient() {
    let (_, client) = common::database().await;
    client.batch_execute("CREATE TABLE slots (n int)").await.unwrap();
    let statement = client.prepare("SELECT * FROM slots").await.unwrap();
    client.batch_execute("ALTER TABLE slots ADD COLUMN m int").await.unwrap();
    let error = client.query(&statement, &[]).await.unwrap_err();
    assert_eq!(classify(&error), Class::Transient, "{error:?}");
}

#[tokio::test]
async fn a_transaction_idle_for_too_long_loses_its_connection_and_is_transient() {
    let (url, watcher) = common::database().await;
    let session =
        Session { idle_in_transaction_timeout: Some(Duration::from_millis(50)), ..Session::default() };
    let client = connect_with(&url, &session).await.unwrap();
    client.batch_execute("CREATE TABLE slots (n int)").await.unwrap();
    client.batch_execute("BEGIN; LOCK TABLE slots").await.unwrap();
    // Answers once the idle transaction has lost its lock.
    watcher.batch_execute("SELECT count(*) FROM slots").await.unwrap();
    let error = client.batch_execute("COMMIT").await.unwrap_err();
    assert_eq!(classify(&error), Class::Transient, "{error:?}");
}

#[tokio::test]
async fn a_missing_database_is_fatal_and_named() {
    let name = common::fresh_name();
    let error = connect(&common::server().with_database(&name)).await.unwrap_err();
    assert_eq!(error.class(), Class::Fatal);
    assert_eq!(error.to_string(), format!("database \"{name}\" does not exist (SQLSTATE 3D000)"));
}

#[tokio::test]
async fn a_server_that_is_away_is_transient_and_the_password_is_not_told() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("postgres://u:hunter2@{free}/tide").parse().unwrap();
    let error = connect(&url).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    let told = format!("{error} {error:?}");
    assert!(told.contains("refused") && !told.contains("hunter2"), "{told}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_after_five_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://u@{}/tide", silent.local_addr().unwrap()).parse().unwrap();
    let error = connect(&url).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    assert_eq!(error.to_string(), "no answer within 5 s");
}
