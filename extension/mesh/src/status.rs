//! Snapshots and counters: what a node shows of itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::key::{PresharedKey, PublicKey};
use crate::node::PeerId;
use crate::tunnel::TunnelError;

/// Why a packet or datagram was dropped. Every drop has exactly one reason, and every reason a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drop {
    /// Authentication failed: forged, damaged, or under other keys.
    Authentication,
    /// A packet of the host to or from an address that is reserved for control packets.
    ControlAddress,
    /// Congestion was met on the way by a transport that cannot be told (RFC 6040 section 4.2).
    Ecn,
    /// Handshake message over its budget.
    HandshakeLimited,
    /// Neither a WireGuard message nor one of ours, or an IP packet that does not parse.
    Malformed,
    /// The peer has no endpoint, or the node no identity.
    NoEndpoint,
    /// No peer's allowed IPs hold the destination.
    NoRoute,
    /// Counter or timestamp already used, or too old to tell.
    Replay,
    /// The inner source address belongs to another peer or to none.
    Source,
    /// Waited for a session in vain.
    Staged,
    /// mac1 is wrong: the sender does not know our public key.
    Stranger,
    /// A handshake initiation by a key that is no peer of ours.
    UnknownPeer,
    /// A message for a session that does not exist, or not any more.
    UnknownSession,
    /// The tunnel refused to seal: no such session inside, or a buffer too small.
    Unsealed,
}

impl Drop {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 14] = [
        Self::Authentication,
        Self::ControlAddress,
        Self::Ecn,
        Self::HandshakeLimited,
        Self::Malformed,
        Self::NoEndpoint,
        Self::NoRoute,
        Self::Replay,
        Self::Source,
        Self::Staged,
        Self::Stranger,
        Self::UnknownPeer,
        Self::UnknownSession,
        Self::Unsealed,
    ];

    /// A stable name for metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::ControlAddress => "control_address",
            Self::Ecn => "ecn",
            Self::HandshakeLimited => "handshake_limited",
            Self::Malformed => "malformed",
            Self::NoEndpoint => "no_endpoint",
            Self::NoRoute => "no_route",
            Self::Replay => "replay",
            Self::Source => "source",
            Self::Staged => "staged",
            Self::Stranger => "stranger",
            Self::UnknownPeer => "unknown_peer",
            Self::UnknownSession => "unknown_session",
            Self::Unsealed => "unsealed",
        }
    }
}

impl From<TunnelError> for Drop {
    fn from(error: TunnelError) -> Self {
        match error {
            TunnelError::Authentication => Self::Authentication,
            TunnelError::Replay => Self::Replay,
            TunnelError::NoSession => Self::UnknownSession,
            TunnelError::Malformed => Self::Malformed,
        }
    }
}

/// How many packets were dropped, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters([u64; Drop::ALL.len()]);

impl Counters {
    /// Counts one drop.
    #[inline]
    pub fn note(&mut self, reason: Drop) {
        self.note_many(reason, 1);
    }

    /// Counts `n` drops.
    #[inline]
    pub fn note_many(&mut self, reason: Drop, n: u64) {
        self.0[reason as usize] += n;
    }

    /// Drops for `reason` so far.
    pub fn get(&self, reason: Drop) -> u64 {
        self.0[reason as usize]
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Drop, u64)> {
        Drop::ALL.into_iter().map(|reason| (reason, self.get(reason)))
    }

    /// All drops together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// What a peer looks like from outside.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Its handle.
    pub id: PeerId,
    /// Its public key.
    pub key: PublicKey,
    /// Its pre-shared key, for the UAPI only.
    pub preshared: Option<PresharedKey>,
    /// Where traffic to it goes.
    pub endpoint: Option<SocketAddr>,
    /// Its allowed IPs, in order.
    pub allowed_ips: Vec<IpNet>,
    /// Its persistent keepalive.
    pub keepalive: Option<Duration>,
    /// When keys were last agreed upon.
    pub last_handshake: Option<Instant>,
    /// Whether a session could carry a packet now.
    pub has_session: bool,
    /// Whether it agreed on keys under our present identity, not only under the one before.
    pub knows_our_key: bool,
    /// Live sessions, used or not.
    pub sessions: usize,
    /// Bytes of authentic datagrams received from it, headers of WireGuard included.
    pub rx_bytes: u64,
    /// Bytes of datagrams sent to it, headers of WireGuard included.
    pub tx_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_label() {
        let mut counters = Counters::default();
        for (n, reason) in Drop::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, n);
            counters.note_many(reason, n as u64);
        }
        for (n, (reason, count)) in counters.iter().enumerate() {
            assert_eq!(count, n as u64, "{}", reason.label());
        }
        let labels: std::collections::BTreeSet<_> = Drop::ALL.map(Drop::label).into();
        assert_eq!(labels.len(), Drop::ALL.len());
    }
}
