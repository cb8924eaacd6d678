//! The world itself: nodes, the network between them, and the clock.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ichor_mesh::key::{PublicKey, SecretKey};
use ichor_mesh::node::{Arrival, Event, Inbound, Node};
use ichor_mesh::packet::Ecn;
use ichor_mesh::status::Counters;
use ichor_mesh::transmit::{CandidatePair, Collected};
use ichor_mesh::tunnel::model::{ModelNoise, WallClock};
use ichor_mesh::wire::{DATA_HEADER_LEN, Datagram};
use ipnet::IpNet;
use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use super::account::{Account, Fate};
use super::link::Link;

/// A node of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// Nodes that all know each other, on one network.
pub struct World {
    origin: Instant,
    now: Instant,
    rng: ChaCha12Rng,
    nodes: Vec<SimNode>,
    links: BTreeMap<(NodeId, NodeId), Link>,
    in_flight: BTreeMap<(Instant, u64), Flight>,
    next_flight: u64,
    next_packet: u64,
    /// What became of every packet.
    pub account: Account,
    trace: u64,
}

struct SimNode {
    node: Node<ModelNoise>,
    secret: SecretKey,
    address: SocketAddr,
    mesh_address: Ipv4Addr,
    /// How far its wall clock is from the world's.
    clock_offset: Duration,
    /// Completed handshakes by peer.
    handshakes: BTreeMap<PublicKey, u64>,
    /// Endpoints from its configuration.
    told: BTreeMap<NodeId, SocketAddr>,
    /// Counters of incarnations before a restart.
    retired: Counters,
}

struct Flight {
    from: SocketAddr,
    to: SocketAddr,
    ecn: Ecn,
    bytes: Vec<u8>,
}

impl World {
    /// Makes `count` nodes on a network where every direction is `link`.
    pub fn new(seed: u64, count: usize, link: Link) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = ChaCha12Rng::from_seed(bytes);
        // The only instant that is not made up: an origin to count from.
        let origin = Instant::now();
        let mut world = Self {
            origin,
            now: origin,
            rng,
            nodes: Vec::new(),
            links: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            next_flight: 0,
            next_packet: 0,
            account: Account::default(),
            trace: seed,
        };
        for n in 0..count {
            let mut secret = [0; 32];
            world.rng.fill_bytes(&mut secret);
            let node = world.fresh_node();
            world.nodes.push(SimNode {
                node,
                secret: SecretKey::from_random(secret),
                address: SocketAddr::from(([192, 0, 2, n as u8 + 1], 51840)),
                mesh_address: Ipv4Addr::new(10, 213, 0, n as u8 + 1),
                clock_offset: Duration::from_secs(1_800_000_000),
                handshakes: BTreeMap::new(),
                told: BTreeMap::new(),
                retired: Counters::default(),
            });
        }
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                world.links.insert((NodeId(from), NodeId(to)), link);
            }
        }
        for n in 0..count {
            world.configure(NodeId(n));
        }
        world
    }

    /// All nodes.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// Time since the world began.
    pub fn elapsed(&self) -> Duration {
        self.now - self.origin
    }

    /// The instant at which the world began.
    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// A number below `bound`, from the world's seed.
    pub fn random(&mut self, bound: u32) -> u32 {
        self.rng.next_u32() % bound.max(1)
    }

    /// One direction of a link, to change it.
    pub fn link(&mut self, from: NodeId, to: NodeId) -> Option<&mut Link> {
        self.links.get_mut(&(from, to))
    }

    /// Sets whether two nodes reach each other.
    pub fn set_connected(&mut self, a: NodeId, b: NodeId, up: bool) {
        for (from, to) in [(a, b), (b, a)] {
            if let Some(link) = self.links.get_mut(&(from, to)) {
                link.up = up;
            }
        }
    }

    /// The host of `from` sends a packet of `len` bytes to that of `to`.
    pub fn send(&mut self, from: NodeId, to: NodeId, len: usize) {
        let id = self.next_packet;
        self.next_packet += 1;
        self.account.sent(id, self.now);
        let packet = packet(id, self.nodes[from.0].mesh_address, self.nodes[to.0].mesh_address, len);
        let mut sink = Collected::default();
        self.nodes[from.0].node.send_packet(&packet, self.now, &mut sink);
        self.dispatch(from, sink);
    }

    /// The node loses all that is not on its disk: sessions, paths, counters of replayed messages.
    pub fn restart(&mut self, id: NodeId) {
        let node = self.fresh_node();
        let old = std::mem::replace(&mut self.nodes[id.0].node, node);
        for (reason, count) in old.counters().iter() {
            self.nodes[id.0].retired.note_many(reason, count);
        }
        self.configure(id);
        let mut sink = Collected::default();
        let sim = &mut self.nodes[id.0];
        for peer in sim.node.peer_ids() {
            sim.node.connect(peer, self.now, &mut sink);
        }
        self.dispatch(id, sink);
    }

    /// The node gets another underlay address, as after a move. Its peers are not told.
    pub fn roam(&mut self, id: NodeId) {
        let port = 20_000 + self.random(20_000) as u16;
        self.nodes[id.0].address.set_port(port);
    }

    /// Whether neither of two nodes knows where the other is.
    pub fn lost_touch(&self, (a, b): (NodeId, NodeId)) -> bool {
        !self.knows(a, b) && !self.knows(b, a)
    }

    /// Whether `from` knows an address at which `to` is: from its configuration, or because it was last heard there.
    fn knows(&self, from: NodeId, to: NodeId) -> bool {
        let (sim, other) = (&self.nodes[from.0], &self.nodes[to.0]);
        let heard =
            sim.node.peer(&other.secret.public()).and_then(|peer| sim.node.peer_status(peer, self.now));
        sim.told.get(&to) == Some(&other.address)
            || heard.is_some_and(|status| status.endpoint == Some(other.address))
    }

    /// `from` is told where `to` is, as by an operator.
    pub fn tell(&mut self, from: NodeId, to: NodeId) {
        let (key, address) = (self.nodes[to.0].secret.public(), self.nodes[to.0].address);
        let sim = &mut self.nodes[from.0];
        sim.told.insert(to, address);
        if let Some(peer) = sim.node.peer(&key) {
            sim.node.set_endpoint(peer, address, self.now);
        }
    }

    /// Lets time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.next_event().filter(|at| *at <= end) {
            // A deadline may lie in the past; time never goes back.
            self.now = self.now.max(at);
            self.deliver_due();
            for id in self.ids() {
                let sim = &mut self.nodes[id.0];
                if sim.node.deadline().is_some_and(|deadline| deadline <= self.now) {
                    let mut sink = Collected::default();
                    sim.node.handle_timeout(self.now, &mut sink);
                    self.dispatch(id, sink);
                }
            }
        }
        self.now = end;
    }

    /// Completed handshakes of a node so far.
    pub fn handshakes(&self, id: NodeId) -> u64 {
        self.nodes[id.0].handshakes.values().sum()
    }

    /// Those of them with `peer`.
    pub fn handshakes_with(&self, id: NodeId, peer: NodeId) -> u64 {
        let key = self.nodes[peer.0].secret.public();
        self.nodes[id.0].handshakes.get(&key).copied().unwrap_or(0)
    }

    /// Drops of a node so far, over all restarts.
    pub fn counters(&self, id: NodeId) -> Counters {
        let sim = &self.nodes[id.0];
        let mut all = sim.retired;
        for (reason, count) in sim.node.counters().iter() {
            all.note_many(reason, count);
        }
        all
    }

    /// A number that tells two histories apart.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Datagrams and packets so far.
    pub fn totals(&self) -> (u64, u64) {
        (self.next_flight, self.next_packet)
    }

    fn fresh_node(&mut self) -> Node<ModelNoise> {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        Node::new(seed)
    }

    fn configure(&mut self, id: NodeId) {
        let peers: Vec<(NodeId, PublicKey, SocketAddr, Ipv4Addr)> = self
            .ids()
            .filter(|other| *other != id)
            .map(|other| {
                let sim = &self.nodes[other.0];
                (other, sim.secret.public(), sim.address, sim.mesh_address)
            })
            .collect();
        let noise_seed = self.rng.next_u64();
        let (now, origin) = (self.now, self.origin);
        let sim = &mut self.nodes[id.0];
        let clock = WallClock { at: origin, shows: sim.clock_offset };
        sim.node.set_identity(Some(ModelNoise::new(sim.secret.clone(), clock, noise_seed)), now);
        sim.told = peers.iter().map(|(other, _, endpoint, _)| (*other, *endpoint)).collect();
        for (_, key, endpoint, address) in peers {
            let Some(peer) = sim.node.add_peer(key, now) else { continue };
            sim.node.set_endpoint(peer, endpoint, now);
            sim.node.routes_mut().insert(IpNet::from(IpAddr::V4(address)), peer);
        }
    }

    fn next_event(&self) -> Option<Instant> {
        let flight = self.in_flight.first_key_value().map(|((at, _), _)| *at);
        let deadlines = self.nodes.iter().filter_map(|sim| sim.node.deadline());
        deadlines.chain(flight).min()
    }

    fn deliver_due(&mut self) {
        while let Some(entry) = self.in_flight.first_entry()
            && entry.key().0 <= self.now
        {
            let flight = entry.remove();
            self.deliver(&flight);
        }
    }

    fn deliver(&mut self, flight: &Flight) {
        let packet = packet_id(&flight.bytes);
        let Some(to) = self.nodes.iter().position(|sim| sim.address == flight.to) else {
            // Sent to where a node was before it moved.
            if let Some(packet) = packet {
                self.account.note(packet, Fate::LostByLink);
            }
            return;
        };
        let sim = &mut self.nodes[to];
        let arrival = Arrival {
            pair: CandidatePair { local: Some(flight.to.ip()), remote: flight.from },
            ecn: flight.ecn,
        };
        let before = *sim.node.counters();
        let mut out = vec![0; flight.bytes.len()];
        let mut sink = Collected::default();
        let inbound = sim.node.handle_datagram(&arrival, &flight.bytes, self.now, &mut out, &mut sink);
        while let Some(event) = sim.node.poll_event() {
            if let Event::HandshakeCompleted { peer } = event {
                *sim.handshakes.entry(peer).or_default() += 1;
            }
        }
        if let Some(packet) = packet {
            let fate = match inbound {
                Inbound::Packet { .. } => Fate::Delivered,
                Inbound::Control { .. } | Inbound::Hello | Inbound::Nothing => {
                    let reason = sim.node.counters().iter().find(|(reason, n)| *n > before.get(*reason));
                    reason.map_or(Fate::Pending, |(reason, _)| Fate::Dropped(reason))
                }
            };
            self.account.note(packet, fate);
        }
        self.dispatch(NodeId(to), sink);
    }

    fn dispatch(&mut self, from: NodeId, sink: Collected) {
        let source = self.nodes[from.0].address;
        for transmit in sink.0 {
            self.trace = mix(self.trace ^ transmit.bytes.len() as u64 ^ self.elapsed().as_nanos() as u64);
            let to = self.nodes.iter().position(|sim| sim.address == transmit.pair.remote).map(NodeId);
            let link = to.and_then(|to| self.links.get(&(from, to))).copied();
            let arrivals = link.map_or_else(Vec::new, |link| link.arrivals(&mut self.rng));
            if arrivals.is_empty()
                && let Some(packet) = packet_id(&transmit.bytes)
            {
                self.account.note(packet, Fate::LostByLink);
            }
            for after in arrivals {
                let flight = Flight {
                    from: source,
                    to: transmit.pair.remote,
                    ecn: transmit.ecn,
                    bytes: transmit.bytes.clone(),
                };
                self.in_flight.insert((self.now + after, self.next_flight), flight);
                self.next_flight += 1;
            }
        }
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("elapsed", &self.elapsed()).field("nodes", &self.nodes.len()).finish()
    }
}

/// An IPv4 packet that carries its number.
fn packet(id: u64, from: Ipv4Addr, to: Ipv4Addr, len: usize) -> Vec<u8> {
    let len = len.max(28);
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[8] = 64;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[20..28].copy_from_slice(&id.to_le_bytes());
    packet
}

/// The number of the packet in a datagram: the model tunnel does not hide it.
fn packet_id(datagram: &[u8]) -> Option<u64> {
    if !matches!(Datagram::classify(datagram), Datagram::Data { .. }) {
        return None;
    }
    let id = datagram.get(DATA_HEADER_LEN + 20..DATA_HEADER_LEN + 28)?;
    // A keepalive is too short to hold one: header and tag alone are 32 bytes.
    (datagram.len() >= 32 + 28).then(|| u64::from_le_bytes(id.try_into().unwrap_or_default()))
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value ^ (value >> 27)
}
