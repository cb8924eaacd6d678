//! boringtun behind the [`Tunnel`] trait. The only file that names it.
//!
//! boringtun's `Tunn` is a whole peer: it has timers that read clocks, a packet queue, a choice of session and
//! policies for all of them, and some of those choices are the ones that we do not want (see
//! `docs/decisions.md`). So each handshake gets a `Tunn` of its own, which makes exactly one session, and
//! `update_timers` is never called. The core decides which session sends, when to re-key and when to forget;
//! to forget is to drop the `Tunn`.
//!
//! One thing must outlive a handshake: the highest timestamp that the peer's initiations carried, which bars
//! replays (WireGuard paper section 5.1). It is private to `Tunn`, so one `Tunn` per peer, the *warden*, sees
//! every initiation first and only says whether it is fresh. What it would answer is thrown away.

use std::sync::Arc;
use std::time::Instant;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;
use ichor_mesh::key::{KEY_LEN, PresharedKey, PublicKey, SecretKey};
use ichor_mesh::tunnel::{Handshake, IndexBase, Noise, SessionIndex, Tunnel, TunnelError};
use ichor_mesh::wire::{DATA_OVERHEAD, Datagram, HANDSHAKE_ROOM, INITIATION_LEN};
use zeroize::Zeroizing;

/// A local identity whose tunnels are boringtun's.
pub struct BoringNoise {
    secret: x25519::StaticSecret,
    public: x25519::PublicKey,
    /// boringtun insists on a limiter. Ours never limits: the core's gate stands before it.
    limiter: Arc<RateLimiter>,
}

impl BoringNoise {
    /// Makes the identity of `secret`.
    pub fn new(secret: &SecretKey) -> Self {
        let secret = x25519::StaticSecret::from(*secret.expose());
        let public = x25519::PublicKey::from(&secret);
        Self { secret, public, limiter: Arc::new(RateLimiter::new(&public, u64::MAX)) }
    }
}

impl std::fmt::Debug for BoringNoise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoringNoise").field("public", &self.public_key()).finish_non_exhaustive()
    }
}

impl Noise for BoringNoise {
    type Tunnel = BoringTunnel;

    fn public_key(&self) -> PublicKey {
        PublicKey::new(self.public.to_bytes())
    }

    fn tunnel(&self, peer: &PublicKey, preshared: Option<&PresharedKey>, _now: Instant) -> BoringTunnel {
        BoringTunnel {
            secret: self.secret.clone(),
            peer: x25519::PublicKey::from(*peer.as_bytes()),
            preshared: preshared.map(|key| Zeroizing::new(*key.expose())),
            limiter: Arc::clone(&self.limiter),
            warden: None,
            attempt: None,
            sessions: Vec::new(),
        }
    }

    fn identify(&self, initiation: &[u8]) -> Result<PublicKey, TunnelError> {
        match Tunn::parse_incoming_packet(initiation) {
            Ok(Packet::HandshakeInit(packet)) => {
                let half = parse_handshake_anon(&self.secret, &self.public, &packet).map_err(convert)?;
                Ok(PublicKey::new(half.peer_static_public))
            }
            Ok(_) => Err(TunnelError::Malformed),
            Err(error) => Err(convert(error)),
        }
    }
}

/// One peer's handshakes and sessions.
pub struct BoringTunnel {
    secret: x25519::StaticSecret,
    peer: x25519::PublicKey,
    preshared: Option<Zeroizing<[u8; KEY_LEN]>>,
    limiter: Arc<RateLimiter>,
    warden: Option<Box<Tunn>>,
    attempt: Option<Slot>,
    /// Newest last: the one that is asked for nearly always.
    sessions: Vec<Slot>,
}

/// A `Tunn` and the sessions in it: one, or two when both of the last initiations were answered.
struct Slot {
    base: IndexBase,
    sessions: Vec<SessionIndex>,
    /// Whether the peer has proven to hold the keys. boringtun takes a packet that it cannot send yet for a
    /// reason to start a handshake of its own.
    confirmed: bool,
    tunn: Box<Tunn>,
}

impl std::fmt::Debug for BoringTunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoringTunnel").field("sessions", &self.sessions.len()).finish_non_exhaustive()
    }
}

impl BoringTunnel {
    fn tunn(&self, base: IndexBase) -> Box<Tunn> {
        Box::new(Tunn::new(
            self.secret.clone(),
            self.peer,
            self.preshared.as_deref().copied(),
            None,
            base.get() >> 8,
            Some(Arc::clone(&self.limiter)),
        ))
    }

    /// Whether an initiation is authentic and newer than all before.
    fn judge_initiation(&mut self, message: &[u8]) -> Result<(), TunnelError> {
        if self.warden.is_none() {
            self.warden = Some(self.tunn(IndexBase::from_random(0)));
        }
        let warden = self.warden.as_mut().ok_or(TunnelError::NoSession)?;
        let mut discarded = [0; HANDSHAKE_ROOM];
        match warden.decapsulate(None, message, &mut discarded) {
            TunnResult::WriteToNetwork(_) => Ok(()),
            TunnResult::Err(error) => Err(convert(error)),
            TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
                Err(TunnelError::Malformed)
            }
        }
    }

    fn receive_initiation(
        &mut self,
        message: &[u8],
        base: IndexBase,
        out: &mut [u8],
    ) -> Result<Handshake, TunnelError> {
        self.judge_initiation(message)?;
        let mut tunn = self.tunn(base);
        let TunnResult::WriteToNetwork(reply) = tunn.decapsulate(None, message, out) else {
            return Err(TunnelError::Authentication);
        };
        let reply_len = reply.len();
        let Datagram::Response { sender, .. } = Datagram::classify(reply) else {
            return Err(TunnelError::Malformed);
        };
        let session = SessionIndex(sender);
        self.sessions.push(Slot { base, sessions: vec![session], confirmed: false, tunn });
        Ok(Handshake::Responded { session, reply: reply_len })
    }

    fn receive_response(
        &mut self,
        message: &[u8],
        receiver: SessionIndex,
        out: &mut [u8],
    ) -> Result<Handshake, TunnelError> {
        let base = IndexBase::of(receiver);
        let slot = self
            .attempt
            .iter_mut()
            .chain(self.sessions.iter_mut())
            .find(|slot| slot.base == base)
            .ok_or(TunnelError::NoSession)?;
        let reply = match slot.tunn.decapsulate(None, message, out) {
            TunnResult::WriteToNetwork(reply) => reply.len(),
            TunnResult::Err(error) => return Err(convert(error)),
            TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
                return Err(TunnelError::Malformed);
            }
        };
        slot.sessions.push(receiver);
        if let Some(slot) = self.attempt.take_if(|slot| slot.base == base) {
            self.sessions.push(slot);
        }
        Ok(Handshake::Completed { session: receiver, reply })
    }
}

impl Tunnel for BoringTunnel {
    fn initiate(&mut self, base: IndexBase, _now: Instant, out: &mut [u8]) -> Result<usize, TunnelError> {
        if out.len() < INITIATION_LEN {
            return Err(TunnelError::Malformed);
        }
        if self.attempt.as_ref().is_none_or(|slot| slot.base != base) {
            self.attempt = Some(Slot { base, sessions: Vec::new(), confirmed: true, tunn: self.tunn(base) });
        }
        let slot = self.attempt.as_mut().ok_or(TunnelError::NoSession)?;
        match slot.tunn.format_handshake_initiation(out, true) {
            TunnResult::WriteToNetwork(message) => Ok(message.len()),
            TunnResult::Err(error) => Err(convert(error)),
            TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
                Err(TunnelError::Malformed)
            }
        }
    }

    fn receive(
        &mut self,
        message: &[u8],
        base: IndexBase,
        _now: Instant,
        out: &mut [u8],
    ) -> Result<Handshake, TunnelError> {
        if out.len() < HANDSHAKE_ROOM {
            return Err(TunnelError::Malformed);
        }
        match Datagram::classify(message) {
            Datagram::Initiation { .. } => self.receive_initiation(message, base, out),
            Datagram::Response { receiver, .. } => {
                self.receive_response(message, SessionIndex(receiver), out)
            }
            Datagram::CookieReply { receiver } => {
                let base = IndexBase::of(SessionIndex(receiver));
                let slot = self.attempt.as_mut().filter(|slot| slot.base == base);
                match slot.ok_or(TunnelError::NoSession)?.tunn.decapsulate(None, message, out) {
                    TunnResult::Done => Ok(Handshake::CookieStored),
                    TunnResult::Err(error) => Err(convert(error)),
                    TunnResult::WriteToNetwork(_)
                    | TunnResult::WriteToTunnelV4(..)
                    | TunnResult::WriteToTunnelV6(..) => Err(TunnelError::Malformed),
                }
            }
            Datagram::Data { .. } | Datagram::Ichor | Datagram::Unknown => Err(TunnelError::Malformed),
        }
    }

    #[inline]
    fn seal(
        &mut self,
        session: SessionIndex,
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, TunnelError> {
        // boringtun panics on a buffer that is too small.
        if out.len() < plaintext.len() + DATA_OVERHEAD {
            return Err(TunnelError::Malformed);
        }
        let slot = self
            .sessions
            .iter_mut()
            .rev()
            .find(|slot| slot.confirmed && slot.sessions.contains(&session))
            .ok_or(TunnelError::NoSession)?;
        match slot.tunn.encapsulate(plaintext, out) {
            TunnResult::WriteToNetwork(message) => Ok(message.len()),
            TunnResult::Err(error) => Err(convert(error)),
            TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
                Err(TunnelError::NoSession)
            }
        }
    }

    #[inline]
    fn open(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<usize, TunnelError> {
        let Datagram::Data { receiver, .. } = Datagram::classify(datagram) else {
            return Err(TunnelError::Malformed);
        };
        if out.len() < datagram.len() {
            return Err(TunnelError::Malformed);
        }
        let session = SessionIndex(receiver);
        let slot = self
            .sessions
            .iter_mut()
            .rev()
            .find(|slot| slot.sessions.contains(&session))
            .ok_or(TunnelError::NoSession)?;
        let len = match slot.tunn.decapsulate(None, datagram, out) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => packet.len(),
            TunnResult::Done => 0,
            TunnResult::Err(error) => return Err(convert(error)),
            TunnResult::WriteToNetwork(_) => return Err(TunnelError::Malformed),
        };
        slot.confirmed = true;
        Ok(len)
    }

    fn forget(&mut self, session: SessionIndex) {
        for slot in &mut self.sessions {
            slot.sessions.retain(|known| *known != session);
        }
        self.sessions.retain(|slot| !slot.sessions.is_empty());
    }
}

fn convert(error: WireGuardError) -> TunnelError {
    use WireGuardError as E;
    match error {
        E::InvalidMac | E::InvalidAeadTag | E::WrongKey | E::UnderLoad => TunnelError::Authentication,
        E::InvalidCounter | E::DuplicateCounter | E::WrongTai64nTimestamp => TunnelError::Replay,
        E::NoCurrentSession | E::WrongIndex | E::UnexpectedPacket | E::ConnectionExpired => {
            TunnelError::NoSession
        }
        E::DestinationBufferTooSmall
        | E::IncorrectPacketLength
        | E::WrongPacketType
        | E::InvalidTai64nTimestamp
        | E::InvalidPacket
        | E::LockFailed => TunnelError::Malformed,
    }
}
