//! The command line: every command with its help. What the commands do is in `cmd`.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cmd::connection::Connection;
use crate::cmd::{
    apply, apply_config, completion, config, edit, etcd, events, get, health, image, kubeconfig, logs,
    machineconfig, manifests, member, mesh, owner, patch, plan, power, read, schematic, service, token,
    upgrade, version,
};
use crate::exit::{self, Exit};
use crate::interrupt::interrupted;

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
    2  wrong command line            10   plan --exit-code: there are changes")]
pub struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    program: Program,
}

/// What is run how: a lab ends with the exit code of what ran inside and brings its own runtime, the rest are
/// commands of ours.
#[derive(Debug, Subcommand)]
enum Program {
    #[cfg(feature = "lab")]
    Lab(ichor_lab::cli::LabArgs),

    #[command(flatten)]
    Command(Command),
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring nodes to what ichor.yaml says
    ///
    /// Does what `plan` shows: pins the addresses of today, brings the daemon's config, then the extension, proves the
    /// mesh between all pairs, and only then moves addresses, one control plane at a time and never without a quorum.
    /// Stopped or killed, it goes on where it was when it is run again.
    #[command(
        after_help = "Examples:\n  ichorctl apply --dry-run\n  ichorctl apply -f ichor.yaml --until mesh\n  \
                            ichorctl apply --yes --image factory.example.org/metal-installer/4c1b...:v1.14.1"
    )]
    Apply(Box<apply::ApplyArgs>),

    /// Give nodes a machine config from a file
    #[command(name = "apply-config")]
    #[command(
        after_help = "Examples:\n  ichorctl -n 10.0.0.9 apply-config --insecure -f controlplane.yaml\n  \
                            ichorctl -n 10.1.0.9 apply-config --insecure --via ssh://root@gateway -f worker.yaml\n  \
                            ichorctl -n 10.0.0.2 apply-config -f controlplane.yaml -p @patch.yaml --dry-run"
    )]
    ApplyConfig(apply_config::ApplyConfig),

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

    /// Change the machine config of a node in an editor
    ///
    /// The editor is $TALOS_EDITOR, else $EDITOR, else vi. A text that the node refuses is opened again, with the
    /// reason on top.
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 edit machineconfig\n  \
                            EDITOR='code --wait' ichorctl -n 10.0.0.2 edit mc --mode try --timeout 5m")]
    Edit(edit::Edit),

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

    /// Make, inspect and push the image of the Talos extension
    #[command(
        after_help = "Examples:\n  ichorctl image build --amd64 dist/x86_64/ichord --arm64 dist/aarch64/ichord\n  \
                            ichorctl image inspect dist/ichor-extension.oci.tar"
    )]
    Image(image::ImageArgs),

    /// Get the admin kubeconfig of the cluster
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 kubeconfig\n  \
                            ichorctl -n 10.0.0.2 kubeconfig --merge=false ./kubeconfig")]
    Kubeconfig(kubeconfig::Kubeconfig),

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

    /// Print Kubernetes manifests that run this program inside the cluster
    ///
    /// A Job, or a CronJob with --schedule, with what it may do in Kubernetes and in Talos. It takes the same lock as
    /// everybody else.
    #[command(
        after_help = "Examples:\n  ichorctl manifests --image registry.example/ichorctl@sha256:... -- upgrade --to v1.14.2 --yes\n  \
                            ichorctl manifests --image registry.example/ichorctl:0.1.0 --schedule '0 3 * * 6' --file ichor.yaml -- apply -f /etc/ichor/ichor.yaml --yes"
    )]
    Manifests(manifests::ManifestsArgs),

    /// Look at the members of a network, and decide who is one
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 member list\n  \
                            ichorctl -n 10.0.0.2 member remove w-7 --yes")]
    Member(member::MemberArgs),

    /// Begin a network, look how it is, and keep a copy of its key
    #[command(after_help = "Examples:\n  ichorctl mesh init home\n  ichorctl mesh init -f ichor.yaml\n  \
                            ichorctl -n 10.0.0.2,10.0.0.3 mesh status")]
    Mesh(mesh::MeshArgs),

    /// Look at the owners of a network, and change who is one
    #[command(after_help = "Examples:\n  ichorctl owner list\n  \
                            ichorctl owner add 41d2...9c --range 10.213.64.0/18 > invitation.json")]
    Owner(owner::OwnerArgs),

    /// Change the machine configs of nodes with patches
    ///
    /// The rules are those of each node's Talos version. Nodes come one after the other, and none after one that
    /// failed.
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 patch mc -p @patch.yaml --dry-run\n  \
                            ichorctl -n 10.0.0.2,10.0.0.3 patch machineconfig -p 'machine: {nodeLabels: {site: home}}'\n  \
                            ichorctl -n 10.0.0.2 patch mc -p @patch.yaml --mode try --timeout 2m")]
    Patch(patch::Patch),

    /// Show what brings nodes to what ichor.yaml says, and why
    #[command(after_help = "Examples:\n  ichorctl plan -f ichor.yaml\n  \
                            ichorctl plan -f ichor.yaml --configs nodes/ -o planned/ --as-patches patches/\n  \
                            ichorctl plan --schema > ichor.schema.json")]
    Plan(plan::PlanArgs),

    /// Read a file
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 read /proc/sys/kernel/random/boot_id\n  \
                            ichorctl -n 10.0.0.2 read /etc/os-release")]
    Read(read::Read),

    /// Reboot nodes, one at a time
    ///
    /// With the same guard as a rollout: a control plane goes down only where the others stay a quorum, drained, and with
    /// a snapshot taken before.
    #[command(after_help = "Examples:\n  ichorctl reboot w-1 --yes\n  ichorctl reboot cp-1 cp-2 cp-3 --yes")]
    Reboot(Box<power::RebootArgs>),

    /// Wipe a node
    ///
    /// A control plane is wiped only where the others stay a quorum. Its name has to be given twice.
    #[command(after_help = "Examples:\n  ichorctl reset w-3 --confirm w-3\n  \
                            ichorctl reset cp-2 --confirm cp-2 --system-labels-to-wipe EPHEMERAL --reboot")]
    Reset(Box<power::ResetArgs>),

    /// Boot the image that nodes had before
    ///
    /// With the same guard as a rollout.
    #[command(after_help = "Examples:\n  ichorctl rollback cp-2 --yes")]
    Rollback(Box<power::RollbackArgs>),

    /// Show what an image factory or the imager is asked for
    #[command(after_help = "Examples:\n  ichorctl schematic of 10.0.0.2 +ichor\n  \
                            ichorctl schematic imager ghcr.io/ichor-mesh/ichor@sha256:... --talos-version v1.14.1")]
    Schematic(schematic::SchematicArgs),

    /// List services, or show and control one
    #[command(visible_alias = "services")]
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 services\n  \
                            ichorctl -n 10.0.0.2 service ext-ichor restart")]
    Service(service::Service),

    /// Make and look at the tokens that let nodes into a network
    #[command(after_help = "Examples:\n  ichorctl token create --name cp-1 --role controlplane\n  \
                            ichorctl token create --pattern 'pool-*' --range 10.213.128.0/20 --uses 50 --ephemeral 10m\n  \
                            ichorctl token list")]
    Token(token::TokenArgs),

    /// Go to another version of Talos, node by node
    ///
    /// One worker first, then the workers, then the control planes one at a time, the leader of etcd last. Before each
    /// control plane a verified snapshot is taken and every other member of etcd must be well by its own word. It stops
    /// at the first node that is not proven to be what it should.
    #[command(after_help = "Examples:\n  ichorctl upgrade --to v1.14.1 --dry-run\n  \
                            ichorctl upgrade --to v1.14.1 --yes --max-unavailable 2\n  \
                            ichorctl upgrade -f ichor.yaml --to v1.14.1 --simulate 10000")]
    Upgrade(Box<upgrade::UpgradeArgs>),

    /// Print versions
    #[command(
        after_help = "Examples:\n  ichorctl version --client\n  ichorctl -n 10.0.0.2,10.0.0.3 version -o json"
    )]
    Version(version::Version),
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let Cli { connection, program } = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => return exit.into(),
    };
    match program {
        #[cfg(feature = "lab")]
        Program::Lab(args) => ichor_lab::cli::run(args, &crate::lab::LabOperator),
        Program::Command(command) => execute(&connection, command).into(),
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    Cli::try_parse_from(args).map_err(|error| {
        // A closed stdout or stderr is nobody's concern here.
        let _ = error.print();
        if error.use_stderr() { Exit::Usage } else { Exit::Done }
    })
}

fn execute(connection: &Connection, command: Command) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::conclude(Err(error.into())),
    };
    let exit = runtime.block_on(async {
        tokio::select! {
            result = dispatch(connection, command) => exit::conclude(result),
            () = interrupted() => Exit::Interrupted,
        }
    });
    // A resolver that does not answer must not hold up the end.
    runtime.shutdown_background();
    exit
}

async fn dispatch(connection: &Connection, command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Apply(command) => command.run(connection).await,
        Command::Upgrade(command) => command.run(connection).await,
        Command::ApplyConfig(command) => command.run(connection).await,
        Command::Completion(command) => command.run(),
        Command::Config(command) => command.run(connection).await,
        Command::Dmesg(command) => command.run(connection).await,
        Command::Edit(command) => command.run(connection).await,
        Command::Etcd(command) => command.run(connection).await,
        Command::Events(command) => command.run(connection).await,
        Command::Get(command) => command.run(connection).await,
        Command::Health(command) => command.run(connection).await,
        Command::Image(args) => args.run().await,
        Command::Kubeconfig(command) => command.run(connection).await,
        Command::Logs(command) => command.run(connection).await,
        Command::Manifests(command) => command.run(),
        Command::MachineConfig(args) => {
            machineconfig::run(&args, &mut std::io::stdout().lock())?;
            Ok(Exit::Done)
        }
        Command::Member(args) => args.run(connection).await,
        Command::Mesh(args) => args.run(connection).await,
        Command::Owner(args) => args.run().await,
        Command::Patch(command) => command.run(connection).await,
        Command::Plan(command) => command.run(connection).await,
        Command::Read(command) => command.run(connection).await,
        Command::Reboot(command) => command.run(connection).await,
        Command::Reset(command) => command.run(connection).await,
        Command::Rollback(command) => command.run(connection).await,
        Command::Schematic(args) => args.run(connection).await,
        Command::Service(command) => command.run(connection).await,
        Command::Token(args) => args.run().await,
        Command::Version(command) => command.run(connection).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_shows_examples_with_its_name() {
        let mut cli = Cli::command();
        cli.build();
        cli.clone().debug_assert();
        // A lab says how it is used by itself.
        let ours = cli.get_subcommands().filter(|it| !matches!(it.get_name(), "help" | "lab"));
        for command in ours {
            check(command);
        }
    }

    fn check(command: &clap::Command) {
        for inner in command.get_subcommands().filter(|it| it.get_name() != "help") {
            check(inner);
        }
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.starts_with("Examples:\n"), "{} has no examples", command.get_name());
        let names = || command.get_all_aliases().chain([command.get_name()]);
        let is_named = names().any(|name| help.split([' ', '\n']).any(|word| word == name));
        assert!(is_named, "the examples of {} do not show it", command.get_name());
    }
}
