//! Writes enriched batches to Postgres exactly once.
//!
//! ```text
//! consumer ─▶ Intake ─▶ Batch ─▶ Preparer ─▶ Writer ─▶ Postgres
//!            (judges)  (fills)  (CPU thread) (one transaction)
//! ```
//!
//! Three batches are under way at a time: one fills, one is prepared, one is written. Whatever fails, a batch is written
//! whole or not at all, and only by the sink that holds its partitions:
//!
//! - [`position`] says of every record whether it continues what is stored, repeats it, or leaves a gap.
//! - [`intake`] takes records of the partitions held into a batch, and [`stages`] says which batch is prepared and written
//!   next.
//! - [`prepare`] turns records into rows of COPY's binary format ([`encode`]), sorted and counted.
//! - [`write`](mod@write) sends them and closes with `sink_commit`, which refuses unless every partition still has the
//!   epoch and position that the batch was built on.
//! - [`incidents`] merges changes into the incidents as the database has them.
//!
//! # What it must never do
//! Change what an event means. Commit a position without its rows, or rows without their position. Skip a raw record
//! that nobody has accounted for. Hold a row lock while waiting for Kafka, a clock or itself.

pub mod batch;
mod clock;
mod config;
pub mod encode;
pub mod identity;
pub mod incidents;
pub mod intake;
mod pipeline;
pub mod position;
pub mod prepare;
mod run;
pub mod stages;
pub mod write;

pub use config::Config;
pub use run::run;
