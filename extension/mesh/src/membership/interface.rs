//! What the driver tells a membership, and what it is told.

use std::net::SocketAddr;
use std::time::Instant;

use zeroize::Zeroizing;

use crate::join::{Destination, JoinError};
use crate::record::IdentityKey;
use crate::record::announcement::SignedAnnouncement;
use crate::roster::{Settled, Status};

/// The time, as the driver reads it.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The steady clock.
    pub instant: Instant,
    /// Seconds since the Unix epoch, if the driver believes its clock.
    pub clock: Option<u64>,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this to a member, in a control packet inside a session.
    Control {
        /// To whom.
        to: IdentityKey,
        /// What.
        payload: Zeroizing<Vec<u8>>,
    },
    /// Send this outside sessions.
    Hello {
        /// Where to.
        to: Vec<Destination>,
        /// What.
        datagram: Vec<u8>,
    },
    /// Know this.
    Event(Event),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// This node became a member.
    Joined,
    /// Somebody has the name or address that this node asks for.
    Taken,
    /// The node cannot ask to be let in.
    CannotJoin(JoinError),
    /// A member or an introducer appeared, went, moved or was renamed: [`Membership::peers`](super::Membership::peers) may be different.
    Changed(IdentityKey),
    /// This node is no member any more.
    Barred(Status),
    /// Another machine uses this node's identity.
    Cloned {
        /// Which.
        instance: [u8; 8],
    },
    /// A member sees datagrams of this node come from here.
    Observed(SocketAddr),
    /// This node has caught up after it joined, and was told of other revocations and departures than the one that made
    /// its join string knew of. Mostly its maker was behind; but whoever let this node in may hide some.
    TombstonesDiffer {
        /// How many this node was told of.
        told: usize,
    },
}

/// A member as the driver configures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerRecords<'a> {
    /// Who it is and what it was granted.
    pub settled: &'a Settled,
    /// Where it is.
    pub announcement: &'a SignedAnnouncement,
    /// Whether its data may be accepted. While it is not, sessions with it carry control packets only.
    pub installed: bool,
}
