//! Random histories of a network: what owners, machines, networks and thieves do, in any order.

mod acts;
mod hostile;
mod kind;
mod tokens;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use ichor_mesh::join_string::JoinString;
use ichor_mesh::record::IdentityKey;
use ichor_mesh::record::name::Name;
use ichor_mesh::roster::{Item, Settled, Status};

use super::checks::{Fate, agree, outcome, picture, violations};
use super::owner::Owner;
use super::world::{Faults, NodeId, World};
use crate::random::Random;

pub use kind::Kind;

/// Most machines in one history.
const MACHINES: usize = 12;
/// Members with which a history begins.
const FIRST_MEMBERS: usize = 5;
/// Events after the network began.
const EVENTS: usize = 52;

/// How a history went.
#[derive(Debug, Clone)]
pub struct Report {
    /// How often each kind of event took effect.
    pub events: BTreeMap<Kind, u64>,
    /// Most members at one time.
    pub most_members: usize,
    /// Tells this history from others.
    pub trace: u64,
    /// What does not hold.
    pub violations: Vec<String>,
    /// What happened, when, and how it looks in the end: one line each.
    pub log: Vec<String>,
}

/// Runs the history of `seed`.
pub fn run(seed: u64) -> Report {
    let mut history = History::new(seed);
    history.begin();
    let mut happened = 0;
    while happened < EVENTS {
        let kind = *history.random.pick(Kind::ALL);
        history.let_owners_take_turns();
        if history.happen(kind) {
            *history.events.entry(kind).or_default() += 1;
            happened += 1;
            (kind, history.world.elapsed()).hash(&mut history.trace);
            let at = history.world.elapsed();
            history.log.push(format!("{at:.1?} {kind:?} {}", history.detail));
            let pause = 100 + history.random.below(6_000) as u64;
            history.world.run(Duration::from_millis(pause));
            history.look_for_evictions();
            history.most_members = history.most_members.max(history.world.members().len());
        }
    }
    history.end()
}

struct History {
    world: World,
    random: Random,
    owner: Owner,
    fates: BTreeMap<IdentityKey, Fate>,
    /// Tokens that were used, with the name that they are for.
    used: Vec<JoinString>,
    pool: Option<(JoinString, u16)>,
    /// Records that were true once.
    old: Vec<Vec<u8>>,
    /// Records with fields that no version knows.
    later: Vec<Item>,
    names: u32,
    /// Whom each node had installed after the last event, under which name.
    places: BTreeMap<IdentityKey, BTreeMap<IdentityKey, Name>>,
    most_members: usize,
    events: BTreeMap<Kind, u64>,
    trace: DefaultHasher,
    found: Vec<String>,
    log: Vec<String>,
    /// Whom the last event was about.
    detail: String,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let faults = Faults {
            delay: Duration::from_millis(1 + random.below(20) as u64),
            jitter: Duration::from_millis(random.below(60) as u64),
            loss: random.below(80),
        };
        let owner = Owner::two(&mut random);
        Self {
            world: World::new(seed, faults),
            random,
            owner,
            fates: BTreeMap::new(),
            used: Vec::new(),
            pool: None,
            old: Vec::new(),
            later: Vec::new(),
            names: 0,
            places: BTreeMap::new(),
            most_members: 0,
            events: BTreeMap::new(),
            trace: DefaultHasher::new(),
            found: Vec::new(),
            log: Vec::new(),
            detail: String::new(),
        }
    }

    /// One node begins the network, four join it.
    fn begin(&mut self) {
        for n in 0..FIRST_MEMBERS {
            let joined = self.happen(Kind::Join);
            assert!(joined, "machines are free at the beginning");
            let expected = n + 1;
            self.world.run_while(Duration::from_secs(120), |world| world.members().len() == expected);
        }
        assert_eq!(self.world.members().len(), FIRST_MEMBERS, "five begin");
        self.most_members = FIRST_MEMBERS;
    }

    // Picking

    /// Members that are on and that nobody ended.
    fn active(&self) -> Vec<NodeId> {
        let is_active = |node: &NodeId| {
            let fate = self.world.identity(*node).and_then(|identity| self.fates.get(&identity));
            !self.world.machines[node.0].is_clone && fate.is_some_and(|fate| !fate.gone)
        };
        self.world.members().into_iter().filter(is_active).collect()
    }

    fn any_active(&mut self) -> Option<NodeId> {
        let active = self.active();
        (!active.is_empty()).then(|| *self.random.pick(&active))
    }

    /// One that can be spared.
    fn victim(&mut self) -> Option<NodeId> {
        if self.active().len() > 3 { self.any_active() } else { None }
    }

    /// A machine on which nothing of worth runs.
    fn free_machine(&mut self) -> Option<NodeId> {
        let free = self.world.nodes().find(|node| {
            let machine = &self.world.machines[node.0];
            let is_over = |identity| self.fates.get(&identity).is_none_or(|fate| fate.gone || fate.never);
            !machine.is_clone && machine.identity().is_none_or(is_over)
        });
        match free {
            Some(node) => Some(node),
            None if self.world.nodes().count() < MACHINES => Some(self.world.add_machine()),
            None => None,
        }
    }

    fn settled(&self, node: NodeId) -> Option<Settled> {
        self.world.membership(node)?.settled().cloned()
    }

    fn end_of(&mut self, identity: IdentityKey) {
        if let Some(fate) = self.fates.get_mut(&identity) {
            fate.gone = true;
        }
    }

    /// Whoever is installed does not lose its place to somebody who comes along.
    fn look_for_evictions(&mut self) {
        for node in self.world.nodes() {
            let is_clone = self.world.machines[node.0].is_clone;
            let Some(membership) = self.world.membership(node).filter(|_| !is_clone) else { continue };
            let (us, roster) = (*membership.identity(), membership.roster());
            let now: BTreeMap<_, _> =
                roster.members().map(|settled| (settled.identity(), roster.name(settled).clone())).collect();
            let Some(before) = self.places.insert(us, now) else { continue };
            for (identity, name) in &before {
                let Some(Status::Conflict { with }) = roster.status(identity) else { continue };
                // Owners rename, and what one did may count no more when its key turns out to be stolen.
                let is_called = |identity| roster.settled(identity).is_some_and(|it| roster.name(it) == name);
                // Who is ephemeral may have been let go in between.
                let is_ephemeral =
                    roster.settled(identity).is_some_and(|it| it.grant.grant.ephemeral.is_some());
                let was_ended =
                    roster.tombstones().any(|item| item.tombstone.end.identity() == Some(*identity));
                let is_about_them = |item: Item| match item {
                    Item::Rename(item) => {
                        let renamed = roster.settled(&item.rename.member);
                        let had_the_name = renamed.is_some_and(|it| it.member.member.name == *name);
                        had_the_name || [identity, with].contains(&&item.rename.member)
                    }
                    _ => false,
                };
                let was_renamed = || roster.items().any(is_about_them);
                let comes_along = !before.contains_key(with) && is_called(with) && !was_renamed();
                if is_called(identity) && comes_along && !was_ended && !is_ephemeral {
                    self.found.push(format!("{node:?} put {with:?} in the place of {identity:?}"));
                }
            }
        }
    }

    // The end

    fn end(mut self) -> Report {
        self.world.split(|_| 0);
        for node in self.world.nodes() {
            if self.world.machines[node.0].is_clone {
                self.world.end_clone(node);
            }
            self.world.machines[node.0].clock = None;
            self.world.start(node);
        }
        // Long enough for the slowest joiner.
        self.world.run(Duration::from_secs(30));
        let fates = &self.fates;
        self.world.run_while(Duration::from_secs(600), |world| agree(world, fates));
        let mut found = violations(&self.world, &self.fates);
        found.append(&mut self.found);
        self.look_for_later_records(&mut found);
        outcome(&self.world).hash(&mut self.trace);
        self.log.extend(picture(&self.world, &self.fates));
        Report {
            log: self.log,
            events: self.events,
            most_members: self.most_members,
            trace: self.trace.finish(),
            violations: found,
        }
    }
}
