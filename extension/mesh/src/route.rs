//! Which peer an address belongs to: WireGuard's cryptokey routing (paper section 2).
//!
//! One table serves both directions. On the way out it picks the peer of a destination; on the way in the
//! *owner* of the source must be the peer that sent it. So a peer with a wide prefix cannot speak for a
//! narrower one inside it that belongs to another.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use crate::node::PeerId;

/// The allowed IPs of all peers. Each prefix has one owner; giving it to another takes it away.
#[derive(Debug, Default)]
pub struct AllowedIps {
    /// Nearly all entries of a mesh are single addresses: those skip the trie.
    hosts4: BTreeMap<Ipv4Addr, PeerId>,
    hosts6: BTreeMap<Ipv6Addr, PeerId>,
    nets4: PrefixMap<Ipv4Net, PeerId>,
    nets6: PrefixMap<Ipv6Net, PeerId>,
}

impl AllowedIps {
    /// The owner of the longest prefix that holds `address`.
    #[inline]
    pub fn owner(&self, address: IpAddr) -> Option<PeerId> {
        match address {
            IpAddr::V4(address) => {
                self.hosts4.get(&address).copied().or_else(|| {
                    self.nets4.get_lpm(&Ipv4Net::new_assert(address, 32)).map(|(_, owner)| *owner)
                })
            }
            IpAddr::V6(address) => {
                self.hosts6.get(&address).copied().or_else(|| {
                    self.nets6.get_lpm(&Ipv6Net::new_assert(address, 128)).map(|(_, owner)| *owner)
                })
            }
        }
    }

    /// Gives `net` to `owner`, whoever had it. Host bits are cut off.
    pub fn insert(&mut self, net: IpNet, owner: PeerId) {
        match net.trunc() {
            IpNet::V4(net) if net.prefix_len() == 32 => self.hosts4.insert(net.addr(), owner),
            IpNet::V6(net) if net.prefix_len() == 128 => self.hosts6.insert(net.addr(), owner),
            IpNet::V4(net) => self.nets4.insert(net, owner),
            IpNet::V6(net) => self.nets6.insert(net, owner),
        };
    }

    /// Takes `net` away from `owner`; whether it had it.
    pub fn remove(&mut self, net: IpNet, owner: PeerId) -> bool {
        if self.owner_of(net) != Some(owner) {
            return false;
        }
        match net.trunc() {
            IpNet::V4(net) if net.prefix_len() == 32 => self.hosts4.remove(&net.addr()),
            IpNet::V6(net) if net.prefix_len() == 128 => self.hosts6.remove(&net.addr()),
            IpNet::V4(net) => self.nets4.remove(&net),
            IpNet::V6(net) => self.nets6.remove(&net),
        };
        true
    }

    /// Takes everything away from `owner`.
    pub fn remove_all(&mut self, owner: PeerId) {
        for net in self.of(owner) {
            self.remove(net, owner);
        }
    }

    /// The prefixes of `owner`, IPv4 before IPv6, in order.
    pub fn of(&self, owner: PeerId) -> Vec<IpNet> {
        let mut nets: Vec<IpNet> =
            self.iter().filter(|(_, peer)| *peer == owner).map(|(net, _)| net).collect();
        nets.sort_unstable();
        nets
    }

    /// All prefixes with their owners, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, PeerId)> {
        let hosts4 = self.hosts4.iter().map(|(host, owner)| (IpNet::from(IpAddr::V4(*host)), *owner));
        let hosts6 = self.hosts6.iter().map(|(host, owner)| (IpNet::from(IpAddr::V6(*host)), *owner));
        let nets4 = self.nets4.iter().map(|(net, owner)| (IpNet::V4(net), *owner));
        let nets6 = self.nets6.iter().map(|(net, owner)| (IpNet::V6(net), *owner));
        hosts4.chain(nets4).chain(hosts6).chain(nets6)
    }

    /// The owner of exactly this prefix.
    pub fn owner_of(&self, net: IpNet) -> Option<PeerId> {
        match net.trunc() {
            IpNet::V4(net) if net.prefix_len() == 32 => self.hosts4.get(&net.addr()).copied(),
            IpNet::V6(net) if net.prefix_len() == 128 => self.hosts6.get(&net.addr()).copied(),
            IpNet::V4(net) => self.nets4.get(&net).copied(),
            IpNet::V6(net) => self.nets6.get(&net).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const A: PeerId = PeerId::new(0);
    const B: PeerId = PeerId::new(1);

    #[test]
    fn the_longest_prefix_owns_the_address() {
        let mut table = AllowedIps::default();
        table.insert(net("10.0.0.0/8"), A);
        table.insert(net("10.1.2.3/32"), B);
        table.insert(net("::/0"), A);
        table.insert(net("fd00::/64"), B);
        assert_eq!(table.owner(ip("10.9.9.9")), Some(A));
        assert_eq!(table.owner(ip("10.1.2.3")), Some(B));
        assert_eq!(table.owner(ip("fd00::5")), Some(B));
        assert_eq!(table.owner(ip("fd01::5")), Some(A));
        assert_eq!(table.owner(ip("192.0.2.1")), None);
    }

    #[test]
    fn a_prefix_given_to_another_leaves_its_owner() {
        let mut table = AllowedIps::default();
        table.insert(net("10.0.0.0/24"), A);
        table.insert(net("10.0.0.77/24"), B);
        assert_eq!(table.of(A), vec![]);
        assert_eq!(table.of(B), vec![net("10.0.0.0/24")]);
    }

    #[test]
    fn only_the_owner_loses_a_prefix() {
        let mut table = AllowedIps::default();
        table.insert(net("10.0.0.1/32"), A);
        assert!(!table.remove(net("10.0.0.1/32"), B));
        assert!(table.remove(net("10.0.0.1/32"), A));
        assert!(!table.remove(net("10.0.0.1/32"), A));
        assert_eq!(table.owner(ip("10.0.0.1")), None);
    }

    proptest! {
        /// Against the definition: among all prefixes that hold the address, the longest.
        #[test]
        fn lookup_agrees_with_a_linear_search(
            entries in proptest::collection::vec((any::<[u8; 4]>(), 0u8..=32, 0u32..5), 0..40),
            probes in proptest::collection::vec(any::<[u8; 4]>(), 1..20),
        ) {
            let mut table = AllowedIps::default();
            let mut list: BTreeMap<Ipv4Net, PeerId> = BTreeMap::new();
            for (octets, len, owner) in entries {
                let octets = [octets[0] & 3, octets[1] & 3, octets[2] & 3, octets[3] & 3];
                let net = Ipv4Net::new(Ipv4Addr::from(octets), len).unwrap();
                table.insert(IpNet::V4(net), PeerId::new(owner));
                list.insert(net.trunc(), PeerId::new(owner));
            }
            for octets in probes {
                let address = Ipv4Addr::from([octets[0] & 3, octets[1] & 3, octets[2] & 3, octets[3] & 3]);
                let expected = list
                    .iter()
                    .filter(|(net, _)| net.contains(&address))
                    .max_by_key(|(net, _)| net.prefix_len())
                    .map(|(_, owner)| *owner);
                prop_assert_eq!(table.owner(address.into()), expected);
            }
        }
    }
}
