//! A database of its own for every test.
#![allow(dead_code, reason = "each test binary uses a part")]

use postgres::{Client, DatabaseUrl, connect};
use tidewatch_postgres as postgres;
use uuid::Uuid;

/// The test server, as its superuser.
pub fn server() -> DatabaseUrl {
    let url = std::env::var("TIDEWATCH_TEST_DATABASE_URL");
    url.expect("TIDEWATCH_TEST_DATABASE_URL is not set: run through make test").parse().unwrap()
}

/// A name that no other test has.
pub fn fresh_name() -> String {
    format!("t_{}", Uuid::new_v4().simple())
}

/// Creates a database and connects to it.
pub async fn database() -> (DatabaseUrl, Client) {
    let name = fresh_name();
    let superuser = connect(&server()).await.unwrap();
    superuser.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let url = server().with_database(&name);
    let client = connect(&url).await.unwrap();
    (url, client)
}
