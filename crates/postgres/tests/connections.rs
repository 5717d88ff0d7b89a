//! Connections, the pool and waiting, against a real server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use postgres::{
    Class, DatabaseUrl, PostgresArgs, Session, classify_pool, connect_with, pool, wait_until_migrated,
    wait_until_ready,
};
use tidewatch_postgres as postgres;
use tokio::net::{TcpStream, UnixListener};
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_connection_is_named_and_has_its_settings() {
    let session = Session {
        statement_timeout: Some(30 * SECOND),
        idle_in_transaction_timeout: Some(10 * SECOND),
        lock_timeout: Some(SECOND),
        ..Session::default()
    };
    let (url, _) = common::database().await;
    let client = connect_with(&url, &session).await.unwrap();
    let row = client
        .query_one(
            "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'),
                    current_setting('lock_timeout'), application_name
             FROM pg_stat_activity WHERE pid = pg_backend_pid()",
            &[],
        )
        .await
        .unwrap();
    let settings: Vec<&str> = (0..3).map(|column| row.get(column)).collect();
    assert_eq!(settings, ["30s", "10s", "1s"]);
    assert!(row.get::<_, &str>(3).starts_with("connections-"), "the program's name: {row:?}");
}

/// The server's own socket may be out of reach of this user, so the test puts one before its TCP port.
#[tokio::test]
async fn a_unix_socket_url_connects() {
    let directory = std::env::temp_dir().join(common::fresh_name());
    std::fs::create_dir(&directory).unwrap();
    let listener = UnixListener::bind(directory.join(".s.PGSQL.7777")).unwrap();
    let server = common::server().address();
    tokio::spawn(async move {
        let (mut inner, _) = listener.accept().await.unwrap();
        let mut outer = TcpStream::connect(server).await.unwrap();
        tokio::io::copy_bidirectional(&mut inner, &mut outer).await
    });

    let given = std::env::var("TIDEWATCH_TEST_DATABASE_URL").unwrap();
    let credentials = given.split("://").nth(1).unwrap().split('@').next().unwrap();
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let url = format!(
        "postgres:///postgres?host={}&port=7777&user={user}&password={password}",
        directory.display()
    );
    let url: DatabaseUrl = url.parse().unwrap();
    let client = postgres::connect(&url).await.unwrap();
    assert_eq!(client.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_full_pool_is_saturation_after_five_seconds() {
    let args = PostgresArgs { database_url: common::server(), database_pool_size: 1 };
    let pool = pool(&args, Session::default()).unwrap();
    let _held = pool.get().await.unwrap();
    let asked = Instant::now();
    let error = match pool.get().await {
        Ok(_) => panic!("two connections from a pool of one"),
        Err(error) => error,
    };
    assert_eq!(classify_pool(&error), Class::Saturation);
    assert!((4 * SECOND..8 * SECOND).contains(&asked.elapsed()), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_dead_connection_is_replaced_when_it_is_taken() {
    let (url, watcher) = common::database().await;
    let args = PostgresArgs { database_url: url, database_pool_size: 1 };
    let pool = pool(&args, Session::default()).unwrap();
    let client = pool.get().await.unwrap();
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    watcher.query_one("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
    client.batch_execute("SELECT pg_sleep(60)").await.unwrap_err();
    while !client.is_closed() {
        tokio::task::yield_now().await;
    }
    drop(client);
    let client = pool.get().await.unwrap();
    assert_ne!(client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0), pid);
}

#[tokio::test]
async fn a_database_that_appears_later_is_waited_for() {
    let name = common::fresh_name();
    let superuser = postgres::connect(&common::server()).await.unwrap();
    let args = PostgresArgs::new(common::server().with_database(&name));
    let (told, mut waiting) = tokio::sync::mpsc::unbounded_channel();
    let wait = tokio::spawn(async move {
        wait_until_ready(&args, &CancellationToken::new(), |reason| told.send(reason.to_owned()).unwrap())
            .await
    });
    let reason = waiting.recv().await.unwrap();
    assert!(reason.contains("does not exist"), "{reason}");
    superuser.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let client = wait.await.unwrap().expect("a connection");
    client.batch_execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn tables_that_appear_later_are_waited_for() {
    let (url, client) = common::database().await;
    client.batch_execute("CREATE TABLE orgs ()").await.unwrap();
    let args = PostgresArgs::new(url);
    let (told, mut waiting) = tokio::sync::mpsc::unbounded_channel();
    let wait = tokio::spawn(async move {
        let tables = ["orgs", "events"];
        let token = CancellationToken::new();
        wait_until_migrated(&args, &tables, &token, |reason| told.send(reason.to_owned()).unwrap()).await
    });
    assert_eq!(waiting.recv().await.unwrap(), "no table events; run tidewatch-partitions migrate");
    client.batch_execute("CREATE TABLE events ()").await.unwrap();
    wait.await.unwrap().expect("a connection");
}

#[tokio::test]
async fn waiting_ends_with_the_shutdown() {
    let args = PostgresArgs::new(common::server().with_database(&common::fresh_name()));
    let token = CancellationToken::new();
    let stop = token.clone();
    assert!(wait_until_ready(&args, &token, |_| stop.cancel()).await.is_none());
}
