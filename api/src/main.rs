//! Starts `tidewatch-api`.

use std::process::ExitCode;

fn main() -> ExitCode {
    service::main::<tidewatch_api::Config, _, _>("tidewatch-api", tidewatch_api::run)
}
