//! Starts `tidewatch-loadgen`.

fn main() {}
