//! The contract between the mesh and the Noise handshake of one peer.
//!
//! The core decides when to shake hands, which session carries a packet, when a session is too old, and which
//! way a datagram takes. Behind this trait is only cryptography: the messages of the WireGuard paper section
//! 5.4 and the keys of the sessions that they make. So the trait has no timers and no queues: everything that
//! depends on time is in `timers` and `session`, where the simulator can reach it.
//!
//! Two implementations keep the contract, and one suite of tests runs against both: boringtun in the daemon,
//! and [`model`] in the simulator.

#[cfg(any(test, feature = "model"))]
pub mod model;

use std::time::Instant;

use crate::key::{PresharedKey, PublicKey};

/// The first of 256 consecutive session indices that belong to one handshake; the low byte is zero.
///
/// WireGuard's receiver index is the only plaintext name of a session. The core draws these at random, so an
/// observer learns neither the number of peers nor the order of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexBase(u32);

impl IndexBase {
    /// Takes the upper 24 bits of `random`.
    pub const fn from_random(random: u32) -> Self {
        Self(random & !0xff)
    }

    /// The base that `session` belongs to.
    pub const fn of(session: SessionIndex) -> Self {
        Self(session.0 & !0xff)
    }

    /// The base as a number; its low byte is zero.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Our index of a session: what the peer writes into the receiver field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionIndex(pub u32);

/// Why the tunnel did not do what it was asked to. Always the end of that one datagram, never of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The message does not authenticate: forged, damaged, for somebody else, or under another pre-shared key.
    #[error("message does not authenticate")]
    Authentication,
    /// A counter or a handshake timestamp that was already used, or is too old to tell.
    #[error("message is a replay")]
    Replay,
    /// No session or handshake of ours has this index.
    #[error("no such session")]
    NoSession,
    /// The message is authentic but makes no sense (not a handshake message, wrong length).
    #[error("message is malformed")]
    Malformed,
}

/// What a handshake message led to. `reply` bytes were written to the lent buffer and must be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// The peer initiated; `reply` is the response. The session may receive now, and may send once the peer
    /// was heard in it (WireGuard paper section 5.1: key confirmation).
    Responded {
        /// The session that the response offers.
        session: SessionIndex,
        /// Length of the response.
        reply: usize,
    },
    /// The peer answered our initiation; `reply` is an empty transport message that confirms the keys.
    Completed {
        /// The session that is ready.
        session: SessionIndex,
        /// Length of the confirmation.
        reply: usize,
    },
    /// The peer is under load and gave us a cookie: the next initiation will carry it.
    CookieStored,
}

/// The cryptographic half of one peer: its handshakes and the keys of its sessions.
///
/// Buffers: `out` must hold [`crate::wire::HANDSHAKE_ROOM`] bytes for handshakes, the plaintext and
/// [`crate::wire::DATA_OVERHEAD`] for [`seal`](Self::seal), and the datagram's length for
/// [`open`](Self::open). An implementation must not panic on any datagram.
pub trait Tunnel {
    /// Writes a handshake initiation. The first call with a `base` starts a handshake, further calls with the
    /// same base retry it; either of the last two initiations can be answered. A call with another base
    /// abandons the handshake before.
    ///
    /// # Errors
    /// [`TunnelError::Malformed`] if the buffer is too small.
    fn initiate(&mut self, base: IndexBase, now: Instant, out: &mut [u8]) -> Result<usize, TunnelError>;

    /// Takes a handshake message (types 1 to 3). `base` names the session that an initiation may make; it
    /// must be fresh for each call and is left unused when the message does not make one.
    ///
    /// # Errors
    /// Any of [`TunnelError`]; the state is then as before.
    fn receive(
        &mut self,
        message: &[u8],
        base: IndexBase,
        now: Instant,
        out: &mut [u8],
    ) -> Result<Handshake, TunnelError>;

    /// Seals `plaintext` into a transport message of `session` and returns its length. An empty plaintext
    /// makes a keepalive.
    ///
    /// # Errors
    /// [`TunnelError::NoSession`], also for a session that we responded to and in which the peer was not heard
    /// yet, or [`TunnelError::Malformed`] if the buffer is too small.
    fn seal(&mut self, session: SessionIndex, plaintext: &[u8], out: &mut [u8])
    -> Result<usize, TunnelError>;

    /// Opens a transport message, refuses replays, and returns the length of what was written to `out`: an IP
    /// packet without padding, or 0 for a keepalive.
    ///
    /// # Errors
    /// Any of [`TunnelError`].
    fn open(&mut self, datagram: &[u8], out: &mut [u8]) -> Result<usize, TunnelError>;

    /// Erases the keys of `session`.
    fn forget(&mut self, session: SessionIndex);
}

/// The local identity: makes tunnels and recognises who initiates one.
pub trait Noise {
    /// The tunnels it makes.
    type Tunnel: Tunnel;

    /// Our static public key.
    fn public_key(&self) -> PublicKey;

    /// Makes the tunnel for one peer.
    fn tunnel(&self, peer: &PublicKey, preshared: Option<&PresharedKey>, now: Instant) -> Self::Tunnel;

    /// Opens the static key in a handshake initiation: who claims to initiate. The claim is proven only when
    /// that peer's tunnel accepts the message.
    ///
    /// # Errors
    /// [`TunnelError::Authentication`] if the message was not made for us.
    fn identify(&self, initiation: &[u8]) -> Result<PublicKey, TunnelError>;
}
