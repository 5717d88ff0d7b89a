//! Starts `tidewatch-detect`.

use std::process::ExitCode;

fn main() -> ExitCode {
    service::main("tidewatch-detect", tidewatch_detect::run)
}
