//! What can be done about a node that could not be proven, mildest first, and what each step costs.
//!
//! Wiping comes last and only where the others stay a quorum: the story that this program exists for ended with the
//! wipe of the last member of etcd, while waiting would have done.

use std::fmt;

use crate::guard::{EtcdView, Left, Verdict, guard};
use crate::proof::Doubt;

/// A step that can be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rung {
    /// What it is.
    pub remedy: Remedy,
    /// What it means for the quorum of etcd.
    pub effect: Effect,
}

/// A remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remedy {
    /// Wait, and run again.
    Wait,
    /// Restart a service.
    RestartService,
    /// Send the config again that it had before.
    SendConfig,
    /// Go on with the config that it has.
    AcceptConfig,
    /// Put the config back that it had before.
    RevertConfig,
    /// Boot the image that it had before.
    RollBack,
    /// Wipe it, so that it joins as a new member.
    Wipe,
}

/// What a remedy means for the quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing changes.
    None,
    /// The member of this node is away meanwhile; so many stay.
    Away(Left),
    /// No member of etcd is concerned: the node is a worker.
    NoVoter,
}

/// The rungs for a node, mildest first. One that would leave no quorum is not among them. `configures` says whether the
/// plan changes the config of this node: only then it can be taken back.
pub fn ladder(etcd: &EtcdView<'_>, node: usize, configures: bool, doubts: &[Doubt]) -> Vec<Rung> {
    let is = |test: fn(&Doubt) -> bool| doubts.iter().any(test);
    let votes = etcd.voters.iter().any(|(voter, _)| *voter == node);
    let away = match (votes, guard(etcd, node, false)) {
        (false, _) => Some(Effect::NoVoter),
        (true, Verdict::Go { left } | Verdict::Outage { left }) => Some(Effect::Away(left)),
        (true, Verdict::Closed(_)) => None,
    };
    let mut rungs = vec![Rung { remedy: Remedy::Wait, effect: Effect::None }];
    if is(|doubt| matches!(doubt, Doubt::Daemonless | Doubt::Unmeshed(_) | Doubt::NotReady(_))) {
        rungs.push(Rung { remedy: Remedy::RestartService, effect: Effect::None });
    }
    let is_other_config = !configures && is(|doubt| matches!(doubt, Doubt::Config));
    if is_other_config {
        rungs.push(Rung { remedy: Remedy::AcceptConfig, effect: Effect::None });
    }
    let Some(effect) = away else { return rungs };
    let answers = !is(|doubt| matches!(doubt, Doubt::Silent));
    if answers && is_other_config {
        rungs.push(Rung { remedy: Remedy::SendConfig, effect });
    } else if answers
        && is(|doubt| {
            matches!(doubt, Doubt::Config | Doubt::Booting(_) | Doubt::NotReady(_) | Doubt::Advertised)
        })
    {
        rungs.push(Rung { remedy: Remedy::RevertConfig, effect });
    }
    if answers && !is(|doubt| matches!(doubt, Doubt::Version { .. } | Doubt::SameBoot)) {
        rungs.push(Rung { remedy: Remedy::RollBack, effect });
    }
    rungs.push(Rung { remedy: Remedy::Wipe, effect });
    rungs
}

impl Remedy {
    /// The command for it.
    pub fn command(self, node: &str) -> String {
        match self {
            Self::Wait => "run the same command again later".to_owned(),
            Self::RestartService => format!("ichorctl -n {node} service ext-ichor restart"),
            Self::SendConfig => format!("ichorctl -n {node} apply-config -f FILE"),
            Self::AcceptConfig => format!("run the upgrade again with --accept-config {node}"),
            Self::RevertConfig => format!("ichorctl apply --undo --only {node}"),
            Self::RollBack => format!("ichorctl rollback {node}"),
            Self::Wipe => {
                format!("ichorctl reset {node} --confirm {node} --system-labels-to-wipe EPHEMERAL --reboot")
            }
        }
    }

    /// In words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Wait => "wait: a boot may take 70 minutes until Talos gives it up and rolls back by itself",
            Self::RestartService => "restart the mesh daemon",
            Self::AcceptConfig => "take the config that it has, if that is the right one",
            Self::SendConfig => "send it the config again that it had before",
            Self::RevertConfig => "put the config back that it had before",
            Self::RollBack => "boot the image that it had before",
            Self::Wipe => "wipe its state, so that it joins etcd as a new member; the last resort",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("the quorum is not touched"),
            Self::Away(left) => write!(f, "{left}"),
            Self::NoVoter => f.write_str("it has no vote"),
        }
    }
}
