//! Configs that take effect without a reboot.

use std::time::Duration;

use super::{Case, Step, Stop, Why};
use crate::action::Call;
use crate::journal::{Attempt, Ended, Made};
use crate::plan::{Task, Work};
use crate::proof::Doubt;

/// Which part of a trial, at its end, is too late to keep it: the call has to arrive in time.
const KEEP_MARGIN: u32 = 4;

impl Case<'_> {
    /// Applied at once.
    pub(super) fn live(&self, task: &Task, attempt: &Attempt) -> Step {
        if self.is_applied(task) {
            return self.conclude(task, self.since(attempt.last_change()) + self.policy.gate);
        }
        if let Some(hindrance) = self.gate(task).or_else(|| self.snapshot(task, Some(attempt))) {
            return hindrance;
        }
        match attempt.made(&Call::Apply).filter(|made| made.is_ours) {
            Some(made) if made.outcome == Some(Ended::Refused) || made.times >= self.policy.tries => {
                self.failed(task, &Call::Apply, made)
            }
            // It took it, and has something else now.
            Some(made) if made.is_done() => self.conclude(task, made.began + self.policy.gate),
            _ => self.changed(task).unwrap_or(Step::Act { call: Call::Apply, anew: false }),
        }
    }

    /// Applied for a while, looked at from both sides, and kept. Nothing else is applied to the node meanwhile, as that
    /// would make it stay.
    pub(super) fn tried(&self, task: &Task, attempt: &Attempt) -> Step {
        if self.is_applied(task) {
            return self.conclude(task, self.since(attempt.last_change()) + self.policy.gate);
        }
        let Some(made) = attempt.made(&Call::Try) else {
            let hindrance = self.gate(task).or_else(|| self.snapshot(task, Some(attempt)));
            let first = hindrance.or_else(|| self.changed(task));
            return first.unwrap_or(Step::Act { call: Call::Try, anew: false });
        };
        if made.outcome == Some(Ended::Refused) {
            return match made.is_ours {
                true => self.failed(task, &Call::Try, made),
                false => self.start(task),
            };
        }
        if let Some(until) = self.tried_until(task) {
            return self.on_trial(task, attempt, made, until);
        }
        if !self.node(task).answers {
            return self.silent(task, attempt);
        }
        if let Some(lingers) = self.lingers(task, made) {
            return lingers;
        }
        // It has gone away by itself.
        let is_seen = attempt.made(&Call::CheckWays).filter(|made| made.is_ours);
        match is_seen {
            Some(seen) if !seen.is_done() => self.failed(task, &Call::CheckWays, seen),
            // The node may have been out of reach with it, and would be again.
            _ if made.is_ours && made.outcome == Some(Ended::Unknown) => self.failed(task, &Call::Try, made),
            _ if self
                .journal
                .node(&self.plan.nodes[task.node].name)
                .is_some_and(|log| log.attempts >= self.policy.tries) =>
            {
                Step::Stop(Stop::Unproven { node: task.node, doubts: vec![Doubt::Config] })
            }
            _ => self.start(task),
        }
    }

    /// The trial should be over, and the node still runs with what was tried.
    fn lingers(&self, task: &Task, made: &Made) -> Option<Step> {
        let Work::Configure { to, .. } = task.work else { return None };
        if self.node(task).active != Some(to) {
            return None;
        }
        let until = made.ended.unwrap_or(made.began) + self.policy.trial + self.policy.gate;
        Some(match self.now >= until {
            true => Step::Stop(Stop::Unproven { node: task.node, doubts: vec![Doubt::Config] }),
            false => self.wait(task, Why::Trial, Some(until)),
        })
    }

    fn on_trial(&self, task: &Task, attempt: &Attempt, made: &Made, until: Duration) -> Step {
        let fades = self.wait(task, Why::Trial, Some(until));
        let ends = made.began + self.policy.trial;
        let is_in_time = made.is_ours && made.is_done() && self.now + self.policy.trial / KEEP_MARGIN <= ends;
        if !is_in_time || attempt.made(&Call::Keep).is_some() {
            return fades;
        }
        match attempt.made(&Call::CheckWays).filter(|made| made.is_ours) {
            None => Step::Act { call: Call::CheckWays, anew: false },
            Some(seen) if seen.is_done() => Step::Act { call: Call::Keep, anew: false },
            Some(_) => fades,
        }
    }

    /// Whether the config of a task is active and on the disk.
    fn is_applied(&self, task: &Task) -> bool {
        let Work::Configure { to, .. } = task.work else { return false };
        let node = self.node(task);
        node.answers && node.active == Some(to) && node.persistent == Some(to)
    }
}
