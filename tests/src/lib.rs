//! What the end-to-end tests stand on: a [`Pipeline`] (every service a process, on the Kafka and Postgres of
//! `tidewatch with-stack`), an [`Org`] to push and read as, a [`Load`] to put on it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test ends by panicking"
)]

mod load;
mod org;
mod pipeline;
mod until;

pub use load::{Load, RunningLoad};
pub use org::{Identity, Org};
pub use pipeline::Pipeline;
pub use until::until;

/// Now, RFC 3339 in UTC with microseconds.
pub fn now() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}
