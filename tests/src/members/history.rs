//! Random histories of a network: what owners, machines, networks and thieves do, in any order.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::Ipv4Addr;
use std::time::Duration;

use ichor_mesh::crypto::{Crypto as _, ModelCrypto};
use ichor_mesh::gossip::Message;
use ichor_mesh::join_string::JoinString;
use ichor_mesh::membership::Membership;
use ichor_mesh::record::{Envelope, IdentityKey, Kind as RecordKind};
use ichor_mesh::roster::Settled;

use super::checks::{Fate, agree, outcome, picture, violations};
use super::owner::{Owner, Wish, draw_secret};
use super::world::{Faults, NodeId, World};
use crate::random::Random;

/// Most machines in one history.
const MACHINES: usize = 12;
/// Events after the network began.
const EVENTS: usize = 52;

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A machine joins under a new name.
    Join,
    /// A machine joins from an ephemeral pool.
    PoolJoin,
    /// A member leaves.
    Leave,
    /// The owner revokes a member.
    Revoke,
    /// The owner revokes a token before it is used.
    RevokeToken,
    /// The owner renames a member.
    Rename,
    /// A member's process dies.
    Crash,
    /// It starts again.
    Restart,
    /// The network falls into parts.
    Split,
    /// The parts find together.
    Heal,
    /// A machine is installed anew, with a token that replaces its old incarnation.
    Reimage,
    /// A clock jumps.
    ClockJump,
    /// A token for a name that a member has.
    DuplicateName,
    /// A token for an address that a member has.
    DuplicateAddress,
    /// Somebody uses a token a second time.
    ReplayToken,
    /// Somebody uses a token whose time is over.
    ExpiredToken,
    /// A member moves to another place.
    Move,
    /// A hostile peer sends records that it made up or damaged.
    Forge,
    /// A hostile peer repeats old records.
    Repeat,
    /// An outsider sends hellos: noise, and repeated ones.
    Outside,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Join,
        Self::PoolJoin,
        Self::Leave,
        Self::Revoke,
        Self::RevokeToken,
        Self::Rename,
        Self::Crash,
        Self::Restart,
        Self::Split,
        Self::Heal,
        Self::Reimage,
        Self::ClockJump,
        Self::DuplicateName,
        Self::DuplicateAddress,
        Self::ReplayToken,
        Self::ExpiredToken,
        Self::Move,
        Self::Forge,
        Self::Repeat,
        Self::Outside,
    ];
}

/// How a history went.
#[derive(Debug, Clone)]
pub struct Report {
    /// How often each kind of event took effect.
    pub events: BTreeMap<Kind, u64>,
    /// Members in the end.
    pub members: usize,
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
        let kind = *history.random.pick(&Kind::ALL);
        if history.happen(kind) {
            *history.events.entry(kind).or_default() += 1;
            happened += 1;
            (kind, history.world.elapsed()).hash(&mut history.trace);
            let at = history.world.elapsed();
            history.log.push(format!("{at:.1?} {kind:?} {}", history.detail));
            let pause = 100 + history.random.below(6_000) as u64;
            history.world.run(Duration::from_millis(pause));
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
    names: u32,
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
        let owner = Owner::new(&mut random);
        Self {
            world: World::new(seed, faults),
            random,
            owner,
            fates: BTreeMap::new(),
            used: Vec::new(),
            pool: None,
            old: Vec::new(),
            names: 0,
            events: BTreeMap::new(),
            trace: DefaultHasher::new(),
            found: Vec::new(),
            log: Vec::new(),
            detail: String::new(),
        }
    }

    /// One node begins the network, four join it.
    fn begin(&mut self) {
        for n in 0..5 {
            let joined = self.happen(Kind::Join);
            assert!(joined, "machines are free at the beginning");
            let expected = n + 1;
            self.world.run_while(Duration::from_secs(120), |world| world.members().len() == expected);
        }
        assert_eq!(self.world.members().len(), 5, "five begin");
    }

    fn happen(&mut self, kind: Kind) -> bool {
        self.detail.clear();
        match kind {
            Kind::Join => self.join().is_some(),
            Kind::PoolJoin => self.pool_join().is_some(),
            Kind::Leave => self.leave().is_some(),
            Kind::Revoke => self.revoke().is_some(),
            Kind::RevokeToken => self.revoke_token().is_some(),
            Kind::Rename => self.rename().is_some(),
            Kind::Crash => self.crash().is_some(),
            Kind::Restart => self.restart().is_some(),
            Kind::Split => self.split(),
            Kind::Heal => self.heal(),
            Kind::Reimage => self.reimage().is_some(),
            Kind::ClockJump => self.clock_jump().is_some(),
            Kind::DuplicateName => self.duplicate(true).is_some(),
            Kind::DuplicateAddress => self.duplicate(false).is_some(),
            Kind::ReplayToken => self.replay().is_some(),
            Kind::ExpiredToken => self.expired().is_some(),
            Kind::Move => self.move_away().is_some(),
            Kind::Forge => self.forge().is_some(),
            Kind::Repeat => self.repeat().is_some(),
            Kind::Outside => self.outside().is_some(),
        }
    }

    // Picking

    /// Members that are on and that nobody ended.
    fn active(&self) -> Vec<NodeId> {
        let is_active = |node: &NodeId| {
            self.world.identity(*node).and_then(|identity| self.fates.get(&identity)).is_some_and(|f| !f.gone)
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
            let identity = machine
                .membership
                .as_ref()
                .map(|membership| *membership.identity())
                .or_else(|| machine.saved.as_ref().map(|saved| saved.settled.identity()));
            identity
                .is_none_or(|identity| self.fates.get(&identity).is_none_or(|fate| fate.gone || fate.never))
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

    // Tokens

    fn wish(&mut self) -> Wish {
        self.names += 1;
        let n = self.names;
        Wish {
            names: format!("n{n}"),
            address: Ipv4Addr::from(0x0ad5_0000 + n),
            uses: 1,
            ephemeral: None,
            replaces: None,
            not_after: self.world.clock() + 3600,
        }
    }

    fn mint(&mut self, wish: &Wish) -> JoinString {
        let active = self.active();
        let hello = active.first().and_then(|node| self.world.hello(*node));
        let seeds: Vec<_> = (0..2)
            .filter(|_| !active.is_empty())
            .map(|_| World::address(*self.random.pick(&active)))
            .collect();
        self.owner.mint(wish, hello, seeds, self.world.clock(), &mut self.random)
    }

    /// Starts a machine with a token.
    fn use_token(&mut self, node: NodeId, join: &JoinString, name: Option<&str>, never: bool) {
        if let Some(old) = self.world.identity(node) {
            self.end_of(old);
        }
        if let Some(old) = self.world.machines[node.0].saved.as_ref().map(|saved| saved.settled.identity()) {
            self.end_of(old);
        }
        self.world.start_joining(node, join.clone(), name);
        let identity = self.world.identity(node).expect("it was started");
        self.detail = format!("{identity:?} on {node:?} with {:?}", join.grant.id);
        let (grant, uses) = (join.grant.id, join.grant.grant.uses);
        self.fates.insert(identity, Fate { grant, uses, gone: false, never });
    }

    fn join(&mut self) -> Option<()> {
        let node = self.free_machine()?;
        let wish = self.wish();
        let join = self.mint(&wish);
        self.use_token(node, &join, None, false);
        self.used.push(join);
        Some(())
    }

    fn pool_join(&mut self) -> Option<()> {
        let node = self.free_machine()?;
        if self.pool.as_ref().is_none_or(|(_, left)| *left == 0) {
            let wish = Wish {
                names: "w-*".into(),
                uses: 3,
                ephemeral: Some(Duration::from_secs(60)),
                ..self.wish()
            };
            self.pool = Some((self.mint(&wish), 3));
        }
        let (join, left) = self.pool.as_mut()?;
        *left -= 1;
        let join = join.clone();
        self.names += 1;
        let name = format!("w-{}", self.names);
        self.use_token(node, &join, Some(&name), false);
        Some(())
    }

    fn revoke_token(&mut self) -> Option<()> {
        let at = self.any_active()?;
        let wish = self.wish();
        let join = self.mint(&wish);
        let item = self.owner.revoke_token(join.grant.id);
        self.world.act(at, item);
        Some(())
    }

    fn expired(&mut self) -> Option<()> {
        let node = self.free_machine()?;
        let not_after = self.world.clock() - 1;
        let wish = Wish { not_after, ..self.wish() };
        let join = self.mint(&wish);
        self.use_token(node, &join, None, true);
        Some(())
    }

    fn duplicate(&mut self, name: bool) -> Option<()> {
        let victim = self.any_active()?;
        let node = self.free_machine()?;
        let held = self.settled(victim)?.member.member;
        let fresh = self.wish();
        let wish = if name {
            Wish { names: held.name.as_str().to_owned(), ..fresh }
        } else {
            Wish { address: held.address, ..fresh }
        };
        let join = self.mint(&wish);
        self.use_token(node, &join, None, false);
        Some(())
    }

    fn replay(&mut self) -> Option<()> {
        if self.used.is_empty() {
            return None;
        }
        let join = self.random.pick(&self.used).clone();
        let node = self.free_machine()?;
        // A thief has the string without what lets it begin the network.
        let join = JoinString { first_hello: None, ..join };
        self.use_token(node, &join, None, false);
        Some(())
    }

    fn reimage(&mut self) -> Option<()> {
        let node = self.victim()?;
        let settled = self.settled(node)?;
        let wish = Wish {
            names: settled.member.member.name.as_str().to_owned(),
            address: settled.member.member.address,
            uses: 1,
            ephemeral: None,
            replaces: Some(settled.id()),
            not_after: self.world.clock() + 3600,
        };
        let join = self.mint(&wish);
        self.use_token(node, &join, None, false);
        Some(())
    }

    // What owners and members do

    fn leave(&mut self) -> Option<()> {
        let node = self.victim()?;
        let identity = self.world.identity(node)?;
        self.remember(node);
        self.world.with(node, Membership::leave)?;
        self.detail = format!("{identity:?}");
        self.end_of(identity);
        Some(())
    }

    fn revoke(&mut self) -> Option<()> {
        let victim = self.victim()?;
        let identity = self.world.identity(victim)?;
        self.remember(victim);
        let others: Vec<_> = self.active().into_iter().filter(|node| *node != victim).collect();
        let at = *self.random.pick(&others);
        let item = self.owner.revoke(identity);
        self.detail = format!("{identity:?} at {at:?}");
        self.world.act(at, item);
        self.end_of(identity);
        Some(())
    }

    fn rename(&mut self) -> Option<()> {
        let (at, member) = (self.any_active()?, self.any_active()?);
        let identity = self.world.identity(member)?;
        self.names += 1;
        let name = format!("r{}", self.names);
        let item = self.owner.rename(identity, &name);
        self.world.act(at, item);
        Some(())
    }

    fn move_away(&mut self) -> Option<()> {
        let node = self.any_active()?;
        self.remember(node);
        let candidates = vec![World::address(node)];
        self.world.with(node, |membership, now| membership.set_candidates(candidates, now))
    }

    // What machines and networks do

    fn crash(&mut self) -> Option<()> {
        let node = self.victim()?;
        self.world.stop(node);
        self.detail = format!("{node:?}");
        Some(())
    }

    fn restart(&mut self) -> Option<()> {
        let off: Vec<_> = self
            .world
            .nodes()
            .filter(|node| {
                let machine = &self.world.machines[node.0];
                machine.membership.is_none() && machine.saved.is_some()
            })
            .collect();
        if off.is_empty() {
            return None;
        }
        let node = *self.random.pick(&off);
        self.world.start(node);
        self.detail = format!("{node:?}");
        Some(())
    }

    fn split(&mut self) -> bool {
        let parts: Vec<_> = self.world.nodes().map(|_| self.random.below(2)).collect();
        self.detail = format!("{parts:?}");
        self.world.split(|node| parts.get(node.0).copied().unwrap_or(0));
        true
    }

    fn heal(&mut self) -> bool {
        self.world.split(|_| 0);
        true
    }

    fn clock_jump(&mut self) -> Option<()> {
        let node = self.any_active()?;
        let clocks = [None, Some(0), Some(86_400), Some(4_000_000_000)];
        self.world.machines[node.0].clock = *self.random.pick(&clocks);
        Some(())
    }

    // What is hostile

    fn remember(&mut self, node: NodeId) {
        if let Some(membership) = self.world.membership(node) {
            let items: Vec<_> = membership.roster().items().map(|item| item.to_bytes().to_vec()).collect();
            if !items.is_empty() {
                let pick = self.random.pick(&items).clone();
                self.old.push(pick);
            }
        }
    }

    fn repeat(&mut self) -> Option<()> {
        let node = self.any_active()?;
        if self.old.is_empty() {
            self.remember(node);
        }
        if self.old.is_empty() {
            return None;
        }
        let item = self.random.pick(&self.old).clone();
        self.world.inject(node, &Message::Items(vec![&item]).encode()).then_some(())
    }

    /// Whatever a hostile peer makes up changes nothing.
    fn forge(&mut self) -> Option<()> {
        let node = self.any_active()?;
        self.remember(node);
        if self.old.is_empty() {
            return None;
        }
        let item = self.random.pick(&self.old).clone();
        let forged = match self.random.below(4) {
            0 => {
                let mut item = item;
                let bit = self.random.below(item.len() * 8);
                item[bit / 8] ^= 1 << (bit % 8);
                item
            }
            1 => item[..self.random.below(item.len())].to_vec(),
            2 => self.signed_by_a_stranger(&item)?,
            _ => (0..self.random.below(700)).map(|_| self.random.bits() as u8).collect(),
        };
        let view = |world: &World| {
            let roster = world.membership(node).map(Membership::roster);
            roster.map(|roster| (roster.digests().collect::<Vec<_>>(), world.peer_table(node)))
        };
        let before = view(&self.world);
        let sent = self.world.inject(node, &Message::Items(vec![&forged]).encode());
        if view(&self.world) != before {
            self.found.push(format!("{node:?} took a forged record"));
        }
        sent.then_some(())
    }

    /// The same body, signed by a key that nobody knows.
    fn signed_by_a_stranger(&mut self, item: &[u8]) -> Option<Vec<u8>> {
        let network = self.owner.network();
        let (first, rest) = Envelope::open(item, &network, &ModelCrypto).ok()?;
        let stranger = draw_secret(&mut self.random);
        let sign = |envelope: &Envelope, count: usize| {
            let secrets = vec![&stranger; count];
            Envelope::seal(envelope.kind(), &network, envelope.body(), &secrets, &ModelCrypto).ok()
        };
        let forged = sign(&first, first.signers().len())?;
        if first.kind() != RecordKind::Grant {
            return Some(forged.bytes().to_vec());
        }
        Some([&forged.bytes()[..], rest].concat())
    }

    /// Outsiders get no answer.
    fn outside(&mut self) -> Option<()> {
        let node = self.any_active()?;
        let mut noise: Vec<u8> = (0..1232).map(|_| self.random.bits() as u8).collect();
        noise[0] = 0x10;
        let public = draw_secret(&mut self.random);
        noise[12..44].copy_from_slice(&ModelCrypto.box_public(&public));
        if self.world.throw(node, &noise) {
            self.found.push(format!("{node:?} answered noise"));
        }
        Some(())
    }

    // The end

    fn end(mut self) -> Report {
        self.world.split(|_| 0);
        for node in self.world.nodes() {
            self.world.machines[node.0].clock = None;
            self.world.start(node);
        }
        // Long enough for the slowest joiner and for ephemeral members to be missed.
        self.world.run(Duration::from_secs(30));
        let fates = &self.fates;
        self.world.run_while(Duration::from_secs(600), |world| agree(world, fates));
        let mut found = violations(&self.world, &self.fates);
        found.append(&mut self.found);
        outcome(&self.world).hash(&mut self.trace);
        self.log.extend(picture(&self.world, &self.fates));
        Report {
            log: self.log,
            events: self.events,
            members: self.world.members().len(),
            trace: self.trace.finish(),
            violations: found,
        }
    }
}
