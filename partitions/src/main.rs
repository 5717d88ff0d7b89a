//! Starts `tidewatch-partitions`.

fn main() {}
