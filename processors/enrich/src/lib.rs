//! Normalises raw batches and adds context.
