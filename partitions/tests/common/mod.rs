//! A database of its own for every test.
#![allow(dead_code, reason = "not every test uses all of it")]

use jiff::Timestamp;
use postgres::{Client, DatabaseUrl, connect};
use tidewatch_partitions::{Horizon, apply, migrate};
use uuid::Uuid;

pub const BINARY: &str = env!("CARGO_BIN_EXE_tidewatch-partitions");

pub struct Database {
    /// For flags.
    pub address: String,
    pub url: DatabaseUrl,
    pub client: Client,
}

impl Database {
    /// With tables, and partitions for the planned months.
    pub async fn new() -> Self {
        let server = std::env::var("TIDEWATCH_TEST_DATABASE_URL").expect("run through make test");
        let name = format!("t_{}", Uuid::new_v4().simple());
        let admin = connect(&server.parse().unwrap()).await.unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let (server, _) = server.rsplit_once('/').unwrap();
        let address = format!("{server}/{name}");
        let url: DatabaseUrl = address.parse().unwrap();
        let mut client = connect(&url).await.unwrap();
        migrate(&mut client).await.unwrap();
        apply(&mut client, Timestamp::now(), Horizon::default()).await.unwrap();
        Self { address, url, client }
    }

    pub async fn another(&self) -> Client {
        connect(&self.url).await.unwrap()
    }

    pub async fn execute(&self, sql: &str) {
        self.client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {}", postgres::describe(&error)));
    }

    pub async fn number(&self, query: &str) -> i64 {
        self.client.query_one(query, &[]).await.unwrap().get(0)
    }

    pub async fn text(&self, query: &str) -> String {
        self.client.query_one(query, &[]).await.unwrap().get(0)
    }

    pub async fn texts(&self, query: &str) -> Vec<String> {
        self.client.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }
}
