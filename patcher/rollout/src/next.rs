//! The one thing that may be done now.

mod begin;
mod boot;
mod config;
mod gate;

use std::time::Duration;

use crate::action::{Action, Call};
use crate::guard::{EtcdView, Reason};
use crate::journal::{Attempt, Ended, Journal, Made};
use crate::plan::{How, Plan, Policy, Stage, Task, Work};
use crate::proof::{self, Doubt};
use crate::view::{Digest, Lock, NodeView, Text, View};

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Make this call: entry in the journal, call, entry in the journal. Ask again at once: there may be more.
    Act(Action),
    /// Nothing may be done before something changes. Look again soon.
    Wait(Vec<Pending>),
    /// Nothing more is done.
    Stop(Stop),
    /// Everything is done.
    Done,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Which node it is about, if one.
    pub node: Option<usize>,
    /// What is missing.
    pub why: Why,
    /// When it is given up; `None` where nothing is lost by waiting.
    pub until: Option<Duration>,
}

/// Why something has to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The last view is too old, or older than the last call.
    Look,
    /// The lock is about to run out and has to be renewed.
    Lock,
    /// A call is under way.
    Call(Text),
    /// etcd is not ready to lose a member.
    Gate(Vec<Reason>),
    /// Another control plane is in the middle of something, or not well.
    Other(usize),
    /// As many workers as may be are unavailable.
    Unavailable(Vec<usize>),
    /// The node is not proven yet.
    Proof(Vec<Doubt>),
    /// The node has to be seen well for a while.
    Soak,
    /// The node has been told to reboot.
    Goodbye,
    /// An image may still be being written.
    Install,
    /// A config that was tried goes away by itself.
    Trial,
    /// An upgrade that nobody here began waits for a reboot, or for its confirmation.
    Mark,
    /// The operator wants time between nodes.
    Pause,
}

/// Why nothing more is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The lock is somebody else's.
    Lock,
    /// etcd, or another control plane, does not allow that this node is touched.
    Gate {
        /// The node.
        node: usize,
        /// Why.
        why: Why,
    },
    /// A node could not be proven.
    Unproven {
        /// The node.
        node: usize,
        /// What is in doubt.
        doubts: Vec<Doubt>,
    },
    /// A call failed.
    Failed {
        /// The node.
        node: usize,
        /// Which call.
        call: Text,
        /// What was said.
        why: Text,
    },
    /// The config of a node is not the one that the plan was made from.
    Changed {
        /// The node.
        node: usize,
    },
}

/// What follows for one task.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Finished,
    Act { call: Call, anew: bool },
    Wait(Pending),
    Stop(Stop),
}

/// Tells what to do next.
pub fn next(plan: &Plan, journal: &Journal, view: &View, now: Duration) -> Next {
    let case = Case { plan, policy: &plan.policy, journal, view, now };
    if view.lock == Lock::Lost {
        return case.unless_flying(Next::Stop(Stop::Lock));
    }
    if view.at < journal.last_change() || view.at + plan.policy.max_age < now {
        return Next::Wait(vec![Pending { node: None, why: Why::Look, until: None }]);
    }
    if let Some(next) = case.leftovers() {
        return next;
    }
    for stage in &plan.stages {
        if let Some(next) = case.stage(stage) {
            return next;
        }
    }
    case.rest().unwrap_or_else(|| case.unless_flying(Next::Done))
}

/// Whether a call that was decided upon by this view may still be made: asked at the last moment, after its entry is in
/// the journal. A process that was asleep in between may have neither.
pub fn is_in_time(policy: &Policy, view: &View, lock: Lock, now: Duration) -> bool {
    let is_ours = match lock {
        Lock::Waived => true,
        Lock::Held { until } => until >= now + policy.lock_margin,
        Lock::Lost => false,
    };
    is_ours && now <= view.at + policy.max_age
}

/// Everything that a decision depends on.
#[derive(Clone, Copy)]
struct Case<'a> {
    plan: &'a Plan,
    policy: &'a Policy,
    journal: &'a Journal,
    view: &'a View,
    now: Duration,
}

impl Case<'_> {
    /// Nodes that an earlier run left in the middle of something that this plan has no task for, and that are well:
    /// that is over, whatever else is planned.
    fn leftovers(&self) -> Option<Next> {
        let is_left = |node: &usize| self.is_left(*node) && self.is_well(*node);
        let node = (0..self.plan.nodes.len()).find(is_left)?;
        Some(match self.has_other_config(node) {
            true => self.unless_flying(Next::Stop(Stop::Unproven { node, doubts: vec![Doubt::Config] })),
            false => self.put_to_rest(node),
        })
    }

    /// Whether an earlier run left a node in the middle of something that this plan has no task for.
    fn is_left(&self, node: usize) -> bool {
        let Some(log) = self.journal.node(&self.plan.nodes[node].name) else { return false };
        let has_task = |work: Digest| self.plan.tasks_of(node).any(|task| task.work.digest() == work);
        let is_open = match &log.open {
            Some(attempt) => !has_task(attempt.work),
            None => log.cordoned,
        };
        is_open && log.flying.is_none()
    }

    /// Whether a node that an earlier run left in the middle of something has another config than it is to have. What this
    /// plan says of the config counts more: it may have been made for the one that the node has.
    fn has_other_config(&self, node: usize) -> bool {
        let planned = self.plan.tasks_of(node).find_map(|task| match task.work {
            Work::Configure { from, .. } => Some(from),
            _ => task.expect.config,
        });
        let expected = planned.or_else(|| self.journal.config_of(&self.plan.nodes[node].name));
        expected.is_some_and(|expected| self.view.nodes[node].active.is_some_and(|it| it != expected))
    }

    fn put_to_rest(&self, node: usize) -> Next {
        let log = self.journal.node(&self.plan.nodes[node].name);
        let open = log.and_then(|log| log.open.as_ref());
        let work = open.map_or(Digest::default(), |attempt| attempt.work);
        let call = if log.is_some_and(|log| log.cordoned) { Call::Uncordon } else { Call::Conclude };
        self.in_time(Action { node, call, work, anew: false })
    }

    /// Nodes that an earlier run left in the middle of something that this plan has no task for, and that are not well:
    /// nothing more is to be done for them, but they were never proven.
    fn rest(&self) -> Option<Next> {
        let node = (0..self.plan.nodes.len()).find(|node| self.is_left(*node))?;
        let until = self.since(Duration::ZERO) + self.policy.boot;
        let task = Task { node, work: Work::Reboot, expect: crate::plan::Expect::default() };
        let doubts = self.doubts(&task);
        if self.now >= until && !doubts.is_empty() {
            return Some(Next::Stop(Stop::Unproven { node, doubts }));
        }
        let why = if doubts.is_empty() { Why::Soak } else { Why::Proof(doubts) };
        Some(Next::Wait(vec![Pending { node: Some(node), why, until: Some(until) }]))
    }

    /// What is to be done for a stage; `None` when all of it is done.
    fn stage(&self, stage: &Stage) -> Option<Next> {
        let (mut waits, mut fresh, mut acts) = (Vec::new(), Vec::new(), Vec::new());
        let (mut busy, mut stop) = (0, None);
        for task in &stage.tasks {
            let Some(step) = self.go_on(task) else {
                fresh.push(task);
                continue;
            };
            match step {
                Step::Finished => continue,
                Step::Act { call, anew } => acts.push(self.action(task, call, anew)),
                Step::Wait(pending) => waits.push(pending),
                Step::Stop(why) => stop = stop.or(Some(why)),
            }
            busy += 1;
        }
        if let Some(stop) = stop {
            return Some(self.unless_flying(Next::Stop(stop)));
        }
        if let Some(action) = acts.into_iter().next() {
            return Some(self.in_time(action));
        }
        if busy < stage.at_once {
            match self.begin(&fresh) {
                Some(Step::Act { call, anew }) => {
                    let task = self.first(&fresh)?;
                    return Some(self.in_time(self.action(task, call, anew)));
                }
                Some(Step::Stop(stop)) if waits.is_empty() => {
                    return Some(self.unless_flying(Next::Stop(stop)));
                }
                Some(Step::Wait(pending)) => waits.push(pending),
                Some(Step::Stop(_) | Step::Finished) | None => {}
            }
        }
        (!waits.is_empty()).then_some(Next::Wait(waits))
    }

    fn action(&self, task: &Task, call: Call, anew: bool) -> Action {
        Action { node: task.node, call, work: task.work.digest(), anew }
    }

    /// The call, if the lock is ours for long enough.
    fn in_time(&self, action: Action) -> Next {
        match self.view.lock {
            Lock::Held { until } if until < self.now + self.policy.lock_margin => {
                Next::Wait(vec![Pending { node: None, why: Why::Lock, until: None }])
            }
            _ => Next::Act(action),
        }
    }

    /// Calls that are under way end first.
    fn unless_flying(&self, next: Next) -> Next {
        let flying = |node: usize| self.journal.node(&self.plan.nodes[node].name)?.flying.clone();
        let waits: Vec<Pending> = (0..self.plan.nodes.len())
            .filter_map(|node| Some(Pending { node: Some(node), why: Why::Call(flying(node)?), until: None }))
            .collect();
        if waits.is_empty() { next } else { Next::Wait(waits) }
    }

    /// What follows for a task that was begun, or that is already done; `None` for one that is to be begun.
    fn go_on(&self, task: &Task) -> Option<Step> {
        let log = self.journal.node(&self.plan.nodes[task.node].name);
        if let Some(log) = log {
            if let Some(call) = &log.flying {
                return Some(self.wait(task, Why::Call(call.clone()), None));
            }
            if log.concluded.contains(&task.work.digest()) {
                return Some(Step::Finished);
            }
        }
        let is_pull = matches!(task.work, Work::Pull { .. });
        let attempt = log.and_then(|log| if is_pull { log.pull.as_ref() } else { log.open.as_ref() });
        match attempt.filter(|attempt| attempt.work == task.work.digest()) {
            Some(attempt) => Some(self.advance(task, attempt)),
            None => self.already(task),
        }
    }

    /// A task for which nothing has to be done: its node is as it should be.
    fn already(&self, task: &Task) -> Option<Step> {
        let node = self.node(task);
        let is_so = match &task.work {
            Work::Configure { .. } | Work::Upgrade { .. } => {
                node.answers && proof::lasting(&task.expect, node).is_empty()
            }
            Work::ProveMesh => true,
            Work::Pull { .. } | Work::Reboot | Work::RollBack => false,
        };
        if !is_so || self.tried_until(task).is_some() {
            return None;
        }
        let patience = if task.work == Work::ProveMesh { self.policy.mesh } else { self.policy.gate };
        Some(self.conclude(task, self.since(self.journal.last_change()) + patience))
    }

    /// What follows for a task that was begun.
    fn advance(&self, task: &Task, attempt: &Attempt) -> Step {
        match &task.work {
            Work::Pull { .. } => self.pull(task, attempt.made(&Call::Pull)),
            Work::Configure { how: How::Live, .. } => self.live(task, attempt),
            Work::Configure { how: How::Tried, .. } => self.tried(task, attempt),
            Work::Configure { how: How::Staged, .. }
            | Work::Upgrade { .. }
            | Work::Reboot
            | Work::RollBack => self.through_a_boot(task, attempt),
            Work::ProveMesh => self.conclude(task, self.since(attempt.last_change()) + self.policy.mesh),
        }
    }

    fn pull(&self, task: &Task, made: Option<&Made>) -> Step {
        match made.filter(|made| made.is_ours) {
            Some(made) if made.is_done() => Step::Act { call: Call::Conclude, anew: false },
            Some(made) if made.outcome == Some(Ended::Refused) || made.times >= self.policy.tries => {
                self.failed(task, &Call::Pull, made)
            }
            _ => Step::Act { call: Call::Pull, anew: false },
        }
    }

    /// The end of a task: proven, and for long enough.
    fn conclude(&self, task: &Task, deadline: Duration) -> Step {
        let doubts = self.doubts(task);
        if !doubts.is_empty() {
            return match self.now >= deadline {
                true => Step::Stop(Stop::Unproven { node: task.node, doubts }),
                false => self.wait(task, Why::Proof(doubts), Some(deadline)),
            };
        }
        if !proof::is_soaked(self.journal.watch.steady(task.node), self.policy.soak, self.now) {
            return self.wait(task, Why::Soak, None);
        }
        self.uncordoned(task)
    }

    /// The end of a task: pods may come again, if we sent them away.
    fn uncordoned(&self, task: &Task) -> Step {
        let log = self.journal.node(&self.plan.nodes[task.node].name);
        if !log.is_some_and(|log| log.cordoned) {
            return Step::Act { call: Call::Conclude, anew: false };
        }
        let attempt = log.and_then(|log| log.open.as_ref());
        match attempt.and_then(|attempt| attempt.made(&Call::Uncordon)).filter(|made| made.is_ours) {
            Some(made) if made.times >= self.policy.tries => self.failed(task, &Call::Uncordon, made),
            _ => Step::Act { call: Call::Uncordon, anew: false },
        }
    }

    /// Whether a node has come to rest by itself, and has been seen so for a while.
    fn is_well(&self, index: usize) -> bool {
        let node = &self.view.nodes[index];
        let is_whole =
            || !self.plan.nodes[index].votes || crate::guard::is_whole(&self.etcd(), index).is_empty();
        node.is_steady()
            && node.marked != Some(true)
            && is_whole()
            && proof::is_soaked(self.journal.watch.steady(index), self.policy.soak, self.now)
    }

    /// All that is in doubt about the node of a task.
    fn doubts(&self, task: &Task) -> Vec<Doubt> {
        let mut doubts = proof::doubts(&task.expect, self.node(task));
        if task.work.changes() && self.plan.nodes[task.node].votes {
            let reasons = crate::guard::is_whole(&self.etcd(), task.node);
            if !reasons.is_empty() {
                doubts.push(Doubt::Etcd(reasons));
            }
        }
        doubts
    }

    fn node(&self, task: &Task) -> &NodeView {
        &self.view.nodes[task.node]
    }

    fn etcd(&self) -> EtcdView<'_> {
        let nodes = self.plan.nodes.iter().zip(&self.view.nodes).enumerate();
        let voters = nodes
            .filter(|(_, (node, _))| node.votes)
            .map(|(index, (_, seen))| (index, seen.etcd.as_ref().filter(|_| seen.answers)))
            .collect();
        EtcdView { voters, floor: self.journal.watch.floor(), max_lag: self.policy.max_lag }
    }

    /// A moment, but not before this process began: whatever waits, waits anew with each.
    fn since(&self, moment: Duration) -> Duration {
        moment.max(self.journal.run_began().unwrap_or_default())
    }

    fn wait(&self, task: &Task, why: Why, until: Option<Duration>) -> Step {
        Step::Wait(Pending { node: Some(task.node), why, until })
    }

    fn failed(&self, task: &Task, call: &Call, made: &Made) -> Step {
        let why = made.why.clone().unwrap_or_else(|| "nobody knows whether it was done".into());
        Step::Stop(Stop::Failed { node: task.node, call: call.name().into(), why })
    }
}
