//! Who has which address, and who can be dialled where: pure arithmetic over a topology.
//!
//! ```text
//! internet ── 198.18.S.0/30 ────────── router of site S ── 192.168.S.0/24 (198.19.S.0/24 without NAT) ── nodes
//!             2001:db8:0:S::/64                            2001:db8:S:1::/64
//! ```
//!
//! All underlay addresses are from ranges for benchmarks, documentation and private use (RFC 2544, RFC 3849,
//! RFC 1918). Sites count from 1, and nodes count from 1 over all sites, so that a node has the same number
//! wherever it roams. The mesh is 10.213.0.0/16 and fd69:6368:6f72::/48, as (site, number) of the topology.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::topology::{Family, Ipv6, MAX, Membership, Nat, NodeSpec, Site, Topology};

/// Seconds between packets that keep a NAT's mapping (the value that WireGuard's documentation gives).
const KEEPALIVE: u16 = 25;
/// The first host number of nodes in a LAN.
const FIRST_HOST: usize = 10;

/// Where a node stands: in which site, and with the how manieth address there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Index of the site.
    pub(crate) site: usize,
    /// Number of the node.
    pub(crate) number: usize,
    /// Whether it has the second of its two addresses there.
    pub(crate) second: bool,
}

/// The two addresses of something, with the length of the prefix they are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// IPv4.
    pub v4: Ipv4Net,
    /// IPv6.
    pub v6: Ipv6Net,
}

impl Addresses {
    fn new(v4: [u8; 4], v4_len: u8, v6: [u16; 8], v6_len: u8) -> Self {
        Self {
            v4: Ipv4Net::new_assert(Ipv4Addr::from(v4), v4_len),
            v6: Ipv6Net::new_assert(Ipv6Addr::from(v6), v6_len),
        }
    }

    /// Both, with their prefix lengths.
    pub fn nets(&self) -> [IpNet; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The address of one family.
    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.addr().into(),
            Family::V6 => self.v6.addr().into(),
        }
    }

    /// The prefixes that they are in.
    pub fn networks(&self) -> [IpNet; 2] {
        [self.v4.trunc().into(), self.v6.trunc().into()]
    }
}

/// A number below 256: at most [`MAX`] and a small constant.
fn octet(n: usize) -> u8 {
    u8::try_from(n).unwrap_or(u8::MAX)
}

/// The prefix of the router at `site` on its link to the internet, and the internet's end of it.
pub(crate) fn uplink(site: usize) -> (Addresses, Addresses) {
    let (s4, s6) = (octet(site + 1), u16::from(octet(site + 1)));
    let end = |n: u8| Addresses::new([198, 18, s4, n], 30, [0x2001, 0xdb8, 0, s6, 0, 0, 0, n.into()], 64);
    (end(2), end(1))
}

/// The public addresses that the internet routes to `site` for one-to-one translation.
pub(crate) fn pool(site: usize) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(198, 18, octet(site + 1), 0), 24)
}

/// The public address of `place` where the site translates one to one.
pub(crate) fn public_v4(place: Place) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, octet(place.site + 1), host(place))
}

fn host(place: Place) -> u8 {
    octet(FIRST_HOST + place.number - 1 + if place.second { MAX } else { 0 })
}

fn lan(site: usize, nat: Nat, host: u8) -> Addresses {
    let s = octet(site + 1);
    let v4 = if nat == Nat::None { [198, 19, s, host] } else { [192, 168, s, host] };
    Addresses::new(v4, 24, [0x2001, 0xdb8, s.into(), 1, 0, 0, 0, host.into()], 64)
}

impl Topology {
    /// The addresses of the router of the site with index `site` in its LAN.
    pub(crate) fn gateway(&self, site: usize) -> Addresses {
        lan(site, self.nat(site), 1)
    }

    /// The addresses of a node at `place`.
    pub(crate) fn underlay_of(&self, place: Place) -> Addresses {
        lan(place.site, self.nat(place.site), host(place))
    }

    fn nat(&self, site: usize) -> Nat {
        self.sites.get(site).map_or(Nat::None, |site| site.nat)
    }

    /// Where each node starts, in the order of their numbers.
    pub(crate) fn places(&self) -> impl Iterator<Item = (Place, &NodeSpec)> {
        self.nodes().enumerate().map(|(n, (site, node))| (Place { site, number: n + 1, second: false }, node))
    }

    /// Where a node at `from` finds one at `to`, by what is known before any packet flows. `None` where only
    /// the other side can begin.
    pub(crate) fn endpoint(&self, from: Place, to: Place, port: u16) -> Option<SocketAddr> {
        if from.site == to.site {
            return Some(SocketAddr::new(self.underlay_of(to).ip(self.underlay), port));
        }
        self.public_endpoint(to, port)
    }

    /// Where other sites find a node at `to`, by what is known before any packet flows. `None` where only the node
    /// itself can begin.
    pub(crate) fn public_endpoint(&self, to: Place, port: u16) -> Option<SocketAddr> {
        let there = self.underlay_of(to).ip(self.underlay);
        let site = self.sites.get(to.site)?;
        match self.underlay {
            Family::V6 => (site.ipv6() == Ipv6::Open).then_some(SocketAddr::new(there, port)),
            Family::V4 => match site.nat {
                Nat::None => Some(SocketAddr::new(there, port)),
                Nat::Static => Some(SocketAddr::new(public_v4(to).into(), port)),
                Nat::PortPreserving | Nat::Random => None,
            },
        }
    }

    /// The members that a member at `from` reaches, or that reach it, by what is known before any packet flows.
    pub(crate) fn peers(&self, from: Place) -> Vec<String> {
        let is_member = |place: Place| self.places().any(|(other, node)| other == place && node.daemon);
        if !is_member(from) {
            return Vec::new();
        }
        let others = self.places().filter(|(place, node)| node.daemon && *place != from);
        others
            .filter(|(to, node)| {
                self.endpoint(from, *to, node.listen_port).is_some() || self.endpoint(*to, from, 0).is_some()
            })
            .map(|(_, node)| node.name.clone())
            .collect()
    }

    /// Whether a node of `site` must keep a mapping open towards others.
    fn needs_keepalive(&self, site: &Site) -> bool {
        match self.underlay {
            Family::V4 => matches!(site.nat, Nat::PortPreserving | Nat::Random),
            Family::V6 => site.ipv6() == Ipv6::Firewalled,
        }
    }

    /// The address of the node `number`, which starts in `site`, in the mesh.
    pub(crate) fn mesh_address(place: Place) -> Addresses {
        let (s, n) = (octet(place.site + 1), octet(place.number));
        Addresses::new([10, 213, s, n], 16, [0xfd69, 0x6368, 0x6f72, 0, 0, 0, s.into(), n.into()], 48)
    }

    /// The configuration of the node at `from` whose own key is in a file: `keys` are the public keys of all
    /// members with their starting places.
    pub(crate) fn config(&self, from: Place, listen_port: u16, members: &[Member<'_>]) -> String {
        let own = Self::mesh_address(from);
        let mut text = format!("interface: ichor0\nlistenPort: {listen_port}\n");
        if let Some(mtu) = self.mesh_mtu {
            text.push_str(&format!("mtu: {mtu}\n"));
        }
        text.push_str(&format!(
            "static:\n  privateKeyFile: {PRIVATE_KEY_FILE}\n  addresses: [{}, '{}']\n  peers:\n",
            own.v4, own.v6
        ));
        let keeps = self.sites.get(from.site).is_some_and(|site| self.needs_keepalive(site));
        for member in members.iter().filter(|member| member.place.number != from.number) {
            let mesh = Self::mesh_address(member.place);
            text.push_str(&format!("    - name: {}\n      publicKey: {}\n", member.node.name, member.key));
            if let Some(endpoint) = self.endpoint(from, member.place, member.node.listen_port) {
                text.push_str(&format!("      endpoint: '{endpoint}'\n"));
                if keeps && member.place.site != from.site {
                    text.push_str(&format!("      persistentKeepalive: {KEEPALIVE}\n"));
                }
            }
            text.push_str(&format!("      allowedIPs: [{}/32, '{}/128']\n", mesh.v4.addr(), mesh.v6.addr()));
        }
        text
    }

    /// `/etc/hosts` of every node: the members by their mesh addresses.
    pub(crate) fn hosts(&self) -> String {
        let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for (place, node) in self.places() {
            let mesh = Self::mesh_address(place);
            text.push_str(&format!("{} {}\n", mesh.v4.addr(), node.name));
            // That of a member follows from the identity of its network.
            if self.membership == Membership::Listed {
                text.push_str(&format!("{} {}\n", mesh.v6.addr(), node.name));
            }
        }
        text
    }
}

/// Where a node has its private key.
pub(crate) const PRIVATE_KEY_FILE: &str = "/etc/ichor/private.key";

/// A node whose ichord others know.
#[derive(Debug, Clone)]
pub(crate) struct Member<'t> {
    /// Where it starts.
    pub(crate) place: Place,
    /// What it is.
    pub(crate) node: &'t NodeSpec,
    /// Its public key, in base64.
    pub(crate) key: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn config_of(topology: &Topology, name: &str) -> ichord::config::Config {
        let members: Vec<_> = topology
            .places()
            .map(|(place, node)| Member {
                place,
                node,
                key: ichor_mesh::key::PublicKey::new([octet(place.number); 32]).to_string(),
            })
            .collect();
        let own = members.iter().find(|member| member.node.name == name).unwrap();
        ichord::config::Config::parse(&topology.config(own.place, 51840, &members)).unwrap()
    }

    #[test]
    fn all_addresses_differ() {
        let sites = (1..=10).map(|n| format!("s{n}:10:static").parse().unwrap()).collect();
        let topology = Topology { sites, ..Topology::default() };
        topology.check().unwrap();
        let mut seen = BTreeSet::new();
        for (place, _) in topology.places() {
            for second in [false, true] {
                let place = Place { second, ..place };
                let underlay = topology.underlay_of(place);
                assert!(seen.insert(underlay.ip(Family::V4)), "{place:?}");
                assert!(seen.insert(underlay.ip(Family::V6)), "{place:?}");
                assert!(seen.insert(public_v4(place).into()), "{place:?}");
            }
            for net in Topology::mesh_address(place).nets() {
                assert!(seen.insert(net.addr()), "{place:?}");
            }
        }
        for site in 0..10 {
            let (router, internet) = uplink(site);
            for end in [router, internet, topology.gateway(site)] {
                assert!(seen.insert(end.ip(Family::V4)) && seen.insert(end.ip(Family::V6)));
            }
        }
    }

    #[test]
    fn in_the_demo_every_pair_can_begin() {
        let demo = Topology::demo();
        assert_eq!(demo.places().map(|(place, _)| demo.peers(place).len()).sum::<usize>(), 20);
    }

    #[test]
    fn two_nodes_behind_two_nats_cannot_begin() {
        let sites = ["a:1:random", "b:1:port-preserving", "c:1"];
        let sites = sites.iter().map(|site| site.parse().unwrap()).collect();
        let topology = Topology { sites, ..Topology::default() };
        let peers: Vec<_> = topology.places().map(|(place, _)| topology.peers(place).join(" ")).collect();
        assert_eq!(peers, ["c-1", "c-1", "a-1 b-1"]);
    }

    #[test]
    fn a_node_behind_a_nat_keeps_its_mappings() {
        let config = config_of(&Topology::demo(), "home-1");
        let mesh = config.static_mesh.unwrap();
        for peer in &mesh.peers {
            assert!(peer.endpoint.is_some(), "{}", peer.name);
            assert_eq!(peer.keepalive().is_some(), peer.name.starts_with("cloud"), "{}", peer.name);
        }
    }

    #[test]
    fn a_node_in_the_cloud_waits_for_those_behind_a_nat() {
        let config = config_of(&Topology::demo(), "cloud-2");
        for peer in config.static_mesh.unwrap().peers {
            assert_eq!(peer.endpoint.is_some(), peer.name == "cloud-1", "{}", peer.name);
        }
    }

    #[test]
    fn over_ipv6_a_firewall_counts_and_not_the_nat() {
        let mut topology = Topology { underlay: Family::V6, ..Topology::demo() };
        let (home, cloud) =
            (Place { site: 0, number: 1, second: false }, Place { site: 1, number: 4, second: false });
        assert_eq!(topology.endpoint(cloud, home, 1), None);
        topology.sites[0].ipv6 = Some(Ipv6::Open);
        assert!(topology.endpoint(cloud, home, 1).unwrap().is_ipv6());
    }
}
