//! Which node is begun with, and whether it may be.

use std::time::Duration;

use super::{Case, Step, Stop, Why};
use crate::action::Call;
use crate::plan::{How, Task, Work};
use crate::proof::Doubt;

/// Which part of a trial more it may take until it has gone away.
const TRIAL_MARGIN: u32 = 6;

impl Case<'_> {
    /// The task to begin with: nodes that are not well first, as they may be repaired by it and are lost anyway; the
    /// leader of etcd last, as each change of the leader costs an election.
    pub(super) fn first<'t>(&self, fresh: &[&'t Task]) -> Option<&'t Task> {
        let rank = |task: &&&Task| {
            let node = self.node(task);
            let leads = node.etcd.as_ref().is_some_and(|etcd| etcd.id == etcd.leader);
            (node.is_steady(), leads)
        };
        fresh.iter().min_by_key(rank).copied()
    }

    /// The first call for the task to begin with, or what keeps it.
    pub(super) fn begin(&self, fresh: &[&Task]) -> Option<Step> {
        let task = self.first(fresh)?;
        if let Some(pause) = self.pause(task) {
            return Some(pause);
        }
        // Nothing can be done with a node that does not answer.
        if !self.node(task).answers {
            let doubts = vec![Doubt::Silent];
            let deadline = self.since(self.journal.last_change()) + self.policy.gate;
            return Some(match self.now >= deadline {
                true => Step::Stop(Stop::Unproven { node: task.node, doubts }),
                false => self.wait(task, Why::Proof(doubts), Some(deadline)),
            });
        }
        // It may be well in a moment; what is done to it then is another thing than a repair.
        let patience = self.since(self.journal.last_change()) + self.policy.gate;
        if !self.node(task).is_steady() && task.work.changes() && self.now < patience {
            let doubts = crate::proof::doubts(&task.expect, self.node(task));
            return Some(self.wait(task, Why::Proof(doubts), Some(patience)));
        }
        Some(self.start(task))
    }

    /// The first call for a task, whatever was done for it before.
    pub(super) fn start(&self, task: &Task) -> Step {
        let anew = |step| match step {
            Step::Act { call, .. } => Step::Act { call, anew: true },
            step => step,
        };
        if let Work::Pull { .. } = task.work {
            return Step::Act { call: Call::Pull, anew: true };
        }
        let hindrance = self.crowd(task).or_else(|| self.mark(task)).or_else(|| self.trial(task));
        if let Some(hindrance) = hindrance.or_else(|| self.gate(task)) {
            return hindrance;
        }
        if let Some(changed) = self.changed(task) {
            return changed;
        }
        match self.snapshot(task, None) {
            Some(step) => anew(step),
            None => anew(self.first_change(task)),
        }
    }

    fn pause(&self, task: &Task) -> Option<Step> {
        let until = self.journal.last_conclusion()? + self.policy.pause;
        (task.work.changes() && self.now < until).then(|| self.wait(task, Why::Pause, None))
    }

    /// Too many others are away.
    fn crowd(&self, task: &Task) -> Option<Step> {
        if self.plan.nodes[task.node].votes {
            // Whether the others are well is asked at the gate. That none of them is in the middle of something:
            let other = self.journal.open_attempts().find_map(|(name, attempt)| {
                let index = self.plan.nodes.iter().position(|node| node.name == *name)?;
                let is_other = self.plan.nodes[index].votes && index != task.node;
                (is_other && (attempt.is_ours() || !self.is_well(index))).then_some(index)
            })?;
            return Some(self.wait_at_gate(task, Why::Other(other)));
        }
        if !task.work.reboots() {
            return None;
        }
        let away: Vec<usize> = (0..self.plan.nodes.len())
            .filter(|index| *index != task.node && !self.plan.nodes[*index].votes && self.is_away(*index))
            .collect();
        (away.len() >= self.policy.max_unavailable).then(|| self.wait_at_gate(task, Why::Unavailable(away)))
    }

    fn is_away(&self, index: usize) -> bool {
        let node = &self.view.nodes[index];
        let is_open = self.journal.is_open(&self.plan.nodes[index].name);
        let is_cordoned = node.kubernetes.is_some_and(|it| !it.ready || !it.schedulable);
        is_open || is_cordoned || !node.is_steady()
    }

    /// The next reboot would bring something that this plan did not put there.
    fn mark(&self, task: &Task) -> Option<Step> {
        let is_marked = self.node(task).marked == Some(true);
        is_marked.then(|| self.wait_at_gate(task, Why::Mark))
    }

    /// A config that is being tried there goes away by itself: any call that applies would make it stay.
    fn trial(&self, task: &Task) -> Option<Step> {
        let until = self.tried_until(task)?;
        Some(self.wait(task, Why::Trial, Some(until)))
    }

    /// Until when a config may be being tried on the node of a task.
    pub(super) fn tried_until(&self, task: &Task) -> Option<Duration> {
        let log = self.journal.node(&self.plan.nodes[task.node].name)?;
        let attempt = log.open.as_ref()?;
        let made = attempt.made(&Call::Try)?;
        let is_kept = attempt.made(&Call::Keep).is_some_and(super::Made::is_done);
        let until = made.ended.unwrap_or(self.now) + self.policy.trial + self.policy.trial / TRIAL_MARGIN;
        (made.outcome != Some(super::Ended::Refused) && !is_kept && self.now < until).then_some(until)
    }

    /// Somebody else changed the config since the plan was made.
    pub(super) fn changed(&self, task: &Task) -> Option<Step> {
        let node = self.node(task);
        let Work::Configure { from, to, how } = &task.work else {
            // It would be found afterwards, too; now the node is still up.
            let is_other =
                task.expect.config.is_some_and(|config| node.active.is_some_and(|it| it != config));
            let doubts = vec![Doubt::Config];
            return is_other.then_some(Step::Stop(Stop::Unproven { node: task.node, doubts }));
        };
        let is_staged = *how == How::Staged && node.persistent == Some(*to);
        let is_known = node.active == Some(*from) && (node.persistent == Some(*from) || is_staged);
        (!is_known).then_some(Step::Stop(Stop::Changed { node: task.node }))
    }

    /// The call that first changes something.
    fn first_change(&self, task: &Task) -> Step {
        match &task.work {
            Work::Configure { how: How::Live, .. } => Step::Act { call: Call::Apply, anew: false },
            Work::Configure { how: How::Tried, .. } => Step::Act { call: Call::Try, anew: false },
            Work::Configure { how: How::Staged, to, .. } => match self.node(task).persistent == Some(*to) {
                true => self.depart(task, None),
                false => Step::Act { call: Call::Stage, anew: false },
            },
            Work::Upgrade { flow: crate::plan::Flow::Lifecycle, .. } => {
                Step::Act { call: Call::Install, anew: false }
            }
            Work::Upgrade { .. } | Work::Reboot | Work::RollBack => self.depart(task, None),
            Work::Pull { .. } => Step::Act { call: Call::Pull, anew: false },
            Work::ProveMesh => Step::Act { call: Call::Conclude, anew: false },
        }
    }
}
