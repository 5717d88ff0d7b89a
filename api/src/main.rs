//! Starts `tidewatch-api`.

fn main() {}
