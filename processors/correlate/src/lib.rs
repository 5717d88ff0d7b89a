//! Turns signals into incidents: `signals` to `incidents`.
//!
//! Windows are kept in memory only, a [`detection::Correlator`] for each partition. A change carries the whole state of
//! its incident and its id is derived from its content, so publishing one twice does no harm. A position is committed once
//! every change that the signals before it made has been acknowledged; on assignment, reading starts far enough before the
//! committed position that the windows are as they were, and nothing is published until they are.

mod config;
mod lane;
mod publish;
mod resume;
mod run;
#[cfg(test)]
mod simulation;

pub use config::{Config, StateArgs};
pub use run::run;
