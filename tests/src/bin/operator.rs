//! ichorctl, for tests that want to see what an operator sees.

use std::process::ExitCode;

fn main() -> ExitCode {
    ichorctl::cli::main()
}
