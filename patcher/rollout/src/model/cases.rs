//! Clusters and goals to try.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::fault::{BootFault, Crash, Fault, InstallFault, Kind, When};
use super::machine::{Machine, Slot};
use super::world::World;
use crate::journal::Journal;
use crate::plan::{Expect, Flow, How, Node, Plan, Policy, Stage, Task, Work};
use crate::view::{Digest, Text};
use rand_core::RngCore;

/// What a rollout is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Goal {
    /// Another image, by the two-step calls.
    Lifecycle,
    /// Another image, by the one call.
    Legacy,
    /// Another image, by whatever each node has.
    Mixed,
    /// Other addresses: a config on the disk and a reboot.
    Addresses,
    /// A config at once, then one that is tried.
    Firewall,
    /// All of it, as it is done for a mesh.
    Everything,
    /// Only reboots.
    Reboots,
}

impl Goal {
    /// All.
    pub const ALL: [Self; 7] = [
        Self::Lifecycle,
        Self::Legacy,
        Self::Mixed,
        Self::Addresses,
        Self::Firewall,
        Self::Everything,
        Self::Reboots,
    ];
}

/// A cluster and a plan for it.
#[derive(Debug, Clone)]
pub struct Case {
    /// The nodes as they are.
    pub machines: Vec<Machine>,
    /// What is to be done.
    pub plan: Plan,
    /// When it begins, since 1970.
    pub start: Duration,
}

/// A cluster of so many voters and workers, and a plan.
pub fn case(voters: usize, workers: usize, goal: Goal, accept: bool) -> Case {
    let old = Slot { version: "v1.13.2".into(), extensions: extensions() };
    let name = |index: usize| -> Text {
        match index.checked_sub(voters) {
            None => format!("cp-{}", index + 1).into(),
            Some(worker) => format!("w-{}", worker + 1).into(),
        }
    };
    let nodes: Vec<Node> =
        (0..voters + workers).map(|index| Node { name: name(index), votes: index < voters }).collect();
    let machines =
        nodes.iter().map(|node| Machine::new(&node.name, node.votes, old.clone(), Digest(1))).collect();
    let accept_outage = if accept { (0..voters).collect() } else { BTreeSet::new() };
    let policy = Policy { accept_outage, ..Policy::default() };
    let plan = Plan { goal: Digest(goal as u64), stages: stages(&nodes, voters, goal), nodes, policy };
    Case { machines, plan, start: Duration::from_secs(1_000_000) }
}

fn extensions() -> Arc<BTreeSet<String>> {
    Arc::new(["ichor".to_owned()].into())
}

/// The stages of a goal, in the order in which the real planner has them.
fn stages(nodes: &[Node], voters: usize, goal: Goal) -> Vec<Stage> {
    let all = 0..nodes.len();
    let plain = |config: u64| Expect {
        extensions: extensions(),
        daemon: true,
        config: Some(Digest(config)),
        kubernetes: true,
        ..Expect::default()
    };
    let configure = |from: u64, to: u64, how: How| {
        move |node: usize| {
            let work = Work::Configure { from: Digest(from), to: Digest(to), how };
            Task { node, work, expect: plain(to) }
        }
    };
    let upgrade = |flow: fn(usize) -> Flow, config: u64| {
        move |node: usize| {
            let work = Work::Upgrade { image: "factory/new:v1.14.0".into(), flow: flow(node) };
            Task { node, work, expect: Expect { version: Some("v1.14.0".into()), ..plain(config) } }
        }
    };
    let pull = |node: usize| Task {
        node,
        work: Work::Pull { image: "factory/new:v1.14.0".into() },
        expect: Expect::default(),
    };
    let prove = |node: usize| {
        let meshed = Arc::new((0..nodes.len()).filter(|other| *other != node).collect());
        Task { node, work: Work::ProveMesh, expect: Expect { meshed, ..Expect::default() } }
    };
    let reboot = |node: usize| Task { node, work: Work::Reboot, expect: plain(1) };
    let stage = |name: &str, tasks: Vec<Task>, at_once: usize| Stage { name: name.into(), tasks, at_once };
    // Workers first where an image changes, control planes first where addresses do.
    let by_role = |name: &str, task: &dyn Fn(usize) -> Task, workers_first: bool| {
        let control = stage(name, (0..voters).map(task).collect(), 1);
        let workers = stage(name, (voters..nodes.len()).map(task).collect(), 2);
        if workers_first { vec![workers, control] } else { vec![control, workers] }
    };
    let lifecycle: fn(usize) -> Flow = |_| Flow::Lifecycle;
    match goal {
        Goal::Lifecycle | Goal::Legacy | Goal::Mixed => {
            let flow: fn(usize) -> Flow = match goal {
                Goal::Lifecycle => lifecycle,
                Goal::Legacy => |_| Flow::Legacy,
                _ => |node| if node % 2 == 0 { Flow::Legacy } else { Flow::Lifecycle },
            };
            let mut stages = vec![stage("pull", all.map(pull).collect(), usize::MAX)];
            stages.extend(by_role("upgrade", &upgrade(flow, 1), true));
            stages
        }
        Goal::Addresses => by_role("switch", &configure(1, 2, How::Staged), false),
        Goal::Firewall => {
            let mut stages = by_role("pin", &configure(1, 2, How::Live), false);
            stages.extend(by_role("firewall", &configure(2, 3, How::Tried), false));
            stages
        }
        Goal::Everything => {
            let mut stages = by_role("pin", &configure(1, 2, How::Live), false);
            stages.extend(by_role("image", &upgrade(lifecycle, 2), true));
            stages.push(stage("mesh", all.map(prove).collect(), usize::MAX));
            stages.extend(by_role("switch", &configure(2, 3, How::Staged), false));
            stages.extend(by_role("firewall", &configure(3, 4, How::Tried), false));
            stages
        }
        Goal::Reboots => by_role("reboot", &reboot, false),
    }
}

impl Plan {
    /// The config that a node has when all is done.
    pub(super) fn last_config(&self, node: usize) -> Option<Digest> {
        configs(self, node).last()
    }
}

/// The plan again, made from what the nodes are now: what is done falls out of it, and a config that nobody sent is
/// what the next change of it starts from. A node that was left in the middle of something else is to have the config that
/// it had before, unless the operator takes the one that it has (`accepted`).
pub(super) fn left(plan: &Plan, world: &World, journal: &Journal, accepted: Option<usize>) -> Plan {
    let mut plan = plan.clone();
    for node in 0..plan.nodes.len() {
        let (active, persistent) = world.configs(node);
        let chain: Vec<Digest> = configs(&plan, node).collect();
        // A config that waits for its boot, or is only tried, is not there yet: of the two the earlier one counts.
        let place = |config| chain.iter().rposition(|to| *to == config).map_or(0, |last| last + 1);
        let done = place(active).min(place(persistent));
        let (mut seen, mut from) = (0, active);
        let mut expected = journal.config_of(&plan.nodes[node].name).filter(|_| accepted != Some(node));
        for stage in &mut plan.stages {
            stage.tasks.retain_mut(|task| {
                if task.node != node {
                    return true;
                }
                match &mut task.work {
                    Work::Configure { from: base, to, .. } => {
                        seen += 1;
                        if seen <= done {
                            return false;
                        }
                        *base = from;
                        from = *to;
                        expected = None;
                        true
                    }
                    Work::Upgrade { image, .. } => {
                        // Kept even where it is done already: it is proven by the way.
                        if world.runs(node, &task.expect) {
                            *image = "".into();
                        }
                        task.expect.config = expected.or(Some(from));
                        true
                    }
                    Work::Pull { .. } | Work::ProveMesh => true,
                    _ => {
                        task.expect.config = expected.or(Some(from));
                        true
                    }
                }
            });
        }
    }
    plan
}

fn configs(plan: &Plan, node: usize) -> impl Iterator<Item = Digest> + '_ {
    plan.tasks_of(node).filter_map(|task| match task.work {
        Work::Configure { to, .. } => Some(to),
        _ => None,
    })
}

/// A fault of a random kind for a random node.
pub fn fault(random: &mut impl RngCore, case: &Case) -> Fault {
    let nodes = case.machines.len();
    let mut below = |n: u64| random.next_u64() % n.max(1);
    let node = below(nodes as u64) as usize;
    let span = 60 * nodes as u64 * 4;
    let at = When::At(case.start + Duration::from_millis(below(span * 1000)));
    let call = When::Call(below(nodes as u64 * 9) as u32);
    let start = When::At(case.start);
    let seconds = Duration::from_secs;
    let (when, kind) = match below(24) {
        0 => (call, Kind::Crash(Crash::BeforeEntry)),
        1 => (call, Kind::Crash(Crash::BeforeCall)),
        2 => (call, Kind::Crash(Crash::DuringCall)),
        3 => (call, Kind::Crash(Crash::AfterCall)),
        4 => (call, Kind::LostRequest),
        5 => (call, Kind::LostReply),
        6 => (call, Kind::Asleep(seconds(1 + below(300)))),
        7 => (at, Kind::Stale { node, time: seconds(5 + below(300)) }),
        8 => (start, Kind::Boot(node, BootFault::Stuck(seconds(60 + below(90 * 60))))),
        9 => (start, Kind::Boot(node, BootFault::Loop(1 + below(20) as u32))),
        10 => (start, Kind::Boot(node, BootFault::RolledBack)),
        11 => (start, Kind::Boot(node, BootFault::Slow(seconds(below(1200))))),
        12 => (start, Kind::Boot(node, BootFault::CorruptConfig)),
        13 => (start, Kind::Install(node, InstallFault::Fails)),
        14 => (start, Kind::Install(node, InstallFault::LacksExtensions)),
        15 => (start, Kind::SlowEtcd(node, seconds(10 + below(1200)))),
        16 => (at, Kind::Leader(node)),
        17 => (at, Kind::Down(node, seconds(20 + below(1800)))),
        18 => (at, Kind::Ailing(node, seconds(10 + below(900)))),
        19 => (at, Kind::SecondOperator),
        20 => (at, Kind::Masked(node, seconds(20 + below(900)))),
        // Longer than a view is good for, and shorter than the lock.
        21 => (call, Kind::Asleep(seconds(16 + below(30)))),
        22 => (call, Kind::LostReply),
        _ => (at, Kind::LockLost),
    };
    Fault { when, kind }
}
