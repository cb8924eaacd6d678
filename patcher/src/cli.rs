//! The command line: every command with its help. What the commands do is in `cmd`.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cmd::connection::Connection;
use crate::cmd::{
    completion, config, etcd, events, get, health, kubeconfig, logs, machineconfig, read, service, version,
};
use crate::exit::{self, Exit};

/// What is running, and the compiler that made it.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("ICHOR_COMPILER"), ")");

/// The operator's tool of the Ichor mesh, and a client of the Talos API.
///
/// Commands that talosctl has too take the same arguments.
#[derive(Debug, Parser)]
#[command(name = "ichorctl", version = VERSION, arg_required_else_help = true, propagate_version = false)]
#[command(after_help = "Exit codes:\n  \
    0  done, or nothing to do        3  refused by a guard       5    some nodes failed\n  \
    1  failed                        4  stopped, not proven      130  interrupted\n  \
    2  wrong command line")]
pub struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a completion script for a shell
    #[command(after_help = "Examples:\n  source <(ichorctl completion bash)\n  \
                            ichorctl completion fish > ~/.config/fish/completions/ichorctl.fish")]
    Completion(completion::Completion),

    /// Manage the talosconfig
    #[command(
        after_help = "Examples:\n  ichorctl config contexts\n  ichorctl config endpoint 10.0.0.2 10.0.0.3"
    )]
    Config(config::Config),

    /// Read the kernel log
    #[command(
        after_help = "Examples:\n  ichorctl -n 10.0.0.2 dmesg\n  ichorctl -n 10.0.0.2,10.0.0.3 dmesg -f --tail"
    )]
    Dmesg(logs::Dmesg),

    /// Look at etcd and its members, and back it up
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2,10.0.0.3,10.0.0.4 etcd status\n  \
                            ichorctl -n 10.0.0.2 etcd snapshot db.snapshot")]
    Etcd(etcd::Etcd),

    /// Stream events
    #[command(
        after_help = "Examples:\n  ichorctl -n 10.0.0.2 events\n  ichorctl -n 10.0.0.2 events --tail -1"
    )]
    Events(events::Events),

    /// Get resources
    #[command(visible_alias = "g")]
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 get members\n  \
                            ichorctl -n 10.0.0.2,10.0.0.3 get machinestatus --watch")]
    Get(get::Get),

    /// Check the health of the cluster
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 health\n  \
                            ichorctl -n 10.0.0.2 health --server=false --wait-timeout 1m")]
    Health(health::Health),

    /// Get the admin kubeconfig of the cluster
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 kubeconfig\n  \
                            ichorctl -n 10.0.0.2 kubeconfig --merge=false ./kubeconfig")]
    Kubeconfig(kubeconfig::Kubeconfig),

    #[cfg(feature = "lab")]
    Lab(ichor_lab::cli::LabArgs),

    /// Read the log of a service or container
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 logs kubelet --tail 20 -f\n  \
                            ichorctl -n 10.0.0.2 logs -k kube-system/coredns-abc:coredns")]
    Logs(logs::Logs),

    /// Change machine config files, offline
    #[command(name = "machineconfig", visible_alias = "mc")]
    #[command(
        after_help = "Examples:\n  ichorctl machineconfig patch controlplane.yaml -p @patch.yaml -o patched.yaml\n  \
                            ichorctl mc patch worker.yaml -p '[{\"op\": \"remove\", \"path\": \"/machine/kubelet\"}]'"
    )]
    MachineConfig(machineconfig::MachineConfigArgs),

    /// Read a file
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 read /proc/sys/kernel/random/boot_id\n  \
                            ichorctl -n 10.0.0.2 read /etc/os-release")]
    Read(read::Read),

    /// List services, or show and control one
    #[command(visible_alias = "services")]
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 services\n  \
                            ichorctl -n 10.0.0.2 service ext-ichor restart")]
    Service(service::Service),

    /// Print versions
    #[command(
        after_help = "Examples:\n  ichorctl version --client\n  ichorctl -n 10.0.0.2,10.0.0.3 version -o json"
    )]
    Version(version::Version),
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    match parse(std::env::args_os()) {
        // A lab ends with the exit code of what ran inside, and brings its own runtime.
        #[cfg(feature = "lab")]
        Ok(Cli { command: Command::Lab(args), .. }) => ichor_lab::cli::run(args),
        Ok(cli) => execute(cli).into(),
        Err(exit) => exit.into(),
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    Cli::try_parse_from(args).map_err(|error| {
        // A closed stdout or stderr is nobody's concern here.
        let _ = error.print();
        if error.use_stderr() { Exit::Usage } else { Exit::Done }
    })
}

fn execute(cli: Cli) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::conclude(Err(error.into())),
    };
    let exit = runtime.block_on(async {
        tokio::select! {
            result = dispatch(cli) => exit::conclude(result),
            _ = tokio::signal::ctrl_c() => Exit::Interrupted,
        }
    });
    // A resolver that does not answer must not hold up the end.
    runtime.shutdown_background();
    exit
}

async fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    let connection = &cli.connection;
    match cli.command {
        Command::Completion(command) => command.run(),
        Command::Config(command) => command.run(connection).await,
        Command::Dmesg(command) => command.run(connection).await,
        Command::Etcd(command) => command.run(connection).await,
        Command::Events(command) => command.run(connection).await,
        Command::Get(command) => command.run(connection).await,
        Command::Health(command) => command.run(connection).await,
        Command::Kubeconfig(command) => command.run(connection).await,
        #[cfg(feature = "lab")]
        Command::Lab(_) => unreachable!("main runs it"),
        Command::Logs(command) => command.run(connection).await,
        Command::MachineConfig(args) => {
            machineconfig::run(&args, &mut std::io::stdout().lock())?;
            Ok(Exit::Done)
        }
        Command::Read(command) => command.run(connection).await,
        Command::Service(command) => command.run(connection).await,
        Command::Version(command) => command.run(connection).await,
    }
}
