//! Matches rules and emits signals: `events` and `findings` to `signals`.
//!
//! For each enriched record and each partition of `signals` that it concerns, one batch of signals, in order; the group's
//! offset is committed only after delivery. The service keeps no state between records, so it may repeat ranges of a
//! partition after a stop, and never skips one: correlate drops what it has seen. Only what Kafka has removed unread is
//! passed over, with a line in the log that says what. Every few seconds it tells every partition of `signals` how far
//! event time has got in each partition that it reads.

mod config;
mod lanes;
mod live;
mod matching;
mod resume;
mod run;
mod upstream;
mod watermarks;

pub use config::Config;
pub use matching::{Matched, Unreadable, match_record};
pub use run::run;
