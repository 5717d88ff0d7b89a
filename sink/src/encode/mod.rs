//! Rows in the binary format of Postgres' COPY.
//!
//! Source: the Postgres manual, COPY, "Binary Format", and the receive functions of the types used. Values that Postgres
//! would refuse are refused here first, because there a single one aborts the COPY of all its neighbours.

pub mod audit;
pub mod event;
pub mod finding;
mod inet;
mod json;
pub mod quarantine;
mod refusal;
mod row;
pub mod time;

pub use json::check as check_json;
pub use refusal::Refusal;
pub use row::{HEADER, Row, TRAILER};
