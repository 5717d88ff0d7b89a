//! Starts `tidewatch-correlate`.

fn main() {}
