//! The command line of `ichord`.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::config::{LINUX_PATH, TALOS_PATH};

/// By this name the program is `ichord tunnel`: wg-quick's WG_QUICK_USERSPACE_IMPLEMENTATION is one word.
pub const TUNNEL_NAME: &str = "ichord-tunnel";

/// What is running, and the compiler that made it.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("ICHOR_COMPILER"), ")");

/// The Ichor mesh daemon.
#[derive(Debug, Parser)]
#[command(name = "ichord", version = VERSION, about, arg_required_else_help = true)]
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
    /// Run the mesh of a configuration file, until told to stop
    #[command(after_help = "Examples:\n  ichord run --config /etc/ichor/ichord.yaml\n  \
                            ICHOR_LOG=debug ichord run --config ./ichord.yaml")]
    Run {
        /// The configuration file; where Talos mounts it, or /etc/ichor/ichord.yaml elsewhere
        #[arg(short, long)]
        config: Option<PathBuf>,
        /// Be the process that does the work, below a parent that keeps descriptors
        #[arg(long, hide = true)]
        worker: bool,
    },
    /// Show the state of the daemon that runs here, as JSON
    #[command(after_help = "Examples:\n  ichord status\n  ichord status | jq .problems")]
    Status,
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
        Command::Run { config, worker } => {
            let config = config.unwrap_or_else(default_config);
            if worker { crate::worker::run(&config, true) } else { crate::parent::run(&config) }
        }
        Command::Status => show_status(),
    };
    result.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}

/// Where Talos mounts the file if this is Talos, else the usual place.
fn default_config() -> PathBuf {
    let talos = Path::new(TALOS_PATH);
    if talos.parent().is_some_and(Path::is_dir) { talos.to_owned() } else { PathBuf::from(LINUX_PATH) }
}

fn show_status() -> anyhow::Result<ExitCode> {
    let json = crate::status::ask(Path::new(crate::status::RUNTIME_DIRECTORY))
        .context("no daemon answers; is `ichord run` running?")?;
    std::io::stdout().lock().write_all(json.as_bytes())?;
    Ok(ExitCode::SUCCESS)
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
