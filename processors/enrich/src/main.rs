//! Starts `tidewatch-enrich`.

fn main() {}
