//! The operator's tool of the Ichor mesh.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

/// The operator's tool of the Ichor mesh
#[derive(Debug, Parser)]
#[command(name = "ichorctl", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    #[cfg(feature = "lab")]
    Lab(ichor_lab::cli::LabArgs),
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    // A lab's processes are this program again.
    #[cfg(feature = "lab")]
    if let Some(code) = ichor_lab::reenter(&args) {
        return code;
    }
    match Cli::parse_from(args).command {
        #[cfg(feature = "lab")]
        Command::Lab(args) => ichor_lab::cli::run(args),
    }
}
