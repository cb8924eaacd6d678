//! What must hold when a history is over and its wounds are healed.

use std::collections::{BTreeMap, BTreeSet};

use ichor_mesh::membership::Membership;
use ichor_mesh::record::tombstone::End;
use ichor_mesh::record::{IdentityKey, OwnerKey, RecordId};
use ichor_mesh::roster::{Item, Settled, Status};

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
    /// It is ephemeral and ended without a word: nobody must have it as a member in the end.
    pub(super) lapsed: bool,
}

/// What holds about the world, in words if it does not.
pub(super) fn violations(world: &World, fates: &BTreeMap<IdentityKey, Fate>) -> Vec<String> {
    let mut found = Vec::new();
    look(world, fates, &mut found);
    for part in &Parts::of(world, fates).0 {
        let disputed = disputed(world, part);
        part.iter().for_each(|node| sound_roster(world, *node, &mut found));
        same_judgement_of_uses(world, part, &mut found);
        same_statuses(world, part, &disputed, &mut found);
        clean_tables(world, &heard(world, part, &disputed), fates, &mut found);
        tokens_spent_once(world, part, fates, &disputed, &mut found);
    }
    found
}

/// Whether all that reach each other know the same.
pub(super) fn agree(world: &World, fates: &BTreeMap<IdentityKey, Fate>) -> bool {
    let mut found = Vec::new();
    look(world, fates, &mut found);
    found.is_empty()
}

/// What may take its time.
fn look(world: &World, fates: &BTreeMap<IdentityKey, Fate>, found: &mut Vec<String>) {
    let parts = Parts::of(world, fates);
    if let Some((a, b)) = parts.torn(world) {
        found.push(format!("{a:?} and {b:?} stay apart"));
    }
    for part in &parts.0 {
        same_rosters(world, part, found);
        let disputed = disputed(world, part);
        nobody_evicted(world, part, fates, &disputed, found);
        let heard = heard(world, part, &disputed);
        lapsed_are_gone(world, &heard, fates, found);
        own_word_counts(world, &heard, found);
        keys_are_new(world, &heard, found);
    }
}

/// Those of a part that are in no dispute: who lost one is talked to by nobody, and cannot learn.
fn heard(world: &World, part: &[NodeId], disputed: &BTreeSet<IdentityKey>) -> Vec<NodeId> {
    part.iter().copied().filter(|node| !disputed.contains(membership(world, *node).identity())).collect()
}

fn membership(world: &World, node: NodeId) -> &Membership {
    world.membership(node).expect("an active node is on")
}

/// The parts of the network: those who know each other, be it by way of others. In the end there should be one.
///
/// Two parts may stay *apart* only where of every two one cannot let in the other: that one lost a dispute there, or it is
/// unknown, because those that knew it are gone, while somebody has its name or address, or its token is spent or
/// revoked, or its owner is none any more. Only an owner can decide between the two. Where but two could have let each
/// other in, they must have done so, and both parts are one. Who has no record that proves its own place can let nobody
/// in, and is let in by whoever may. Two that have no hello key in common cannot hear each other: they meet where there is a
/// third that neither of them keeps apart from.
struct Parts(Vec<Vec<NodeId>>);

impl Parts {
    fn of(world: &World, fates: &BTreeMap<IdentityKey, Fate>) -> Self {
        let mut left: BTreeSet<NodeId> = there(world, fates).into_iter().collect();
        let mut parts = Vec::new();
        while let Some(start) = left.pop_first() {
            let (mut part, mut next) = (vec![start], vec![start]);
            while let Some(node) = next.pop() {
                let found: Vec<_> =
                    left.iter().copied().filter(|other| acquainted(world, node, *other)).collect();
                found.iter().for_each(|other| _ = left.remove(other));
                part.extend(&found);
                next.extend(found);
            }
            parts.push(part);
        }
        // The largest first, and of those that of the first node.
        parts.sort_by_key(|part| (std::cmp::Reverse(part.len()), part[0]));
        Self(parts)
    }

    /// Two that are apart and should not be.
    fn torn(&self, world: &World) -> Option<(NodeId, NodeId)> {
        let nodes = self.0.iter().enumerate().flat_map(|(n, part)| part.iter().map(move |node| (n, *node)));
        let nodes: Vec<_> = nodes.collect();
        let pairs = nodes.iter().flat_map(|one| nodes.iter().map(move |two| (one, two)));
        let mut apart = pairs.filter(|(one, two)| one.0 < two.0);
        let could_hear = |one, two| {
            let third = |via| via != one && via != two && !keeps_apart(world, via, one);
            let is_introduced = nodes.iter().any(|(_, via)| third(*via) && !keeps_apart(world, *via, two));
            hears(world, one, two) || hears(world, two, one) || is_introduced
        };
        let should = |one, two| should_have_met(world, one, two) && could_hear(one, two);
        let torn = apart.find(|(one, two)| should(one.1, two.1));
        torn.map(|(one, two)| (one.1, two.1))
    }
}

/// Whether neither of two shuts out the other, and one could have let the other in.
fn should_have_met(world: &World, one: NodeId, two: NodeId) -> bool {
    // Who was put behind lets nobody in, and what it calls for is a member: two that are none may never hear each other.
    let is_put_behind = |node| membership(world, node).is_put_behind();
    if is_put_behind(one) && !is_installed(world, two) || is_put_behind(two) && !is_installed(world, one) {
        return false;
    }
    let may_let_in = has_place(world, one) || has_place(world, two);
    may_let_in && !keeps_apart(world, one, two)
}

/// Whether one of two shuts out the other.
fn keeps_apart(world: &World, one: NodeId, two: NodeId) -> bool {
    is_shut(world, one, two) || is_shut(world, two, one)
}

/// Whether `caller` knows a hello key of `node`: whoever was cut off when keys changed, and found nobody of the others since
/// then, has none in common with who came later.
fn hears(world: &World, node: NodeId, caller: NodeId) -> bool {
    let called = membership(world, caller).calls_to();
    membership(world, node).hello_keys().publics().any(|key| called.contains(&key))
}

/// Whether a node is a member in its own eyes.
fn is_installed(world: &World, node: NodeId) -> bool {
    let membership = membership(world, node);
    membership.roster().is_member(membership.identity())
}

/// Whether a node has a record that proves its own place.
fn has_place(world: &World, node: NodeId) -> bool {
    let membership = membership(world, node);
    membership.roster().status(membership.identity()).is_some()
}

/// Whether `stranger` has lost a dispute in the eyes of `node`, or is unknown to it and cannot be let in.
fn is_shut(world: &World, node: NodeId, stranger: NodeId) -> bool {
    let Some(settled) = membership(world, stranger).settled() else { return false };
    let (member, grant) = (&settled.member.member, &settled.grant);
    let roster = membership(world, node).roster();
    match roster.status(&settled.identity()) {
        Some(status) => matches!(status, Status::Conflict { .. } | Status::Overused),
        None if !has_place(world, node) => false,
        None => {
            roster.is_taken(&member.name, member.address, grant.grant.replaces)
                || roster.uses(&grant.id) >= usize::from(grant.grant.uses)
                || roster.is_token_revoked(grant)
                || !roster.owners().may_grant(&grant.owner, &grant.grant.addresses)
        }
    }
}

/// Members that are on, that nobody ended, and that no other took the place of.
fn there(world: &World, fates: &BTreeMap<IdentityKey, Fate>) -> Vec<NodeId> {
    let members = world.members().into_iter();
    let there: Vec<_> = members.filter(|node| !fates[membership(world, *node).identity()].gone).collect();
    let is_replaced = |identity: &IdentityKey| {
        let mut statuses = there.iter().map(|node| membership(world, *node).roster().status(identity));
        statuses.any(|status| matches!(status, Some(Status::Replaced { .. })))
    };
    there.iter().copied().filter(|node| !is_replaced(membership(world, *node).identity())).collect()
}

/// Whether two can talk to each other, each of which has a record of the other that proves it.
fn acquainted(world: &World, a: NodeId, b: NodeId) -> bool {
    let (one, two) = (membership(world, a), membership(world, b));
    world.mutual(a, b) && one.roster().is_member(two.identity()) && two.roster().is_member(one.identity())
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

/// Whoever can talk to each other knows the same, and who the owners are.
fn same_rosters(world: &World, part: &[NodeId], found: &mut Vec<String>) {
    for (n, a) in part.iter().enumerate() {
        for b in &part[n + 1..] {
            let (one, two) = (membership(world, *a).roster(), membership(world, *b).roster());
            if !world.mutual(*a, *b) {
                continue;
            }
            if !one.digests().eq(two.digests()) {
                found.push(format!("{a:?} and {b:?} know different records"));
            } else if one.owners() != two.owners() {
                found.push(format!("{a:?} and {b:?} know different owners"));
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

/// What must follow from the records of one node, whatever they are.
fn sound_roster(world: &World, node: NodeId, found: &mut Vec<String>) {
    let roster = membership(world, node).roster();
    let (mut names, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    for settled in roster.members() {
        let identity = settled.identity();
        let name = names.insert(roster.name(settled).clone(), identity);
        let address = addresses.insert(settled.member.member.address, identity);
        for other in [name, address].into_iter().flatten() {
            found.push(format!("{node:?} has installed {identity:?} and {other:?} in one place"));
        }
    }
    for item in roster.tombstones() {
        let ended = match item.tombstone.end {
            End::Revoked { identity, .. } => {
                roster.owners().may_have_revoked(&OwnerKey(item.signer)).then_some(identity)
            }
            End::Left { identity, .. } => Some(identity),
            End::Token(_) | End::Expired { .. } => None,
        };
        if let Some(identity) = ended.filter(|identity| roster.is_member(identity)) {
            found.push(format!("{node:?} still has {identity:?}, which was ended"));
        }
    }
    for (heir, _) in roster.statuses() {
        let replaced = roster.settled(heir).and_then(|heir| heir.grant.grant.replaces);
        let replaced = replaced.and_then(|id| roster.incarnation(&id)).map(Settled::identity);
        if let Some(old) = replaced.filter(|old| old != heir && roster.is_member(old)) {
            found.push(format!("{node:?} still has {old:?}, which {heir:?} replaced"));
        }
    }
}

/// Whose token was used too often is the same for all that know the same, unless somebody admitted itself: of its like
/// the one that is installed stays.
fn same_judgement_of_uses(world: &World, part: &[NodeId], found: &mut Vec<String>) {
    let Some((first, others)) = part.split_first() else { return };
    let one = membership(world, *first).roster();
    let alone: BTreeSet<_> = one
        .statuses()
        .filter_map(|(identity, _)| one.settled(identity))
        .filter(|settled| settled.is_self_admitted())
        .map(|settled| settled.grant.id)
        .collect();
    for other in others {
        let two = membership(world, *other).roster();
        if !one.digests().eq(two.digests()) {
            continue;
        }
        for (identity, status) in one.statuses() {
            let by_itself = one.settled(identity).is_some_and(|settled| alone.contains(&settled.grant.id));
            let both = [Some(status), two.status(identity)].map(|status| status == Some(&Status::Overused));
            if !by_itself && both[0] != both[1] {
                found.push(format!("{first:?} and {other:?} differ about the token of {identity:?}"));
            }
        }
    }
}

/// What a member said last of itself is what the others know.
fn own_word_counts(world: &World, part: &[NodeId], found: &mut Vec<String>) {
    for node in part {
        if !is_installed(world, *node) {
            continue;
        }
        let membership = membership(world, *node);
        // Hellos raise the sequence and say nothing new otherwise.
        let known = membership.roster().announcement(membership.identity());
        let known = known.map(|known| (known.announcement.boot, known.announcement.candidates.clone()));
        let said = membership.saved().map(|saved| (saved.announcement.boot, saved.announcement.candidates));
        if known != said {
            found.push(format!("{node:?} said {said:?}, and {known:?} counts"));
        }
    }
}

/// Who was revoked does not know the present hello key.
fn keys_are_new(world: &World, part: &[NodeId], found: &mut Vec<String>) {
    for node in part {
        let membership = membership(world, *node);
        let is_revocation = |end: &End| matches!(end, End::Revoked { .. });
        let revoked =
            membership.roster().tombstones().filter(|item| is_revocation(&item.tombstone.end)).count();
        let epoch = membership.hello_keys().current().map_or(0, |(key, _)| key.epoch);
        if part.len() > 1 && epoch < revoked as u64 {
            found.push(format!("{node:?} has a hello key of epoch {epoch} after {revoked} revocations"));
        }
    }
}

/// Ephemeral members that ended are let go.
fn lapsed_are_gone(
    world: &World,
    active: &[NodeId],
    fates: &BTreeMap<IdentityKey, Fate>,
    found: &mut Vec<String>,
) {
    for node in active {
        // Who cannot prove that it is a member has no say.
        if !is_installed(world, *node) {
            continue;
        }
        let roster = membership(world, *node).roster();
        let lapsed = fates.iter().filter(|(identity, fate)| fate.lapsed && roster.is_member(identity));
        found.extend(lapsed.map(|(identity, _)| format!("{node:?} still has {identity:?}, which ended")));
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
            .map(|(identity, status)| {
                let admitter = membership.roster().settled(identity).map(|settled| settled.receipt.admitter);
                let admitter = admitter.map_or_else(String::new, |admitter| format!("{admitter:?}"));
                let led = if membership.roster().is_proven(identity) { "" } else { ", not led" };
                format!("{identity:?} {status:?} by {admitter}{led}")
            })
            .collect();
        let waiting: Vec<_> = membership
            .roster()
            .waiting()
            .map(|settled| format!("{:?} for {:?}", settled.identity(), settled.receipt.admitter))
            .collect();
        let peers: Vec<_> = membership.peers().map(|peer| peer.settled.identity()).collect();
        lines.push(format!("{node:?} waiting {waiting:?} peers {peers:?}"));
        for other in world.nodes().filter(|other| *other != node && world.mutual(node, *other)) {
            let Some(theirs) = world.membership(other) else { continue };
            let lacks = |item: &Item| !membership.roster().knows(item.digest());
            for item in theirs.roster().items().filter(lacks) {
                lines.push(format!("{node:?} lacks of {other:?}: {item:?}"));
            }
        }
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
