//! Changes to the owners of a network, and the renaming of members.

use super::genesis::Owner;
use super::name::Name;
use super::tlv::{Fields, Writer};
use super::{Envelope, IdentityKey, Kind, NetworkId, OwnerKey, RecordError, RecordId};
use crate::crypto::{Crypto, Secret};

const CHANGE: u8 = 1;
const OWNER: u8 = 2;
const VOID: u8 = 3;
const SERIAL: u8 = 4;
const KNOWN_CHANGE: u8 = SERIAL;

const MEMBER: u8 = 1;
const NEW_NAME: u8 = 2;
const RENAME_SERIAL: u8 = 3;
const KNOWN_RENAME: u8 = RENAME_SERIAL;

const ADD: u8 = 1;
const REMOVE: u8 = 2;
const ROTATE: u8 = 3;

/// An owner more or less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerChange {
    /// A new owner, junior to all before, who gives out part of the range of the one who signs.
    Add(Owner),
    /// An owner less. Valid if signed by a senior owner, by the owner itself, or by more than half of all owners.
    Remove {
        /// Who is removed.
        owner: OwnerKey,
        /// Whether what it revoked is void, and whoever it added is no owner any more: its key was stolen.
        void: bool,
    },
    /// The one who signs retires, and this key takes its rank and its range. Signed by both keys.
    Rotate(OwnerKey),
}

/// A change of owners as it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedOwnerChange {
    /// What changes.
    pub change: OwnerChange,
    /// Who says so.
    pub owners: Vec<OwnerKey>,
    /// Its identity.
    pub id: RecordId,
    /// Its bytes.
    pub envelope: Envelope,
}

impl OwnerChange {
    /// Signs the change with each of `owners`. `serial` tells two equal changes apart.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn seal(
        &self,
        network: &NetworkId,
        serial: [u8; 8],
        owners: &[&Secret],
        crypto: &dyn Crypto,
    ) -> Result<SignedOwnerChange, RecordError> {
        let body = match self {
            Self::Add(owner) => Writer::default().field(CHANGE, &[ADD]).field(OWNER, &owner.encode()),
            Self::Remove { owner, void } => Writer::default()
                .field(CHANGE, &[REMOVE])
                .field(OWNER, &owner.0)
                .optional(VOID, void.then_some(&[1][..])),
            Self::Rotate(key) => Writer::default().field(CHANGE, &[ROTATE]).field(OWNER, &key.0),
        };
        let body = body.field(SERIAL, &serial).finish();
        SignedOwnerChange::decode(Envelope::seal(Kind::OwnerChange, network, &body, owners, crypto)?)
    }
}

impl SignedOwnerChange {
    /// Reads a change whose signatures were checked.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(envelope: Envelope) -> Result<Self, RecordError> {
        if envelope.kind() != Kind::OwnerChange {
            return Err(RecordError::Kind);
        }
        let mut owners: Vec<OwnerKey> = envelope.signers().iter().copied().map(OwnerKey).collect();
        owners.sort_unstable();
        if owners.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(RecordError::Signature);
        }
        let fields = Fields::read(envelope.body(), KNOWN_CHANGE)?;
        let _serial: [u8; 8] = fields.array(SERIAL)?;
        let change = match fields.array(CHANGE)? {
            [ADD] => {
                let owner = Owner::decode(fields.required(OWNER)?).ok_or(RecordError::Field(OWNER))?;
                OwnerChange::Add(owner)
            }
            [REMOVE] => OwnerChange::Remove {
                owner: OwnerKey(fields.array(OWNER)?),
                void: fields.number(VOID, 0)? != 0,
            },
            [ROTATE] => OwnerChange::Rotate(OwnerKey(fields.array(OWNER)?)),
            _ => return Err(RecordError::Field(CHANGE)),
        };
        let is_signed = match &change {
            // An owner is added by one other, whose range it shares.
            OwnerChange::Add(_) => owners.len() == 1,
            OwnerChange::Remove { .. } => true,
            // Nobody hands its rank to a key that is another's.
            OwnerChange::Rotate(key) => owners.len() == 2 && owners.contains(key),
        };
        if !is_signed {
            return Err(RecordError::Signature);
        }
        Ok(Self { change, owners, id: envelope.id(), envelope })
    }
}

/// A member's new name. Its IPv4 address stays; its IPv6 address follows the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// Who is renamed.
    pub member: IdentityKey,
    /// The new name.
    pub name: Name,
    /// The highest wins.
    pub serial: u64,
}

/// A renaming as it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRename {
    /// What it says.
    pub rename: Rename,
    /// Who says so.
    pub owner: OwnerKey,
    /// Its identity.
    pub id: RecordId,
    /// Its bytes.
    pub envelope: Envelope,
}

impl Rename {
    /// Signs the renaming with an owner's key.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn seal(
        &self,
        network: &NetworkId,
        owner: &Secret,
        crypto: &dyn Crypto,
    ) -> Result<SignedRename, RecordError> {
        let body = Writer::default()
            .field(MEMBER, &self.member.0)
            .field(NEW_NAME, self.name.as_str().as_bytes())
            .field(RENAME_SERIAL, &self.serial.to_le_bytes())
            .finish();
        SignedRename::decode(Envelope::seal(Kind::Rename, network, &body, &[owner], crypto)?)
    }
}

impl SignedRename {
    /// Reads a renaming whose signature was checked.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(envelope: Envelope) -> Result<Self, RecordError> {
        let owner = OwnerKey(envelope.only_signer(Kind::Rename)?);
        let fields = Fields::read(envelope.body(), KNOWN_RENAME)?;
        let rename = Rename {
            member: IdentityKey(fields.array(MEMBER)?),
            name: fields.text(NEW_NAME)?.parse().map_err(|_| RecordError::Field(NEW_NAME))?,
            serial: u64::from_le_bytes(fields.array(RENAME_SERIAL)?),
        };
        Ok(Self { rename, owner, id: envelope.id(), envelope })
    }
}
