//! What can be asked of a running lab, and what it answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::plan::Addresses;
use crate::topology::{Nat, Shape, Topology};

/// A request. Each has a stream of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Make the namespaces and links and start the daemons. Once for each lab.
    Build(Topology),
    /// Describe the lab.
    View,
    /// Hand on what comes to the listening socket that comes with the opening to the Talos API of a node.
    Forward { node: String },
    /// Make a talosconfig.
    Talosconfig { endpoints: Vec<String>, nodes: Vec<String> },
    /// The fingerprint of a node in maintenance mode.
    Fingerprint { node: String },
    /// Run a program in a node; stdin, stdout and stderr come with the opening.
    Run(Program),
    /// Change a node's ichord.
    Daemon { node: String, action: DaemonAction },
    /// Take the power from a node, or give it back.
    Power { node: String, on: bool },
    /// Start a node's ichord in this way from now on.
    DaemonIs { node: String, daemon: Daemon },
    /// Shape a link anew.
    Shape { link: LinkName, shape: Shape },
    /// What a shaped link did so far.
    ShapeCounters { link: LinkName },
    /// Cut something off or heal it.
    Cut { what: Cut, cut: bool },
    /// Move a node to a site, or to its other address in it.
    Move { node: String, site: String },
    /// Send the status of a node's ichord, now and whenever it is written.
    WatchStatus { node: String },
    /// Send what happens to a link of a node.
    WatchLink { node: String, link: String },
    /// Read a file of a node.
    Read { node: String, path: PathBuf },
    /// Write a file of a node, in one go.
    Write { node: String, path: PathBuf, mode: u32, content: String },
    /// End the lab.
    Shutdown,
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// What is being done; more comes.
    Progress(String),
    /// It is done.
    Done,
    /// The lab.
    View(View),
    /// The program runs, with this id.
    Started { pid: u32 },
    /// The program ended.
    Ended(Exit),
    /// The text of a file.
    Text(String),
    /// What happened to a link.
    Link(LinkEvent),
    /// What a shaped link did.
    ShapeCounters(ShapeCounters),
    /// It failed.
    Failed(LabError),
}

/// A signal for a program that runs, on its own stream.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Kill {
    /// The number of the signal.
    pub(crate) signal: i32,
}

/// A program to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) node: String,
    /// The program and its arguments. The program `{lab}` is the one that carries the lab.
    pub(crate) arguments: Vec<String>,
    /// Added to the environment.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) directory: Option<PathBuf>,
}

/// The name of the program that carries the lab, in [`Program::arguments`].
pub(crate) const SELF: &str = "{lab}";

/// What to do with a node's ichord.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DaemonAction {
    /// Start it; nothing if it runs.
    Start,
    /// SIGTERM, and wait for its end.
    Stop,
    /// SIGKILL, and wait for its end.
    Kill,
    /// SIGKILL to the worker below it; the parent stays.
    KillWorker,
    /// SIGHUP.
    Reload,
}

/// How an ichord is started, where that is not as usual.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Another program than the one that carries the lab: an `ichord` of another version.
    pub program: Option<PathBuf>,
    /// Added to its environment.
    pub environment: Vec<(String, String)>,
}

/// Names a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LinkName {
    /// The link of a node to its LAN.
    Node(String),
    /// The link of a site to the internet.
    Uplink(String),
}

impl std::fmt::Display for LinkName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node(name) => write!(f, "link of node {name}"),
            Self::Uplink(name) => write!(f, "uplink of site {name}"),
        }
    }
}

/// What can be cut off. Packets vanish; carriers, addresses and routes stay, as when something far away broke.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cut {
    /// A node from everything.
    Node(String),
    /// A site from the internet.
    Site(String),
    /// Two sites from each other.
    Sites(String, String),
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Exit {
    /// Whether it ended with code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What happened to a link, as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkEvent {
    /// What the kernel said.
    pub kind: LinkEventKind,
    /// Index of the link.
    pub index: u32,
    /// Whether it is up, for those about the link itself.
    pub up: bool,
    /// Whether it has a carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// The operational state (RFC 2863): `Up`, `Unknown`, `Down`, ...
    pub state: String,
    /// The address or route, for those about one.
    pub subject: String,
}

/// The kinds of [`LinkEvent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LinkEventKind {
    /// The watch has begun; the link is as described.
    Watching,
    /// The link is new or changed.
    NewLink,
    /// The link was removed.
    DeletedLink,
    /// An address was added or changed.
    NewAddress,
    /// An address was removed.
    DeletedAddress,
    /// A route was added or changed.
    NewRoute,
    /// A route was removed.
    DeletedRoute,
}

/// What a shaped link did, both directions together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShapeCounters {
    /// Packets that arrived.
    pub forwarded: u64,
    /// Packets lost by chance.
    pub lost: u64,
    /// Packets lost because the queue was full.
    pub overflowed: u64,
    /// Packets longer than the silent MTU.
    pub oversized: u64,
    /// Extra copies made.
    pub duplicated: u64,
    /// Packets marked to have met congestion.
    pub marked: u64,
}

/// A lab as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// The sites.
    pub sites: Vec<SiteView>,
    /// The nodes.
    pub nodes: Vec<NodeView>,
}

/// A site as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SiteView {
    /// Its name.
    pub name: String,
    /// Its NAT.
    pub nat: Nat,
}

/// A node as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// The site where it is.
    pub site: String,
    /// Whether it is a member of the mesh.
    pub member: bool,
    /// The process of its ichord, as others see it in the lab; `None` while it does not run.
    pub pid: Option<u32>,
    /// Its addresses in the LAN.
    pub underlay: Addresses,
    /// Its addresses in the mesh.
    pub mesh: Addresses,
    /// The members with which it can agree on keys by what is configured: it can reach them, or they it.
    pub peers: Vec<String>,
    /// Its public key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub public_key: Option<String>,
}
