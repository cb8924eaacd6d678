//! A tunnel without cryptography, for the simulator: same messages, same lengths, same rules, ten times
//! faster, and time only as an argument.
//!
//! Authentication is a keyed 128-bit mix. It stops accidents (damage, wrong receiver, wrong key) but no
//! adversary who can compute, so it exists only in tests and behind the feature `model`.

use std::time::{Duration, Instant};

use crate::gate;
use crate::key::{PresharedKey, PublicKey, SecretKey};
use crate::packet::IpHeader;
use crate::tunnel::{Handshake, IndexBase, Noise, SessionIndex, Tunnel, TunnelError};
use crate::wire::{DATA_HEADER_LEN, DATA_OVERHEAD, Datagram, INITIATION_LEN, RESPONSE_LEN, read_u64};

/// Packets of reordering that a session tolerates, as boringtun's.
const WINDOW: u64 = 1024;

/// The identity of a simulated node.
#[derive(Debug, Clone)]
pub struct ModelNoise {
    secret: SecretKey,
    public: PublicKey,
    clock: WallClock,
    seed: u64,
}

/// A simulated wall clock: what it shows at one instant.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    /// The instant at which it showed `shows`.
    pub at: Instant,
    /// Time since the Unix epoch that it showed then.
    pub shows: Duration,
}

impl WallClock {
    fn read(&self, now: Instant) -> Duration {
        self.shows + now.saturating_duration_since(self.at)
    }
}

impl ModelNoise {
    /// Makes the identity of `secret`; `seed` feeds the ephemeral keys.
    pub fn new(secret: SecretKey, clock: WallClock, seed: u64) -> Self {
        let public = secret.public();
        Self::with_public(secret, public, clock, seed)
    }

    /// The same, for whoever has computed the public key already.
    pub fn with_public(secret: SecretKey, public: PublicKey, clock: WallClock, seed: u64) -> Self {
        Self { secret, public, clock, seed }
    }
}

impl Noise for ModelNoise {
    type Tunnel = ModelTunnel;

    fn public_key(&self) -> PublicKey {
        self.public
    }

    fn tunnel(&self, peer: &PublicKey, preshared: Option<&PresharedKey>, _now: Instant) -> ModelTunnel {
        ModelTunnel {
            us: self.public,
            peer: *peer,
            preshared: preshared.map_or(0, |key| digest(&[key.expose()])),
            clock: self.clock,
            ephemerals: mix(self.seed ^ digest(&[peer.as_bytes(), self.secret.expose()])),
            heard_stamp: None,
            cookie: None,
            attempt: None,
            sessions: Vec::new(),
        }
    }

    fn identify(&self, initiation: &[u8]) -> Result<PublicKey, TunnelError> {
        if !matches!(Datagram::classify(initiation), Datagram::Initiation { .. }) {
            return Err(TunnelError::Malformed);
        }
        let claimed = field(initiation, 40);
        let tag = digest(&[self.public.as_bytes(), &initiation[..72]]);
        if read_u64(initiation, 72) != tag {
            return Err(TunnelError::Authentication);
        }
        Ok(PublicKey::new(claimed))
    }
}

/// The model of one peer's handshakes and sessions.
#[derive(Debug)]
pub struct ModelTunnel {
    us: PublicKey,
    peer: PublicKey,
    preshared: u64,
    clock: WallClock,
    ephemerals: u64,
    heard_stamp: Option<Duration>,
    cookie: Option<[u8; gate::MAC_LEN]>,
    attempt: Option<Attempt>,
    sessions: Vec<ModelSession>,
}

#[derive(Debug)]
struct Attempt {
    base: IndexBase,
    count: u8,
    /// The last two initiations: index and ephemeral.
    sent: [Option<(SessionIndex, u64)>; 2],
    last_mac1: [u8; gate::MAC_LEN],
}

#[derive(Debug)]
struct ModelSession {
    index: SessionIndex,
    remote: u32,
    send_key: u64,
    receive_key: u64,
    send_counter: u64,
    window: Window,
    /// Whether the peer has proven to hold the keys.
    confirmed: bool,
}

impl ModelTunnel {
    /// Stands for the static-static Diffie-Hellman: both ends compute the same.
    fn shared(&self) -> u64 {
        let (low, high) = if self.us < self.peer { (self.us, self.peer) } else { (self.peer, self.us) };
        digest(&[low.as_bytes(), high.as_bytes()])
    }

    fn ephemeral(&mut self) -> u64 {
        self.ephemerals = mix(self.ephemerals.wrapping_add(0x9e37_79b9_7f4a_7c15));
        self.ephemerals
    }

    fn session(
        &self,
        index: SessionIndex,
        remote: u32,
        ours: u64,
        theirs: u64,
        initiator: bool,
    ) -> ModelSession {
        let (first, second) = if initiator { (ours, theirs) } else { (theirs, ours) };
        let secret = digest(&[
            &self.shared().to_le_bytes(),
            &first.to_le_bytes(),
            &second.to_le_bytes(),
            &self.preshared.to_le_bytes(),
        ]);
        let (to_responder, to_initiator) = (mix(secret ^ 1), mix(secret ^ 2));
        let (send_key, receive_key) =
            if initiator { (to_responder, to_initiator) } else { (to_initiator, to_responder) };
        ModelSession {
            index,
            remote,
            send_key,
            receive_key,
            send_counter: 0,
            window: Window::default(),
            confirmed: initiator,
        }
    }

    fn receive_initiation(
        &mut self,
        message: &[u8],
        base: IndexBase,
        sender: u32,
        out: &mut [u8],
    ) -> Result<Handshake, TunnelError> {
        if field(message, 40) != *self.peer.as_bytes()
            || read_u64(message, 72) != digest(&[self.us.as_bytes(), &message[..72]])
            || read_u64(message, 100) != digest(&[&self.shared().to_le_bytes(), &message[..100]])
            || read_u64(message, 108) != 0
        {
            return Err(TunnelError::Authentication);
        }
        let stamp = Duration::new(read_u64(message, 88), crate::wire::read_u32(message, 96));
        if self.heard_stamp.is_some_and(|heard| stamp <= heard) {
            return Err(TunnelError::Replay);
        }
        self.heard_stamp = Some(stamp);

        let theirs = read_u64(message, 8);
        let ours = self.ephemeral();
        let session = SessionIndex(base.get() | 1);
        let reply = out.get_mut(..RESPONSE_LEN).ok_or(TunnelError::Malformed)?;
        reply.fill(0);
        reply[..4].copy_from_slice(&2u32.to_le_bytes());
        reply[4..8].copy_from_slice(&session.0.to_le_bytes());
        reply[8..12].copy_from_slice(&sender.to_le_bytes());
        reply[12..20].copy_from_slice(&ours.to_le_bytes());
        let tag = digest(&[
            &self.shared().to_le_bytes(),
            &theirs.to_le_bytes(),
            &self.preshared.to_le_bytes(),
            &reply[..44],
        ]);
        reply[44..52].copy_from_slice(&tag.to_le_bytes());
        gate::append_macs(&self.peer, self.cookie.as_ref(), reply);
        self.sessions.push(self.session(session, sender, ours, theirs, false));
        Ok(Handshake::Responded { session, reply: RESPONSE_LEN })
    }

    fn receive_response(
        &mut self,
        message: &[u8],
        sender: u32,
        receiver: u32,
        out: &mut [u8],
    ) -> Result<Handshake, TunnelError> {
        let attempt = self.attempt.as_mut().ok_or(TunnelError::NoSession)?;
        let slot = attempt
            .sent
            .iter()
            .position(|sent| sent.is_some_and(|(index, _)| index.0 == receiver))
            .ok_or(TunnelError::NoSession)?;
        let Some((index, ours)) = attempt.sent[slot] else { return Err(TunnelError::NoSession) };
        let tag = digest(&[
            &self.shared().to_le_bytes(),
            &ours.to_le_bytes(),
            &self.preshared.to_le_bytes(),
            &message[..44],
        ]);
        if read_u64(message, 44) != tag || read_u64(message, 52) != 0 {
            return Err(TunnelError::Authentication);
        }
        if let Some(attempt) = &mut self.attempt {
            attempt.sent[slot] = None;
        }
        let theirs = read_u64(message, 12);
        let mut session = self.session(index, sender, ours, theirs, true);
        let reply = session.seal(&[], out)?;
        self.sessions.push(session);
        Ok(Handshake::Completed { session: index, reply })
    }
}

impl Tunnel for ModelTunnel {
    fn initiate(&mut self, base: IndexBase, now: Instant, out: &mut [u8]) -> Result<usize, TunnelError> {
        let message = out.get_mut(..INITIATION_LEN).ok_or(TunnelError::Malformed)?;
        let ephemeral = self.ephemeral();
        let mut attempt = match self.attempt.take() {
            Some(attempt) if attempt.base == base => attempt,
            _ => Attempt { base, count: 0, sent: [None; 2], last_mac1: [0; gate::MAC_LEN] },
        };
        attempt.count = attempt.count.wrapping_add(1);
        let index = SessionIndex(base.get() | u32::from(attempt.count));
        attempt.sent = [Some((index, ephemeral)), attempt.sent[0]];

        let stamp = self.clock.read(now);
        message.fill(0);
        message[..4].copy_from_slice(&1u32.to_le_bytes());
        message[4..8].copy_from_slice(&index.0.to_le_bytes());
        message[8..16].copy_from_slice(&ephemeral.to_le_bytes());
        message[40..72].copy_from_slice(self.us.as_bytes());
        let claim = digest(&[self.peer.as_bytes(), &message[..72]]);
        message[72..80].copy_from_slice(&claim.to_le_bytes());
        message[88..96].copy_from_slice(&stamp.as_secs().to_le_bytes());
        message[96..100].copy_from_slice(&stamp.subsec_nanos().to_le_bytes());
        let proof = digest(&[&self.shared().to_le_bytes(), &message[..100]]);
        message[100..108].copy_from_slice(&proof.to_le_bytes());
        gate::append_macs(&self.peer, self.cookie.as_ref(), message);
        attempt.last_mac1 = field(message, INITIATION_LEN - 32);
        self.attempt = Some(attempt);
        Ok(INITIATION_LEN)
    }

    fn receive(
        &mut self,
        message: &[u8],
        base: IndexBase,
        _now: Instant,
        out: &mut [u8],
    ) -> Result<Handshake, TunnelError> {
        match Datagram::classify(message) {
            Datagram::Initiation { sender } => self.receive_initiation(message, base, sender, out),
            Datagram::Response { sender, receiver } => self.receive_response(message, sender, receiver, out),
            Datagram::CookieReply { .. } => {
                let attempt = self.attempt.as_ref().ok_or(TunnelError::NoSession)?;
                let cookie = gate::open_cookie_reply(&self.peer, &attempt.last_mac1, message);
                self.cookie = Some(cookie.ok_or(TunnelError::Authentication)?);
                Ok(Handshake::CookieStored)
            }
            Datagram::Data { .. } | Datagram::Ichor | Datagram::Unknown => Err(TunnelError::Malformed),
        }
    }

    fn seal(
        &mut self,
        session: SessionIndex,
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, TunnelError> {
        self.sessions
            .iter_mut()
            .find(|known| known.index == session)
            .ok_or(TunnelError::NoSession)?
            .seal(plaintext, out)
    }

    fn open(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<usize, TunnelError> {
        let Datagram::Data { receiver, counter } = Datagram::classify(datagram) else {
            return Err(TunnelError::Malformed);
        };
        let session =
            self.sessions.iter_mut().find(|known| known.index.0 == receiver).ok_or(TunnelError::NoSession)?;
        session.open(datagram, counter, out)
    }

    fn forget(&mut self, session: SessionIndex) {
        self.sessions.retain(|known| known.index != session);
    }
}

impl ModelSession {
    fn seal(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, TunnelError> {
        if !self.confirmed {
            return Err(TunnelError::NoSession);
        }
        let len = plaintext.len() + DATA_OVERHEAD;
        let out = out.get_mut(..len).ok_or(TunnelError::Malformed)?;
        let counter = self.send_counter;
        self.send_counter += 1;
        out[..4].copy_from_slice(&4u32.to_le_bytes());
        out[4..8].copy_from_slice(&self.remote.to_le_bytes());
        out[8..16].copy_from_slice(&counter.to_le_bytes());
        let tag_at = DATA_HEADER_LEN + plaintext.len();
        out[DATA_HEADER_LEN..tag_at].copy_from_slice(plaintext);
        let tag = digest(&[&self.send_key.to_le_bytes(), &out[..tag_at]]);
        out[tag_at..tag_at + 8].copy_from_slice(&tag.to_le_bytes());
        out[tag_at + 8..].copy_from_slice(&mix(tag).to_le_bytes());
        Ok(len)
    }

    fn open(&mut self, datagram: &[u8], counter: u64, out: &mut [u8]) -> Result<usize, TunnelError> {
        if !self.window.would_accept(counter) {
            return Err(TunnelError::Replay);
        }
        let tag_at = datagram.len() - DATA_HEADER_LEN;
        let tag = digest(&[&self.receive_key.to_le_bytes(), &datagram[..tag_at]]);
        if read_u64(datagram, tag_at) != tag || read_u64(datagram, tag_at + 8) != mix(tag) {
            return Err(TunnelError::Authentication);
        }
        self.window.accept(counter);
        self.confirmed = true;
        let plaintext = &datagram[DATA_HEADER_LEN..tag_at];
        if plaintext.is_empty() {
            return Ok(0);
        }
        let header = IpHeader::parse(plaintext).map_err(|_not_ip| TunnelError::Malformed)?;
        out.get_mut(..header.total_len)
            .ok_or(TunnelError::Malformed)?
            .copy_from_slice(&plaintext[..header.total_len]);
        Ok(header.total_len)
    }
}

/// Counters heard, so that none is accepted twice.
#[derive(Debug)]
struct Window {
    next: u64,
    seen: [u64; (WINDOW / 64) as usize],
}

impl Default for Window {
    fn default() -> Self {
        Self { next: 0, seen: [0; (WINDOW / 64) as usize] }
    }
}

impl Window {
    fn bit(counter: u64) -> (usize, u64) {
        let bit = counter % WINDOW;
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    fn would_accept(&self, counter: u64) -> bool {
        let (word, mask) = Self::bit(counter);
        counter >= self.next || (counter + WINDOW >= self.next && self.seen[word] & mask == 0)
    }

    fn accept(&mut self, counter: u64) {
        if counter >= self.next {
            if counter - self.next >= WINDOW {
                self.seen = [0; (WINDOW / 64) as usize];
            } else {
                for skipped in self.next..counter {
                    let (word, mask) = Self::bit(skipped);
                    self.seen[word] &= !mask;
                }
            }
            self.next = counter + 1;
        }
        let (word, mask) = Self::bit(counter);
        self.seen[word] |= mask;
    }
}

fn field<const N: usize>(message: &[u8], at: usize) -> [u8; N] {
    message.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

/// A fast 64-bit mix of byte strings; lengths count, so parts cannot run into each other.
fn digest(parts: &[&[u8]]) -> u64 {
    let mut state = 0x243f_6a88_85a3_08d3u64;
    for part in parts {
        state = mix(state ^ part.len() as u64);
        let mut chunks = part.chunks_exact(8);
        for chunk in &mut chunks {
            state = (state ^ read_u64(chunk, 0)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        for byte in chunks.remainder() {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    mix(state)
}

/// The finalizer of splitmix64.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
