//! From a version of Talos to a rollout: one worker to see whether the image is any good, the other workers, and the
//! control planes one at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use ichor_rollout::plan::{Expect, Flow, Node, Plan as Rollout, Policy, Stage, Task, Work};
use ichor_rollout::view::{Digest, View};

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
    /// The config that each node is to have, where that is not the one that it has.
    pub(crate) configs: &'a [Option<Digest>],
    pub(crate) to: &'a TalosVersion,
    /// What was chosen for each node; none for those that are left out.
    pub(crate) choices: &'a [Option<Choice>],
    /// Extensions that are to go.
    pub(crate) without: &'a BTreeSet<String>,
    /// Whether Kubernetes can be asked.
    pub(crate) has_kubernetes: bool,
}

/// How one node is upgraded.
#[derive(Debug)]
pub(crate) struct Choice {
    /// The version that it runs today.
    pub(crate) version: TalosVersion,
    /// The image; none if it runs what it should already.
    pub(crate) image: Option<String>,
    /// Whether it is upgraded by the legacy call, whatever else it has.
    pub(crate) is_legacy: bool,
}

/// Makes the rollout. Nodes that run the version already are proven, and that is all.
pub(crate) fn make(source: &Source<'_>, policy: Policy) -> Rollout {
    let mut stages = Vec::new();
    let outdated = |node: &usize| source.choices[*node].as_ref().is_some_and(|choice| choice.image.is_some());
    let all: Vec<usize> = (0..source.targets.len()).filter(|node| source.choices[*node].is_some()).collect();
    let pulls: Vec<Task> = all.iter().filter_map(|node| source.pull(*node)).collect();
    if !pulls.is_empty() {
        stages.push(Stage { name: "pull".into(), tasks: pulls, at_once: usize::MAX });
    }
    let (voters, workers): (Vec<usize>, Vec<usize>) =
        all.iter().partition(|node| source.targets[**node].votes);
    // One that is not upgraded yet tells more than one that is.
    let canary = workers.iter().copied().find(outdated);
    if let Some(canary) = canary {
        stages.push(Stage {
            name: "canary".into(),
            tasks: source.upgrade(canary).into_iter().collect(),
            at_once: 1,
        });
    }
    let others: Vec<Task> = workers
        .iter()
        .filter(|node| Some(**node) != canary)
        .filter_map(|node| source.upgrade(*node))
        .collect();
    if !others.is_empty() {
        stages.push(Stage { name: "workers".into(), tasks: others, at_once: policy.max_unavailable });
    }
    let tasks = voters.iter().filter_map(|node| source.upgrade(*node)).collect();
    stages.push(Stage { name: "control planes".into(), tasks, at_once: 1 });
    let nodes =
        source.targets.iter().map(|it| Node { name: it.name.as_str().into(), votes: it.votes }).collect();
    let images = source.choices.iter().flatten().flat_map(|choice| &choice.image);
    let images: Vec<&str> = images.map(String::as_str).collect();
    let goal =
        digest_of(format!("upgrade {} {} {:?}", source.to, images.join(" "), source.without).as_bytes());
    Rollout { goal, nodes, stages, policy }
}

impl Source<'_> {
    /// Whether the extension is on any node: then it belongs on all, also on one that has lost it.
    fn is_mesh(&self) -> bool {
        if self.without.contains(EXTENSION) {
            return false;
        }
        let has = |node: &ichor_rollout::view::NodeView| {
            node.extensions.as_ref().is_some_and(|extensions| extensions.contains(EXTENSION))
        };
        self.view.nodes.iter().any(has)
    }

    fn pull(&self, node: usize) -> Option<Task> {
        let image = self.choices[node].as_ref()?.image.as_deref()?;
        Some(Task { node, work: Work::Pull { image: image.into() }, expect: Expect::default() })
    }

    fn upgrade(&self, node: usize) -> Option<Task> {
        let choice = self.choices[node].as_ref()?;
        let seen = &self.view.nodes[node];
        // What the node has it keeps: an image without it takes the mesh, and more, from it.
        let mut extensions: BTreeSet<String> =
            seen.extensions.iter().flat_map(|it| it.iter().cloned()).collect();
        extensions.retain(|name| !self.without.contains(name));
        extensions.extend(self.is_mesh().then(|| EXTENSION.to_owned()));
        let flow =
            if choice.is_legacy { Flow::Legacy } else { flow_of(&Capabilities::of(choice.version.clone())) };
        let expect = Expect {
            version: Some(self.to.to_string().into()),
            daemon: extensions.contains(EXTENSION),
            extensions: Arc::new(extensions),
            without: Arc::new(self.without.clone()),
            config: self.configs[node].or(seen.active.filter(|active| seen.persistent == Some(*active))),
            meshed: seen.meshed.clone().filter(|_| self.is_mesh()).unwrap_or_default(),
            advertised: None,
            kubernetes: self.has_kubernetes && seen.kubernetes.is_some(),
        };
        let image = choice.image.as_deref().unwrap_or_default().into();
        Some(Task { node, work: Work::Upgrade { image, flow }, expect })
    }
}
