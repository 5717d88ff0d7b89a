//! Starts `tidewatch-loadgen`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidewatch_loadgen::main()
}
