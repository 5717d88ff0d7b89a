//! Prints docs/metrics.md.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

fn main() {
    print!("{}", tidewatch_service::metrics::page());
}
