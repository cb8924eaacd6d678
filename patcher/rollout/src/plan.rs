//! What is to be done with a cluster, and how carefully.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::action::Action;
use crate::view::{Digest, Text};

/// A rollout.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What it is for. The same goal planned again has the same digest, however much of it is already done.
    pub goal: Digest,
    /// The nodes. Indices everywhere are into this.
    pub nodes: Vec<Node>,
    /// Done one after the other.
    pub stages: Vec<Stage>,
    /// How carefully.
    pub policy: Policy,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Text,
    /// Whether an etcd member runs on it.
    pub votes: bool,
}

/// Tasks that may be done in any order.
#[derive(Debug, Clone)]
pub struct Stage {
    /// What it is called: what `--until` names.
    pub name: Text,
    /// The tasks.
    pub tasks: Vec<Task>,
    /// Most nodes that are in the middle of their task at a time. Control planes are one at a time whatever it says.
    pub at_once: usize,
}

/// What is done with one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The node.
    pub node: usize,
    /// What.
    pub work: Work,
    /// What must be seen afterwards.
    pub expect: Expect,
}

/// A kind of change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Load an image.
    Pull {
        /// Its reference.
        image: Text,
    },
    /// Change the config.
    Configure {
        /// The config that the change starts from.
        from: Digest,
        /// The config with the change.
        to: Digest,
        /// How it comes to the node.
        how: How,
    },
    /// Install another image.
    Upgrade {
        /// Its reference.
        image: Text,
        /// By which calls.
        flow: Flow,
    },
    /// Only reboot.
    Reboot,
    /// Boot the other slot.
    RollBack,
    /// See that all nodes reach each other through the mesh with packets of full size.
    ProveMesh,
}

/// How a config comes to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// At once.
    Live,
    /// On the disk, then a reboot.
    Staged,
    /// At once and for a while; kept when the node is reached over the old and the new way.
    Tried,
}

/// By which calls an image is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// One call that drains, installs and reboots (Talos up to 1.12; served until 1.18).
    Legacy,
    /// Install, drain, reboot (Talos from 1.13).
    Lifecycle,
}

/// What must be seen of a node before its task counts as done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expect {
    /// The version.
    pub version: Option<Text>,
    /// Extensions that must be there.
    pub extensions: Arc<BTreeSet<String>>,
    /// Extensions that must be gone.
    pub without: Arc<BTreeSet<String>>,
    /// Whether the mesh daemon's service must run.
    pub daemon: bool,
    /// The config, active and on the disk.
    pub config: Option<Digest>,
    /// The nodes to which it must have sessions that carry packets of full size.
    pub meshed: Arc<BTreeSet<usize>>,
    /// The hosts under which the other members of etcd must know it.
    pub advertised: Option<Arc<BTreeSet<String>>>,
    /// Whether Kubernetes must call it Ready.
    pub kubernetes: bool,
}

/// How carefully a plan is carried out.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Most workers that are not available at a time, with those that are not for another reason.
    pub max_unavailable: usize,
    /// Control planes whose outage the operator accepts although no quorum is left without them.
    pub accept_outage: BTreeSet<usize>,
    /// Whether nodes are drained before they reboot. Needs Kubernetes.
    pub drain: bool,
    /// Most entries that a member of etcd may be behind the others.
    pub max_lag: u64,
    /// For how long a node must be seen as expected.
    pub soak: Duration,
    /// How old a view may be on which something is done.
    pub max_age: Duration,
    /// How long the lock must be ours at least when a call is made.
    pub lock_margin: Duration,
    /// How long is waited until etcd lets a control plane be touched.
    pub gate: Duration,
    /// How long a node may take from a call that makes it reboot until it is proven.
    pub boot: Duration,
    /// How long a node may go on answering after it was told to reboot.
    pub goodbye: Duration,
    /// How long an installation may take.
    pub install: Duration,
    /// How long the mesh may take until all pairs are proven.
    pub mesh: Duration,
    /// After how long a config that is tried goes away by itself.
    pub trial: Duration,
    /// How long is waited between two nodes.
    pub pause: Duration,
    /// How often a call is made again whose end is not known, where that is safe.
    pub tries: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_unavailable: 1,
            accept_outage: BTreeSet::new(),
            drain: true,
            max_lag: 1000,
            soak: Duration::from_secs(10),
            max_age: Duration::from_secs(15),
            lock_margin: Duration::from_secs(10),
            gate: Duration::from_mins(5),
            boot: Duration::from_mins(15),
            goodbye: Duration::from_mins(3),
            install: Duration::from_mins(20),
            mesh: Duration::from_mins(2),
            trial: Duration::from_mins(1),
            pause: Duration::ZERO,
            tries: 3,
        }
    }
}

impl Plan {
    /// All tasks, stage after stage.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.stages.iter().flat_map(|stage| &stage.tasks)
    }

    /// The tasks of a node.
    pub fn tasks_of(&self, node: usize) -> impl Iterator<Item = &Task> {
        self.tasks().filter(move |task| task.node == node)
    }

    /// The task that an action is for.
    pub fn task(&self, action: &Action) -> Option<&Task> {
        self.tasks_of(action.node).find(|task| task.work.digest() == action.work)
    }
}

impl Work {
    /// Whether the node goes down for it.
    pub const fn reboots(&self) -> bool {
        match self {
            Self::Configure { how, .. } => matches!(how, How::Staged),
            Self::Upgrade { .. } | Self::Reboot | Self::RollBack => true,
            Self::Pull { .. } | Self::ProveMesh => false,
        }
    }

    /// Whether the node is another one afterwards.
    pub const fn changes(&self) -> bool {
        !matches!(self, Self::Pull { .. } | Self::ProveMesh)
    }

    /// Whether it changes the config of the node.
    pub const fn configures(&self) -> bool {
        matches!(self, Self::Configure { .. })
    }

    /// A number that tells it from other work on the same node.
    pub fn digest(&self) -> Digest {
        let text = |seed: u64, text: &str| text.bytes().fold(seed, |hash, byte| fold(hash, u64::from(byte)));
        Digest(match self {
            Self::Pull { image } => text(1, image),
            Self::Configure { to, how, .. } => fold(fold(2, to.0), *how as u64),
            Self::Upgrade { image, flow } => text(fold(3, *flow as u64), image),
            Self::Reboot => 4,
            Self::RollBack => 5,
            Self::ProveMesh => 6,
        })
    }
}

/// FNV-1a over words: it has to be the same in the next version of this program, and nobody gains by a collision.
const fn fold(hash: u64, word: u64) -> u64 {
    (hash ^ word ^ 0xcbf2_9ce4_8422_2325).wrapping_mul(0x0100_0000_01b3)
}
