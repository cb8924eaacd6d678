//! What members pass on to each other: signed records, alone or together with those that prove them.

use std::sync::Arc;

use crate::crypto::{Crypto, hash};
use crate::record::announcement::SignedAnnouncement;
use crate::record::grant::SignedGrant;
use crate::record::member::SignedMember;
use crate::record::name::NamePattern;
use crate::record::owner::{SignedOwnerChange, SignedRename};
use crate::record::receipt::SignedReceipt;
use crate::record::tombstone::SignedTombstone;
use crate::record::{Envelope, IdentityKey, Kind, NetworkId, RecordError, RecordId};

/// A member with all that proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// What an owner granted.
    pub grant: SignedGrant,
    /// What the member says of itself.
    pub member: SignedMember,
    /// Who admitted it.
    pub receipt: SignedReceipt,
}

impl Settled {
    /// Who the member is.
    pub fn identity(&self) -> IdentityKey {
        self.member.identity
    }

    /// Its incarnation.
    pub fn id(&self) -> RecordId {
        self.member.id
    }

    /// Whether nobody else admitted it.
    pub fn is_self_admitted(&self) -> bool {
        self.receipt.admitter == self.identity()
    }

    /// Whether it could begin a network: a token of a pool cannot.
    pub(super) fn may_admit_itself(&self) -> bool {
        matches!(self.grant.grant.names, NamePattern::Exact(_))
    }

    /// The bytes of its three records.
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.grant.envelope.bytes(), self.member.envelope.bytes(), self.receipt.envelope.bytes()]
            .map(|bytes| &bytes[..])
            .concat()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote and checks its signatures.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn open(bytes: &[u8], network: &NetworkId, crypto: &dyn Crypto) -> Result<Self, RecordError> {
        let (grant, rest) = Envelope::open(bytes, network, crypto)?;
        let (member, rest) = Envelope::open(rest, network, crypto)?;
        let receipt = Envelope::open_exactly(rest, Kind::Receipt, network, crypto)?;
        Ok(Self {
            grant: SignedGrant::decode(grant)?,
            member: SignedMember::decode(member)?,
            receipt: SignedReceipt::decode(receipt)?,
        })
    }

    /// Which of two admissions stands where only one can: the one that more members could have seen, then, so that
    /// everybody agrees, the one with the smaller identity.
    pub(super) fn rank(&self) -> impl Ord + use<> {
        // Who admitted itself could claim any reach.
        let reach = if self.is_self_admitted() { 0 } else { self.receipt.receipt.reach };
        (self.is_self_admitted(), std::cmp::Reverse(reach), self.id(), self.receipt.envelope.id())
    }
}

/// Anything that members pass on to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A member.
    Settled(Box<Settled>),
    /// Where a member is.
    Announcement(SignedAnnouncement),
    /// The end of a member or token.
    Tombstone(SignedTombstone),
    /// An owner more or less.
    OwnerChange(SignedOwnerChange),
    /// A new name.
    Rename(SignedRename),
}

impl Item {
    /// Reads an item and checks its signatures.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn open(bytes: &[u8], network: &NetworkId, crypto: &dyn Crypto) -> Result<Self, RecordError> {
        let first = bytes.first().ok_or(RecordError::Malformed)?;
        if *first == Kind::Grant as u8 {
            return Settled::open(bytes, network, crypto).map(Box::new).map(Self::Settled);
        }
        let (envelope, rest) = Envelope::open(bytes, network, crypto)?;
        if !rest.is_empty() {
            return Err(RecordError::Malformed);
        }
        match envelope.kind() {
            Kind::Announcement => SignedAnnouncement::decode(envelope).map(Self::Announcement),
            Kind::Tombstone => SignedTombstone::decode(envelope).map(Self::Tombstone),
            Kind::OwnerChange => SignedOwnerChange::decode(envelope).map(Self::OwnerChange),
            Kind::Rename => SignedRename::decode(envelope).map(Self::Rename),
            Kind::Genesis | Kind::Grant | Kind::Member | Kind::Receipt | Kind::Hello => {
                Err(RecordError::Kind)
            }
        }
    }

    /// The bytes that pass it on.
    pub fn to_bytes(&self) -> Arc<[u8]> {
        match self {
            Self::Settled(settled) => settled.to_bytes().into(),
            Self::Announcement(item) => Arc::clone(item.envelope.bytes()),
            Self::Tombstone(item) => Arc::clone(item.envelope.bytes()),
            Self::OwnerChange(item) => Arc::clone(item.envelope.bytes()),
            Self::Rename(item) => Arc::clone(item.envelope.bytes()),
        }
    }

    /// What tells it from every other item.
    pub fn digest(&self) -> ItemDigest {
        match self {
            Self::Settled(settled) => ItemDigest::of_settled(&settled.id(), &settled.receipt.envelope.id()),
            Self::Announcement(item) => ItemDigest::of(Kind::Announcement, &item.envelope.id().0),
            Self::Tombstone(item) => ItemDigest::of(Kind::Tombstone, &item.id.0),
            Self::OwnerChange(item) => ItemDigest::of(Kind::OwnerChange, &item.id.0),
            Self::Rename(item) => ItemDigest::of(Kind::Rename, &item.id.0),
        }
    }

    /// The digest of the item that `bytes` would be if its signatures were right: to spare the look at the signatures of
    /// what is known.
    pub fn digest_of(bytes: &[u8], network: &NetworkId) -> Option<ItemDigest> {
        let (kind, id, rest) = Envelope::peek(bytes, network).ok()?;
        if kind != Kind::Grant {
            return rest.is_empty().then(|| ItemDigest::of(kind, &id.0));
        }
        let (_, member, rest) = Envelope::peek(rest, network).ok()?;
        let (_, receipt, rest) = Envelope::peek(rest, network).ok()?;
        rest.is_empty().then(|| ItemDigest::of_settled(&member, &receipt))
    }
}

/// The short name of an item, by which nodes compare what they know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ItemDigest(pub u64);

impl ItemDigest {
    fn of(kind: Kind, id: &[u8]) -> Self {
        let digest = hash(&[&[kind as u8], id]);
        let mut short = [0; 8];
        short.copy_from_slice(&digest[..8]);
        Self(u64::from_le_bytes(short))
    }

    /// A member may be admitted twice; which admission is kept matters, too.
    fn of_settled(member: &RecordId, receipt: &RecordId) -> Self {
        Self::of(Kind::Member, &hash(&[&member.0, &receipt.0]))
    }
}
