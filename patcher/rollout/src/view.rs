//! What was seen of a cluster at one moment.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A text that is copied often.
pub type Text = Arc<str>;

/// What was seen of all nodes of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// When looking began: nothing in it is older, unless a node told old news.
    pub at: Duration,
    /// The nodes, in the order of the plan.
    pub nodes: Vec<NodeView>,
    /// The lock on rollouts.
    pub lock: Lock,
}

/// The lock that only one rollout has at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// The operator chose to do without.
    Waived,
    /// It is ours until then at least.
    Held {
        /// When it could be somebody else's.
        until: Duration,
    },
    /// It is not ours any more.
    Lost,
}

/// What was seen of one node. What it did not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Whether its Talos API answered as that of a configured node.
    pub answers: bool,
    /// Its version of Talos, as `v1.13.2`.
    pub version: Option<Text>,
    /// A number that is another one after each boot (Talos: `/proc/sys/kernel/random/boot_id`).
    pub boot: Option<Text>,
    /// What it is doing.
    pub stage: Option<Stage>,
    /// Whether Talos calls it ready. True in stages where it means nothing.
    pub ready: bool,
    /// Why it is not ready.
    pub unmet: Vec<Text>,
    /// Whether the mark of an upgrade that is not confirmed is there (Talos: META key 6).
    pub marked: Option<bool>,
    /// The system extensions of the running image.
    pub extensions: Option<Arc<BTreeSet<String>>>,
    /// Whether the mesh daemon's service runs.
    pub daemon: Option<bool>,
    /// The config that it runs with.
    pub active: Option<Digest>,
    /// The config that the next boot takes.
    pub persistent: Option<Digest>,
    /// The nodes of the plan to which it has a session that carries packets of full size.
    pub meshed: Option<Arc<BTreeSet<usize>>>,
    /// Its etcd member's own view.
    pub etcd: Option<Etcd>,
    /// What Kubernetes says of it.
    pub kubernetes: Option<Kubernetes>,
}

/// What a node is doing, as far as it matters here (Talos: `MachineStatus`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It starts its services.
    Booting,
    /// It works.
    Running,
    /// It goes down, installs, upgrades, resets, or waits for a config.
    Other,
}

/// The first bytes of the SHA-256 of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub u64);

/// What an etcd member says of itself and of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etcd {
    /// Its id.
    pub id: u64,
    /// All members that it knows.
    pub members: Arc<[Member]>,
    /// The id of the leader that it follows; 0 without one.
    pub leader: u64,
    /// The last entry that it knows to be agreed upon.
    pub index: u64,
    /// The last entry that it has applied.
    pub applied: u64,
    /// Whether it reports an error or an alarm.
    pub ailing: bool,
    /// The hosts of the peer URLs under which the others dial it.
    pub advertised: Arc<BTreeSet<String>>,
}

/// A member of etcd.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Whether it has started since it was added: a member without a name has not.
    pub started: bool,
    /// Whether it does not vote.
    pub learner: bool,
}

/// What Kubernetes says of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kubernetes {
    /// Whether it is Ready.
    pub ready: bool,
    /// Whether new pods may come to it.
    pub schedulable: bool,
}

impl NodeView {
    /// Whether it has finished to boot and is well, by its own word.
    pub fn is_steady(&self) -> bool {
        self.answers && self.stage == Some(Stage::Running) && self.ready
    }
}
