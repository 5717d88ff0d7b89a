//! Starts `tidewatch-enrich`.

use std::process::ExitCode;

fn main() -> ExitCode {
    service::main("tidewatch-enrich", tidewatch_enrich::run)
}
