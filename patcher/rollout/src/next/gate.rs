//! What is asked before a control plane is touched.

use std::time::Duration;

use super::{Case, Step, Stop, Why};
use crate::action::Call;
use crate::guard::{self, Verdict};
use crate::journal::{Attempt, Ended};
use crate::plan::Task;

impl Case<'_> {
    /// What stands in the way of touching the node of a task; `None` when nothing does. Workers are nobody's voters.
    pub(super) fn gate(&self, task: &Task) -> Option<Step> {
        if !self.plan.nodes[task.node].votes {
            return None;
        }
        let why = self.unsettled(task.node).map(Why::Other).or_else(|| {
            let accept = self.policy.accept_outage.contains(&task.node);
            match guard::guard(&self.etcd(), task.node, accept) {
                Verdict::Go { .. } | Verdict::Outage { .. } => None,
                Verdict::Closed(reasons) => Some(Why::Gate(reasons)),
            }
        })?;
        Some(self.wait_at_gate(task, why))
    }

    /// Before a control plane goes down etcd is looked at twice after whatever was done last. What a node says in the second
    /// look has to be newer than the first, so old news from longer ago show. Those that began in between cannot.
    pub(super) fn second_look(&self, task: &Task) -> Option<Step> {
        let is_second =
            self.journal.watch.before().is_some_and(|before| before >= self.journal.last_change());
        let votes = self.plan.nodes[task.node].votes;
        (votes && !is_second).then(|| self.wait(task, Why::Look, None))
    }

    /// Waits for the gate, and gives up when it stays closed.
    pub(super) fn wait_at_gate(&self, task: &Task, why: Why) -> Step {
        let deadline = self.gate_deadline();
        match self.now >= deadline {
            true => Step::Stop(Stop::Gate { node: task.node, why }),
            false => self.wait(task, why, Some(deadline)),
        }
    }

    fn gate_deadline(&self) -> Duration {
        // While it waits nothing else changes: no other node is in the middle of anything.
        self.since(self.journal.last_change()) + self.policy.gate
    }

    /// Another control plane that is not well, or in the middle of an upgrade.
    fn unsettled(&self, target: usize) -> Option<usize> {
        let nodes = self.plan.nodes.iter().zip(&self.view.nodes).enumerate();
        let mut others = nodes.filter(|(index, (node, _))| node.votes && *index != target);
        others.find(|(_, (_, seen))| !seen.is_steady() || seen.marked == Some(true)).map(|(index, _)| index)
    }

    /// The snapshot of etcd that each change of a control plane begins with.
    pub(super) fn snapshot(&self, task: &Task, attempt: Option<&Attempt>) -> Option<Step> {
        if !self.plan.nodes[task.node].votes {
            return None;
        }
        let made = attempt.and_then(|attempt| attempt.made(&Call::Snapshot { from: 0 }));
        match made.filter(|made| made.is_ours) {
            Some(made) if made.is_done() => return None,
            Some(made) if made.times >= self.policy.tries => {
                return Some(self.failed(task, &Call::Snapshot { from: 0 }, made));
            }
            _ => {}
        }
        let from = self.most_advanced(task.node).unwrap_or(task.node);
        Some(Step::Act { call: Call::Snapshot { from }, anew: false })
    }

    /// The voter that has applied most; the target only when there is no other.
    fn most_advanced(&self, target: usize) -> Option<usize> {
        let etcd = self.etcd();
        let said = etcd.voters.iter().filter_map(|(node, it)| Some((*node, it.as_ref()?.applied)));
        let best = said.max_by_key(|(node, applied)| (*node != target, *applied, usize::MAX - node));
        best.map(|(node, _)| node)
    }

    /// The lead of etcd goes to another member before its node goes down. That it does not want to go is no reason to
    /// stay: an election takes a second.
    pub(super) fn hand_over(&self, task: &Task, attempt: Option<&Attempt>) -> Option<Step> {
        let voters = self.plan.nodes.iter().filter(|node| node.votes).count();
        let own = self.node(task).etcd.as_ref()?;
        if !self.plan.nodes[task.node].votes || voters < 2 || own.leader != own.id {
            return None;
        }
        let made = attempt.and_then(|attempt| attempt.made(&Call::HandOver)).filter(|made| made.is_ours);
        let tries = made.map_or(0, |made| made.times);
        (tries < self.policy.tries).then_some(Step::Act { call: Call::HandOver, anew: false })
    }

    /// Pods leave before the node does.
    pub(super) fn drain(&self, task: &Task, attempt: Option<&Attempt>) -> Option<Step> {
        if !self.policy.drain {
            return None;
        }
        let made = attempt.and_then(|attempt| attempt.made(&Call::Drain)).filter(|made| made.is_ours);
        match made {
            Some(made) if made.is_done() => None,
            Some(made) if made.outcome == Some(Ended::Refused) || made.times >= self.policy.tries => {
                Some(self.failed(task, &Call::Drain, made))
            }
            _ => Some(Step::Act { call: Call::Drain, anew: false }),
        }
    }
}
