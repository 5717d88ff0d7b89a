//! Ingest on a real Kafka and a real Postgres.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail by panicking, as tests do"
)]

mod answers;
mod harness;
mod keys;
mod limits;
mod outage;
mod receipts;
mod shutdown;
mod syslog;
mod tokens;
