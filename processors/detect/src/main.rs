//! Starts `tidewatch-detect`.

fn main() {}
