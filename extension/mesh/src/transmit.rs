//! What leaves the core: datagrams, written straight into buffers that the driver lends.

use std::net::{IpAddr, SocketAddr};

use crate::packet::Ecn;

/// The two ends of one way between us and a peer: a candidate pair, in the words of RFC 8445.
///
/// `local` is the address of ours that the peer talks to. It is `None` until the peer was heard, and the
/// kernel then chooses. A datagram is answered from the address that it was sent to: a node with several
/// addresses would otherwise answer from one that the peer's NAT does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CandidatePair {
    /// Our address, where known.
    pub local: Option<IpAddr>,
    /// The peer's address and port.
    pub remote: SocketAddr,
}

impl CandidatePair {
    /// A pair whose local end the kernel chooses.
    pub const fn to(remote: SocketAddr) -> Self {
        Self { local: None, remote }
    }
}

/// Where the core writes the datagrams that it sends.
///
/// The driver's implementation gathers datagrams for one pair into one `sendmsg` (UDP segmentation offload),
/// so ciphertext is written once, in its batch. Datagrams of one pair leave in the order in which they were
/// pushed.
pub trait DatagramSink {
    /// Lends `room` writable bytes to `fill`, which returns how many it used; the datagram then leaves on
    /// `pair` with `ecn` in its IP header. `None` or `Some(0)` takes the loan back and sends nothing.
    ///
    /// The lent bytes hold anything; `fill` must write what it returns.
    fn push(
        &mut self,
        pair: &CandidatePair,
        ecn: Ecn,
        room: usize,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    );

    /// Sends a datagram that is already written.
    fn push_bytes(&mut self, pair: &CandidatePair, bytes: &[u8]) {
        self.push(pair, Ecn::NotEct, bytes.len(), |room| {
            room.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Some(bytes.len())
        });
    }
}

/// A sink that keeps each datagram apart: for tests and for the simulator.
#[derive(Debug, Default)]
pub struct Collected(pub Vec<Transmit>);

/// One datagram that a [`Collected`] sink was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The way it leaves.
    pub pair: CandidatePair,
    /// The congestion codepoint of its IP header.
    pub ecn: Ecn,
    /// The UDP payload.
    pub bytes: Vec<u8>,
}

impl DatagramSink for Collected {
    fn push(
        &mut self,
        pair: &CandidatePair,
        ecn: Ecn,
        room: usize,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        let mut bytes = vec![0; room];
        if let Some(used) = fill(&mut bytes)
            && used > 0
        {
            bytes.truncate(used);
            self.0.push(Transmit { pair: *pair, ecn, bytes });
        }
    }
}
