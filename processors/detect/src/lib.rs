//! Matches rules and emits signals.
