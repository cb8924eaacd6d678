//! ichorctl, for tests that want to see what an operator sees.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    // A lab's processes are this program again.
    let args: Vec<OsString> = std::env::args_os().collect();
    let reentered = ichor_lab::reenter_with(&args, Arc::new(ichorctl::lab::TalosRules));
    reentered.unwrap_or_else(ichorctl::cli::main)
}
