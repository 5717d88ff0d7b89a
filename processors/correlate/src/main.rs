//! Starts `tidewatch-correlate`.

use std::process::ExitCode;

fn main() -> ExitCode {
    service::main("tidewatch-correlate", tidewatch_correlate::run)
}
