//! From the steps of `ichor.yaml` to a rollout.
//!
//! The order is that in which each state in between has a quorum: first the addresses of today are pinned everywhere,
//! then the daemon's config comes (it is accepted before the extension is there), then the extension, then the mesh is
//! proven between all pairs, and only then addresses move, one control plane at a time, and last the firewall closes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ichor_rollout::plan::{Expect, Flow, How, Node, Plan as Rollout, Policy, Stage, Task, Work};
use ichor_rollout::view::{Digest, View};
use zeroize::Zeroizing;

use super::target::Target;
use super::{config_digest, digest_of};
use crate::cluster::{Cluster, Profile};
use crate::plan::{Plan, StepKind};

/// The texts of configs by their digests.
pub(crate) type Texts = BTreeMap<Digest, Zeroizing<String>>;

/// The stages by their names, in their order: what `--until` takes.
pub(crate) const STAGES: [&str; 6] = ["pin", "mesh", "image", "prove", "switch", "firewall"];

/// Nodes up to which every pair must be connected, and up to which each pair with a control plane. Daemons keep sessions
/// that nobody uses yet in somewhat larger networks (ichord: `worker::members::kept`): relays and operators count there.
const ALL_PAIRS: usize = 12;
const PAIRS_WITH_CONTROL_PLANES: usize = 100;

/// What a rollout of configs is made from.
pub(crate) struct Source<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) plan: &'a Plan,
    pub(crate) targets: &'a [Target],
    pub(crate) view: &'a View,
    /// The image with the extension, for nodes that lack it.
    pub(crate) image: Option<&'a str>,
    /// By which calls it is installed, node by node.
    pub(crate) flows: &'a [Flow],
    /// The last stage.
    pub(crate) until: &'a str,
    /// Whether Kubernetes can be asked.
    pub(crate) has_kubernetes: bool,
}

/// A rollout, the texts of its configs, and what is left out of it and why.
pub(crate) struct Made {
    pub(crate) rollout: Rollout,
    pub(crate) texts: Texts,
    pub(crate) left: Vec<String>,
}

/// Makes the rollout.
pub(crate) fn make(source: &Source<'_>, policy: Policy) -> Made {
    let mut texts = Texts::new();
    let mut stages = Vec::new();
    let mut left = Vec::new();
    let mut now: Vec<Digest> = Vec::new();
    for target in source.targets {
        let before = source.plan.nodes.iter().find(|node| node.name == target.name);
        let text = before.map_or("", |node| &node.before);
        now.push(config_digest(text));
    }
    let lacking: Vec<usize> = (0..source.targets.len()).filter(|node| source.lacks(*node)).collect();
    let is_asked = |name: &str| {
        STAGES.iter().take_while(|it| **it != source.until).chain([&source.until]).any(|it| *it == name)
    };
    for name in STAGES.into_iter().filter(|name| is_asked(name)) {
        let kind = StepKind::ALL.into_iter().find(|kind| kind.name() == name);
        let blocked = !lacking.is_empty() && source.image.is_none();
        match (name, kind) {
            ("image", _) => match source.image {
                Some(image) if !lacking.is_empty() => {
                    stages.extend(source.images(image, &lacking, &now));
                }
                Some(_) => {}
                None if !lacking.is_empty() => {
                    let names = source.names(&lacking);
                    left.push(format!(
                        "image: {names} lack the extension; say --image INSTALLER, one that has it"
                    ));
                }
                None => {}
            },
            ("prove", _) if !blocked && source.needs_proof() => {
                let all: Vec<usize> = (0..source.targets.len()).collect();
                let tasks = all.iter().map(|node| source.prove(*node)).collect();
                stages.push(Stage { name: name.into(), tasks, at_once: usize::MAX });
            }
            (_, Some(kind)) => {
                if blocked && matches!(kind, StepKind::Switch | StepKind::Firewall) {
                    if source.plan.nodes.iter().any(|node| node.steps.iter().any(|step| step.kind == kind)) {
                        left.push(format!("{name}: the mesh has to be there first"));
                    }
                    continue;
                }
                let mut steps = source.configs(kind, &mut now, &mut texts);
                if kind == StepKind::Firewall {
                    // For the time of a trial nobody may get in: not to all workers at once.
                    steps
                        .iter_mut()
                        .for_each(|stage| stage.at_once = stage.at_once.min(policy.max_unavailable));
                }
                stages.extend(steps);
            }
            _ => {}
        }
    }
    let nodes =
        source.targets.iter().map(|it| Node { name: it.name.as_str().into(), votes: it.votes }).collect();
    let goal = format!("apply {} {}", source.until, source.cluster.mesh.name);
    let rollout = Rollout { goal: digest_of(goal.as_bytes()), nodes, stages, policy };
    Made { rollout, texts, left }
}

impl Source<'_> {
    fn lacks(&self, node: usize) -> bool {
        let extensions = &self.view.nodes[node].extensions;
        extensions.as_ref().is_some_and(|extensions| !extensions.contains("ichor"))
    }

    /// Whether anything is planned that must not happen before the mesh carries traffic.
    fn needs_proof(&self) -> bool {
        let is_late = |kind| matches!(kind, StepKind::Switch | StepKind::Firewall);
        self.plan.nodes.iter().any(|node| node.steps.iter().any(|step| is_late(step.kind)))
    }

    fn names(&self, nodes: &[usize]) -> String {
        nodes.iter().map(|node| self.targets[*node].name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// What must be seen of a node after a config was applied.
    fn expect(&self, node: usize, config: Digest) -> Expect {
        let extensions = self.view.nodes[node].extensions.clone().unwrap_or_default();
        let kept: BTreeSet<String> = extensions.iter().filter(|name| *name == "ichor").cloned().collect();
        Expect {
            extensions: Arc::new(kept),
            config: Some(config),
            kubernetes: self.has_kubernetes && self.view.nodes[node].kubernetes.is_some(),
            ..Expect::default()
        }
    }

    /// The steps of one kind: control planes, then the others.
    fn configs(&self, kind: StepKind, now: &mut [Digest], texts: &mut Texts) -> Vec<Stage> {
        let how = match kind {
            StepKind::Pin | StepKind::Mesh => How::Live,
            StepKind::Switch => How::Staged,
            StepKind::Firewall => How::Tried,
        };
        let mut task = |node: usize| {
            let planned = self.plan.nodes.iter().find(|it| it.name == self.targets[node].name)?;
            let step = planned.steps.iter().find(|step| step.kind == kind)?;
            let to = config_digest(&step.after);
            texts.insert(to, step.after.clone());
            // For the way back.
            texts.entry(now[node]).or_insert_with(|| planned.before.clone());
            let from = std::mem::replace(&mut now[node], to);
            let mut expect = self.expect(node, to);
            expect.daemon = kind != StepKind::Pin && expect.extensions.contains("ichor");
            if kind == StepKind::Switch {
                expect.meshed = self.counted_on(node);
                expect.advertised = self.advertised(node);
            }
            Some(Task { node, work: Work::Configure { from, to, how }, expect })
        };
        self.by_role(kind.name(), &mut task)
    }

    /// Control planes one at a time, then workers as many as policy lets.
    fn by_role(&self, name: &str, task: &mut dyn FnMut(usize) -> Option<Task>) -> Vec<Stage> {
        let mut stages = Vec::new();
        for votes in [true, false] {
            let nodes = (0..self.targets.len()).filter(|node| self.targets[*node].votes == votes);
            let tasks: Vec<Task> = nodes.filter_map(&mut *task).collect();
            let at_once = if votes { 1 } else { usize::MAX };
            if !tasks.is_empty() {
                stages.push(Stage { name: name.into(), tasks, at_once });
            }
        }
        stages
    }

    /// Other members of etcd dial it over the mesh where it has voters in several sites.
    fn advertised(&self, node: usize) -> Option<Arc<BTreeSet<String>>> {
        let target = &self.targets[node];
        let moves = self.cluster.mesh.profile == Profile::Stretched && target.votes;
        let address = target.mesh.filter(|_| moves)?;
        Some(Arc::new([address.to_string()].into()))
    }

    /// The nodes to which one must have sessions: the pairs with which daemons keep them unasked.
    fn counted_on(&self, node: usize) -> Arc<BTreeSet<usize>> {
        let count = self.targets.len();
        let is_counted = |other: &usize| {
            let voters = [node, *other].iter().filter(|it| self.targets[**it].votes).count();
            let most = match voters {
                2 => usize::MAX,
                1 => PAIRS_WITH_CONTROL_PLANES,
                _ => ALL_PAIRS,
            };
            *other != node && count <= most
        };
        Arc::new((0..count).filter(is_counted).collect())
    }

    fn prove(&self, node: usize) -> Task {
        let meshed = self.counted_on(node);
        Task { node, work: Work::ProveMesh, expect: Expect { daemon: true, meshed, ..Expect::default() } }
    }

    /// The image comes to all before it is installed on any.
    fn images(&self, image: &str, lacking: &[usize], now: &[Digest]) -> Vec<Stage> {
        let pull = |node: &usize| Task {
            node: *node,
            work: Work::Pull { image: image.into() },
            expect: Expect::default(),
        };
        let mut stages = vec![Stage {
            name: "image".into(),
            tasks: lacking.iter().map(pull).collect(),
            at_once: usize::MAX,
        }];
        let mut task = |node: usize| {
            let work = Work::Upgrade { image: image.into(), flow: self.flows[node] };
            let mut expect = self.expect(node, now[node]);
            let has = self.view.nodes[node].extensions.clone().unwrap_or_default();
            expect.extensions = Arc::new(has.iter().cloned().chain(["ichor".to_owned()]).collect());
            expect.daemon = true;
            lacking.contains(&node).then_some(Task { node, work, expect })
        };
        let mut installs = self.by_role("image", &mut task);
        // Workers first: what is wrong with the image shows where no vote is at stake.
        installs.reverse();
        stages.extend(installs);
        stages
    }
}
