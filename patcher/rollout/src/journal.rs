//! What was begun, and how it ended.
//!
//! An entry is written before each call and after it. A process that dies in between leaves a call whose end is not
//! known, which the next process finds and treats so. The text form is one JSON object a line with a checksum, each
//! line complete or absent: a torn last line is a call that was never made, because it is made only after its line is
//! on the disk.

mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use text::{JournalError, decode, encode, whole_len};

use crate::action::{Action, Call, Outcome};
use crate::plan::Plan;
use crate::view::{Digest, Text, View};
use crate::watch::Watch;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Entry {
    /// A process took up the rollout.
    Run {
        /// When, since 1970.
        at: Duration,
        /// The goal of its plan.
        goal: Digest,
    },
    /// A call is about to be made.
    Begin {
        /// When.
        at: Duration,
        /// The name of the node.
        node: Text,
        /// The work that it belongs to.
        work: Digest,
        /// Which call: [`Call::name`].
        call: Text,
        /// The boot id of the node before it, where that is known.
        boot: Option<Text>,
        /// Whether it begins the work anew, whatever was done for it before.
        #[serde(default)]
        anew: bool,
        /// The config that the node is to have afterwards, where the work itself does not change it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        config: Option<Digest>,
    },
    /// A call has ended.
    End {
        /// When.
        at: Duration,
        /// The name of the node.
        node: Text,
        /// Which call.
        call: Text,
        /// How.
        outcome: Ended,
        /// What went wrong.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<Text>,
    },
    /// The rollout was stopped.
    Stop {
        /// When.
        at: Duration,
        /// Why.
        why: Text,
    },
    /// Everything is done.
    Finish {
        /// When.
        at: Duration,
    },
}

/// How a call ended, without the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ended {
    /// See [`Outcome::Done`].
    Done,
    /// See [`Outcome::Refused`].
    Refused,
    /// See [`Outcome::Unknown`].
    Unknown,
}

/// The entries of a rollout, and what follows from them.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    entries: Vec<Entry>,
    nodes: BTreeMap<Text, NodeLog>,
    run: Option<Duration>,
    changed: Duration,
    concluded: Option<Duration>,
    /// Whether a call was made in this run that changes something.
    has_begun: bool,
    /// What this process saw. It is not written down: the next process looks for itself.
    pub(crate) watch: Watch,
}

/// What follows from the entries for one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NodeLog {
    /// The attempt that is not proven yet.
    pub(crate) open: Option<Attempt>,
    /// An image that is loaded: it goes beside whatever else is open, and changes nothing.
    pub(crate) pull: Option<Attempt>,
    /// Pieces of work that are proven to be done.
    pub(crate) concluded: Vec<Digest>,
    /// How many attempts began to change the node in this run.
    pub(crate) attempts: u32,
    /// The call that is under way.
    pub(crate) flying: Option<Text>,
    /// Whether pods are kept away from it by us.
    pub(crate) cordoned: bool,
    /// The work that is being concluded.
    concluding: Option<Digest>,
}

/// One attempt at a task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The work.
    pub(crate) work: Digest,
    /// The boot id before the call that took the node down, or before the first call.
    pub(crate) boot: Option<Text>,
    /// The config that the node is to have after it, where that is the one that it had before it.
    pub(crate) config: Option<Digest>,
    /// How often each call was made in this run, and how the last one ended.
    pub(crate) calls: BTreeMap<Text, Made>,
}

/// What is known of one kind of call of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    /// How often it was made in this run.
    pub(crate) times: u32,
    /// When the last one began.
    pub(crate) began: Duration,
    /// When it ended; when the next run began, if nobody saw the end.
    pub(crate) ended: Option<Duration>,
    /// How the last one ended; `None` while it is under way.
    pub(crate) outcome: Option<Ended>,
    /// What went wrong.
    pub(crate) why: Option<Text>,
    /// Whether it was made in this run.
    pub(crate) is_ours: bool,
}

impl Journal {
    /// What entries of earlier processes come to.
    pub fn replay(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut journal = Self::default();
        for entry in entries {
            journal.push(entry);
        }
        journal
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Takes up the plan. Returns the entry, to be written before anything else.
    pub fn begin_run(&mut self, goal: Digest, now: Duration) -> Entry {
        self.add(Entry::Run { at: now, goal })
    }

    /// A call is about to be made. Returns the entry, to be written before it is.
    pub fn begin(&mut self, plan: &Plan, action: &Action, view: &View, now: Duration) -> Entry {
        let boot = view.nodes.get(action.node).and_then(|node| node.boot.clone());
        let (node, call) = (plan.nodes[action.node].name.clone(), action.call.name().into());
        let config =
            plan.task(action).filter(|task| !task.work.configures()).and_then(|task| task.expect.config);
        self.add(Entry::Begin { at: now, node, work: action.work, call, boot, anew: action.anew, config })
    }

    /// What was seen. Only what is told here counts as seen over time.
    pub fn look(&mut self, view: &View) {
        self.watch.look(view);
    }

    /// A call has ended. Returns the entry.
    pub fn end(&mut self, node: &Text, call: &Call, outcome: &Outcome, now: Duration) -> Entry {
        let (ended, why) = match outcome {
            Outcome::Done => (Ended::Done, None),
            Outcome::Refused(why) => (Ended::Refused, Some(why.clone())),
            Outcome::Unknown(why) => (Ended::Unknown, Some(why.clone())),
        };
        let (node, call) = (node.clone(), call.name().into());
        self.add(Entry::End { at: now, node, call, outcome: ended, why })
    }

    /// The rollout was stopped. Returns the entry.
    pub fn stop(&mut self, why: Text, now: Duration) -> Entry {
        self.add(Entry::Stop { at: now, why })
    }

    /// Everything is done. Returns the entry.
    pub fn finish(&mut self, now: Duration) -> Entry {
        self.add(Entry::Finish { at: now })
    }

    fn add(&mut self, entry: Entry) -> Entry {
        self.push(entry.clone());
        entry
    }

    /// When this process took up the plan.
    pub fn run_began(&self) -> Option<Duration> {
        self.run
    }

    /// Whether an earlier run of another goal, or of this one, left this node in the middle of something.
    pub fn is_open(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|log| log.open.is_some())
    }

    /// The config that a node is to have that was left in the middle of something: the one that it had before, whatever
    /// it came up with. `None` where it was not left so, or its config was what was being changed.
    pub fn config_of(&self, node: &str) -> Option<Digest> {
        self.nodes.get(node)?.open.as_ref()?.config
    }

    /// Whether any call was made in this run that changes something.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// The nodes that were left in the middle of something.
    pub fn open_nodes(&self) -> Vec<String> {
        self.open_attempts().map(|(name, _)| name.to_string()).collect()
    }

    /// Whether a config that was never kept may be being tried on this node.
    pub fn is_trying(&self, node: &str) -> bool {
        let attempt = self.nodes.get(node).and_then(|log| log.open.as_ref());
        attempt.is_some_and(|attempt| {
            let is_kept = attempt.made(&Call::Keep).is_some_and(Made::is_done);
            attempt.made(&Call::Try).is_some_and(|made| made.outcome != Some(Ended::Refused)) && !is_kept
        })
    }

    /// Whether this work was proven to be done on this node in this run.
    pub fn is_concluded(&self, node: &str, work: Digest) -> bool {
        self.nodes.get(node).is_some_and(|log| log.concluded.contains(&work))
    }

    /// Whether a call on this node is under way.
    pub fn is_flying(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|log| log.flying.is_some())
    }

    /// Whether any call is under way.
    pub fn any_flying(&self) -> bool {
        self.nodes.values().any(|log| log.flying.is_some())
    }

    /// When the last call began or ended: what was seen before is no news.
    pub fn last_change(&self) -> Duration {
        self.changed
    }

    pub(crate) fn last_conclusion(&self) -> Option<Duration> {
        self.concluded
    }

    pub(crate) fn node(&self, name: &str) -> Option<&NodeLog> {
        self.nodes.get(name)
    }

    pub(crate) fn open_attempts(&self) -> impl Iterator<Item = (&Text, &Attempt)> {
        self.nodes.iter().filter_map(|(name, log)| Some((name, log.open.as_ref()?)))
    }

    fn push(&mut self, entry: Entry) {
        match &entry {
            Entry::Run { at, .. } => self.on_run(*at),
            Entry::Begin { at, node, work, call, boot, anew, config } => {
                let begun =
                    Attempt { work: *work, boot: boot.clone(), config: *config, calls: BTreeMap::new() };
                self.on_begin(*at, node.clone(), call.clone(), begun, *anew);
            }
            Entry::End { at, node, call, outcome, why } => {
                self.on_end(*at, node, call, *outcome, why.clone());
            }
            Entry::Stop { .. } => {}
            Entry::Finish { .. } => {}
        }
        self.entries.push(entry);
    }

    fn on_run(&mut self, at: Duration) {
        self.run = Some(at);
        self.has_begun = false;
        self.changed = self.changed.max(at);
        self.watch = Watch::default();
        for log in self.nodes.values_mut() {
            log.attempts = 0;
            log.flying = None;
            // The new plan is made from what the nodes are now.
            log.concluded.clear();
            log.pull = None;
            for made in log.open.iter_mut().flat_map(|attempt| attempt.calls.values_mut()) {
                made.is_ours = false;
                made.times = 0;
                if made.outcome.is_none() {
                    made.outcome = Some(Ended::Unknown);
                    made.ended = Some(at);
                }
            }
        }
    }

    fn on_begin(&mut self, at: Duration, node: Text, call: Text, begun: Attempt, anew: bool) {
        self.changed = self.changed.max(at);
        self.has_begun |= changes(&call);
        let log = self.nodes.entry(node).or_default();
        log.flying = Some(call.clone());
        log.cordoned |= &*call == Call::Drain.name();
        if &*call == Call::Conclude.name() {
            log.concluding = Some(begun.work);
            return;
        }
        let is_pull = &*call == Call::Pull.name();
        let open = if is_pull { &mut log.pull } else { &mut log.open };
        if anew || open.as_ref().is_none_or(|attempt| attempt.work != begun.work) {
            log.attempts += u32::from(!is_pull);
            *open = Some(begun.clone());
        }
        let Some(attempt) = open else { return };
        attempt.config = begun.config;
        if is_disruptive(&call) || attempt.boot.is_none() {
            attempt.boot = begun.boot.or(attempt.boot.take());
        }
        let times = attempt.calls.get(&call).map_or(0, |made| made.times) + 1;
        let made = Made { times, began: at, ended: None, outcome: None, why: None, is_ours: true };
        attempt.calls.insert(call, made);
    }

    fn on_end(&mut self, at: Duration, node: &Text, call: &Text, outcome: Ended, why: Option<Text>) {
        self.changed = self.changed.max(at);
        let Some(log) = self.nodes.get_mut(node) else { return };
        log.flying.take_if(|flying| flying == call);
        if &**call == Call::Conclude.name() {
            if let Some(work) = log.concluding.take() {
                if log.open.take_if(|attempt| attempt.work == work).is_some() {
                    self.concluded = Some(at);
                }
                log.pull.take_if(|attempt| attempt.work == work);
                log.concluded.push(work);
            }
            return;
        }
        if &**call == Call::Uncordon.name() && outcome == Ended::Done {
            log.cordoned = false;
        }
        let open = if &**call == Call::Pull.name() { &mut log.pull } else { &mut log.open };
        if let Some(made) = open.as_mut().and_then(|attempt| attempt.calls.get_mut(call)) {
            (made.outcome, made.ended, made.why) = (Some(outcome), Some(at), why);
        }
    }
}

impl Attempt {
    /// What is known of a kind of call.
    pub(crate) fn made(&self, call: &Call) -> Option<&Made> {
        self.calls.get(call.name())
    }

    /// Whether any call was made in this run.
    pub(crate) fn is_ours(&self) -> bool {
        self.calls.values().any(|made| made.is_ours)
    }

    /// When the last of its calls began or ended.
    pub(crate) fn last_change(&self) -> Duration {
        self.calls.values().map(|made| made.ended.unwrap_or(made.began)).max().unwrap_or_default()
    }
}

impl Made {
    /// Whether it was done, for certain.
    pub(crate) fn is_done(&self) -> bool {
        self.outcome == Some(Ended::Done)
    }
}

fn changes(call: &str) -> bool {
    ![Call::Pull.name(), Call::Snapshot { from: 0 }.name(), Call::CheckWays.name(), Call::Conclude.name()]
        .contains(&call)
}

fn is_disruptive(call: &str) -> bool {
    [Call::Upgrade.name(), Call::Reboot.name(), Call::RollBack.name()].contains(&call)
}

#[cfg(test)]
mod tests;
