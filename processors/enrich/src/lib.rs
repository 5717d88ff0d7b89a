//! Normalises raw batches and adds context: `events.raw` to `events`, `findings.raw` to `findings`.
//!
//! One raw record becomes exactly one enriched record in the partition of the same number, in order; the group's
//! offset is committed only after delivery. What cannot be understood travels on as a reject. The service keeps no
//! state between records, so it may repeat ranges of a partition after a stop, and never skips one.
//!
//! [`enrich_events`] and [`enrich_findings`] are plain functions on batches; [`Converter`] puts them on Kafka
//! records; [`run`] is the stream around it.

mod batch;
mod config;
pub mod context;
mod convert;
mod fit;
mod lanes;
mod resume;
mod run;
mod workers;

pub use batch::{enrich_events, enrich_findings};
pub use config::Config;
pub use convert::{Converter, MAX_PAYLOAD_BYTES, Tally};
pub use run::run;
