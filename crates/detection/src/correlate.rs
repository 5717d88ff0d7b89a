//! From signals to incidents, over windows of event time.
//!
//! [`Correlator`] holds the state of one partition of `signals`. What comes out is a function of the set of signals: their
//! order, repetitions and the borders of batches do not matter as long as no signal is later than
//! [`ALLOWED_LATENESS`] behind the newest of its group. What an incident is stands in docs/detection.md; the arithmetic is in
//! `track.rs`.

mod chain;
mod change;
mod correlator;
mod episode;
mod groups;
mod key;
mod mark;
mod measure;
mod pack;
mod seen;
mod slots;
mod thin;
mod threshold;
mod track;
mod watermark;

#[cfg(test)]
mod tests;

pub use correlator::{Applied, Correlator, When};
pub use groups::Limits;

/// How late a signal may be, microseconds of event time behind the newest of its group.
pub const ALLOWED_LATENESS: i64 = 5 * 60 * 1_000_000;

/// Bucket of alerts of a single rule, microseconds of event time: one incident an hour for each group.
pub const ALERT_BUCKET: i64 = 3_600 * 1_000_000;

pub use schemas::{EVIDENCE_EACH_END, MAX_ENTITIES};
