//! The etcd gate: may this control plane go away?
//!
//! Talos from 1.13 on does not ask that in its upgrade call, and never did for reboots. What is asked here:
//!
//! - every member but the target has started, answers for itself, is free of errors and alarms, and votes;
//! - all of them see the same members and follow the same leader;
//! - none lags, and none tells old news;
//! - without the target, they are a quorum of all voters.
//!
//! The target itself may be in any state: that is how a dead member is repaired.
//!
//! **Old news.** A node may answer with what was true a minute ago. Each view of a member has to be at least as far as
//! the furthest member was in an *earlier* look (the floor): a word that was spoken before that look cannot be.
//! etcd under Kubernetes agrees on entries all the time, and the lock on rollouts is renewed through it.

use std::collections::BTreeSet;
use std::fmt;

use crate::view::{Etcd, Member};

/// The members of etcd, each by its own word.
#[derive(Debug, Clone)]
pub struct EtcdView<'a> {
    /// The nodes that have a member, in the order of the plan: index of the node, and what its member says.
    pub voters: Vec<(usize, Option<&'a Etcd>)>,
    /// How far the furthest member was in an earlier look; `None` without one.
    pub floor: Option<u64>,
    /// Most entries that a member may be behind the others.
    pub max_lag: u64,
}

/// Whether something may be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Go {
        /// What is left while it is done.
        left: Left,
    },
    /// It may, because the operator accepts that etcd has no quorum meanwhile.
    Outage {
        /// What is left while it is done.
        left: Left,
    },
    /// It may not, for these reasons.
    Closed(Vec<Reason>),
}

/// What is left of etcd without one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Healthy voters without the target.
    pub healthy: usize,
    /// All voters.
    pub voters: usize,
}

impl Left {
    /// How many must be healthy.
    pub const fn quorum(self) -> usize {
        self.voters / 2 + 1
    }
}

/// Why the gate is closed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// There was no earlier look by which old news would show.
    SecondLook,
    /// The member of a node does not answer.
    Silent(usize),
    /// It reports an error or an alarm.
    Ailing(usize),
    /// It follows no leader.
    Leaderless(usize),
    /// It is behind the others by so many entries.
    Lags(usize, u64),
    /// What it says is older than an earlier look.
    OldNews(usize),
    /// The target follows another leader than the rest, or none, and nothing new is agreed upon by the rest.
    Standstill,
    /// It sees other members than the others do.
    Split(usize),
    /// It follows another leader than the others do.
    TwoLeaders(usize),
    /// A member has not started since it was added.
    NotStarted(u64),
    /// A member does not vote yet.
    Learner(u64),
    /// A member runs on no node of the plan.
    Stranger(u64),
    /// So many healthy voters would be left, of so many, and that is no quorum.
    NoQuorum(usize, usize),
}

/// Whether the member of `target` may go away. With `accept` also where its going ends the quorum that there is.
pub fn guard(etcd: &EtcdView<'_>, target: usize, accept: bool) -> Verdict {
    let mut reasons = BTreeSet::new();
    if etcd.floor.is_none() {
        reasons.insert(Reason::SecondLook);
    }
    let others = || etcd.voters.iter().filter(|(node, _)| *node != target);
    let furthest = etcd.voters.iter().filter_map(|(_, it)| it.as_ref()).map(|it| it.index).max().unwrap_or(0);
    let reference = others().find_map(|(_, it)| *it);
    for (node, said) in others() {
        let Some(said) = said else {
            reasons.insert(Reason::Silent(*node));
            continue;
        };
        reasons.extend(faults(etcd, *node, said, furthest));
        if let Some(reference) = reference {
            if reference.members != said.members {
                reasons.insert(Reason::Split(*node));
            }
            if reference.leader != said.leader {
                reasons.insert(Reason::TwoLeaders(*node));
            }
        }
    }
    let own = etcd.voters.iter().find(|(node, _)| *node == target).and_then(|(_, it)| *it);
    // The target may be what is ill. Or it is the only one that does not tell old news: then nothing is agreed upon any more.
    let disagrees = own.zip(reference).is_some_and(|(own, other)| own.leader != other.leader);
    let furthest_other = others().filter_map(|(_, it)| it.as_ref()).map(|it| it.applied).max();
    if disagrees && furthest_other <= etcd.floor {
        reasons.insert(Reason::Standstill);
    }
    // A cluster of one has nobody else to tell.
    let members: &[Member] = reference.or(own).map_or(&[], |it| &it.members);
    reasons.extend(strangers(etcd, target, own, members));
    let voters = members.iter().filter(|member| !member.learner).count().max(etcd.voters.len());
    let left = Left { healthy: others().filter(|(_, it)| it.is_some()).count(), voters };
    if !reasons.is_empty() {
        return Verdict::Closed(reasons.into_iter().collect());
    }
    match (left.healthy >= left.quorum(), accept) {
        (true, _) => Verdict::Go { left },
        (false, true) => Verdict::Outage { left },
        (false, false) => Verdict::Closed(vec![Reason::NoQuorum(left.healthy, left.voters)]),
    }
}

/// Whether all members are well, the target too: what is asked when it is back.
pub fn is_whole(etcd: &EtcdView<'_>, target: usize) -> Vec<Reason> {
    let mut reasons: BTreeSet<Reason> = match guard(etcd, target, true) {
        Verdict::Closed(reasons) => reasons.into_iter().collect(),
        Verdict::Go { .. } | Verdict::Outage { .. } => BTreeSet::new(),
    };
    let furthest = etcd.voters.iter().filter_map(|(_, it)| it.as_ref()).map(|it| it.index).max().unwrap_or(0);
    let reference = etcd.voters.iter().filter(|(node, _)| *node != target).find_map(|(_, it)| it.as_ref());
    match etcd.voters.iter().find(|(node, _)| *node == target) {
        Some((_, Some(own))) => {
            reasons.extend(faults(etcd, target, own, furthest));
            if reference.is_some_and(|it| it.members != own.members) {
                reasons.insert(Reason::Split(target));
            }
            if reference.is_some_and(|it| it.leader != own.leader) {
                reasons.insert(Reason::TwoLeaders(target));
            }
        }
        Some((_, None)) => {
            reasons.insert(Reason::Silent(target));
        }
        None => {}
    }
    reasons.into_iter().collect()
}

/// What is wrong with one member by its own word.
fn faults(etcd: &EtcdView<'_>, node: usize, said: &Etcd, furthest: u64) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if said.ailing {
        reasons.push(Reason::Ailing(node));
    }
    if said.leader == 0 {
        reasons.push(Reason::Leaderless(node));
    }
    let behind = furthest.saturating_sub(said.applied);
    if behind > etcd.max_lag {
        reasons.push(Reason::Lags(node, behind));
    }
    if etcd.floor.is_some_and(|floor| said.applied < floor) {
        reasons.push(Reason::OldNews(node));
    }
    reasons
}

/// Members that nobody answers for, that have not started, or that do not vote. The target's own may be any of it.
fn strangers(etcd: &EtcdView<'_>, target: usize, own: Option<&Etcd>, members: &[Member]) -> Vec<Reason> {
    let known: BTreeSet<u64> = etcd.voters.iter().filter_map(|(_, it)| Some(it.as_ref()?.id)).collect();
    let mut reasons = Vec::new();
    // A target that does not answer is one of those that nobody answers for.
    let mut spare = usize::from(own.is_none() && etcd.voters.iter().any(|(node, _)| *node == target));
    for member in members {
        if own.is_some_and(|own| own.id == member.id) {
            continue;
        }
        if !known.contains(&member.id) {
            if spare > 0 {
                spare -= 1;
                continue;
            }
            reasons.push(Reason::Stranger(member.id));
        }
        if !member.started {
            reasons.push(Reason::NotStarted(member.id));
        }
        if member.learner {
            reasons.push(Reason::Learner(member.id));
        }
    }
    reasons
}

impl Reason {
    /// In words. `name` gives the name of a node.
    pub fn describe<'a>(&self, name: impl Fn(usize) -> &'a str) -> String {
        match self {
            Self::SecondLook => "etcd was looked at only once".to_owned(),
            Self::Silent(node) => format!("the etcd member of {} does not answer", name(*node)),
            Self::Ailing(node) => format!("the etcd member of {} reports an error or an alarm", name(*node)),
            Self::Leaderless(node) => format!("the etcd member of {} has no leader", name(*node)),
            Self::Lags(node, by) => format!("the etcd member of {} is {by} entries behind", name(*node)),
            Self::OldNews(node) => {
                format!("what the etcd member of {} says is older than the look before", name(*node))
            }
            Self::Standstill => {
                "etcd agrees on nothing new, and its members do not agree who leads".to_owned()
            }
            Self::Split(node) => {
                format!("the etcd member of {} sees other members than the rest do", name(*node))
            }
            Self::TwoLeaders(node) => {
                format!("the etcd member of {} follows another leader than the rest do", name(*node))
            }
            Self::NotStarted(id) => format!("the etcd member {id:016x} has not started"),
            Self::Learner(id) => format!("the etcd member {id:016x} does not vote yet"),
            Self::Stranger(id) => format!("the etcd member {id:016x} runs on no node that is known"),
            Self::NoQuorum(healthy, voters) => {
                let quorum = voters / 2 + 1;
                format!("{healthy} of {voters} voters would be left, and etcd needs {quorum}")
            }
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} voters stay up, {} are needed", self.healthy, self.voters, self.quorum())
    }
}

#[cfg(test)]
mod tests;
