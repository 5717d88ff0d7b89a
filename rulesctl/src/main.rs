//! Starts `tidewatch-rules`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidewatch_rules::main()
}
