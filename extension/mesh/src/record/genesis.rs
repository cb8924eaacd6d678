//! The beginning of a network: its name, its addresses, its owners. Its hash is the network's identity, so
//! nothing in it can ever change.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::name::Name;
use super::tlv::{Fields, Writer, read_nets, write_nets};
use super::{Envelope, Kind, NetworkId, OwnerKey, RecordError};
use crate::crypto::{Crypto, KEY_LEN, Secret, hash};

const NAME: u8 = 1;
const RANGE: u8 = 2;
const OWNERS: u8 = 3;
const NONCE: u8 = 4;
const KNOWN: u8 = NONCE;

/// Subnet of the ULA range that holds members' addresses.
const MEMBER_SUBNET: u16 = 0;
/// Subnet of the ULA range that holds control addresses, which no interface has.
const CONTROL_SUBNET: u16 = 0xffff;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// Its name.
    pub name: Name,
    /// The IPv4 range of its members.
    pub range: Ipv4Net,
    /// Its first owners, most senior first.
    pub owners: Vec<Owner>,
    /// What tells two networks of the same name apart.
    pub nonce: [u8; 16],
}

/// An owner and the part of the range that it gives out. The parts of two owners do not overlap, so owners need
/// not talk to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The owner's key.
    pub key: OwnerKey,
    /// The addresses that it gives out.
    pub range: Ipv4Net,
}

impl Genesis {
    /// Signs the genesis with the key of its first owner.
    ///
    /// # Errors
    /// [`RecordError`] if it is not valid.
    pub fn seal(&self, first_owner: &Secret, crypto: &dyn Crypto) -> Result<Envelope, RecordError> {
        let owners: Vec<u8> = self.owners.iter().flat_map(|owner| owner.encode()).collect();
        let body = Writer::default()
            .field(NAME, self.name.as_str().as_bytes())
            .field(RANGE, &write_nets(&[self.range.into()]))
            .field(OWNERS, &owners)
            .field(NONCE, &self.nonce)
            .finish();
        let envelope = Envelope::seal(Kind::Genesis, &NetworkId::NONE, &body, &[first_owner], crypto)?;
        Self::decode(&envelope)?;
        Ok(envelope)
    }

    /// Reads and checks a genesis.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn open(bytes: &[u8], crypto: &dyn Crypto) -> Result<(Self, Envelope), RecordError> {
        let envelope = Envelope::open_exactly(bytes, Kind::Genesis, &NetworkId::NONE, crypto)?;
        Ok((Self::decode(&envelope)?, envelope))
    }

    fn decode(envelope: &Envelope) -> Result<Self, RecordError> {
        let signer = envelope.only_signer(Kind::Genesis)?;
        let fields = Fields::read(envelope.body(), KNOWN)?;
        let name = fields.text(NAME)?.parse().map_err(|_| RecordError::Field(NAME))?;
        let range = read_ipv4_net(fields.required(RANGE)?).ok_or(RecordError::Field(RANGE))?;
        let owners = read_owners(fields.required(OWNERS)?).ok_or(RecordError::Field(OWNERS))?;
        let inside = owners.iter().all(|owner| range.contains(&owner.range));
        let disjoint = owners.iter().enumerate().all(|(n, owner)| {
            owners[..n].iter().all(|other| other.key != owner.key && !overlap(&other.range, &owner.range))
        });
        if owners.is_empty() || !inside || !disjoint {
            return Err(RecordError::Field(OWNERS));
        }
        if range.prefix_len() > 30 {
            return Err(RecordError::Field(RANGE));
        }
        if owners[0].key.0 != signer {
            return Err(RecordError::Signature);
        }
        Ok(Self { name, range, owners, nonce: fields.array(NONCE)? })
    }
}

impl Owner {
    /// Key (32), then its range as one prefix (6).
    pub(super) fn encode(&self) -> Vec<u8> {
        [&self.key.0[..], &write_nets(&[self.range.into()])].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (key, range) = bytes.split_first_chunk::<KEY_LEN>()?;
        Some(Self { key: OwnerKey(*key), range: read_ipv4_net(range)? })
    }
}

/// Key and range of one owner in bytes.
const OWNER_LEN: usize = KEY_LEN + 6;

fn read_owners(bytes: &[u8]) -> Option<Vec<Owner>> {
    if !bytes.len().is_multiple_of(OWNER_LEN) {
        return None;
    }
    bytes.chunks_exact(OWNER_LEN).map(Owner::decode).collect()
}

/// Reads exactly one IPv4 prefix.
pub(super) fn read_ipv4_net(bytes: &[u8]) -> Option<Ipv4Net> {
    match read_nets(bytes)?[..] {
        [IpNet::V4(net)] => Some(net),
        _ => None,
    }
}

pub(crate) fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}

/// The IPv6 addresses of a network: a ULA /48 (RFC 4193) whose global id is the start of the network id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UlaPlan([u8; 6]);

impl UlaPlan {
    /// The plan of `network`.
    pub fn of(network: &NetworkId) -> Self {
        let id = &network.0;
        Self([0xfd, id[0], id[1], id[2], id[3], id[4]])
    }

    /// The whole /48.
    pub fn range(&self) -> Ipv6Net {
        Ipv6Net::new_assert(self.subnet(MEMBER_SUBNET, [0; 8]), 48)
    }

    /// The reserved /64 of control addresses.
    pub fn control_range(&self) -> Ipv6Net {
        Ipv6Net::new_assert(self.subnet(CONTROL_SUBNET, [0; 8]), 64)
    }

    /// The address that follows from a member's name: it stays when key, hardware and place change.
    pub fn member_address(&self, name: &Name) -> Ipv6Addr {
        self.subnet(MEMBER_SUBNET, Self::interface_id(b"ichor member address", name.as_str().as_bytes()))
    }

    /// The control address of the member with this identity.
    pub fn control_address(&self, identity: &super::IdentityKey) -> Ipv6Addr {
        self.subnet(CONTROL_SUBNET, Self::interface_id(b"ichor control address", &identity.0))
    }

    fn interface_id(label: &[u8], what: &[u8]) -> [u8; 8] {
        let digest = hash(&[label, what]);
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        // Zero is the subnet-router anycast address (RFC 4291 section 2.6.1).
        id[7] |= 1;
        id
    }

    fn subnet(&self, subnet: u16, interface: [u8; 8]) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&self.0);
        octets[6..8].copy_from_slice(&subnet.to_be_bytes());
        octets[8..].copy_from_slice(&interface);
        octets.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::RealCrypto;
    use crate::record::IdentityKey;

    fn owner(n: u8, range: &str) -> (Secret, Owner) {
        let secret = Secret::new([n; 32]);
        let key = OwnerKey(RealCrypto.signing_public(&secret));
        (secret, Owner { key, range: range.parse().unwrap() })
    }

    fn genesis(ranges: &[&str]) -> (Secret, Genesis) {
        let owners: Vec<_> = ranges.iter().enumerate().map(|(n, range)| owner(n as u8 + 1, range)).collect();
        let genesis = Genesis {
            name: "home".parse().unwrap(),
            range: "10.213.0.0/16".parse().unwrap(),
            owners: owners.iter().map(|(_, owner)| *owner).collect(),
            nonce: [9; 16],
        };
        (owners[0].0.clone(), genesis)
    }

    #[test]
    fn a_genesis_is_read_back() {
        let (secret, genesis) = genesis(&["10.213.0.0/17", "10.213.128.0/17"]);
        let envelope = genesis.seal(&secret, &RealCrypto).unwrap();
        let (opened, again) = Genesis::open(envelope.bytes(), &RealCrypto).unwrap();
        assert_eq!((opened, again.id()), (genesis, envelope.id()));
    }

    #[test]
    fn owners_must_have_disjoint_parts_of_the_range() {
        for ranges in [&["10.213.0.0/16", "10.213.1.0/24"][..], &["10.214.0.0/17"], &["10.213.0.0/15"]] {
            let (secret, genesis) = genesis(ranges);
            let sealed = genesis.seal(&secret, &RealCrypto);
            assert_eq!(sealed.map(|_| ()), Err(RecordError::Field(OWNERS)), "{ranges:?}");
        }
    }

    #[test]
    fn only_the_first_owner_may_sign() {
        let (_, genesis) = genesis(&["10.213.0.0/16"]);
        let stranger = Secret::new([99; 32]);
        assert_eq!(genesis.seal(&stranger, &RealCrypto).map(|_| ()), Err(RecordError::Signature));
    }

    #[test]
    fn addresses_follow_names_and_stay_apart() {
        let plan = UlaPlan::of(&NetworkId([7; 32]));
        let (a, b) = ("cp-1".parse().unwrap(), "cp-2".parse().unwrap());
        assert_eq!(plan.member_address(&a), plan.member_address(&a));
        assert_ne!(plan.member_address(&a), plan.member_address(&b));
        let control = plan.control_address(&IdentityKey([1; 32]));
        assert!(plan.range().contains(&control) && plan.control_range().contains(&control));
        assert!(!plan.control_range().contains(&plan.member_address(&a)));
    }
}
