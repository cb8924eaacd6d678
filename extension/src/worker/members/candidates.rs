//! Where this node may be reached: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ichor_mesh::record::announcement::MAX_CANDIDATES;
use ipnet::IpNet;

use crate::reconcile::Underlay;

/// What this node says of where it may be reached, best first: what the configuration names, then the addresses of its
/// interfaces. One that was given without a network may be shared (a virtual address that wanders between nodes), so it
/// comes last.
pub(crate) fn candidates(underlay: &Underlay, port: u16, configured: &[SocketAddr]) -> Vec<SocketAddr> {
    let usable = underlay.addresses.iter().map(|(_, net)| *net).filter(|net| is_usable(net.addr()));
    let mut own: Vec<IpNet> = usable.collect();
    own.sort_by_key(|net| (net.addr().is_ipv4() && net.prefix_len() == 32, net.addr().is_ipv6(), net.addr()));
    let mut found: Vec<SocketAddr> = Vec::new();
    for candidate in configured.iter().copied().chain(own.iter().map(|net| SocketAddr::new(net.addr(), port)))
    {
        if found.len() < MAX_CANDIDATES && !found.contains(&candidate) {
            found.push(candidate);
        }
    }
    found
}

/// The interfaces of the network segments that this node is on, each with the address that it speaks from.
pub(crate) fn segments(underlay: &Underlay) -> BTreeMap<u32, Option<Ipv4Addr>> {
    let indices: BTreeSet<u32> = underlay.addresses.iter().map(|(index, _)| *index).collect();
    let first = |index| {
        underlay.addresses.iter().find_map(|(of, net)| match net.addr() {
            IpAddr::V4(address) if *of == index => Some(address),
            _ => None,
        })
    };
    indices.into_iter().map(|index| (index, first(index))).collect()
}

fn is_usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !address.is_loopback() && !address.is_link_local() && !address.is_unspecified()
        }
        IpAddr::V6(address) => {
            !address.is_loopback() && !address.is_unicast_link_local() && !address.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn underlay(addresses: &[(u32, &str)]) -> Underlay {
        Underlay { addresses: addresses.iter().map(|(index, net)| (*index, net.parse().unwrap())).collect() }
    }

    #[test]
    fn what_is_configured_comes_first_and_what_wanders_last() {
        let underlay = underlay(&[
            (2, "192.168.1.5/24"),
            (2, "192.168.1.250/32"),
            (2, "fe80::1/64"),
            (2, "2001:db8::5/64"),
            (3, "169.254.1.1/16"),
        ]);
        let found = candidates(&underlay, 51840, &["203.0.113.7:1234".parse().unwrap()]);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["203.0.113.7:1234", "192.168.1.5:51840", "[2001:db8::5]:51840", "192.168.1.250:51840"]
        );
    }

    #[test]
    fn no_more_than_an_announcement_holds() {
        let many: Vec<String> = (0..40).map(|n| format!("10.0.{n}.1/24")).collect();
        let many: Vec<(u32, &str)> = many.iter().map(|net| (2, net.as_str())).collect();
        assert_eq!(candidates(&underlay(&many), 1, &[]).len(), MAX_CANDIDATES);
    }

    #[test]
    fn a_segment_is_spoken_to_from_its_first_address() {
        let segments = segments(&underlay(&[(2, "10.0.0.2/24"), (2, "10.0.0.9/24"), (3, "fe80::1/64")]));
        assert_eq!(segments, BTreeMap::from([(2, Some(Ipv4Addr::new(10, 0, 0, 2))), (3, None)]));
    }
}
