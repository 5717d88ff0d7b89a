//! Starts `tidewatch-sink`.

use std::process::ExitCode;

fn main() -> ExitCode {
    service::main("tidewatch-sink", tidewatch_sink::run)
}
