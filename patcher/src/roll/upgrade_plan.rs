//! From a version of Talos to a rollout: one worker to see whether the image is any good, the other workers, and the
//! control planes one at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use ichor_rollout::plan::{Expect, Flow, Node, Plan as Rollout, Policy, Stage, Task, Work};
use ichor_rollout::view::View;

use super::digest_of;
use super::perform::flow_of;
use super::target::Target;
use crate::api::{Capabilities, TalosVersion};

/// Our extension, as nodes call it.
pub(crate) const EXTENSION: &str = "ichor";

/// What an upgrade is made from.
pub(crate) struct Source<'a> {
    pub(crate) targets: &'a [Target],
    pub(crate) view: &'a View,
    /// The version of each node today.
    pub(crate) versions: &'a [TalosVersion],
    pub(crate) to: &'a TalosVersion,
    /// The image for each node.
    pub(crate) images: &'a [String],
    /// Whether Kubernetes can be asked.
    pub(crate) has_kubernetes: bool,
    /// Whether a node is upgraded by the legacy call, whatever else it has.
    pub(crate) legacy: &'a [bool],
}

/// Makes the rollout. Nodes that run the version already are proven, and that is all.
pub(crate) fn make(source: &Source<'_>, policy: Policy) -> Rollout {
    let mut stages = Vec::new();
    let outdated = |node: &usize| !source.images[*node].is_empty();
    let all: Vec<usize> = (0..source.targets.len()).collect();
    let pulls: Vec<Task> = all.iter().copied().filter(outdated).map(|node| source.pull(node)).collect();
    if !pulls.is_empty() {
        stages.push(Stage { name: "pull".into(), tasks: pulls, at_once: usize::MAX });
    }
    let (voters, workers): (Vec<usize>, Vec<usize>) =
        all.iter().partition(|node| source.targets[**node].votes);
    // One that is not upgraded yet tells more than one that is.
    let canary = workers.iter().copied().find(outdated);
    if let Some(canary) = canary {
        stages.push(Stage { name: "canary".into(), tasks: vec![source.upgrade(canary)], at_once: 1 });
    }
    let others: Vec<Task> =
        workers.iter().filter(|node| Some(**node) != canary).map(|node| source.upgrade(*node)).collect();
    if !others.is_empty() {
        stages.push(Stage { name: "workers".into(), tasks: others, at_once: policy.max_unavailable });
    }
    let tasks = voters.iter().map(|node| source.upgrade(*node)).collect();
    stages.push(Stage { name: "control planes".into(), tasks, at_once: 1 });
    let nodes =
        source.targets.iter().map(|it| Node { name: it.name.as_str().into(), votes: it.votes }).collect();
    let goal = digest_of(format!("upgrade {} {}", source.to, source.images.join(" ")).as_bytes());
    Rollout { goal, nodes, stages, policy }
}

impl Source<'_> {
    /// Whether the extension is on any node: then it belongs on all, also on one that has lost it.
    fn is_mesh(&self) -> bool {
        let has = |node: &ichor_rollout::view::NodeView| {
            node.extensions.as_ref().is_some_and(|extensions| extensions.contains(EXTENSION))
        };
        self.view.nodes.iter().any(has)
    }

    fn pull(&self, node: usize) -> Task {
        let work = Work::Pull { image: self.images[node].as_str().into() };
        Task { node, work, expect: Expect::default() }
    }

    fn upgrade(&self, node: usize) -> Task {
        let seen = &self.view.nodes[node];
        // What the node has it keeps: an image without it takes the mesh, and more, from it.
        let mut extensions: BTreeSet<String> =
            seen.extensions.iter().flat_map(|it| it.iter().cloned()).collect();
        extensions.extend(self.is_mesh().then(|| EXTENSION.to_owned()));
        let flow = if self.legacy[node] {
            Flow::Legacy
        } else {
            flow_of(&Capabilities::of(self.versions[node].clone()))
        };
        let expect = Expect {
            version: Some(self.to.to_string().into()),
            daemon: extensions.contains(EXTENSION),
            extensions: Arc::new(extensions),
            config: seen.active.filter(|active| seen.persistent == Some(*active)),
            meshed: seen.meshed.clone().unwrap_or_default(),
            advertised: None,
            kubernetes: self.has_kubernetes && seen.kubernetes.is_some(),
        };
        Task { node, work: Work::Upgrade { image: self.images[node].as_str().into(), flow }, expect }
    }
}
