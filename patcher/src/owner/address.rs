//! Which addresses can be given out.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use crate::ranges::{DEFAULT_PODS, DEFAULT_SERVICES, overlap};

/// A range that is in use for something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What uses it.
    pub user: String,
    /// The range.
    pub net: IpNet,
}

impl Claim {
    /// A claim.
    pub fn new(user: impl Into<String>, net: IpNet) -> Self {
        Self { user: user.into(), net }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.user, self.net)
    }
}

/// What every Talos cluster has unless it was told otherwise, and what providers use under their customers' feet.
pub fn usual_claims() -> Vec<Claim> {
    let kubernetes = [
        Claim::new("Kubernetes services, unless the cluster has others", DEFAULT_SERVICES),
        Claim::new("Kubernetes pods, unless the cluster has others", DEFAULT_PODS),
    ];
    let others = [
        ("carrier-grade NAT, RFC 6598", [100, 64, 0, 0], 10),
        ("this host, RFC 1122", [127, 0, 0, 0], 8),
        ("link-local addresses, RFC 3927", [169, 254, 0, 0], 16),
        ("benchmarks, RFC 2544", [198, 18, 0, 0], 15),
        ("multicast and reserved, RFC 5771", [224, 0, 0, 0], 3),
    ];
    let net = |address: [u8; 4], length| Ipv4Net::new_assert(address.into(), length).into();
    let others = others.into_iter().map(|(user, address, length)| Claim::new(user, net(address, length)));
    kubernetes.into_iter().chain(others).collect()
}

/// The first of the claims that a range overlaps.
pub fn conflict<'c>(range: &Ipv4Net, claims: &'c [Claim]) -> Option<&'c Claim> {
    claims.iter().find(|claim| overlap(&IpNet::V4(*range), &claim.net))
}

/// A range for a new mesh that overlaps none of the claims: 10.213.0.0/16, or the next one of that size that is free.
pub fn propose(claims: &[Claim]) -> Option<Ipv4Net> {
    let candidates =
        (213..=255).chain(0..213).map(|second| Ipv4Net::new_assert([10, second, 0, 0].into(), 16));
    candidates.into_iter().find(|range| conflict(range, claims).is_none())
}

/// The lowest address of a range that is not taken, and neither the first nor the last of the whole mesh.
pub fn next_free(range: &Ipv4Net, mesh: &Ipv4Net, is_taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
    let usable = |address: &Ipv4Addr| *address != mesh.network() && *address != mesh.broadcast();
    let (first, last) = (u32::from(range.network()), u32::from(range.broadcast()));
    (first..=last).map(Ipv4Addr::from).filter(usable).find(|address| !is_taken(*address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn the_proposal_is_the_first_range_that_nobody_uses() {
        let mut claims = usual_claims();
        assert_eq!(propose(&claims), Some(net("10.213.0.0/16")));
        claims.push(Claim::new("the LAN", "10.213.4.0/24".parse().unwrap()));
        assert_eq!(propose(&claims), Some(net("10.214.0.0/16")));
        claims.push(Claim::new("everything", "10.0.0.0/8".parse().unwrap()));
        assert_eq!(propose(&claims), None);
    }

    #[test]
    fn a_conflict_names_who_uses_the_range() {
        let claims = usual_claims();
        let found = conflict(&net("10.100.0.0/16"), &claims).unwrap();
        assert_eq!(found.to_string(), "Kubernetes services, unless the cluster has others (10.96.0.0/12)");
        assert_eq!(conflict(&net("192.0.0.0/3"), &claims).unwrap().user, "benchmarks, RFC 2544");
        assert_eq!(conflict(&net("10.213.0.0/16"), &claims), None);
    }

    #[test]
    fn neither_the_networks_own_nor_its_broadcast_address_is_given_out() {
        let mesh = net("10.213.0.0/30");
        assert_eq!(next_free(&mesh, &mesh, |_| false), Some([10, 213, 0, 1].into()));
        assert_eq!(next_free(&mesh, &mesh, |address| address.octets()[3] == 1), Some([10, 213, 0, 2].into()));
        assert_eq!(next_free(&mesh, &mesh, |address| address.octets()[3] != 3), None);
        // The part of an owner begins where the part of another ends.
        assert_eq!(
            next_free(&net("10.213.1.0/24"), &net("10.213.0.0/16"), |_| false),
            Some([10, 213, 1, 0].into())
        );
    }
}
