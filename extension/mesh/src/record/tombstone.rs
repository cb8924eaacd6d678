//! The end of a member or of a token.
//!
//! What owners and members themselves sign is final. An *expiry*, by which any member lets an ephemeral one go
//! that nobody heard of, is not: it names the last announcement that was heard, and a later one undoes it. It counts
//! only where that very announcement is known.

use super::tlv::{Fields, Writer};
use super::{Envelope, IdentityKey, Kind, NetworkId, OwnerKey, RecordError, RecordId};
use crate::crypto::{Crypto, Secret};

const REASON: u8 = 1;
const TARGET: u8 = 2;
const SEQUENCE: u8 = 3;
const INSTANCE: u8 = 4;
const TIME: u8 = 5;
const KEEP_TOKEN: u8 = 6;
const KNOWN: u8 = KEEP_TOKEN;

const REVOKED: u8 = 1;
const LEFT: u8 = 2;
const TOKEN: u8 = 3;
const EXPIRED: u8 = 4;

/// What ends, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// An owner revokes a member.
    Revoked {
        /// Who is revoked.
        identity: IdentityKey,
        /// Whether the unused rest of its token stays good. Normally it does not: who has stolen one machine may
        /// have seen the token.
        keep_token: bool,
    },
    /// A member leaves by itself. `instance` is that of the machine that says so: whoever has a session with another
    /// machine of this identity does not take it in, so a clone cannot make the established one leave.
    Left {
        /// Who leaves.
        identity: IdentityKey,
        /// The machine that leaves.
        instance: [u8; 8],
    },
    /// An owner revokes the unused rest of a token.
    Token(RecordId),
    /// A member lets an ephemeral one go of which it heard nothing after `sequence`.
    Expired {
        /// Who is let go.
        identity: IdentityKey,
        /// The last announcement that was heard.
        sequence: u64,
    },
}

impl End {
    /// The member that it is about.
    pub const fn identity(&self) -> Option<IdentityKey> {
        match self {
            Self::Revoked { identity, .. } | Self::Left { identity, .. } | Self::Expired { identity, .. } => {
                Some(*identity)
            }
            Self::Token(_) => None,
        }
    }
}

/// A tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstone {
    /// What ends.
    pub end: End,
    /// Seconds since the Unix epoch, by the signer's clock. For people to read.
    pub time: u64,
}

/// A tombstone as it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTombstone {
    /// What it says.
    pub tombstone: Tombstone,
    /// Who says it: an owner's or a member's key, by what it says.
    pub signer: [u8; 32],
    /// Its identity.
    pub id: RecordId,
    /// Its bytes.
    pub envelope: Envelope,
}

impl Tombstone {
    /// Signs the tombstone.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn seal(
        &self,
        network: &NetworkId,
        signer: &Secret,
        crypto: &dyn Crypto,
    ) -> Result<SignedTombstone, RecordError> {
        let (reason, target) = match &self.end {
            End::Revoked { identity, .. } => (REVOKED, identity.0),
            End::Left { identity, .. } => (LEFT, identity.0),
            End::Token(token) => (TOKEN, token.0),
            End::Expired { identity, .. } => (EXPIRED, identity.0),
        };
        let mut body = Writer::default().field(REASON, &[reason]).field(TARGET, &target);
        match &self.end {
            End::Expired { sequence, .. } => body = body.field(SEQUENCE, &sequence.to_le_bytes()),
            End::Left { instance, .. } => body = body.field(INSTANCE, instance),
            End::Revoked { .. } | End::Token(_) => {}
        }
        let keep_token = matches!(self.end, End::Revoked { keep_token: true, .. });
        let body = body
            .field(TIME, &self.time.to_le_bytes())
            .optional(KEEP_TOKEN, keep_token.then_some(&[1][..]))
            .finish();
        SignedTombstone::decode(Envelope::seal(Kind::Tombstone, network, &body, &[signer], crypto)?)
    }
}

impl SignedTombstone {
    /// Reads a tombstone whose signature was checked.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(envelope: Envelope) -> Result<Self, RecordError> {
        let signer = envelope.only_signer(Kind::Tombstone)?;
        let fields = Fields::read(envelope.body(), KNOWN)?;
        let target: [u8; 32] = fields.array(TARGET)?;
        let identity = IdentityKey(target);
        let end = match fields.array(REASON)? {
            [REVOKED] => End::Revoked { identity, keep_token: fields.number(KEEP_TOKEN, 0)? != 0 },
            [LEFT] => End::Left { identity, instance: fields.array(INSTANCE)? },
            [TOKEN] => End::Token(RecordId(target)),
            [EXPIRED] => End::Expired { identity, sequence: u64::from_le_bytes(fields.array(SEQUENCE)?) },
            _ => return Err(RecordError::Field(REASON)),
        };
        // Nobody leaves for another.
        if matches!(end, End::Left { .. }) && signer != target {
            return Err(RecordError::Signature);
        }
        let time = u64::from_le_bytes(fields.array(TIME)?);
        Ok(Self { tombstone: Tombstone { end, time }, signer, id: envelope.id(), envelope })
    }

    /// The owner who signed it, if only an owner may.
    pub fn owner(&self) -> Option<OwnerKey> {
        match self.tombstone.end {
            End::Revoked { .. } | End::Token(_) => Some(OwnerKey(self.signer)),
            End::Left { .. } | End::Expired { .. } => None,
        }
    }
}
