//! Realistic traffic, scenarios and replays with a journal of what was acknowledged.
