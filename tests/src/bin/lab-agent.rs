//! The program of which the labs of the tests are made: the parts of a lab, ichord, and the probes of the tests.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    ichor_lab::reenter(&args).unwrap_or_else(|| ichor_tests::probe::main(&args[1..]))
}
