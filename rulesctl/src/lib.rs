//! For people who write rules: check them, run their tests, match and replay events, explain a match.
//!
//! Everything here takes the way of production: raw bytes through crates/normalise, routing, fields and matching of
//! crates/detection, its correlators. It adds only what a stream does not need: files, times long past, reports.

mod check;
mod cli;
mod clock;
mod coverage;
mod events;
mod explain;
mod lint;
mod matches;
mod output;
mod replay;
mod report;
mod rules;
mod suite;

pub use check::{Checked, Problem, Warning, check};
pub use cli::main;
pub use clock::Clock;
pub use coverage::coverage;
pub use events::{Batch, Events, Line, Shape};
pub use explain::explain;
pub use matches::{Hit, Matched, match_lines};
pub use replay::{Incident, Replay, replay_lines};
pub use suite::{Case, Outcome, Outcomes, Step, Suite, TestFile, outcome, run};
