//! The command line of `ichord`.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// By this name the program is `ichord tunnel`: wg-quick's WG_QUICK_USERSPACE_IMPLEMENTATION is one word.
pub const TUNNEL_NAME: &str = "ichord-tunnel";

/// The Ichor mesh daemon.
#[derive(Debug, Parser)]
#[command(name = "ichord", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one WireGuard interface that wg(8) configures, like wireguard-go
    #[command(after_help = "Examples:\n  ichord tunnel wg0 && wg setconf wg0 wg0.conf\n  \
                            WG_QUICK_USERSPACE_IMPLEMENTATION=ichord-tunnel wg-quick up wg0")]
    Tunnel {
        /// Name of the interface
        interface: String,
        /// Stay in the foreground
        #[arg(short, long)]
        foreground: bool,
    },
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    run(std::env::args_os().collect())
}

/// Runs the program with `args`, of which the first is its name.
pub fn run(mut args: Vec<OsString>) -> ExitCode {
    let called_as_tunnel = args
        .first()
        .and_then(|program| Path::new(program).file_name())
        .is_some_and(|name| name == TUNNEL_NAME);
    if called_as_tunnel {
        args.insert(1, "tunnel".into());
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed stdout or stderr is nobody's concern here.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    crate::telemetry::init();
    let result = match cli.command {
        Command::Tunnel { interface, foreground } => crate::tunnel::run(&interface, foreground),
    };
    result.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}

/// The arguments that make this executable `ichord` again with `args`: it may be another program that carries
/// the daemon as a library.
pub(crate) fn reenter<const N: usize>(args: [&str; N]) -> Vec<OsString> {
    let mut all: Vec<OsString> = std::env::var_os(REENTER_VARIABLE).into_iter().collect();
    all.extend(args.map(OsString::from));
    all
}

/// Names the hidden first argument by which a program that carries the daemon becomes it.
pub const REENTER_VARIABLE: &str = "ICHOR_REENTER";
