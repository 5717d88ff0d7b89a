//! Starts `tidewatch-ingest`.

fn main() {}
