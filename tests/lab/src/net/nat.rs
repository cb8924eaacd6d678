//! The rules of a router: what its kind of NAT does, what its firewall lets in, and what is cut off. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::nft::{Action, At, Chain, Match, Rule, Table};
use crate::plan::{self, Place};
use crate::topology::{Ipv6, Nat, Site, Topology};

/// The router's interface to the internet.
pub(crate) const WAN: &str = "wan";
/// Where the ports of the nodes after the first begin: beyond what Linux gives to sockets (`ip_local_port_range`)
/// and beside what it masquerades to.
const FIRST_MAPPED_PORT: u16 = 61_000;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What the router of `site` does, given who is in it now.
pub(crate) fn router(topology: &Topology, index: usize, site: &Site, nodes: &[(Place, u16)]) -> Table {
    let (uplink, _) = plan::uplink(index);
    let addresses = |place: Place| (topology.underlay_of(place).v4.addr(), plan::public_v4(place));
    let mut inbound = Vec::new();
    let mut outbound = Vec::new();
    match site.nat {
        Nat::None => {}
        Nat::PortPreserving => {
            outbound.extend(mappings(topology, nodes).map(|(node, port, mapped)| {
                let from = [Match::Out(WAN.into()), Match::From(node), Match::UdpFrom(port)];
                Rule::new(from, Action::SourceNat(uplink.v4.addr(), Some(mapped)))
            }));
            outbound.push(Rule::new([Match::Out(WAN.into()), Match::V4], Action::Masquerade));
        }
        Nat::Random => {
            outbound.push(Rule::new([Match::Out(WAN.into()), Match::V4], Action::MasqueradeRandom));
        }
        Nat::Static => {
            for (node, public) in nodes.iter().map(|(place, _)| addresses(*place)) {
                inbound.push(Rule::new(
                    [Match::In(WAN.into()), Match::To(public)],
                    Action::DestinationNat(node),
                ));
                outbound.push(Rule::new(
                    [Match::Out(WAN.into()), Match::From(node)],
                    Action::SourceNat(public, None),
                ));
            }
        }
    }
    let mut chains =
        vec![Chain { at: At::DestinationNat, rules: inbound }, Chain { at: At::SourceNat, rules: outbound }];
    if site.ipv6() == Ipv6::Firewalled {
        // As at home: what nobody inside asked for does not come in, and does not even get an answer.
        let known = Rule::new([Match::In(WAN.into()), Match::Known], Action::Accept);
        let translated = Rule::new([Match::In(WAN.into()), Match::DestinationTranslated], Action::Accept);
        let refused = Rule::new([Match::In(WAN.into())], Action::Drop);
        chains.push(Chain { at: At::Forward, rules: vec![known.clone(), translated, refused.clone()] });
        let icmp = |number| Rule::new([Match::In(WAN.into()), Match::Protocol(number)], Action::Accept);
        chains.push(Chain { at: At::Input, rules: vec![known, icmp(ICMP), icmp(ICMPV6), refused] });
    }
    Table { name: "lab", chains }
}

/// Each node's address and mesh port, and the port that the internet sees.
fn mappings(topology: &Topology, nodes: &[(Place, u16)]) -> impl Iterator<Item = (Ipv4Addr, u16, u16)> {
    let mut taken = BTreeSet::new();
    nodes.iter().map(move |(place, port)| {
        let number = u16::try_from(place.number).unwrap_or_default();
        let mapped = if taken.insert(*port) { *port } else { FIRST_MAPPED_PORT + number };
        (topology.underlay_of(*place).v4.addr(), *port, mapped)
    })
}

/// Silently drops all that arrives or leaves by `interfaces`, and all that passes between the two of a pair.
pub(crate) fn cuts(interfaces: &BTreeSet<String>, pairs: &BTreeSet<(String, String)>) -> Table {
    let arrival = interfaces.iter().map(|name| Rule::new([Match::In(name.clone())], Action::Drop));
    let departure = interfaces.iter().map(|name| Rule::new([Match::Out(name.clone())], Action::Drop));
    let forward = pairs.iter().flat_map(|(a, b)| {
        [(a, b), (b, a)]
            .map(|(from, to)| Rule::new([Match::In(from.clone()), Match::Out(to.clone())], Action::Drop))
    });
    Table {
        name: "lab-cuts",
        chains: vec![
            Chain { at: At::Arrival, rules: arrival.collect() },
            Chain { at: At::Departure, rules: departure.collect() },
            Chain { at: At::Forward, rules: forward.collect() },
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(nat: Nat) -> Vec<Chain> {
        let mut topology = Topology::demo();
        topology.sites[0].nat = nat;
        let nodes: Vec<_> = topology
            .places()
            .filter(|(place, _)| place.site == 0)
            .map(|(place, node)| (place, node.listen_port))
            .collect();
        router(&topology, 0, &topology.sites[0], &nodes).chains
    }

    #[test]
    fn a_public_site_is_left_alone() {
        assert!(rules(Nat::None).iter().all(|chain| chain.rules.is_empty()));
    }

    /// Were two ports the same, connection tracking would choose another one for each destination.
    #[test]
    fn every_node_behind_a_port_preserving_nat_has_a_port_of_its_own() {
        let chains = rules(Nat::PortPreserving);
        let ports: Vec<_> = chains[1]
            .rules
            .iter()
            .filter_map(|rule| match rule.action {
                Action::SourceNat(_, port) => port,
                _ => None,
            })
            .collect();
        assert_eq!(ports[0], 51840);
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 3);
    }

    #[test]
    fn static_translation_works_both_ways() {
        let chains = rules(Nat::Static);
        assert_eq!((chains[0].rules.len(), chains[1].rules.len()), (3, 3));
    }
}
