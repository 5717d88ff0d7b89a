//! Incidents: the merge of their changes, as a pure function, and what a batch of changes does to those it touches.

mod change;
mod merge;
mod state;
mod store;

pub use change::{Applied, apply};
pub use state::{Evidence, Incident, MAX_EVIDENCE, NameValue, Status};
pub use store::{LOAD, Work, load};
