//! Ranges of addresses: those of Kubernetes where nobody chose others, and what overlaps.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

/// Services of Kubernetes when nobody chooses another range: Talos hides node addresses inside it.
pub const DEFAULT_SERVICES: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 12));
/// Pods of Kubernetes when nobody chooses another range.
pub const DEFAULT_PODS: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16));

/// Whether two ranges have an address in common.
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_overlap_when_one_holds_the_other_whatever_bits_stand_behind_their_prefixes() {
        let overlap = |one: &str, other: &str| overlap(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(overlap("10.0.0.0/8", "10.96.1.1/12") && overlap("10.96.1.1/12", "10.0.0.0/8"));
        assert!(!overlap("10.96.0.0/12", "10.112.0.0/12") && !overlap("10.0.0.0/8", "fd00::/8"));
    }
}
