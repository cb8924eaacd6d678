//! Nodes, the links between them, and the clock.

mod sessions;
mod wires;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ichor_mesh::crypto::Crypto as _;
use ichor_mesh::crypto::ModelCrypto;
use ichor_mesh::hello::HelloPublic;
use ichor_mesh::join::{Profile, Via};
use ichor_mesh::join_string::JoinString;
use ichor_mesh::key::PublicKey;
use ichor_mesh::membership::{Event, Membership, Now, Output, Saved};
use ichor_mesh::record::IdentityKey;
use ichor_mesh::record::announcement::Announcement;
use ichor_mesh::roster::Item;

use super::owner::{draw_secret, draw_seed};
use crate::random::Random;

/// What true clocks show when a world begins, in seconds since the Unix epoch.
const EPOCH: u64 = 1_800_000_000;
/// How often a node tries to have the sessions that it wants, and looks at those that it has.
const TICK: Duration = Duration::from_secs(1);
/// Milliseconds by which it is later at most, where machines are far from each other.
const TICK_DRIFT: usize = 250;
/// A place for a node: a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// What the network does to datagrams.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Shortest time on the way.
    pub delay: Duration,
    /// How much longer it may be, by chance.
    pub jitter: Duration,
    /// Datagrams lost, of a thousand.
    pub loss: usize,
}

/// A session with what runs on another machine.
#[derive(Debug)]
struct Session {
    with: IdentityKey,
    /// Since when nothing came.
    silent: Option<Instant>,
}

/// A machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) membership: Option<Membership>,
    /// What is on its disk.
    pub(super) saved: Option<Saved>,
    /// Rises when the process starts: what was under way to the old one is lost.
    incarnation: u64,
    sessions: BTreeMap<NodeId, Session>,
    /// Its peers, as far as its driver was told.
    peers: BTreeSet<IdentityKey>,
    /// Which part of a split network it is in.
    pub(super) part: usize,
    /// What its clock shows, if not the truth.
    pub(super) clock: Option<u64>,
    /// Whether what runs here is a copy of another machine.
    pub(super) is_clone: bool,
    wake: Option<Instant>,
    dirty: bool,
    /// The last request that it answered since it started.
    answered: Option<Vec<u8>>,
}

impl Machine {
    /// Who runs here, or ran.
    pub(super) fn identity(&self) -> Option<IdentityKey> {
        let running = self.membership.as_ref().map(|membership| *membership.identity());
        running.or_else(|| self.saved.as_ref().map(|saved| saved.settled.identity()))
    }
}

#[derive(Debug)]
enum Happening {
    Control { from: NodeId, sender: u64, to: NodeId, receiver: u64, payload: Vec<u8> },
    Hello { from: NodeId, to: NodeId, receiver: u64, datagram: Vec<u8>, via: Via },
    Tick(NodeId, u64),
    Wake(NodeId, u64),
    Session(NodeId, u64, NodeId, u64),
    Retry(NodeId, u64, NodeId),
}

/// All machines and what is under way between them.
#[derive(Debug)]
pub struct World {
    origin: Instant,
    now: Instant,
    pub(super) random: Random,
    pub(super) machines: Vec<Machine>,
    /// Where each identity runs or ran: on one machine, unless somebody has cloned it.
    by_identity: BTreeMap<IdentityKey, Vec<NodeId>>,
    /// Which WireGuard key each identity really has.
    pub(super) honest: BTreeMap<IdentityKey, PublicKey>,
    agenda: BTreeMap<(Instant, u64), Happening>,
    order: u64,
    faults: Faults,
    /// Machines are far from each other, see [`World::distant`].
    is_distant: bool,
    /// Handshakes that were tried without success, and when the next one is due.
    tried: BTreeMap<(NodeId, NodeId), (usize, Instant)>,
    /// Control messages that were sent.
    pub control_messages: u64,
    /// Bytes of control messages that were sent.
    pub control_bytes: u64,
    /// Replies that were sent outside sessions, by who asked.
    pub replies: BTreeMap<NodeId, u64>,
    /// How often each node asked its driver to look at a peer again.
    changes: BTreeMap<(NodeId, IdentityKey), u64>,
    /// What nodes became aware of.
    pub events: Vec<(NodeId, Event)>,
}

impl World {
    /// An empty world.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let origin = Instant::now();
        Self {
            origin,
            now: origin,
            random: Random::new(seed),
            machines: Vec::new(),
            by_identity: BTreeMap::new(),
            honest: BTreeMap::new(),
            agenda: BTreeMap::new(),
            order: 0,
            faults,
            is_distant: false,
            tried: BTreeMap::new(),
            control_messages: 0,
            control_bytes: 0,
            replies: BTreeMap::new(),
            changes: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// An empty world whose machines share no network segment, and in which handshakes are lost like other datagrams and
    /// repeated as seldom as the daemon repeats them.
    pub fn distant(seed: u64, faults: Faults) -> Self {
        Self { is_distant: true, ..Self::new(seed, faults) }
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now - self.origin
    }

    /// What a true clock shows.
    pub fn clock(&self) -> u64 {
        EPOCH + self.elapsed().as_secs()
    }

    /// Another machine, switched off.
    pub fn add_machine(&mut self) -> NodeId {
        self.machines.push(Machine {
            membership: None,
            saved: None,
            incarnation: 0,
            sessions: BTreeMap::new(),
            peers: BTreeSet::new(),
            part: 0,
            clock: None,
            is_clone: false,
            wake: None,
            dirty: false,
            answered: None,
        });
        NodeId(self.machines.len() - 1)
    }

    /// The membership of a node that is on.
    pub fn membership(&self, node: NodeId) -> Option<&Membership> {
        self.machines[node.0].membership.as_ref()
    }

    /// All machines.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.machines.len()).map(NodeId)
    }

    /// Those that are on and take themselves for members.
    pub fn members(&self) -> Vec<NodeId> {
        self.nodes().filter(|node| self.membership(*node).is_some_and(Membership::is_member)).collect()
    }

    /// Where a machine is.
    pub fn address(node: NodeId) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + node.0 as u32), 51840))
    }

    fn node_at(address: SocketAddr) -> Option<NodeId> {
        match address {
            SocketAddr::V4(address) => Some(NodeId((u32::from(*address.ip()) & 0x00ff_ffff) as usize)),
            SocketAddr::V6(_) => None,
        }
    }

    fn time(&self, node: NodeId) -> Now {
        let clock = self.machines[node.0].clock.unwrap_or_else(|| self.clock());
        Now { instant: self.now, clock: Some(clock) }
    }

    // What happens to machines

    /// Installs a machine anew, with a join string.
    pub fn start_joining(&mut self, node: NodeId, join: JoinString, name: Option<&str>) {
        self.stop(node);
        let identity = draw_secret(&mut self.random);
        let key = IdentityKey(ModelCrypto.signing_public(&identity));
        let wireguard = PublicKey::new(draw_seed(&mut self.random));
        let announcement = Announcement {
            sequence: 0,
            wireguard,
            candidates: vec![Self::address(node)],
            version: "sim".into(),
            capabilities: 0,
            instance: self.random.bits().to_le_bytes(),
            boot: 0,
        };
        let name = name.map(|name| name.parse().expect("a name"));
        let profile = Profile { identity, name, routes: vec![], announcement };
        let seed = draw_seed(&mut self.random);
        let membership = Membership::join(join, profile, seed, self.time(node), &ModelCrypto);
        self.by_identity.insert(key, vec![node]);
        self.honest.insert(key, wireguard);
        self.machines[node.0].saved = None;
        self.boot(node, membership.expect("a valid token and name"));
    }

    /// The process ends without a word.
    pub fn stop(&mut self, node: NodeId) {
        let machine = &mut self.machines[node.0];
        if let Some(saved) = machine.membership.as_ref().and_then(Membership::saved) {
            machine.saved = Some(saved);
        }
        machine.membership = None;
        machine.sessions.clear();
        machine.peers.clear();
        machine.incarnation += 1;
        machine.wake = None;
        machine.answered = None;
    }

    /// The process starts again from what is on disk.
    pub fn start(&mut self, node: NodeId) {
        let Some(saved) = self.machines[node.0].saved.clone() else { return };
        if self.machines[node.0].membership.is_some() {
            return;
        }
        self.resume(node, saved);
    }

    /// Starts a copy of `original` on `copy`, from what is on its disk. The other end of a session is one machine: whoever
    /// has one with the original does not have one with the copy.
    pub fn clone_machine(&mut self, original: NodeId, copy: NodeId) -> bool {
        let running = self.machines[original.0].membership.as_ref().and_then(Membership::saved);
        let Some(saved) = running.or_else(|| self.machines[original.0].saved.clone()) else { return false };
        self.stop(copy);
        self.machines[copy.0].is_clone = true;
        self.resume(copy, saved);
        true
    }

    /// Takes the copy away that runs on a machine.
    pub fn end_clone(&mut self, copy: NodeId) {
        self.stop(copy);
        let machine = &mut self.machines[copy.0];
        (machine.is_clone, machine.saved) = (false, None);
    }

    /// Whether `node` has a session with another machine of the identity that runs on `peer`.
    fn knows_twin(&self, node: NodeId, peer: NodeId) -> bool {
        let identity = self.identity(peer);
        let mut others = self.machines[node.0].sessions.iter().filter(|(other, _)| **other != peer);
        others.any(|(_, session)| Some(session.with) == identity)
    }

    /// Starts a machine from `saved`.
    pub(super) fn resume(&mut self, node: NodeId, saved: Saved) {
        let key = saved.settled.identity();
        let places = self.by_identity.entry(key).or_default();
        if !places.contains(&node) {
            places.push(node);
        }
        self.honest.insert(key, saved.announcement.wireguard);
        let instance = self.random.bits().to_le_bytes();
        let seed = draw_seed(&mut self.random);
        let membership = Membership::resume(saved, instance, seed, self.time(node), &ModelCrypto);
        self.boot(node, membership.expect("its own genesis"));
    }

    fn boot(&mut self, node: NodeId, membership: Membership) {
        let machine = &mut self.machines[node.0];
        machine.peers = membership.peers().map(|peer| peer.settled.identity()).collect();
        machine.membership = Some(membership);
        let incarnation = machine.incarnation;
        let stagger = Duration::from_millis(self.random.below(1000) as u64);
        self.at(self.now + stagger, Happening::Tick(node, incarnation));
        self.drain(node);
    }

    /// Changes a node from outside.
    pub fn with<R>(&mut self, node: NodeId, change: impl FnOnce(&mut Membership, Now) -> R) -> Option<R> {
        let now = self.time(node);
        let result = self.machines[node.0].membership.as_mut().map(|membership| change(membership, now));
        self.drain(node);
        result
    }

    /// Hands a record to a node as if a peer had said it in a session. Whether there is such a peer.
    pub fn inject(&mut self, to: NodeId, payload: &[u8]) -> bool {
        let session = self.machines[to.0].sessions.values().next();
        let Some(identity) = session.map(|session| session.with) else { return false };
        self.with(to, |membership, now| membership.handle_control(identity, payload, now)).is_some()
    }

    /// Throws a datagram at a node from outside; whether it answered.
    pub fn throw(&mut self, to: NodeId, datagram: &[u8]) -> bool {
        self.with(to, |membership, now| membership.handle_hello(datagram, Via::Unicast, now))
            .flatten()
            .is_some()
    }

    /// The last request that a node answered.
    pub fn answered(&self, node: NodeId) -> Option<&[u8]> {
        self.machines[node.0].answered.as_deref()
    }

    /// Takes an item to a node, as its owner would.
    pub fn act(&mut self, node: NodeId, item: Item) {
        self.with(node, |membership, now| membership.act(item, now));
    }

    /// The hello key of the network as `node` knows it.
    pub fn hello(&self, node: NodeId) -> Option<HelloPublic> {
        self.membership(node)?.hello_keys().current().map(|(_, public)| *public)
    }

    /// Who a node is.
    pub fn identity(&self, node: NodeId) -> Option<IdentityKey> {
        self.membership(node).map(|membership| *membership.identity())
    }

    /// Puts machines into parts of the network that do not reach each other.
    pub fn split(&mut self, part_of: impl Fn(NodeId) -> usize) {
        for node in self.nodes() {
            self.machines[node.0].part = part_of(node);
        }
    }

    /// Whether datagrams pass between two machines.
    pub fn linked(&self, a: NodeId, b: NodeId) -> bool {
        self.machines[a.0].part == self.machines[b.0].part
    }

    /// Whether two nodes could have a session.
    pub fn mutual(&self, a: NodeId, b: NodeId) -> bool {
        let (Some(one), Some(two)) = (self.membership(a), self.membership(b)) else { return false };
        let accepts = |node: NodeId, peer: &Membership| self.machines[node.0].peers.contains(peer.identity());
        self.linked(a, b) && accepts(a, two) && accepts(b, one)
    }

    /// How often each node asked its driver to look at each peer again.
    pub fn changes(&self) -> impl Iterator<Item = (NodeId, IdentityKey, u64)> + '_ {
        self.changes.iter().map(|((node, about), times)| (*node, *about, *times))
    }

    /// The sessions that `nodes` have with each other.
    pub fn sessions_among(&self, nodes: &[NodeId]) -> BTreeSet<(NodeId, NodeId)> {
        let among = |node: &NodeId| {
            let sessions = self.machines[node.0].sessions.keys().filter(|peer| nodes.contains(peer));
            sessions.map(|peer| (*node, *peer)).collect::<Vec<_>>()
        };
        nodes.iter().flat_map(among).collect()
    }

    // Time

    /// Lets `time` pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until(end, |_| false);
        self.now = end;
    }

    /// Lets time pass until `done`, at most for `time`; how long it took.
    pub fn run_while(&mut self, time: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let start = self.now;
        let is_done = self.run_until(start + time, done);
        is_done.then(|| self.now - start)
    }

    fn run_until(&mut self, end: Instant, done: impl Fn(&Self) -> bool) -> bool {
        while !done(self) {
            let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= end) else {
                return false;
            };
            let ((at, _), happening) = entry.remove_entry();
            self.now = at;
            self.happen(happening);
        }
        true
    }

    fn at(&mut self, at: Instant, happening: Happening) {
        self.order += 1;
        self.agenda.insert((at, self.order), happening);
    }

    fn is_running(&self, node: NodeId, incarnation: u64) -> bool {
        let machine = &self.machines[node.0];
        machine.incarnation == incarnation && machine.membership.is_some()
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Control { from, sender, to, receiver, payload } => {
                // A session is between two processes; its packets mean nothing to those that come after.
                if self.is_running(to, receiver) && self.linked(from, to) && self.is_running(from, sender) {
                    self.control(from, to, &payload);
                }
            }
            Happening::Hello { from, to, receiver, datagram, via } => {
                if self.is_running(to, receiver) && self.linked(from, to) {
                    let reply = self
                        .with(to, |membership, now| membership.handle_hello(&datagram, via, now))
                        .flatten();
                    if let Some(reply) = reply {
                        self.machines[to.0].answered = Some(datagram);
                        *self.replies.entry(from).or_default() += 1;
                        self.send_hello(to, from, reply, Via::Unicast);
                    }
                }
            }
            Happening::Tick(node, incarnation) => {
                if self.is_running(node, incarnation) {
                    self.tick(node);
                    // Real timers do not stay in step with links that come and go.
                    let drift = if self.is_distant { self.random.below(TICK_DRIFT) as u64 } else { 0 };
                    let next = self.now + TICK + Duration::from_millis(drift);
                    self.at(next, Happening::Tick(node, incarnation));
                }
            }
            Happening::Wake(node, incarnation) => {
                if self.is_running(node, incarnation) && self.machines[node.0].wake <= Some(self.now) {
                    self.machines[node.0].wake = None;
                    self.with(node, |membership, now| membership.handle_timeout(now));
                }
            }
            Happening::Retry(node, incarnation, peer) => {
                let is_wanted = || !self.machines[node.0].sessions.contains_key(&peer);
                if self.is_running(node, incarnation) && is_wanted() {
                    self.shake_hands(node, peer);
                }
            }
            Happening::Session(a, one, b, two) => {
                let is_on = self.is_running(a, one) && self.is_running(b, two) && self.mutual(a, b);
                if is_on && !self.knows_twin(a, b) && !self.knows_twin(b, a) {
                    self.begin(a, b);
                    self.begin(b, a);
                }
            }
        }
    }

    fn control(&mut self, from: NodeId, to: NodeId, payload: &[u8]) {
        let Some(identity) = self.identity(from) else { return };
        let session = self.machines[to.0].sessions.get_mut(&from);
        if let Some(session) = session.filter(|session| session.with == identity) {
            session.silent = None;
            self.with(to, |membership, now| membership.handle_control(identity, payload, now));
        }
    }

    /// Does what a node wants to have done.
    fn drain(&mut self, node: NodeId) {
        if std::mem::replace(&mut self.machines[node.0].dirty, true) {
            return;
        }
        let mut joined = false;
        while let Some(output) = self.machines[node.0].membership.as_mut().and_then(Membership::poll_output) {
            match output {
                Output::Control { to, payload } => self.send_control(node, to, payload.to_vec()),
                Output::Hello { to, datagram } => {
                    for destination in to {
                        self.send_to(node, destination, &datagram);
                    }
                }
                Output::Event(Event::Changed(identity)) => {
                    *self.changes.entry((node, identity)).or_default() += 1;
                    self.look_at_peer(node, identity);
                }
                Output::Event(event) => {
                    joined |= event == Event::Joined;
                    if matches!(event, Event::Joined | Event::Barred(_)) {
                        self.look_at_peers(node);
                    }
                    if !matches!(event, Event::Observed(_)) {
                        self.events.push((node, event));
                    }
                }
            }
        }
        self.machines[node.0].dirty = false;
        if joined {
            self.connect(node);
        }
        self.schedule(node);
    }

    /// A driver knows nothing of its node's peers but what it looks up when it is told to.
    fn look_at_peers(&mut self, node: NodeId) {
        let machine = &mut self.machines[node.0];
        let peers = machine.membership.iter().flat_map(Membership::peers);
        machine.peers = peers.map(|peer| peer.settled.identity()).collect();
    }

    fn look_at_peer(&mut self, node: NodeId, identity: IdentityKey) {
        let machine = &mut self.machines[node.0];
        if machine.membership.as_ref().is_some_and(|membership| membership.is_peer(&identity)) {
            machine.peers.insert(identity);
        } else {
            machine.peers.remove(&identity);
        }
    }

    fn schedule(&mut self, node: NodeId) {
        let machine = &mut self.machines[node.0];
        let deadline = machine.membership.as_ref().and_then(Membership::deadline);
        let Some(deadline) = deadline.map(|deadline| deadline.max(self.now)) else { return };
        if machine.wake.is_none_or(|wake| deadline < wake) {
            machine.wake = Some(deadline);
            let incarnation = machine.incarnation;
            self.at(deadline, Happening::Wake(node, incarnation));
        }
    }

    /// Identities of the peers of `node` whose data it would accept, with their keys.
    pub fn peer_table(&self, node: NodeId) -> BTreeSet<(IdentityKey, [u8; 32])> {
        let peers = self.membership(node).into_iter().flat_map(Membership::peers);
        peers
            .filter(|peer| peer.installed)
            .map(|peer| (peer.settled.identity(), *peer.announcement.announcement.wireguard.as_bytes()))
            .collect()
    }
}
