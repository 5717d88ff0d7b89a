//! Starts `tidewatch`.

fn main() {}
