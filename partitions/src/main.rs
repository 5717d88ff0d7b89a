//! Starts `tidewatch-partitions`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidewatch_partitions::main()
}
