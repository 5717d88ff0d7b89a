//! Writes enriched batches to Postgres exactly once.
