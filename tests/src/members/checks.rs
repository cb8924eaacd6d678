//! What must hold when a history is over and its wounds are healed.

use std::collections::{BTreeMap, BTreeSet};

use ichor_mesh::membership::Membership;
use ichor_mesh::record::{IdentityKey, RecordId};
use ichor_mesh::roster::{Settled, Status};

use super::world::{NodeId, World};

/// What a history knows of each identity that it made.
#[derive(Debug, Clone)]
pub(super) struct Fate {
    /// The token that it holds.
    pub(super) grant: RecordId,
    /// How often that may be used.
    pub(super) uses: u16,
    /// An owner ended it, it left, or its machine was made anew: it is not there any more. Whether others know is
    /// another question: who leaves alone in its part of the network is only missed.
    pub(super) gone: bool,
    /// It must never be a member: its token was no good from the beginning.
    pub(super) never: bool,
}

/// What holds about the world, in words if it does not.
pub(super) fn violations(world: &World, fates: &BTreeMap<IdentityKey, Fate>) -> Vec<String> {
    let active = active(world, fates);
    let disputed = disputed(world, &active);
    let mut found = Vec::new();
    same_rosters(world, &active, &mut found);
    same_statuses(world, &active, &disputed, &mut found);
    // Who lost a dispute is talked to by nobody, and cannot learn.
    let heard = |node: &NodeId| !disputed.contains(membership(world, *node).identity());
    let undisputed: Vec<_> = active.iter().copied().filter(heard).collect();
    clean_tables(world, &undisputed, fates, &mut found);
    nobody_evicted(world, &active, fates, &disputed, &mut found);
    tokens_spent_once(world, &active, fates, &disputed, &mut found);
    found
}

/// Whether all that reach each other know the same.
pub(super) fn agree(world: &World, fates: &BTreeMap<IdentityKey, Fate>) -> bool {
    let active = active(world, fates);
    let mut found = Vec::new();
    same_rosters(world, &active, &mut found);
    nobody_evicted(world, &active, fates, &disputed(world, &active), &mut found);
    found.is_empty()
}

fn membership(world: &World, node: NodeId) -> &Membership {
    world.membership(node).expect("an active node is on")
}

/// Members that nobody ended, but for outcasts: if the one that let a node in was lost before it told the others, or lost a
/// dispute, and if name, address or token have another holder by now, the others do not talk to that node.
fn active(world: &World, fates: &BTreeMap<IdentityKey, Fate>) -> Vec<NodeId> {
    let members = world.members().into_iter();
    let there: Vec<_> = members.filter(|node| !fates[membership(world, *node).identity()].gone).collect();
    let mainland = mainland(world, &there);
    let is_outcast = |node: &NodeId| {
        let Some(settled) = membership(world, *node).settled() else { return false };
        let (member, grant) = (&settled.member.member, &settled.grant);
        let others = || {
            let others = mainland.iter().filter(|other| *other != node);
            others.map(|other| membership(world, *other).roster())
        };
        let is_known = others().any(|roster| roster.settled(&settled.identity()).is_some());
        let has_rival = others().any(|roster| {
            roster.is_taken(&member.name, member.address, None)
                || roster.uses(&grant.id) >= usize::from(grant.grant.uses)
                || roster.is_token_revoked(grant)
        });
        !is_known && has_rival
    };
    there.iter().copied().filter(|node| !is_outcast(node)).collect()
}

/// The most that can talk to each other, be it by way of others.
fn mainland(world: &World, nodes: &[NodeId]) -> BTreeSet<NodeId> {
    let mut largest = BTreeSet::new();
    for start in nodes {
        if largest.contains(start) {
            continue;
        }
        let (mut reached, mut next) = (BTreeSet::from([*start]), vec![*start]);
        while let Some(node) = next.pop() {
            for other in nodes.iter().filter(|other| world.mutual(node, **other)) {
                if reached.insert(*other) {
                    next.push(*other);
                }
            }
        }
        if reached.len() > largest.len() {
            largest = reached;
        }
    }
    largest
}

/// Those about whose name, address or token there is a dispute that an owner has to settle.
fn disputed(world: &World, active: &[NodeId]) -> BTreeSet<IdentityKey> {
    let mut disputed = BTreeSet::new();
    for node in active {
        for (identity, status) in membership(world, *node).roster().statuses() {
            match status {
                Status::Conflict { with } => disputed.extend([*identity, *with]),
                Status::Overused => {
                    disputed.insert(*identity);
                }
                _ => {}
            }
        }
    }
    disputed
}

fn same_rosters(world: &World, active: &[NodeId], found: &mut Vec<String>) {
    for (n, a) in active.iter().enumerate() {
        for b in &active[n + 1..] {
            let (one, two) = (membership(world, *a), membership(world, *b));
            if world.mutual(*a, *b) && !one.roster().digests().eq(two.roster().digests()) {
                found.push(format!("{a:?} and {b:?} know different records"));
            }
        }
    }
}

fn same_statuses(
    world: &World,
    active: &[NodeId],
    disputed: &BTreeSet<IdentityKey>,
    found: &mut Vec<String>,
) {
    let Some(first) = active.iter().find(|node| !disputed.contains(membership(world, **node).identity()))
    else {
        return;
    };
    for other in active {
        if !world.mutual(*first, *other) {
            continue;
        }
        let (one, two) = (membership(world, *first).roster(), membership(world, *other).roster());
        for (identity, status) in one.statuses() {
            if !disputed.contains(identity) && two.status(identity) != Some(status) {
                found.push(format!("{first:?} and {other:?} differ about {identity:?}: {status:?}"));
            }
        }
    }
}

/// No key that was forged, and none that anybody knows to be barred.
fn clean_tables(
    world: &World,
    active: &[NodeId],
    fates: &BTreeMap<IdentityKey, Fate>,
    found: &mut Vec<String>,
) {
    let mut barred = BTreeSet::new();
    for node in active {
        for (identity, status) in membership(world, *node).roster().statuses() {
            if matches!(status, Status::Revoked | Status::Left | Status::Replaced { .. }) {
                barred.insert(*identity);
            }
        }
    }
    for node in active {
        for (identity, key) in world.peer_table(*node) {
            let honest = world.honest.get(&identity).is_some_and(|honest| *honest.as_bytes() == key);
            let fate = fates.get(&identity);
            if !honest || barred.contains(&identity) || fate.is_none_or(|fate| fate.never) {
                found.push(format!("{node:?} has {identity:?} as a peer: {fate:?}"));
            }
        }
    }
}

/// Whoever is a member and was not ended is installed everywhere.
fn nobody_evicted(
    world: &World,
    active: &[NodeId],
    fates: &BTreeMap<IdentityKey, Fate>,
    disputed: &BTreeSet<IdentityKey>,
    found: &mut Vec<String>,
) {
    let undisputed: Vec<_> =
        active.iter().filter(|node| !disputed.contains(membership(world, **node).identity())).collect();
    for a in &undisputed {
        for b in &undisputed {
            let identity = membership(world, **b).identity();
            if a != b && !membership(world, **a).roster().is_member(identity) {
                let fate = &fates[identity];
                found.push(format!("{a:?} has not installed {b:?}, {identity:?}: {fate:?}"));
            }
        }
    }
}

/// Nobody has more members of one token than it may make, and all that agree have the same.
fn tokens_spent_once(
    world: &World,
    active: &[NodeId],
    fates: &BTreeMap<IdentityKey, Fate>,
    disputed: &BTreeSet<IdentityKey>,
    found: &mut Vec<String>,
) {
    for node in active.iter().filter(|node| !disputed.contains(membership(world, **node).identity())) {
        let mut uses: BTreeMap<RecordId, usize> = BTreeMap::new();
        for settled in membership(world, *node).roster().members() {
            *uses.entry(settled.grant.id).or_default() += 1;
        }
        for (identity, fate) in fates {
            let used = uses.get(&fate.grant).copied().unwrap_or(0);
            if used > usize::from(fate.uses) {
                found.push(format!("{node:?} has {used} members of the token of {identity:?}"));
            }
        }
    }
}

/// Who is where and what it thinks, to look into a history.
pub(super) fn picture(world: &World, fates: &BTreeMap<IdentityKey, Fate>) -> Vec<String> {
    let mut lines = Vec::new();
    for node in world.nodes() {
        let Some(membership) = world.membership(node) else {
            lines.push(format!("{node:?} is off"));
            continue;
        };
        let identity = membership.identity();
        let statuses: Vec<_> = membership
            .roster()
            .statuses()
            .map(|(identity, status)| format!("{identity:?} {status:?}"))
            .collect();
        let waiting: Vec<_> = membership
            .roster()
            .waiting()
            .map(|settled| format!("{:?} for {:?}", settled.identity(), settled.receipt.admitter))
            .collect();
        let peers: Vec<_> = membership.peers().map(|peer| peer.settled.identity()).collect();
        lines.push(format!("{node:?} waiting {waiting:?} peers {peers:?}"));
        lines.push(format!(
            "{node:?} {identity:?} member {} fate {:?} name {:?} admitter {:?} knows {statuses:?}",
            membership.is_member(),
            fates.get(identity),
            membership.settled().map(|settled| settled.member.member.name.as_str().to_owned()),
            membership.settled().map(|settled| settled.receipt.admitter),
        ));
    }
    lines
}

/// What a trace is told apart by: who is installed where, in the end.
pub(super) fn outcome(world: &World) -> Vec<IdentityKey> {
    let members = world.members().into_iter();
    members
        .flat_map(|node| {
            let roster = membership(world, node).roster();
            roster.members().map(Settled::identity).collect::<Vec<_>>()
        })
        .collect()
}
