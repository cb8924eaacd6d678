//! One node of the mesh: peers, the index of their sessions, routes between the host and the peers.
//!
//! The driver calls [`Node::send`] for each IP packet of the host, [`Node::handle_datagram`] for each datagram
//! of the network, and [`Node::handle_timeout`] when [`Node::deadline`] has come. Calling the latter early or
//! twice does nothing. Everything that leaves goes to the sink that each call is given, at once; there is no
//! queue to drain. What the driver should know about comes out of [`Node::poll_event`].

mod identity;
mod receive;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng as _;

use crate::control::ControlPlane;
use crate::key::{PresharedKey, PublicKey};
use crate::packet::{Ecn, IpHeader};
use crate::peer::{BaseChange, Context, Peer};
use crate::route::AllowedIps;
use crate::status::{Counters, Drop, PeerStatus};
use crate::transmit::{CandidatePair, DatagramSink};
use crate::tunnel::Noise;

use self::identity::Identity;

/// WireGuard pads packets to a multiple of this (paper section 5.4.6), so that their length says less.
const PADDING: usize = 16;
/// Events kept for a driver that does not ask. Old ones go first: they describe a past state.
const MAX_EVENTS: usize = 1024;
/// Longest packet that the TUN device can carry.
const MAX_PACKET: usize = 65_535;

/// Handle of a peer while it is configured. A removed peer's handle may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(u32);

impl PeerId {
    pub(crate) const fn new(index: u32) -> Self {
        Self(index)
    }

    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// How a datagram came.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The address of ours it was sent to, and where it came from.
    pub pair: CandidatePair,
    /// The congestion codepoint of its outer header.
    pub ecn: Ecn,
}

/// What a datagram held for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    /// An IP packet for the host in the first `len` bytes of the buffer.
    Packet {
        /// Who sent it.
        peer: PeerId,
        /// Its length.
        len: usize,
    },
    /// A control packet for us; it lies in the first `len` bytes of the buffer, header included.
    Control {
        /// Who sent it.
        peer: PeerId,
        /// Its length.
        len: usize,
    },
    /// A datagram outside sessions for the control plane: see [`hello`](crate::hello). Nothing of it is authentic.
    Hello,
    /// Nothing for the host: a handshake, a keepalive, or dropped and counted.
    Nothing,
}

/// What the driver may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Traffic to this peer takes another way now.
    PathChanged {
        /// The peer.
        peer: PublicKey,
        /// The way.
        pair: CandidatePair,
    },
    /// Keys were agreed upon.
    HandshakeCompleted {
        /// The peer.
        peer: PublicKey,
    },
}

/// A WireGuard node.
pub struct Node<N: Noise> {
    identity: Option<Identity<N>>,
    /// The one before, which peers that have not heard of the change still call.
    previous: Option<Identity<N>>,
    peers: Vec<Option<Peer<N::Tunnel>>>,
    by_key: BTreeMap<PublicKey, PeerId>,
    by_base: BTreeMap<u32, PeerId>,
    routes: AllowedIps,
    control: Option<ControlPlane>,
    mtu: usize,
    schedule: BTreeSet<(Instant, PeerId)>,
    events: VecDeque<Event>,
    counters: Counters,
    rng: ChaCha12Rng,
    bases: Vec<BaseChange>,
    /// For padding packets that are not followed by room for it.
    scratch: Vec<u8>,
    /// The session heard last, and its peer: a batch nearly always comes from one.
    last_base: Option<(u32, PeerId)>,
}

impl<N: Noise> Node<N> {
    /// Makes a node without identity and peers. All its randomness follows from `seed`.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            identity: None,
            previous: None,
            peers: Vec::new(),
            by_key: BTreeMap::new(),
            by_base: BTreeMap::new(),
            routes: AllowedIps::default(),
            control: None,
            mtu: 1420,
            schedule: BTreeSet::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            rng: ChaCha12Rng::from_seed(seed),
            bases: Vec::new(),
            scratch: vec![0; MAX_PACKET + PADDING],
            last_base: None,
        }
    }

    /// Our public key.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.identity.as_ref().map(|identity| identity.noise.public_key())
    }

    /// Reserves addresses for control packets, and lets hellos through. `None` turns both off, as in a plain WireGuard
    /// tunnel.
    pub fn set_control_plane(&mut self, control: Option<ControlPlane>) {
        self.control = control;
    }

    /// Sets the MTU of the TUN device in bytes: padding does not go beyond it.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
    }

    /// The peer with this key, added if it is not there. `None` for our own key.
    pub fn add_peer(&mut self, key: PublicKey, now: Instant) -> Option<PeerId> {
        if let Some(id) = self.by_key.get(&key) {
            return Some(*id);
        }
        if self.is_ours(&key) {
            return None;
        }
        let tunnel = self.identity.as_ref().map(|identity| identity.noise.tunnel(&key, None, now));
        let free = self.peers.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        self.peers[index] = Some(Peer::new(key, tunnel));
        let id = PeerId::new(index as u32);
        self.by_key.insert(key, id);
        Some(id)
    }

    /// Removes a peer with its sessions and allowed IPs.
    pub fn remove_peer(&mut self, id: PeerId, now: Instant) {
        let Some(mut peer) = self.peers.get_mut(id.index()).and_then(Option::take) else { return };
        peer.shut_down(&mut Context {
            now,
            rng: &mut self.rng,
            counters: &mut self.counters,
            bases: &mut self.bases,
        });
        if let Some(scheduled) = peer.scheduled {
            self.schedule.remove(&(scheduled, id));
        }
        self.by_key.remove(&peer.key);
        self.routes.remove_all(id);
        self.apply_bases(id);
    }

    /// The handle of a peer.
    pub fn peer(&self, key: &PublicKey) -> Option<PeerId> {
        self.by_key.get(key).copied()
    }

    /// The key of a peer.
    pub fn key(&self, id: PeerId) -> Option<PublicKey> {
        self.peers.get(id.index())?.as_ref().map(|peer| peer.key)
    }

    /// The handles of all peers.
    pub fn peer_ids(&self) -> Vec<PeerId> {
        self.by_key.values().copied().collect()
    }

    /// Sets or removes a pre-shared key. Sessions made under the old one go on until new keys are agreed
    /// upon.
    pub fn set_preshared(&mut self, id: PeerId, preshared: Option<PresharedKey>, now: Instant) {
        let preshared = preshared.filter(|key| !key.is_zero());
        let Some(peer) = self.peer_mut(id) else { return };
        let unchanged = match (&peer.preshared, &preshared) {
            (Some(old), Some(new)) => old.same_as(new),
            (None, None) => true,
            _ => false,
        };
        if !unchanged {
            peer.preshared = preshared;
            self.rebuild(id, true, now);
        }
    }

    /// Sets where the peer is to be found until it is heard elsewhere.
    pub fn set_endpoint(&mut self, id: PeerId, endpoint: SocketAddr, now: Instant) {
        if let Some(peer) = self.peer_mut(id) {
            peer.paths.configure(endpoint);
            self.reschedule(id, now);
        }
    }

    /// Sets where the peer says that it may be reached, best first. Where it was heard goes on carrying traffic while
    /// there is a session; without one a handshake that runs starts anew when the candidates are other ones now.
    pub fn set_candidates(&mut self, id: PeerId, candidates: Vec<SocketAddr>, now: Instant) {
        if let Some(peer) = self.peer_mut(id) {
            let lost = !peer.has_session(now);
            if lost {
                peer.timers.attempt_over();
            }
            peer.paths.set_candidates(candidates, lost);
            // Who says where it is belongs to a mesh, in which parts that were cut off look for each other.
            peer.timers.insist();
            self.reschedule(id, now);
        }
    }

    /// Tells where the peer was heard before a restart. That is tried first, then the candidates.
    pub fn restore_path(&mut self, id: PeerId, remote: SocketAddr, now: Instant) {
        if let Some(peer) = self.peer_mut(id) {
            peer.paths.restore(remote);
            self.reschedule(id, now);
        }
    }

    /// Sets or removes the persistent keepalive.
    pub fn set_keepalive(&mut self, id: PeerId, interval: Option<Duration>, now: Instant) {
        if let Some(peer) = self.peer_mut(id) {
            peer.timers.set_keepalive(interval);
            self.reschedule(id, now);
        }
    }

    /// The allowed IPs of all peers.
    pub fn routes(&self) -> &AllowedIps {
        &self.routes
    }

    /// The allowed IPs of all peers, to change them.
    pub fn routes_mut(&mut self) -> &mut AllowedIps {
        &mut self.routes
    }

    /// Starts a handshake with a peer now, if it has an endpoint and none runs: to have a session before the
    /// first packet.
    pub fn connect<S: DatagramSink>(&mut self, id: PeerId, now: Instant, sink: &mut S) {
        self.with_peer(id, now, |peer, cx| peer.ensure_handshake(cx, sink));
    }

    /// The peer that a packet to `destination` goes to.
    #[inline]
    pub fn route(&mut self, destination: IpAddr) -> Option<PeerId> {
        if self.control.is_some_and(|control| control.reserves(destination)) {
            self.counters.note(Drop::ControlAddress);
            return None;
        }
        let owner = self.routes.owner(destination);
        if owner.is_none() {
            self.counters.note(Drop::NoRoute);
        }
        owner
    }

    /// Sends an IP packet of the host to the peer that [`route`](Self::route) named.
    #[inline]
    pub fn send<S: DatagramSink>(&mut self, id: PeerId, packet: &[u8], ecn: Ecn, now: Instant, sink: &mut S) {
        let padded_len = packet.len().next_multiple_of(PADDING).min(self.mtu.max(packet.len()));
        if padded_len == packet.len() {
            self.with_peer(id, now, |peer, cx| peer.send(packet, ecn, cx, sink));
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        if let Some(room) = scratch.get_mut(..padded_len) {
            let (head, padding) = room.split_at_mut(packet.len());
            head.copy_from_slice(packet);
            padding.fill(0);
            self.with_peer(id, now, |peer, cx| peer.send(room, ecn, cx, sink));
        } else {
            self.counters.note(Drop::Malformed);
        }
        self.scratch = scratch;
    }

    /// Sends an IP packet of the host to whoever owns its destination.
    pub fn send_packet<S: DatagramSink>(&mut self, packet: &[u8], now: Instant, sink: &mut S) {
        let Ok(header) = IpHeader::parse(packet) else { return self.counters.note(Drop::Malformed) };
        if let Some(id) = self.route(header.dst) {
            self.send(id, &packet[..header.total_len], header.ecn, now, sink);
        }
    }

    /// Sends a control packet to the control address `to` of a peer. `false` if control packets are off or it
    /// is too long.
    pub fn send_control<S: DatagramSink>(
        &mut self,
        id: PeerId,
        to: std::net::Ipv6Addr,
        payload: &[u8],
        now: Instant,
        sink: &mut S,
    ) -> bool {
        let Some(control) = self.control else { return false };
        let mut packet = [0; 1280];
        let Some(len) = control.write(to, payload, &mut packet) else { return false };
        self.send(id, &packet[..len], Ecn::NotEct, now, sink);
        true
    }

    /// Sends a control packet of up to the MTU like [`send_control`](Self::send_control), in a session that is there: it
    /// does not wait for one. `false` if there is none, control packets are off, or it is too long.
    pub fn send_probe<S: DatagramSink>(
        &mut self,
        id: PeerId,
        to: std::net::Ipv6Addr,
        payload: &[u8],
        now: Instant,
        sink: &mut S,
    ) -> bool {
        let Some(control) = self.control else { return false };
        let mut scratch = std::mem::take(&mut self.scratch);
        let len = control.write(to, payload, &mut scratch).filter(|len| *len <= self.mtu);
        let sent = len.and_then(|len| {
            let padded_len = len.next_multiple_of(PADDING).min(self.mtu);
            let packet = scratch.get_mut(..padded_len)?;
            packet[len..].fill(0);
            self.with_peer(id, now, |peer, cx| peer.send_now(packet, cx, sink))
        });
        self.scratch = scratch;
        sent.unwrap_or(false)
    }

    /// Does what is due by `now`.
    pub fn handle_timeout<S: DatagramSink>(&mut self, now: Instant, sink: &mut S) {
        while let Some((at, id)) = self.schedule.first().copied()
            && at <= now
        {
            self.schedule.pop_first();
            if let Some(peer) = self.peer_mut(id) {
                peer.scheduled = None;
            }
            self.with_peer(id, now, |peer, cx| peer.handle_timeout(cx, sink));
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    pub fn deadline(&self) -> Option<Instant> {
        self.schedule.first().map(|(at, _)| *at)
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A datagram to `pair` could not be sent from its local address: the kernel is to choose another.
    pub fn local_address_gone(&mut self, pair: &CandidatePair) {
        for peer in self.peers.iter_mut().flatten() {
            peer.paths.local_gone(pair);
        }
    }

    /// Drops so far, by reason.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What one peer looks like.
    pub fn peer_status(&self, id: PeerId, now: Instant) -> Option<PeerStatus> {
        let peer = self.peers.get(id.index())?.as_ref()?;
        Some(PeerStatus {
            id,
            key: peer.key,
            preshared: peer.preshared.clone(),
            endpoint: peer.paths.primary().map(|pair| pair.remote),
            allowed_ips: self.routes.of(id),
            keepalive: peer.timers.keepalive(),
            last_handshake: peer.last_handshake,
            has_session: peer.has_session(now),
            knows_our_key: peer.knows_our_key,
            sessions: peer.sessions().count(),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
        })
    }

    /// What all peers look like, by public key.
    pub fn status(&self, now: Instant) -> Vec<PeerStatus> {
        self.by_key.values().filter_map(|id| self.peer_status(*id, now)).collect()
    }

    fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer<N::Tunnel>> {
        self.peers.get_mut(id.index())?.as_mut()
    }

    /// Runs `f` on a peer, then notes what it changed: session indices and deadlines.
    #[inline]
    fn with_peer<R>(
        &mut self,
        id: PeerId,
        now: Instant,
        f: impl FnOnce(&mut Peer<N::Tunnel>, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let peer = self.peers.get_mut(id.index())?.as_mut()?;
        let mut cx =
            Context { now, rng: &mut self.rng, counters: &mut self.counters, bases: &mut self.bases };
        let result = f(peer, &mut cx);
        if !self.bases.is_empty() {
            self.apply_bases(id);
        }
        self.reschedule(id, now);
        Some(result)
    }

    fn apply_bases(&mut self, id: PeerId) {
        self.last_base = None;
        for change in self.bases.drain(..) {
            match change {
                BaseChange::Taken(base) => self.by_base.insert(base.get(), id),
                BaseChange::Released(base) => self.by_base.remove(&base.get()),
            };
        }
    }

    /// Moves the peer forward in the schedule if something is due earlier than planned. Later deadlines are
    /// found when the earlier one fires, so a packet rarely touches the schedule.
    #[inline]
    fn reschedule(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(id.index()).and_then(Option::as_mut) else { return };
        if !peer.timers.take_changed() && peer.scheduled.is_some() {
            return;
        }
        let Some(deadline) = peer.deadline(now) else { return };
        if peer.scheduled.is_none_or(|scheduled| deadline < scheduled) {
            if let Some(scheduled) = peer.scheduled.replace(deadline) {
                self.schedule.remove(&(scheduled, id));
            }
            self.schedule.insert((deadline, id));
        }
    }
}

impl<N: Noise> std::fmt::Debug for Node<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("public_key", &self.public_key())
            .field("peers", &self.by_key.len())
            .finish_non_exhaustive()
    }
}
