//! One peer: its tunnel, sessions, paths, timers, and the packets that wait for a session.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha12Rng;
use rand_core::RngCore as _;

use crate::key::{PresharedKey, PublicKey};
use crate::packet::Ecn;
use crate::path::Paths;
use crate::session::{Heard, Ledger, Role, Session};
use crate::status::{Counters, Drop};
use crate::timers::{MAX_JITTER, Retry, Timers};
use crate::transmit::{CandidatePair, DatagramSink};
use crate::tunnel::{Handshake, IndexBase, SessionIndex, Tunnel, TunnelError};
use crate::wire::{DATA_OVERHEAD, HANDSHAKE_ROOM};

/// Packets that may wait for a session, and their bytes. The oldest go first: their senders have given up.
const MAX_STAGED_PACKETS: usize = 256;
const MAX_STAGED_BYTES: usize = 512 * 1024;

/// Shortest time between two initiations of one peer that we answer: a peer that repeats itself faster is
/// broken, or replayed (as the kernel's `INITIATIONS_PER_SECOND`).
const MIN_INITIATION_INTERVAL: Duration = Duration::from_millis(20);

/// What a peer needs of its node while it handles one event.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) rng: &'a mut ChaCha12Rng,
    pub(crate) counters: &'a mut Counters,
    /// Session index bases that came into use or went out of use, for the node's index.
    pub(crate) bases: &'a mut Vec<BaseChange>,
}

/// A change to the node's index of session bases.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BaseChange {
    Taken(IndexBase),
    Released(IndexBase),
}

/// One peer of the node.
pub(crate) struct Peer<T> {
    pub(crate) key: PublicKey,
    pub(crate) preshared: Option<PresharedKey>,
    pub(crate) paths: Paths,
    pub(crate) timers: Timers,
    pub(crate) last_handshake: Option<Instant>,
    pub(crate) tx_bytes: u64,
    pub(crate) rx_bytes: u64,
    /// When the node will next look at this peer's timers.
    pub(crate) scheduled: Option<Instant>,
    /// Whether it agreed on keys under our present identity.
    pub(crate) knows_our_key: bool,
    /// Whether the link is under our previous identity, which it calls.
    pub(crate) by_previous: bool,
    link: Option<Link<T>>,
    /// The link before a change of keys: goes on until its sessions expire, or as long as the new link has
    /// none.
    retired: Option<Link<T>>,
    staged: Staged,
    /// The last that we sent, to be repeated.
    initiation: Box<[u8]>,
    last_initiation: Option<Instant>,
}

/// A tunnel with the sessions that it made.
struct Link<T> {
    tunnel: T,
    ledger: Ledger,
    /// The base of the handshake that runs.
    attempt: Option<IndexBase>,
}

impl<T: Tunnel> Peer<T> {
    pub(crate) fn new(key: PublicKey, tunnel: Option<T>) -> Self {
        Self {
            key,
            preshared: None,
            paths: Paths::default(),
            timers: Timers::default(),
            last_handshake: None,
            tx_bytes: 0,
            rx_bytes: 0,
            scheduled: None,
            knows_our_key: false,
            by_previous: false,
            link: tunnel.map(Link::new),
            retired: None,
            staged: Staged::default(),
            initiation: Box::default(),
            last_initiation: None,
        }
    }

    /// Puts a tunnel with new keys in place. With `keep` the old one carries on until the new one has a
    /// session (a changed pre-shared key); without, its sessions end here (a changed identity).
    pub(crate) fn replace_tunnel(&mut self, tunnel: Option<T>, keep: bool, cx: &mut Context<'_>) {
        self.timers.attempt_over();
        if let Some(mut old) = std::mem::replace(&mut self.link, tunnel.map(Link::new)) {
            old.abandon_attempt(cx);
            if keep && !old.ledger.is_empty() {
                self.drop_retired(cx);
                self.retired = Some(old);
                return;
            }
            old.release_all(cx);
        }
        if !keep {
            self.drop_retired(cx);
            self.last_handshake = None;
            self.timers.reset_traffic();
        }
    }

    /// Releases every session index, before the peer is removed.
    pub(crate) fn shut_down(&mut self, cx: &mut Context<'_>) {
        if let Some(mut link) = self.link.take() {
            link.release_all(cx);
        }
        self.drop_retired(cx);
    }

    /// Sends one IP packet, or keeps it until there is a session.
    #[inline]
    pub(crate) fn send<S: DatagramSink>(
        &mut self,
        packet: &[u8],
        ecn: Ecn,
        cx: &mut Context<'_>,
        sink: &mut S,
    ) {
        if self.seal(packet, ecn, cx, sink) {
            return;
        }
        if self.link.is_none() || self.paths.primary().is_none() {
            cx.counters.note(Drop::NoEndpoint);
            return;
        }
        let lost = self.staged.push(packet, ecn);
        cx.counters.note_many(Drop::Staged, lost);
        self.ensure_handshake(cx, sink);
    }

    /// Sends one IP packet if there is a session; whether there is.
    pub(crate) fn send_now<S: DatagramSink>(
        &mut self,
        packet: &[u8],
        cx: &mut Context<'_>,
        sink: &mut S,
    ) -> bool {
        self.seal(packet, Ecn::NotEct, cx, sink)
    }

    /// Sends an empty packet if there is a session, else starts a handshake.
    pub(crate) fn keep_alive<S: DatagramSink>(&mut self, cx: &mut Context<'_>, sink: &mut S) {
        if !self.seal(&[], Ecn::NotEct, cx, sink) {
            self.timers.keepalive_tried(cx.now);
            self.ensure_handshake(cx, sink);
        }
    }

    /// Starts a handshake unless one runs.
    pub(crate) fn ensure_handshake<S: DatagramSink>(&mut self, cx: &mut Context<'_>, sink: &mut S) {
        if !self.timers.is_initiating() {
            self.initiate(cx, sink);
        }
    }

    /// Seals `packet` on the session that sends and pushes it; `false` if there is no such session or path.
    #[inline]
    fn seal<S: DatagramSink>(&mut self, packet: &[u8], ecn: Ecn, cx: &mut Context<'_>, sink: &mut S) -> bool {
        let Some(pair) = self.paths.primary() else { return false };
        let link = match (&mut self.link, &mut self.retired) {
            (Some(link), _) if link.ledger.can_send(cx.now) => link,
            (_, Some(retired)) if retired.ledger.can_send(cx.now) => retired,
            _ => return false,
        };
        let Some(session) = link.ledger.for_sending(cx.now) else { return false };
        let mut sealed = Err(TunnelError::Malformed);
        sink.push(pair, ecn, packet.len() + DATA_OVERHEAD, |room| {
            sealed = link.tunnel.seal(session.index, packet, room);
            sealed.ok()
        });
        let Ok(len) = sealed else {
            cx.counters.note(Drop::Unsealed);
            return false;
        };
        self.tx_bytes += len as u64;
        self.timers.sent(!packet.is_empty(), cx.now);
        if Ledger::wants_rekey(&session, cx.now) {
            self.ensure_handshake(cx, sink);
        }
        true
    }

    /// Sends the next initiation of the running handshake, or the first of a new one.
    fn initiate<S: DatagramSink>(&mut self, cx: &mut Context<'_>, sink: &mut S) {
        let Some(link) = &mut self.link else { return };
        let pairs = self.paths.for_initiation(self.timers.sends());
        if pairs.is_empty() {
            return;
        }
        let base = match link.attempt {
            Some(base) if self.timers.is_initiating() => base,
            _ => {
                link.abandon_attempt(cx);
                let base = IndexBase::from_random(cx.rng.next_u32());
                cx.bases.push(BaseChange::Taken(base));
                link.attempt = Some(base);
                base
            }
        };
        let mut message = [0; HANDSHAKE_ROOM];
        if let Ok(len) = link.tunnel.initiate(base, cx.now, &mut message) {
            for pair in &pairs {
                sink.push_bytes(pair, &message[..len]);
                self.tx_bytes += len as u64;
            }
            self.initiation = message[..len].into();
        }
        let jitter = Duration::from_millis(u64::from(cx.rng.next_u32()) % MAX_JITTER.as_millis() as u64);
        self.timers.initiated(cx.now, jitter);
    }

    /// Sends the last initiation as it is to whoever is next.
    fn repeat<S: DatagramSink>(&mut self, cx: &Context<'_>, sink: &mut S) {
        for pair in &self.paths.for_initiation(self.timers.sends()) {
            sink.push_bytes(pair, &self.initiation);
            self.tx_bytes += self.initiation.len() as u64;
        }
        self.timers.repeated(cx.now);
    }

    /// Takes an initiation that names this peer.
    pub(crate) fn handle_initiation<S: DatagramSink>(
        &mut self,
        message: &[u8],
        pair: &CandidatePair,
        cx: &mut Context<'_>,
        sink: &mut S,
    ) {
        let too_soon = self
            .last_initiation
            .is_some_and(|last| cx.now.saturating_duration_since(last) < MIN_INITIATION_INTERVAL);
        if too_soon {
            return cx.counters.note(Drop::HandshakeLimited);
        }
        let Some(link) = &mut self.link else { return };
        let base = IndexBase::from_random(cx.rng.next_u32());
        let mut result = Err(TunnelError::Malformed);
        sink.push(pair, Ecn::NotEct, HANDSHAKE_ROOM, |room| {
            result = link.tunnel.receive(message, base, cx.now, room);
            match result {
                Ok(Handshake::Responded { reply, .. } | Handshake::Completed { reply, .. }) => Some(reply),
                Ok(Handshake::CookieStored) | Err(_) => None,
            }
        });
        match result {
            Ok(Handshake::Responded { session, reply }) => {
                cx.bases.push(BaseChange::Taken(base));
                link.add(session, Role::Responder, cx);
                self.timers.mark_changed();
                self.last_initiation = Some(cx.now);
                self.rx_bytes += message.len() as u64;
                self.tx_bytes += reply as u64;
            }
            Ok(Handshake::Completed { .. } | Handshake::CookieStored) => {}
            Err(error) => cx.counters.note(Drop::from(error)),
        }
    }

    /// Takes a response or a cookie reply to an initiation of ours; whether it made a session.
    pub(crate) fn handle_reply<S: DatagramSink>(
        &mut self,
        message: &[u8],
        pair: &CandidatePair,
        cx: &mut Context<'_>,
        sink: &mut S,
    ) -> bool {
        let Some(link) = &mut self.link else { return false };
        let unused = IndexBase::from_random(0);
        let mut result = Err(TunnelError::Malformed);
        sink.push(pair, Ecn::NotEct, HANDSHAKE_ROOM, |room| {
            result = link.tunnel.receive(message, unused, cx.now, room);
            match result {
                Ok(Handshake::Completed { reply, .. }) => Some(reply),
                Ok(Handshake::Responded { .. } | Handshake::CookieStored) | Err(_) => None,
            }
        });
        match result {
            Ok(Handshake::Completed { session, reply }) => {
                link.add(session, Role::Initiator, cx);
                self.rx_bytes += message.len() as u64;
                self.tx_bytes += reply as u64;
                self.timers.attempt_over();
                self.timers.received(false, cx.now);
                self.timers.sent(false, cx.now);
                self.last_handshake = Some(cx.now);
                self.knows_our_key |= !self.by_previous;
                true
            }
            // A cookie reply proves nothing about where the peer is: it moves no path and ends no attempt.
            Ok(Handshake::CookieStored) => {
                self.timers.cookie_came(cx.now);
                false
            }
            Ok(Handshake::Responded { .. }) => false,
            Err(error) => {
                cx.counters.note(Drop::from(error));
                false
            }
        }
    }

    /// Opens a transport message into `out`; the length of the packet, 0 for a keepalive.
    #[inline]
    pub(crate) fn open(
        &mut self,
        session: SessionIndex,
        counter: u64,
        datagram: &[u8],
        out: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Option<(usize, Heard)> {
        let links = [(self.link.as_mut(), true), (self.retired.as_mut(), false)];
        let links = links.into_iter().filter_map(|(link, present)| Some((link?, present)));
        let Some((link, is_present)) =
            links.into_iter().find(|(link, _)| link.ledger.may_receive(session, cx.now))
        else {
            cx.counters.note(Drop::UnknownSession);
            return None;
        };
        let len = match link.tunnel.open(datagram, out) {
            Ok(len) => len,
            Err(error) => {
                cx.counters.note(Drop::from(error));
                return None;
            }
        };
        let Some(heard) = link.ledger.heard(session, counter, cx.now) else {
            cx.counters.note(Drop::UnknownSession);
            return None;
        };
        self.rx_bytes += datagram.len() as u64;
        self.timers.received(len > 0, cx.now);
        if heard.confirmed {
            self.last_handshake = Some(cx.now);
            self.knows_our_key |= is_present && !self.by_previous;
            // The peer's handshake made ours needless.
            self.timers.attempt_over();
        }
        Some((len, heard))
    }

    /// Re-keys on reception when the session that sends is about to become unusable (paper section 6.2): the
    /// peer may be one that only ever sends.
    #[inline]
    pub(crate) fn rekey_if_late<S: DatagramSink>(&mut self, cx: &mut Context<'_>, sink: &mut S) {
        let late = self.link.as_ref().and_then(|link| link.ledger.current()).is_some_and(|session| {
            session.role == Role::Initiator && session.age(cx.now) >= crate::session::REKEY_LATEST
        });
        if late {
            self.ensure_handshake(cx, sink);
        }
    }

    /// Sends what waited for a session.
    pub(crate) fn flush<S: DatagramSink>(&mut self, cx: &mut Context<'_>, sink: &mut S) {
        while let Some((packet, ecn)) = self.staged.pop() {
            if !self.seal(&packet, ecn, cx, sink) {
                let lost = self.staged.push(&packet, ecn);
                cx.counters.note_many(Drop::Staged, lost);
                return;
            }
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout<S: DatagramSink>(&mut self, cx: &mut Context<'_>, sink: &mut S) {
        for link in [&mut self.link, &mut self.retired].into_iter().flatten() {
            link.expire(cx);
        }
        if self.retired.as_ref().is_some_and(|link| link.ledger.is_empty()) {
            self.drop_retired(cx);
        }
        match self.timers.retry(cx.now) {
            Retry::Wait => {}
            Retry::Repeat => self.repeat(cx, sink),
            Retry::Again => self.initiate(cx, sink),
            Retry::GiveUp => {
                self.timers.attempt_over();
                if let Some(link) = &mut self.link {
                    link.abandon_attempt(cx);
                }
                cx.counters.note_many(Drop::Staged, self.staged.clear());
                if self.timers.never_gives_up() {
                    self.initiate(cx, sink);
                }
            }
        }
        if self.timers.is_unanswered(cx.now) {
            self.ensure_handshake(cx, sink);
        }
        if self.timers.wants_keepalive(cx.now) {
            self.keep_alive(cx, sink);
        }
    }

    /// When something is due next.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let expiries =
            [&self.link, &self.retired].into_iter().flatten().filter_map(|link| link.ledger.next_expiry());
        let reachable = self.link.is_some() && self.paths.primary().is_some();
        expiries.chain(self.timers.deadline(now, reachable)).min()
    }

    /// Whether a session could carry a packet now.
    pub(crate) fn has_session(&self, now: Instant) -> bool {
        [&self.link, &self.retired].into_iter().flatten().any(|link| link.ledger.can_send(now))
    }

    /// All live sessions.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Session> {
        [&self.link, &self.retired].into_iter().flatten().flat_map(|link| link.ledger.iter())
    }

    fn drop_retired(&mut self, cx: &mut Context<'_>) {
        if let Some(mut retired) = self.retired.take() {
            retired.release_all(cx);
        }
    }
}

impl<T: Tunnel> Link<T> {
    fn new(tunnel: T) -> Self {
        Self { tunnel, ledger: Ledger::default(), attempt: None }
    }

    fn add(&mut self, session: SessionIndex, role: Role, cx: &mut Context<'_>) {
        if let Some(evicted) = self.ledger.add(session, role, cx.now) {
            self.forget(evicted, cx);
        }
    }

    fn expire(&mut self, cx: &mut Context<'_>) {
        for session in self.ledger.expire(cx.now) {
            self.forget(session, cx);
        }
    }

    fn forget(&mut self, session: SessionIndex, cx: &mut Context<'_>) {
        self.tunnel.forget(session);
        self.release(IndexBase::of(session), cx);
    }

    fn abandon_attempt(&mut self, cx: &mut Context<'_>) {
        if let Some(base) = self.attempt.take() {
            self.release(base, cx);
        }
    }

    /// Gives a base back unless something still uses it: two retries of one handshake can both be answered.
    fn release(&self, base: IndexBase, cx: &mut Context<'_>) {
        let used = self.attempt == Some(base)
            || self.ledger.iter().any(|session| IndexBase::of(session.index) == base);
        if !used {
            cx.bases.push(BaseChange::Released(base));
        }
    }

    fn release_all(&mut self, cx: &mut Context<'_>) {
        self.abandon_attempt(cx);
        let ledger = std::mem::take(&mut self.ledger);
        for session in ledger.iter() {
            self.tunnel.forget(session.index);
            cx.bases.push(BaseChange::Released(IndexBase::of(session.index)));
        }
    }
}

/// Packets that wait for a session. Only they are ever copied to the heap.
#[derive(Default)]
struct Staged {
    packets: VecDeque<(Vec<u8>, Ecn)>,
    bytes: usize,
}

impl Staged {
    /// Keeps `packet`; returns how many older ones had to go.
    fn push(&mut self, packet: &[u8], ecn: Ecn) -> u64 {
        self.bytes += packet.len();
        self.packets.push_back((packet.to_vec(), ecn));
        let mut lost = 0;
        while self.packets.len() > MAX_STAGED_PACKETS || self.bytes > MAX_STAGED_BYTES {
            self.pop();
            lost += 1;
        }
        lost
    }

    fn pop(&mut self) -> Option<(Vec<u8>, Ecn)> {
        let (packet, ecn) = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some((packet, ecn))
    }

    fn clear(&mut self) -> u64 {
        let lost = self.packets.len() as u64;
        *self = Self::default();
        lost
    }
}
