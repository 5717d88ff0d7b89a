//! Reads for analysts; publishes incident changes.
