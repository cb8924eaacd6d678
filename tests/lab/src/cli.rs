//! `ichorctl lab`: its arguments and what they do. Data goes to stdout, progress and errors to stderr.

mod demo;
pub(crate) mod exec;
mod faults;
mod join;
mod status;
mod table;
mod talos;

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::background;
use crate::error::{Attempt as _, LabError};
use crate::talos::model::Line;
use crate::topology::{Membership, Nodes, Site, Talos, Topology};

pub use self::join::{Guest, Joined, Network, Operator, ToJoin, Work};

/// The exit code of a command that a signal ended.
const INTERRUPTED: u8 = 130;

/// A throw-away mesh on this machine, to learn and to break
#[derive(Debug, Args)]
#[command(
    long_about = "A throw-away mesh on this machine, to learn and to break.\n\n\
                  Every node of a lab has network namespaces of its own, a NAT in front of it where you want \
                  one, and a real ichord. Nothing outside the lab is changed. It runs as root, or unprivileged \
                  where the kernel has user namespaces and lets you open /dev/net/tun.",
    after_help = "Examples:\n  ichorctl lab demo\n  ichorctl lab up --site home:3:random --site cloud:2\n  \
                  ichorctl lab exec home-1 -- ping -c3 cloud-1\n  ichorctl lab power off home-2"
)]
pub struct LabArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a lab in the background
    #[command(after_help = "Examples:\n  ichorctl lab up\n  \
                            ichorctl lab up --site home:3:port-preserving --site cloud:2\n  \
                            ichorctl lab up --nodes 3+2 --talos 1.13\n  \
                            ichorctl lab up --name lossy --file topology.yaml\n\n\
                            A topology file can say more, for example:\n  sites:\n    - name: home\n      \
                            nat: random              # none, port-preserving, random, static\n      \
                            uplink: {shape: {delayMs: 20, loss: 0.01, silentMtu: 1400}}\n      \
                            nodes: [{name: a}, {name: b, link: {mtu: 1280}}]\n    - name: cloud\n      \
                            nodes: [{name: c}]\n  talos:                         # all nodes are simulated Talos nodes\n    \
                            controlPlanes: 3           # the first ones\n    \
                            version: \"1.12\"\n    \
                            versions: {c: \"1.13\"}    # of single nodes\n    \
                            images:                    # that they can be upgraded to\n      \
                            - {reference: \"factory.example/installer/abc:v1.13.9\", version: \"1.13\", schematic: abc}\n      \
                            - {reference: \"bad:1\", version: \"1.13\", extensions: {}, fault: stuckBooting}\n        \
                            # or notInstallable, bootLoop, rollsBack, slowBoot")]
    Up {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        what: What,
    },
    /// End a lab and everything in it
    #[command(after_help = "Examples:\n  ichorctl lab down\n  ichorctl lab down --all")]
    Down {
        #[command(flatten)]
        name: Name,
        /// End all labs of this user
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Show the nodes of a lab and which of them are connected
    #[command(after_help = "Examples:\n  ichorctl lab status\n  \
                            ichorctl lab status --output json | jq '.pairs[] | select(.connected | not)'")]
    Status {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        output: Output,
    },
    /// Run a program in a node
    #[command(after_help = "Examples:\n  ichorctl lab exec home-1 -- ping -c3 cloud-1\n  \
                            ichorctl lab exec cloud-2 -- ichord status\n  ichorctl lab exec home-2 -- bash")]
    Exec {
        #[command(flatten)]
        name: Name,
        /// The node
        node: String,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        program: Vec<String>,
    },
    /// Take the power from a node, or give it back
    ///
    /// Without power its ichord is gone without a word, and nothing reaches the node. What is on its disk stays.
    #[command(after_help = "Examples:\n  ichorctl lab power off home-2\n  ichorctl lab power on home-2")]
    Power {
        #[command(flatten)]
        name: Name,
        /// What to do
        switch: Switch,
        /// The node
        node: String,
    },
    /// Cut a node off from everything, or a site from the internet
    ///
    /// Packets vanish; addresses, routes and everything inside stay.
    #[command(after_help = "Examples:\n  ichorctl lab isolate home\n  ichorctl lab isolate cloud-2\n  \
                            ichorctl lab isolate home --heal")]
    Isolate {
        #[command(flatten)]
        name: Name,
        /// The site or the node
        what: String,
        /// Undo it
        #[arg(long)]
        heal: bool,
    },
    /// Make a new machine of a node: its state is lost, and a new token lets it in under its old name
    #[command(name = "re-image", after_help = "Examples:\n  ichorctl lab re-image home-2")]
    ReImage {
        #[command(flatten)]
        name: Name,
        /// The node
        node: String,
    },
    /// Give a node the identity of another one, as when a disk is copied
    ///
    /// Only one of the two can have the sessions of that member: the one that others know stays.
    #[command(after_help = "Examples:\n  ichorctl lab clone home-2 home-3")]
    Clone {
        #[command(flatten)]
        name: Name,
        /// The node whose ichord is copied
        node: String,
        /// The node that becomes like it
        to: String,
    },
    /// Start a node as if its WireGuard key were so old
    ///
    /// Keys change every 30 days. What was off for longer calls the others with its old key, and they it.
    #[command(after_help = "Examples:\n  ichorctl lab age home-2\n  ichorctl lab age home-2 --days 29")]
    Age {
        #[command(flatten)]
        name: Name,
        /// The node
        node: String,
        /// How old its key is
        #[arg(long, value_name = "N", default_value_t = 31, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Make a lab of simulated Talos nodes, join them to a mesh, prove and measure it, and take it down
    ///
    /// The mesh comes as it would on real nodes: a network begins and has an owner, the profile `beside` is planned from
    /// the configs of the nodes and applied step by step over their API, each node is given a token, and a second plan
    /// must find nothing to do.
    #[command(after_help = "Examples:\n  ichorctl lab demo\n  \
                            ichorctl lab demo --site home:4:random --site cloud:2 --output json")]
    Demo {
        #[command(flatten)]
        what: What,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// Give the power back
    On,
    /// Take it
    Off,
}

#[derive(Debug, Args)]
struct Name {
    /// The name of the lab
    #[arg(long, default_value = "lab")]
    name: String,
}

#[derive(Debug, Args)]
struct What {
    /// A site as NAME:NODES or NAME:NODES:NAT, where NAT is none, port-preserving, random or static; can be repeated.
    /// Without any: home:3:port-preserving and cloud:2
    #[arg(long = "site", value_name = "SITE", conflicts_with = "file")]
    sites: Vec<Site>,
    /// A topology file (YAML), which can say more
    #[arg(long)]
    file: Option<PathBuf>,
    /// A cluster of simulated Talos nodes as CONTROL-PLANES+WORKERS[+NEW], where NEW nodes wait for a config
    #[arg(long, value_name = "NODES", conflicts_with_all = ["sites", "file"])]
    // As text: ichorctl has a flag of this name everywhere, and clap wants both to be of one type.
    nodes: Option<String>,
    /// The Talos that they run: 1.11, 1.12, 1.13 or 1.14
    #[arg(long, value_name = "VERSION", requires = "nodes", default_value_t)]
    talos: Line,
    /// Start without the mesh: it comes with the configs that you apply
    #[arg(long, requires = "nodes")]
    without_mesh: bool,
}

impl What {
    fn topology(self) -> Result<Topology, LabError> {
        if let Some(nodes) = self.nodes {
            let mut topology = Topology::talos(nodes.parse::<Nodes>()?, self.talos);
            topology.membership = if self.without_mesh { Membership::Listed } else { Membership::Tokens };
            if let Some(talos) = &mut topology.talos {
                talos.without_mesh = self.without_mesh;
            }
            return Ok(topology);
        }
        match self.file {
            Some(file) => Topology::load(&file),
            None => {
                let sites = if self.sites.is_empty() { Topology::demo().sites } else { self.sites };
                Ok(Topology { sites, membership: Membership::Tokens, ..Topology::default() })
            }
        }
    }
}

impl What {
    /// A topology whose nodes get their mesh by configs that are applied. A file says by itself what its nodes are.
    fn joined_later(self) -> Result<Topology, LabError> {
        let (is_file, version) = (self.file.is_some(), self.talos);
        let mut topology = self.topology()?;
        if !is_file && topology.talos.is_none() {
            let control_planes = if topology.nodes().count() < 3 { 1 } else { 3 };
            topology.talos = Some(Talos { version, control_planes, ..Talos::default() });
        }
        if topology.talos.is_some() {
            topology.membership = Membership::Tokens;
        }
        Ok(topology)
    }
}

#[derive(Debug, Args)]
struct Output {
    /// How to show it
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Runs `ichorctl lab` with `args`. `operator` owns the networks of labs. The process must not have started
/// threads of its own that wait for signals.
pub fn run(args: LabArgs, operator: &dyn Operator) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure(&LabError::failed("make a runtime", error)),
    };
    match runtime.block_on(execute(args.command, operator)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => failure(&error),
    }
}

async fn execute(command: Command, operator: &dyn Operator) -> Result<u8, LabError> {
    match command {
        Command::Up { name, what } => {
            let topology = what.topology()?;
            let talos = topology.talos.clone();
            let progress = Progress::new();
            let up = background::up(&name.name, topology.clone(), |text| progress.tell(text));
            let Some(lab) = until_interrupted(up).await? else {
                background::down(&name.name).await?;
                return Ok(INTERRUPTED);
            };
            let lab = lab?;
            if let Some(talos) = &talos {
                talos::open(&lab, &name.name, talos, &progress).await?;
                if talos.without_mesh {
                    progress.tell(&format!("the lab {:?} runs, without a mesh", name.name));
                    return Ok(0);
                }
            }
            background::note_topology(&name.name, &topology)?;
            if topology.membership == Membership::Tokens {
                let folder = background::directory(&name.name)?.join(background::OWNER);
                let joined = join::join(&lab, &topology, folder.clone(), operator, &progress);
                let Some(joined) = until_interrupted(joined).await? else {
                    background::down(&name.name).await?;
                    return Ok(INTERRUPTED);
                };
                joined?;
                progress.tell(&format!("its owner: `ichorctl token create --dir {} ...`", folder.display()));
            }
            progress.tell("waiting until all that can connect have connected");
            match until_interrupted(lab.until_connected()).await? {
                // The lab stays: there may be something to find out.
                Some(Err(LabError::TimedOut { .. })) => progress.tell("some could not connect in time"),
                Some(result) => result?,
                None => {
                    background::down(&name.name).await?;
                    return Ok(INTERRUPTED);
                }
            }
            progress.tell(&format!("the lab {:?} runs; look at it with `ichorctl lab status`", name.name));
            Ok(0)
        }
        Command::Down { name, all } => {
            let names = if all { background::names() } else { vec![name.name] };
            for name in names {
                let what = if background::down(&name).await? { "is gone" } else { "does not run" };
                Progress::new().tell(&format!("the lab {name:?} {what}"));
            }
            Ok(0)
        }
        Command::Status { name, output } => {
            status::show(&background::join(&name.name)?, output.output).await?;
            Ok(0)
        }
        Command::Exec { name, node, program } => {
            exec::exec(&background::join(&name.name)?, &node, program).await
        }
        Command::Power { name, switch, node } => {
            faults::power(&background::join(&name.name)?, &node, switch == Switch::On).await?;
            Ok(0)
        }
        Command::Isolate { name, what, heal } => {
            faults::isolate(&background::join(&name.name)?, &what, heal).await?;
            Ok(0)
        }
        Command::ReImage { name, node } => {
            let (lab, progress) = (background::join(&name.name)?, Progress::new());
            faults::re_image(&lab, &name.name, &node, operator, &progress).await?;
            Ok(0)
        }
        Command::Clone { name, node, to } => {
            faults::clone(&background::join(&name.name)?, &node, &to).await?;
            Ok(0)
        }
        Command::Age { name, node, days } => {
            faults::age(&background::join(&name.name)?, &node, days, &Progress::new()).await?;
            Ok(0)
        }
        Command::Demo { what, output } => demo::demo(what.joined_later()?, output.output, operator).await,
    }
}

#[expect(clippy::print_stderr, reason = "the one place where an error reaches the user")]
fn failure(error: &LabError) -> ExitCode {
    eprintln!("error: {error}");
    match error {
        // What was asked for makes no sense, here or anywhere.
        LabError::Topology(_) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// Does `work`, unless a signal asks us to end: then it is dropped, and the result is `None`.
async fn until_interrupted<T>(work: impl Future<Output = T>) -> Result<Option<T>, LabError> {
    let what = || "wait for signals".to_owned();
    let mut interrupt = signal(SignalKind::interrupt()).attempt(what)?;
    let mut terminate = signal(SignalKind::terminate()).attempt(what)?;
    Ok(tokio::select! {
        result = work => Some(result),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    })
}

/// Tells on stderr what goes on, with the time since the beginning.
struct Progress(Instant);

impl Progress {
    fn new() -> Self {
        Self(Instant::now())
    }

    #[expect(clippy::print_stderr, reason = "progress is for the user who waits")]
    fn tell(&self, text: &str) {
        eprintln!("[{:5.1} s] {text}", self.0.elapsed().as_secs_f64());
    }

    fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

/// Prints data. A reader that has seen enough is no error.
fn print(text: &str) -> Result<(), LabError> {
    use std::io::Write as _;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(LabError::failed("print", error)),
        _ => Ok(()),
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), LabError> {
    let mut text = serde_json::to_string_pretty(value).attempt(|| "write JSON".to_owned())?;
    text.push('\n');
    print(&text)
}
