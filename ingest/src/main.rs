//! Starts `tidewatch-ingest`.

use std::process::ExitCode;

fn main() -> ExitCode {
    service::main("tidewatch-ingest", tidewatch_ingest::run)
}
