//! Work that takes a node down and brings it back as another.

use super::{Case, Step, Stop, Why};
use crate::action::Call;
use crate::journal::{Attempt, Ended, Made};
use crate::plan::{Flow, How, Task, Work};
use crate::proof::{self, Doubt};

impl Case<'_> {
    pub(super) fn through_a_boot(&self, task: &Task, attempt: &Attempt) -> Step {
        let node = self.node(task);
        let has_booted =
            node.answers && node.boot.is_some() && attempt.boot.is_some() && node.boot != attempt.boot;
        if has_booted {
            return self.after_boot(task, attempt);
        }
        let leaving = departure(task);
        if let Some(made) = attempt.made(&leaving) {
            return self.leaving(task, attempt, &leaving, made);
        }
        if !node.answers {
            return self.silent(task, attempt);
        }
        self.before_boot(task, attempt)
    }

    /// The node is still in its old boot and was not told to leave it.
    fn before_boot(&self, task: &Task, attempt: &Attempt) -> Step {
        let written = match &task.work {
            Work::Configure { to, .. } => self.staged(task, attempt, *to),
            Work::Upgrade { flow: Flow::Lifecycle, .. } => self.installed(task, attempt),
            _ => self.prepared(task, attempt),
        };
        written.unwrap_or_else(|| self.depart(task, Some(attempt)))
    }

    /// What is asked again before anything is written.
    fn prepared(&self, task: &Task, attempt: &Attempt) -> Option<Step> {
        self.gate(task).or_else(|| self.snapshot(task, Some(attempt)))
    }

    /// The config is on the disk, or how it gets there.
    fn staged(&self, task: &Task, attempt: &Attempt, to: crate::view::Digest) -> Option<Step> {
        if self.node(task).persistent == Some(to) {
            return None;
        }
        match attempt.made(&Call::Stage).filter(|made| made.is_ours) {
            Some(made) if made.outcome == Some(Ended::Refused) || made.times >= self.policy.tries => {
                Some(self.failed(task, &Call::Stage, made))
            }
            _ => {
                let first = self.changed(task).or_else(|| self.prepared(task, attempt));
                Some(first.unwrap_or(Step::Act { call: Call::Stage, anew: false }))
            }
        }
    }

    /// The image is in the other slot, or how it gets there. It is never written twice in one boot: the second time
    /// would overwrite the slot that runs, and with it the way back.
    fn installed(&self, task: &Task, attempt: &Attempt) -> Option<Step> {
        let Some(made) = attempt.made(&Call::Install) else {
            let first = self.mark_of_others(task).or_else(|| self.prepared(task, attempt));
            return Some(first.unwrap_or(Step::Act { call: Call::Install, anew: false }));
        };
        match made.outcome {
            Some(Ended::Refused) if made.is_ours => Some(self.failed(task, &Call::Install, made)),
            // It may still be being written.
            Some(Ended::Unknown) if self.node(task).marked != Some(true) => {
                let until = made.began + self.policy.install;
                (self.now < until).then(|| self.wait(task, Why::Install, Some(until)))
            }
            _ => None,
        }
    }

    fn mark_of_others(&self, task: &Task) -> Option<Step> {
        (self.node(task).marked == Some(true)).then(|| self.wait_at_gate(task, Why::Mark))
    }

    /// The last things before the node goes down, each asked again, and then it goes.
    pub(super) fn depart(&self, task: &Task, attempt: Option<&Attempt>) -> Step {
        let leaving = departure(task);
        // The one call that does everything drains by itself.
        let drain = if leaving == Call::Upgrade { None } else { self.drain(task, attempt) };
        let first = drain.or_else(|| self.gate(task)).or_else(|| self.hand_over(task, attempt));
        first.or_else(|| self.second_look(task)).unwrap_or(Step::Act { call: leaving, anew: false })
    }

    /// It was told to leave its boot and has not come back from it.
    fn leaving(&self, task: &Task, attempt: &Attempt, leaving: &Call, made: &Made) -> Step {
        let ended = made.ended.unwrap_or(self.now);
        if made.outcome == Some(Ended::Refused) {
            return match made.is_ours {
                true => self.failed(task, leaving, made),
                false => self.again(task, attempt),
            };
        }
        if !self.node(task).answers {
            return self.silent(task, attempt);
        }
        let patience = match leaving {
            Call::Upgrade => self.policy.install,
            _ => self.policy.goodbye,
        };
        if self.now < ended + patience {
            return self.wait(task, Why::Goodbye, Some(ended + patience));
        }
        match (leaving, made.is_ours) {
            (Call::Reboot, _) if made.times < self.policy.tries => self.depart(task, Some(attempt)),
            (_, false) => self.again(task, attempt),
            _ => Step::Stop(Stop::Unproven { node: task.node, doubts: vec![Doubt::SameBoot] }),
        }
    }

    /// It does not answer: it may be on its way.
    pub(super) fn silent(&self, task: &Task, attempt: &Attempt) -> Step {
        let until = self.since(attempt.last_change()) + self.policy.boot;
        let doubts = vec![Doubt::Silent];
        match self.now >= until {
            true => Step::Stop(Stop::Unproven { node: task.node, doubts }),
            false => self.wait(task, Why::Proof(doubts), Some(until)),
        }
    }

    /// It is in another boot: is it what it should be?
    fn after_boot(&self, task: &Task, attempt: &Attempt) -> Step {
        let lasting = proof::lasting(&task.expect, self.node(task));
        let is_settled = proof::is_soaked(self.journal.watch.steady(task.node), self.policy.soak, self.now);
        if !lasting.is_empty() && is_settled && self.node(task).marked != Some(true) {
            // What an earlier process left is tried again, once. So is an image that was perhaps never written.
            let never_written = matches!(task.work, Work::Upgrade { flow: Flow::Lifecycle, .. })
                && !attempt.made(&Call::Install).is_some_and(Made::is_done);
            return match !attempt.is_ours() || never_written {
                true => self.again(task, attempt),
                false => Step::Stop(Stop::Unproven { node: task.node, doubts: self.doubts(task) }),
            };
        }
        self.conclude(task, self.since(attempt.last_change()) + self.policy.boot)
    }

    /// The whole of it once more, if it was not tried too often in this run.
    fn again(&self, task: &Task, attempt: &Attempt) -> Step {
        let log = self.journal.node(&self.plan.nodes[task.node].name);
        if log.is_some_and(|log| log.attempts >= self.policy.tries) {
            let mut doubts = self.doubts(task);
            if doubts.is_empty() {
                doubts.push(Doubt::SameBoot);
            }
            return Step::Stop(Stop::Unproven { node: task.node, doubts });
        }
        // Written and not booted: what is there is booted first.
        let wrote = attempt.made(&Call::Install).is_some() && self.node(task).boot == attempt.boot;
        match wrote {
            true => self.depart(task, Some(attempt)),
            false => self.start(task),
        }
    }
}

/// The call by which the node of a task leaves its boot.
fn departure(task: &Task) -> Call {
    match &task.work {
        Work::Upgrade { flow: Flow::Legacy, .. } => Call::Upgrade,
        Work::RollBack => Call::RollBack,
        Work::Configure { how: How::Live | How::Tried, .. }
        | Work::Configure { .. }
        | Work::Upgrade { .. }
        | Work::Reboot
        | Work::Pull { .. }
        | Work::ProveMesh => Call::Reboot,
    }
}
