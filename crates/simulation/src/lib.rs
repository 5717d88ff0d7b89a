//! Simulations: pure code under thousands of seeded schedules.
//!
//! A schedule is everything that one seed decides: who acts next, what is lost, what comes late. It is a function of
//! its seed alone, so that a schedule that breaks something can be run again:
//!
//! ```sh
//! TIDEWATCH_SIM_SEED=4711 cargo test --release -p tidewatch-tests --test simulation stream
//! ```
//!
//! runs that schedule and tells every step of it. `TIDEWATCH_SIM_SCHEDULES` says how many to run instead of the default,
//! which takes a few seconds.
//!
//! A simulation comes with its controls: the same schedules with one guard taken away must break something, which
//! [`Simulation::breaks`] asserts.
//!
//! For tests alone: no crate depends on this one but as a dev-dependency.

mod run;
mod schedule;

pub use run::Simulation;
pub use schedule::Schedule;
