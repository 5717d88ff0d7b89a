//! The whole system on a real Kafka and Postgres, every service a process of its own. Run through `make test`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod accepted;
mod bad_input;
mod clients;
mod exactly_once;
mod incidents;
mod isolation;
mod keys;
mod lifecycle;
mod receipts;
mod startup;
