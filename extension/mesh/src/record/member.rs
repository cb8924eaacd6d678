//! A member, as it describes itself: signed by the token that lets it in and by its own identity.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::name::Name;
use super::tlv::{Fields, Writer, read_nets, write_nets};
use super::{Envelope, IdentityKey, Kind, NetworkId, RecordError, RecordId, TokenKey};
use crate::crypto::{Crypto, Secret};

const GRANT: u8 = 1;
const NAME: u8 = 2;
const ADDRESS: u8 = 3;
const ROUTES: u8 = 4;
const KNOWN: u8 = ROUTES;

/// What a member says of itself. Role, site and permissions are in the grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The grant that it uses.
    pub grant: RecordId,
    /// Its name.
    pub name: Name,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// Prefixes behind it.
    pub routes: Vec<IpNet>,
}

/// A member record as it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedMember {
    /// What it says.
    pub member: Member,
    /// The token that was used.
    pub token: TokenKey,
    /// Who the member is.
    pub identity: IdentityKey,
    /// Its identity: that of this incarnation.
    pub id: RecordId,
    /// Its bytes.
    pub envelope: Envelope,
}

impl Member {
    /// Signs the record with the token's and the member's key.
    ///
    /// # Errors
    /// [`RecordError`] if it is not valid.
    pub fn seal(
        &self,
        network: &NetworkId,
        token: &Secret,
        identity: &Secret,
        crypto: &dyn Crypto,
    ) -> Result<SignedMember, RecordError> {
        let body = Writer::default()
            .field(GRANT, &self.grant.0)
            .field(NAME, self.name.as_str().as_bytes())
            .field(ADDRESS, &self.address.octets())
            .optional(ROUTES, (!self.routes.is_empty()).then(|| write_nets(&self.routes)).as_deref())
            .finish();
        SignedMember::decode(Envelope::seal(Kind::Member, network, &body, &[token, identity], crypto)?)
    }
}

impl SignedMember {
    /// Reads a record whose signatures were checked.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(envelope: Envelope) -> Result<Self, RecordError> {
        if envelope.kind() != Kind::Member {
            return Err(RecordError::Kind);
        }
        let [token, identity] = envelope.signers()[..] else { return Err(RecordError::Signature) };
        let fields = Fields::read(envelope.body(), KNOWN)?;
        let member = Member {
            grant: RecordId(fields.array(GRANT)?),
            name: fields.text(NAME)?.parse().map_err(|_| RecordError::Field(NAME))?,
            address: Ipv4Addr::from(fields.array::<4>(ADDRESS)?),
            routes: read_nets(fields.get(ROUTES).unwrap_or(&[])).ok_or(RecordError::Field(ROUTES))?,
        };
        Ok(Self {
            member,
            token: TokenKey(token),
            identity: IdentityKey(identity),
            id: envelope.id(),
            envelope,
        })
    }
}
