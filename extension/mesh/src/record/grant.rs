//! What the holder of a token may become: a grant, signed by an owner.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::genesis::read_ipv4_net;
use super::name::{Name, NamePattern, Role};
use super::tlv::{Fields, Writer, read_nets, write_nets};
use super::{Envelope, Kind, NetworkId, OwnerKey, RecordError, RecordId, TokenKey};
use crate::crypto::{Crypto, Secret};

const TOKEN: u8 = 1;
const NAMES: u8 = 2;
const ROLE: u8 = 3;
const SITE: u8 = 4;
const ADDRESSES: u8 = 5;
const ROUTES: u8 = 6;
const USES: u8 = 7;
const NOT_AFTER: u8 = 8;
const EPHEMERAL: u8 = 9;
const REPLACES: u8 = 10;
const FORCE: u8 = 11;
const SERIAL: u8 = 12;
const MINTED: u8 = 13;
const KNOWN: u8 = MINTED;

/// Most permitted routes: the grant travels in every record that it made.
const MAX_ROUTES: usize = 16;

/// A grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The token that it is for.
    pub token: TokenKey,
    /// Which names it may be used for.
    pub names: NamePattern,
    /// What its members are for.
    pub role: Role,
    /// Where they stand: members of one site reach each other without the Internet. Empty for nowhere special.
    pub site: String,
    /// Which addresses it may be used for: one for an exact name, a range for a pool.
    pub addresses: Ipv4Net,
    /// Prefixes that its members may have behind them.
    pub routes: Vec<IpNet>,
    /// How many members it may make.
    pub uses: u16,
    /// Seconds since the Unix epoch after which nobody is admitted with it.
    pub not_after: u64,
    /// Its members are forgotten when nobody heard of them for this long.
    pub ephemeral: Option<Duration>,
    /// The one incarnation that it may replace: the id of that member's record.
    pub replaces: Option<RecordId>,
    /// Replace even if the incarnation still answers.
    pub force: bool,
    /// Rises with every grant of an owner: of two records of one identity, that of the later grant stands.
    pub serial: u64,
    /// Seconds since the Unix epoch when it was made.
    pub minted: u64,
}

/// A grant as it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedGrant {
    /// What it says.
    pub grant: Grant,
    /// Who says it.
    pub owner: OwnerKey,
    /// Its identity: that of the token.
    pub id: RecordId,
    /// Its bytes.
    pub envelope: Envelope,
}

impl Grant {
    /// Signs the grant with an owner's key.
    ///
    /// # Errors
    /// [`RecordError`] if it is not valid.
    pub fn seal(
        &self,
        network: &NetworkId,
        owner: &Secret,
        crypto: &dyn Crypto,
    ) -> Result<SignedGrant, RecordError> {
        let ephemeral = self.ephemeral.map(|lifetime| (lifetime.as_secs() as u32).to_le_bytes());
        let body = Writer::default()
            .field(TOKEN, &self.token.0)
            .field(NAMES, self.names.to_string().as_bytes())
            .field(ROLE, &[self.role.byte()])
            .field(SITE, self.site.as_bytes())
            .field(ADDRESSES, &write_nets(&[self.addresses.into()]))
            .optional(ROUTES, (!self.routes.is_empty()).then(|| write_nets(&self.routes)).as_deref())
            .field(USES, &self.uses.to_le_bytes())
            .field(NOT_AFTER, &self.not_after.to_le_bytes())
            .optional(EPHEMERAL, ephemeral.as_ref().map(|lifetime| &lifetime[..]))
            .optional(REPLACES, self.replaces.as_ref().map(|id| &id.0[..]))
            .optional(FORCE, self.force.then_some(&[1][..]))
            .field(SERIAL, &self.serial.to_le_bytes())
            .field(MINTED, &self.minted.to_le_bytes())
            .finish();
        SignedGrant::decode(Envelope::seal(Kind::Grant, network, &body, &[owner], crypto)?)
    }

    /// Whether a member of this name, address and routes is what was granted.
    pub fn covers(&self, name: &Name, address: Ipv4Addr, routes: &[IpNet]) -> bool {
        self.names.matches(name)
            && self.addresses.contains(&address)
            && routes.iter().all(|route| self.routes.iter().any(|permitted| permitted.contains(route)))
    }
}

impl SignedGrant {
    /// Reads a grant whose signature was checked.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(envelope: Envelope) -> Result<Self, RecordError> {
        let owner = OwnerKey(envelope.only_signer(Kind::Grant)?);
        let fields = Fields::read(envelope.body(), KNOWN)?;
        let names: NamePattern = fields.text(NAMES)?.parse().map_err(|_| RecordError::Field(NAMES))?;
        let addresses = read_ipv4_net(fields.required(ADDRESSES)?).ok_or(RecordError::Field(ADDRESSES))?;
        let one_address = addresses.prefix_len() == 32;
        if one_address != matches!(names, NamePattern::Exact(_)) {
            return Err(RecordError::Field(ADDRESSES));
        }
        let [role] = fields.array(ROLE)?;
        let site = fields.text(SITE)?;
        if !site.is_empty() && site.parse::<Name>().is_err() {
            return Err(RecordError::Field(SITE));
        }
        let routes = read_nets(fields.get(ROUTES).unwrap_or(&[])).ok_or(RecordError::Field(ROUTES))?;
        if routes.len() > MAX_ROUTES {
            return Err(RecordError::Field(ROUTES));
        }
        let uses = u16::from_le_bytes(fields.array(USES)?);
        // A name can be had by one member only.
        if uses == 0 || (one_address && uses != 1) {
            return Err(RecordError::Field(USES));
        }
        let ephemeral = fields.number(EPHEMERAL, 0)?;
        let grant = Grant {
            token: TokenKey(fields.array(TOKEN)?),
            names,
            role: Role::from_byte(role).ok_or(RecordError::Field(ROLE))?,
            site: site.to_owned(),
            addresses,
            routes,
            uses,
            not_after: u64::from_le_bytes(fields.array(NOT_AFTER)?),
            ephemeral: (ephemeral > 0).then(|| Duration::from_secs(ephemeral)),
            replaces: fields.optional_array(REPLACES)?.map(RecordId),
            force: fields.number(FORCE, 0)? != 0,
            serial: u64::from_le_bytes(fields.array(SERIAL)?),
            minted: u64::from_le_bytes(fields.array(MINTED)?),
        };
        Ok(Self { grant, owner, id: envelope.id(), envelope })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::crypto::RealCrypto;

    pub(crate) fn exact(name: &str, address: &str, token: &Secret, crypto: &dyn Crypto) -> Grant {
        Grant {
            token: TokenKey(crypto.signing_public(token)),
            names: name.parse().unwrap(),
            role: Role::Worker,
            site: "a".into(),
            addresses: format!("{address}/32").parse().unwrap(),
            routes: vec![],
            uses: 1,
            not_after: 2_000_000_000,
            ephemeral: None,
            replaces: None,
            force: false,
            serial: 1,
            minted: 1_800_000_000,
        }
    }

    const NETWORK: NetworkId = NetworkId([3; 32]);

    fn sealed(grant: &Grant) -> Result<SignedGrant, RecordError> {
        grant.seal(&NETWORK, &Secret::new([5; 32]), &RealCrypto)
    }

    #[test]
    fn a_grant_is_read_back_with_everything_in_it() {
        let grant = Grant {
            names: "worker-*".parse().unwrap(),
            addresses: "10.213.4.0/24".parse().unwrap(),
            routes: vec!["192.168.0.0/16".parse().unwrap(), "fd12::/48".parse().unwrap()],
            uses: 50,
            ephemeral: Some(Duration::from_secs(600)),
            replaces: Some(RecordId([8; 32])),
            force: true,
            ..exact("x", "10.213.0.9", &Secret::new([1; 32]), &RealCrypto)
        };
        let signed = sealed(&grant).unwrap();
        let envelope =
            Envelope::open_exactly(signed.envelope.bytes(), Kind::Grant, &NETWORK, &RealCrypto).unwrap();
        assert_eq!(SignedGrant::decode(envelope).unwrap(), signed);
        assert_eq!(signed.grant, grant);
    }

    #[test]
    fn one_name_has_one_address_and_one_use() {
        let good = exact("cp-1", "10.213.0.1", &Secret::new([1; 32]), &RealCrypto);
        assert!(sealed(&good).is_ok());
        let range = Grant { addresses: "10.213.0.0/24".parse().unwrap(), ..good.clone() };
        assert_eq!(sealed(&range).map(|_| ()), Err(RecordError::Field(ADDRESSES)));
        let many = Grant { uses: 2, ..good.clone() };
        assert_eq!(sealed(&many).map(|_| ()), Err(RecordError::Field(USES)));
        let pool = Grant { names: "cp-*".parse().unwrap(), ..good };
        assert_eq!(sealed(&pool).map(|_| ()), Err(RecordError::Field(ADDRESSES)));
    }

    #[test]
    fn a_grant_covers_what_it_says_and_no_more() {
        let grant = Grant {
            names: "w-*".parse().unwrap(),
            addresses: "10.213.4.0/24".parse().unwrap(),
            routes: vec!["192.168.0.0/16".parse().unwrap()],
            ..exact("x", "10.213.0.9", &Secret::new([1; 32]), &RealCrypto)
        };
        let covers = |name: &str, address: &str, routes: &[&str]| {
            let routes: Vec<IpNet> = routes.iter().map(|route| route.parse().unwrap()).collect();
            grant.covers(&name.parse().unwrap(), address.parse().unwrap(), &routes)
        };
        assert!(covers("w-1", "10.213.4.7", &[]));
        assert!(covers("w-1", "10.213.4.7", &["192.168.7.0/24"]));
        assert!(!covers("cp-1", "10.213.4.7", &[]));
        assert!(!covers("w-1", "10.213.5.7", &[]));
        assert!(!covers("w-1", "10.213.4.7", &["192.168.7.0/24", "10.0.0.0/8"]));
        assert!(!covers("w-1", "10.213.4.7", &["192.0.0.0/8"]));
    }
}
