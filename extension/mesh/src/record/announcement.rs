//! Where a member is now and with which keys it is reached. Signed by the member; the highest sequence wins.

use std::net::SocketAddr;

use super::tlv::{Fields, Writer, read_sockets, write_sockets};
use super::{Envelope, IdentityKey, Kind, NetworkId, RecordError};
use crate::crypto::{Crypto, Secret};
use crate::key::PublicKey;

const SEQUENCE: u8 = 1;
const WIREGUARD: u8 = 2;
const CANDIDATES: u8 = 3;
const VERSION: u8 = 4;
const CAPABILITIES: u8 = 5;
const INSTANCE: u8 = 6;
const BOOT: u8 = 7;
const KNOWN: u8 = BOOT;

/// Most candidates in one announcement.
pub const MAX_CANDIDATES: usize = 16;
/// Longest version text.
const MAX_VERSION: usize = 32;

/// Something that not every version can do, as one bit of the capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Capability {
    /// Forwards datagrams for other members.
    Relay = 1 << 0,
}

/// A member's present state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Rises with every announcement of an identity.
    pub sequence: u64,
    /// The key by which it is reached.
    pub wireguard: PublicKey,
    /// Where it may be reached, best first.
    pub candidates: Vec<SocketAddr>,
    /// The version of its program.
    pub version: String,
    /// What it can do: bits of [`Capability`], and others that newer versions know.
    pub capabilities: u64,
    /// Drawn at every start: tells two machines with one identity apart.
    pub instance: [u8; 8],
    /// How often it started. When it rises, the sessions and handshake stamps before it mean nothing any more.
    pub boot: u64,
}

/// An announcement as it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedAnnouncement {
    /// What it says.
    pub announcement: Announcement,
    /// Whose it is.
    pub identity: IdentityKey,
    /// Its bytes.
    pub envelope: Envelope,
}

impl Announcement {
    /// Signs the announcement with the member's identity.
    ///
    /// # Errors
    /// [`RecordError`] if it is not valid.
    pub fn seal(
        &self,
        network: &NetworkId,
        identity: &Secret,
        crypto: &dyn Crypto,
    ) -> Result<SignedAnnouncement, RecordError> {
        let body = Writer::default()
            .field(SEQUENCE, &self.sequence.to_le_bytes())
            .field(WIREGUARD, self.wireguard.as_bytes())
            .field(CANDIDATES, &write_sockets(&self.candidates))
            .field(VERSION, self.version.as_bytes())
            .field(CAPABILITIES, &self.capabilities.to_le_bytes())
            .field(INSTANCE, &self.instance)
            .field(BOOT, &self.boot.to_le_bytes())
            .finish();
        SignedAnnouncement::decode(Envelope::seal(Kind::Announcement, network, &body, &[identity], crypto)?)
    }
}

impl SignedAnnouncement {
    /// Reads an announcement whose signature was checked.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(envelope: Envelope) -> Result<Self, RecordError> {
        let identity = IdentityKey(envelope.only_signer(Kind::Announcement)?);
        let fields = Fields::read(envelope.body(), KNOWN)?;
        let candidates = read_sockets(fields.required(CANDIDATES)?).ok_or(RecordError::Field(CANDIDATES))?;
        if candidates.len() > MAX_CANDIDATES {
            return Err(RecordError::Field(CANDIDATES));
        }
        let version = fields.text(VERSION)?;
        if version.len() > MAX_VERSION || version.chars().any(char::is_control) {
            return Err(RecordError::Field(VERSION));
        }
        let announcement = Announcement {
            sequence: u64::from_le_bytes(fields.array(SEQUENCE)?),
            wireguard: PublicKey::new(fields.array(WIREGUARD)?),
            candidates,
            version: version.to_owned(),
            capabilities: fields.number(CAPABILITIES, 0)?,
            instance: fields.array(INSTANCE)?,
            boot: u64::from_le_bytes(fields.array(BOOT)?),
        };
        Ok(Self { announcement, identity, envelope })
    }
}
