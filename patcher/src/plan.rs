//! From `ichor.yaml` and what nodes say today to the steps that bring them there.
//!
//! Pure: configs and observations in, steps out. Each step is a list of edits with reasons; the diff, the patch
//! files and the configs for GitOps all come from the same edits. A plan of its own result is empty.
//!
//! Order is the point of it. The addresses of today are pinned before anything can add another one: a node without
//! `validSubnets` and `advertisedSubnets` may move its kubelet and its etcd member onto the mesh the moment the
//! interface comes up, and back again when it goes down.

pub mod daemon;
mod facts;
mod firewall;
mod mesh;
pub mod observe;
pub mod patches;
mod pin;
pub mod print;
pub mod refuse;
mod switch;

use zeroize::Zeroizing;

use crate::cluster::{Cluster, Node, Role};
use crate::machine::{MachineConfig, ParseError};
use crate::patch::diff::{self, Hunk};
use crate::patch::ensure::{Edit, Ensured, apply_edits};
use crate::patch::{PatchError, TalosLine, conflict};
use facts::Facts;
use observe::Observation;
use refuse::Refusal;

/// Interface of the mesh.
pub const INTERFACE: &str = "ichor0";

/// What a plan may do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Plan for nodes whose Talos is newer than what is known, as if it were the newest known.
    pub allow_unknown_talos: bool,
}

/// What is to be done with a cluster.
#[derive(Debug)]
#[non_exhaustive]
pub struct Plan {
    /// The nodes, in the order of the file.
    pub nodes: Vec<NodePlan>,
    /// The steps of all nodes, in the order in which they are done.
    pub order: Vec<Turn>,
    /// What makes the plan unsafe. With any of these nothing may be changed.
    pub refusals: Vec<Refusal>,
    /// What the operator should know besides.
    pub notes: Vec<String>,
}

/// What is to be done with one node.
#[non_exhaustive]
pub struct NodePlan {
    /// Its name.
    pub name: String,
    /// Whose rules were used.
    pub line: TalosLine,
    /// Its config today.
    pub before: Zeroizing<String>,
    /// Its steps, in their order. Those that change nothing are left out.
    pub steps: Vec<Step>,
}

impl std::fmt::Debug for NodePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodePlan")
            .field("name", &self.name)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

impl NodePlan {
    /// Its config when all is done.
    pub fn after(&self) -> &str {
        self.steps.last().map_or(&self.before, |step| &step.after)
    }

    /// The config in front of a step.
    pub fn before_step(&self, index: usize) -> &str {
        match index.checked_sub(1).and_then(|index| self.steps.get(index)) {
            Some(step) => &step.after,
            None => &self.before,
        }
    }

    /// What a step changes, secrets covered, each changed line with the reason for it.
    pub fn diff(&self, index: usize) -> Vec<(Hunk, Vec<Option<&str>>)> {
        let Some(step) = self.steps.get(index) else { return Vec::new() };
        let hunks = diff::hunks(self.before_step(index), &step.after).into_iter();
        let reasons = |hunk: &Hunk| hunk.lines.iter().map(|line| step.reason(line)).collect();
        hunks.map(|hunk| (reasons(&hunk), hunk)).map(|(reasons, hunk)| (hunk, reasons)).collect()
    }
}

/// A change of one node's config that is applied as a whole.
#[non_exhaustive]
pub struct Step {
    /// What it is for.
    pub kind: StepKind,
    /// The config after it.
    pub after: Zeroizing<String>,
    edits: Vec<Edit>,
    ensured: Ensured,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let reasons: Vec<&str> = self.edits.iter().map(|edit| edit.reason.as_str()).collect();
        f.debug_struct("Step").field("kind", &self.kind).field("reasons", &reasons).finish_non_exhaustive()
    }
}

impl Step {
    fn reason(&self, line: &diff::DiffLine) -> Option<&str> {
        let edit = match line.sign {
            diff::Sign::Added => line.new.and_then(|line| self.ensured.why_added(line)),
            diff::Sign::Removed => line.old.and_then(|line| self.ensured.why_removed(line)),
            diff::Sign::Kept => None,
        };
        edit.and_then(|index| self.edits.get(index)).map(|edit| edit.reason.as_str())
    }
}

/// What a step is for. They are done in this order, each on all nodes before the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepKind {
    /// Keep the addresses of today.
    Pin,
    /// The daemon's config, names, certificates, labels and routes.
    Mesh,
    /// Move node addresses, or etcd, onto the mesh.
    Switch,
    /// The ingress firewall.
    Firewall,
}

impl StepKind {
    /// All, in their order.
    pub const ALL: [Self; 4] = [Self::Pin, Self::Mesh, Self::Switch, Self::Firewall];

    /// One word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Mesh => "mesh",
            Self::Switch => "switch",
            Self::Firewall => "firewall",
        }
    }

    /// How its config is applied.
    pub const fn mode(self) -> Mode {
        match self {
            Self::Pin | Self::Mesh => Mode::NoReboot,
            // Peer addresses of etcd change at once but its sockets only when it starts: both must come together.
            Self::Switch => Mode::Staged,
            Self::Firewall => Mode::Try,
        }
    }

    /// Whether the node must reboot for it.
    pub const fn reboots(self) -> bool {
        matches!(self, Self::Switch)
    }

    /// Whether `ichorctl apply` does it: no reboot, nothing that etcd notices, and nothing that could lock us out.
    pub const fn is_applied_at_once(self) -> bool {
        matches!(self, Self::Pin | Self::Mesh)
    }
}

/// How a config is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// At once, or not at all.
    NoReboot,
    /// On the disk, for the next reboot.
    Staged,
    /// At once, and back again unless confirmed.
    Try,
}

impl Mode {
    /// As the command line has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoReboot => "no-reboot",
            Self::Staged => "staged",
            Self::Try => "try",
        }
    }
}

/// One step of one node in the order of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Index of the node in [`Plan::nodes`].
    pub node: usize,
    /// Index of the step in [`NodePlan::steps`].
    pub step: usize,
    /// What etcd has while this happens.
    pub quorum: Quorum,
}

/// Voters of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    /// All of them.
    pub voters: usize,
    /// Those that are up at the worst moment of the step.
    pub up: usize,
    /// How many must be up.
    pub needed: usize,
}

impl Quorum {
    /// With so many of so many up.
    pub const fn of(voters: usize, up: usize) -> Self {
        Self { voters, up, needed: voters / 2 + 1 }
    }

    /// Whether etcd goes on.
    pub const fn holds(self) -> bool {
        self.up >= self.needed
    }
}

/// A plan that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A config is no YAML.
    #[error("failed to read the machine config of {node}")]
    Config {
        /// The node.
        node: String,
        /// Why.
        source: ParseError,
    },
    /// A config cannot be edited.
    #[error("failed to edit the machine config of {node} for the step {step}")]
    Edit {
        /// The node.
        node: String,
        /// The step.
        step: &'static str,
        /// Why.
        source: Box<PatchError>,
    },
}

/// Makes the plan of a cluster. Nodes without an observation are a refusal.
///
/// # Errors
///
/// When a config cannot be read or edited.
pub fn plan(cluster: &Cluster, observed: &[Observation], options: Options) -> Result<Plan, PlanError> {
    let mut plan = Plan { nodes: Vec::new(), order: Vec::new(), refusals: Vec::new(), notes: Vec::new() };
    plan.refusals.extend(refuse::cluster(cluster));
    let machines: Vec<&Node> = cluster.machines().collect();
    for judged in side_by_side(&machines, |node| judge(cluster, node, observed, options)) {
        let judged = judged?;
        plan.refusals.extend(judged.refusals);
        plan.notes.extend(judged.notes);
        plan.nodes.extend(judged.plan);
    }
    plan.refusals.sort_by_key(|refusal| refusal.reason);
    plan.refusals.dedup_by(|one, other| one.reason == other.reason && one.node == other.node);
    plan.notes.extend(mesh::cluster_notes(cluster));
    plan.order = order(cluster, &plan.nodes);
    Ok(plan)
}

/// What came of one node.
struct Judged {
    refusals: Vec<Refusal>,
    notes: Vec<String>,
    plan: Option<NodePlan>,
}

/// Nodes do not depend on each other: each processor gets its part. The results come in the order of the items.
fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let part = items.len().div_ceil(processors).max(1);
    let work = &work;
    std::thread::scope(|scope| {
        let parts = items.chunks(part);
        let running: Vec<_> =
            parts.map(|items| scope.spawn(move || items.iter().map(work).collect::<Vec<R>>())).collect();
        let ended = running.into_iter().map(|thread| thread.join());
        ended.flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

fn judge(
    cluster: &Cluster,
    node: &Node,
    observed: &[Observation],
    options: Options,
) -> Result<Judged, PlanError> {
    let Some(observation) = observed.iter().find(|observation| observation.node == node.name) else {
        return Ok(Judged { refusals: vec![refuse::missing(node)], notes: Vec::new(), plan: None });
    };
    let line = observation.line();
    let config = MachineConfig::parse(observation.config.as_bytes(), line.dialect())
        .map_err(|source| PlanError::Config { node: node.name.clone(), source })?;
    let facts = Facts::of(&config);
    let case = Case { cluster, node, observation, facts: &facts, line };
    let plan = Some(case.plan()?);
    Ok(Judged { refusals: refuse::node(&case, options), notes: mesh::notes(&case), plan })
}

/// Everything that is known about one node.
#[derive(Clone, Copy)]
struct Case<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
    observation: &'a Observation,
    facts: &'a Facts,
    line: TalosLine,
}

impl Case<'_> {
    fn plan(&self) -> Result<NodePlan, PlanError> {
        let mut plan = NodePlan {
            name: self.node.name.clone(),
            line: self.line,
            before: Zeroizing::new(self.observation.config.to_string()),
            steps: Vec::new(),
        };
        for kind in StepKind::ALL {
            let edits = match kind {
                StepKind::Pin => pin::edits(self),
                StepKind::Mesh => mesh::edits(self),
                StepKind::Switch => switch::edits(self),
                StepKind::Firewall => firewall::edits(self),
            };
            if edits.is_empty() {
                continue;
            }
            let failed = |source| PlanError::Edit { node: self.node.name.clone(), step: kind.name(), source };
            let ensured = apply_edits(plan.after(), &edits, self.line).map_err(Box::new).map_err(failed)?;
            if ensured.text != plan.after() {
                let after = Zeroizing::new(ensured.text.clone());
                plan.steps.push(Step { kind, after, edits, ensured });
            }
        }
        Ok(plan)
    }

    fn is_control_plane(&self) -> bool {
        self.node.role == Role::ControlPlane
    }
}

/// Contradictions that the planned configs would have, as the node would refuse them.
///
/// # Errors
///
/// When a config cannot be decoded by the rules of its line.
pub fn contradictions(plan: &Plan) -> Result<Vec<Refusal>, PlanError> {
    let changed: Vec<&NodePlan> = plan.nodes.iter().filter(|node| !node.steps.is_empty()).collect();
    let check = |node: &&NodePlan| conflict::contradictions(node.after(), node.line);
    let mut found = Vec::new();
    for (node, listed) in changed.iter().zip(side_by_side(&changed, check)) {
        let listed = listed.map_err(|source| PlanError::Edit {
            node: node.name.clone(),
            step: "check",
            source: Box::new(source),
        })?;
        found.extend(listed.into_iter().map(|it| refuse::contradiction(&node.name, &it)));
    }
    Ok(found)
}

/// All nodes finish a kind of step before any begins the next; control planes go first, one at a time.
fn order(cluster: &Cluster, nodes: &[NodePlan]) -> Vec<Turn> {
    let voters = cluster.voters().count();
    let is_voter = |node: &NodePlan| cluster.voters().any(|voter| voter.name == node.name);
    let is_voter: Vec<bool> = nodes.iter().map(is_voter).collect();
    let mut turns = Vec::new();
    for kind in StepKind::ALL {
        for first in [true, false] {
            let chosen = nodes.iter().enumerate().filter(|(index, _)| is_voter[*index] == first);
            for (index, node) in chosen {
                if let Some(step) = node.steps.iter().position(|step| step.kind == kind) {
                    let down = usize::from(kind.reboots() && first);
                    let quorum = Quorum::of(voters, voters.saturating_sub(down));
                    turns.push(Turn { node: index, step, quorum });
                }
            }
        }
    }
    turns
}

#[cfg(test)]
mod tests;
