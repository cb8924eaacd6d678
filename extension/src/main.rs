//! The Ichor mesh daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    ichord::cli::main()
}
