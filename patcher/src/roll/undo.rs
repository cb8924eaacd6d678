//! The way back: what configs were before each step, kept on the operator's disk.
//!
//! Steps are undone in the reverse of the order in which they were done, each on all nodes before the one before it,
//! by the same calls and with the same proofs. A step that was never done, or is undone already, falls out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ichor_rollout::plan::{Expect, How, Node, Plan as Rollout, Policy, Stage, Task, Work};
use ichor_rollout::view::{Digest, View};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::config_plan::{Made, Texts};
use super::target::Target;
use super::{config_digest, digest_of, sealed};

/// Steps that were planned, in the order in which they were to be done.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Undo {
    steps: Vec<Done>,
}

/// A step of one node.
#[derive(Serialize, Deserialize)]
struct Done {
    /// When the run was planned that it belongs to, in seconds since 1970.
    run: u64,
    /// Its stage.
    stage: String,
    /// The node.
    node: String,
    /// How it was applied: `live`, `staged` or `tried`.
    how: String,
    /// The config before it: with all secrets of the node.
    before: Zeroizing<String>,
    /// What the config after it comes to.
    after: Digest,
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Done").field("node", &self.node).field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// How far back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The last run that changed anything.
    LastRun,
    /// All of them.
    All,
}

fn path(folder: &Path) -> PathBuf {
    folder.join("undo.json")
}

impl Undo {
    /// Reads what is kept in a folder; nothing without a file.
    ///
    /// # Errors
    ///
    /// When the file is there and damaged.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        sealed::read(&path(folder))
    }

    /// Adds the steps of a rollout that is about to be carried out, and writes all down.
    ///
    /// # Errors
    ///
    /// When the file cannot be written: then nothing must be changed.
    pub(crate) fn keep(&mut self, folder: &Path, rollout: &Rollout, texts: &Texts) -> anyhow::Result<()> {
        let run = super::now().as_secs();
        for stage in &rollout.stages {
            for task in &stage.tasks {
                let Work::Configure { from, to, how } = task.work else { continue };
                let Some(before) = texts.get(&from) else { continue };
                let node = rollout.nodes[task.node].name.to_string();
                // The same step planned again is the same step: the first time knows what was there before.
                if self.steps.iter().any(|done| done.node == node && done.after == to) {
                    continue;
                }
                let how = how_name(how).to_owned();
                let stage = stage.name.to_string();
                self.steps.push(Done { run, stage, node, how, before: before.clone(), after: to });
            }
        }
        sealed::write(&path(folder), self)
    }

    /// The way back for these nodes, or for the one called `only`. `configs`: what each has now.
    pub(crate) fn make(
        &self,
        extent: Extent,
        only: Option<&str>,
        targets: &[Target],
        configs: &[Zeroizing<String>],
        view: &View,
        policy: Policy,
    ) -> Made {
        let mut texts = Texts::new();
        let mut now: Vec<Digest> = configs.iter().map(|text| config_digest(text)).collect();
        let mut stages: Vec<Stage> = Vec::new();
        let mut left = BTreeSet::new();
        let mut run = None;
        let mut keys: Vec<(u64, &str)> = Vec::new();
        let steps = || self.steps.iter().filter(|done| only.is_none_or(|only| done.node == only));
        for done in steps().rev() {
            let key = (done.run, done.stage.as_str());
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        for (at, name) in keys {
            let mut tasks = Vec::new();
            for done in steps().filter(|done| done.run == at && done.stage == name) {
                let Some(node) = targets.iter().position(|target| target.name == done.node) else { continue };
                let to = config_digest(&done.before);
                if now[node] == to {
                    continue;
                }
                if now[node] != done.after {
                    if extent == Extent::All || run.is_none_or(|run| run == at) {
                        left.insert(format!(
                            "{}: its config was changed since {name}; undo that by hand first",
                            done.node
                        ));
                    }
                    continue;
                }
                tasks.push(task(node, done, now[node], to, view));
                texts.insert(to, done.before.clone());
                now[node] = to;
            }
            if tasks.is_empty() {
                continue;
            }
            if extent == Extent::LastRun && run.is_some_and(|run| run != at) {
                break;
            }
            run = Some(at);
            // One control plane at a time, then the others.
            let (voters, others): (Vec<Task>, Vec<Task>) =
                tasks.into_iter().partition(|task| targets[task.node].votes);
            for (tasks, at_once) in [(voters, 1), (others, usize::MAX)] {
                if !tasks.is_empty() {
                    stages.push(Stage { name: format!("undo {name}").into(), tasks, at_once });
                }
            }
        }
        if stages.iter().any(|stage| &*stage.name == "undo mesh") {
            left.insert("the extension is still in the image, without a config: ichorctl upgrade --to VERSION --image INSTALLER --without ichor \
                 takes it out".to_owned());
        }
        let nodes =
            targets.iter().map(|it| Node { name: it.name.as_str().into(), votes: it.votes }).collect();
        let rollout = Rollout { goal: digest_of(b"undo"), nodes, stages, policy };
        Made { rollout, texts, left: left.into_iter().collect() }
    }
}

fn task(node: usize, done: &Done, from: Digest, to: Digest, view: &View) -> Task {
    let how = match done.how.as_str() {
        "staged" => How::Staged,
        "tried" => How::Tried,
        _ => How::Live,
    };
    let seen = &view.nodes[node];
    let expect = Expect {
        extensions: seen.extensions.clone().unwrap_or_default(),
        config: Some(to),
        kubernetes: seen.kubernetes.is_some(),
        meshed: Arc::default(),
        ..Expect::default()
    };
    Task { node, work: Work::Configure { from, to, how }, expect }
}

const fn how_name(how: How) -> &'static str {
    match how {
        How::Live => "live",
        How::Staged => "staged",
        How::Tried => "tried",
    }
}
