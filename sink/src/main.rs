//! Starts `tidewatch-sink`.

fn main() {}
