//! What the kernel should have, what it has, and the difference: pure.
//!
//! Nothing is removed and made again. When the kernel already has what is wanted, the difference is empty, so
//! this can run after every event.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

/// What the interface should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) mtu: u32,
    /// Addresses with their prefix length.
    pub(crate) addresses: BTreeSet<IpNet>,
    /// Prefixes that belong to peers.
    pub(crate) routes: BTreeSet<IpNet>,
    /// Where our own datagrams go.
    pub(crate) endpoints: BTreeSet<IpAddr>,
}

/// What the kernel has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) mtu: u32,
    pub(crate) is_up: bool,
    pub(crate) addresses: BTreeSet<IpNet>,
    /// Routes of ours on the interface, with their preferred source.
    pub(crate) routes: BTreeMap<IpNet, Option<IpAddr>>,
    /// Prefixes that are directly reachable on other interfaces.
    pub(crate) connected: BTreeSet<IpNet>,
    /// Addresses of interfaces that lead out of the host.
    pub(crate) underlay: Underlay,
}

/// What the host has to the outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Underlay {
    /// By the index of their interface.
    pub(crate) addresses: BTreeSet<(u32, IpNet)>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    SetMtu(u32),
    RemoveAddress(IpNet),
    AddAddress(IpNet),
    SetUp,
    RemoveRoute(IpNet),
    /// The source address that the host should use on this route.
    SetRoute(IpNet, Option<IpAddr>),
}

/// A route that is wanted but must not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Withheld {
    /// A directly connected prefix is the same or holds it: the neighbours there would be cut off.
    Connected { route: IpNet, connected: IpNet },
    /// An endpoint lies in it: our own datagrams would be routed into the tunnel.
    Endpoint { route: IpNet, endpoint: IpAddr },
    /// Everything: which path the host takes to the Internet is not ours to decide.
    Default { route: IpNet },
}

impl std::fmt::Display for Withheld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connected { route, connected } => {
                write!(f, "route {route} is not set: {connected} is directly connected here")
            }
            Self::Endpoint { route, endpoint } => {
                write!(f, "route {route} is not set: the endpoint {endpoint} lies in it")
            }
            Self::Default { route } => {
                write!(f, "route {route} is not set: default routes are left to the host")
            }
        }
    }
}

/// The steps from `observed` to `desired`, in a safe order, and the routes that are withheld.
pub(crate) fn difference(desired: &Desired, observed: &Observed) -> (Vec<Change>, BTreeSet<Withheld>) {
    let mut changes = Vec::new();
    if observed.mtu != desired.mtu {
        changes.push(Change::SetMtu(desired.mtu));
    }
    // New addresses first, so that sockets and routes always have one.
    changes.extend(desired.addresses.difference(&observed.addresses).copied().map(Change::AddAddress));
    changes.extend(
        observed
            .addresses
            .difference(&desired.addresses)
            .filter(|address| !is_link_local(**address))
            .copied()
            .map(Change::RemoveAddress),
    );
    if !observed.is_up {
        changes.push(Change::SetUp);
    }

    let mut wanted = BTreeMap::new();
    let mut withheld = BTreeSet::new();
    for route in &desired.routes {
        match judge(*route, desired, observed) {
            Verdict::Set => {
                wanted.insert(*route, preferred_source(*route, &desired.addresses));
            }
            Verdict::Needless => {}
            Verdict::Withhold(why) => {
                withheld.insert(why);
            }
        }
    }
    let stale = observed.routes.keys().filter(|route| !wanted.contains_key(route));
    changes.extend(stale.copied().map(Change::RemoveRoute));
    let missing = wanted.iter().filter(|(route, source)| {
        // A down interface has no routes, whatever was observed; addresses that are new may change the source.
        !observed.is_up || observed.routes.get(route) != Some(source)
    });
    changes.extend(missing.map(|(route, source)| Change::SetRoute(*route, *source)));
    (changes, withheld)
}

enum Verdict {
    Set,
    /// An address of the interface covers it: the kernel makes that route by itself.
    Needless,
    Withhold(Withheld),
}

fn judge(route: IpNet, desired: &Desired, observed: &Observed) -> Verdict {
    if route.prefix_len() == 0 {
        return Verdict::Withhold(Withheld::Default { route });
    }
    if desired.addresses.iter().any(|address| address.trunc().contains(&route)) {
        return Verdict::Needless;
    }
    if let Some(connected) = observed.connected.iter().find(|connected| connected.contains(&route)) {
        return Verdict::Withhold(Withheld::Connected { route, connected: *connected });
    }
    // An endpoint in a directly connected prefix stays reachable there, because that prefix is longer.
    let captured = desired.endpoints.iter().find(|endpoint| {
        route.contains(*endpoint) && !observed.connected.iter().any(|connected| connected.contains(*endpoint))
    });
    match captured {
        Some(endpoint) => Verdict::Withhold(Withheld::Endpoint { route, endpoint: *endpoint }),
        None => Verdict::Set,
    }
}

/// The address that the host should use towards `route`: the first of that family. Without it the kernel may
/// choose one of another interface, and the peer would drop the packet.
fn preferred_source(route: IpNet, addresses: &BTreeSet<IpNet>) -> Option<IpAddr> {
    addresses.iter().map(IpNet::addr).find(|address| address.is_ipv4() == route.addr().is_ipv4())
}

/// The kernel makes these itself.
fn is_link_local(address: IpNet) -> bool {
    matches!(address.addr(), IpAddr::V6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(list: &[&str]) -> BTreeSet<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn desired() -> Desired {
        Desired {
            mtu: 1420,
            addresses: nets(&["10.213.0.1/16", "fd00::1/48"]),
            routes: nets(&["10.213.0.2/32", "192.168.7.0/24"]),
            endpoints: BTreeSet::new(),
        }
    }

    /// A kernel that does what it is told.
    fn apply(observed: &mut Observed, changes: &[Change]) {
        for change in changes {
            match change {
                Change::SetMtu(mtu) => observed.mtu = *mtu,
                Change::AddAddress(address) => {
                    observed.addresses.insert(*address);
                }
                Change::RemoveAddress(address) => {
                    observed.addresses.remove(address);
                }
                Change::SetUp => observed.is_up = true,
                Change::RemoveRoute(route) => {
                    observed.routes.remove(route);
                }
                Change::SetRoute(route, source) => {
                    observed.routes.insert(*route, *source);
                }
            }
        }
    }

    #[test]
    fn a_fresh_interface_gets_everything_in_order() {
        let (changes, withheld) = difference(&desired(), &Observed::default());
        let source = Some("10.213.0.1".parse().unwrap());
        assert_eq!(
            changes,
            [
                Change::SetMtu(1420),
                Change::AddAddress(net("10.213.0.1/16")),
                Change::AddAddress(net("fd00::1/48")),
                Change::SetUp,
                Change::SetRoute(net("192.168.7.0/24"), source),
            ]
        );
        assert!(withheld.is_empty());
    }

    #[test]
    fn a_connected_prefix_beats_an_advertised_one() {
        let observed = Observed { connected: nets(&["192.168.0.0/16"]), ..Observed::default() };
        let (changes, withheld) = difference(&desired(), &observed);
        assert!(!changes.iter().any(|change| matches!(change, Change::SetRoute(..))));
        assert_eq!(withheld.len(), 1);
    }

    #[test]
    fn endpoints_are_never_routed_into_the_tunnel() {
        let mut desired = desired();
        desired.endpoints.insert("192.168.7.9".parse().unwrap());
        let (_, withheld) = difference(&desired, &Observed::default());
        let endpoint = "192.168.7.9".parse().unwrap();
        assert_eq!(withheld, BTreeSet::from([Withheld::Endpoint { route: net("192.168.7.0/24"), endpoint }]));

        // Unless a longer connected prefix takes them out of it.
        let observed = Observed { connected: nets(&["192.168.7.8/29"]), ..Observed::default() };
        let (_, withheld) = difference(&desired, &observed);
        assert!(withheld.is_empty());
    }

    #[test]
    fn default_routes_are_left_to_the_host() {
        let desired = Desired { routes: nets(&["0.0.0.0/0", "::/0"]), ..desired() };
        let (_, withheld) = difference(&desired, &Observed::default());
        assert_eq!(withheld.len(), 2);
    }

    #[test]
    fn link_local_addresses_stay() {
        let observed = Observed { addresses: nets(&["fe80::1/64", "10.9.9.9/32"]), ..Observed::default() };
        let (changes, _) = difference(&desired(), &observed);
        assert!(changes.contains(&Change::RemoveAddress(net("10.9.9.9/32"))));
        assert!(!changes.contains(&Change::RemoveAddress(net("fe80::1/64"))));
    }

    prop_compose! {
        fn any_net()(bits in any::<u32>(), len in 1u8..=32) -> IpNet {
            IpNet::new(IpAddr::V4((bits & 0x0303_0303).into()), len).unwrap()
        }
    }

    proptest! {
        /// From any state, one round of changes leads to a state that needs none.
        #[test]
        fn the_second_difference_is_empty(
            addresses in proptest::collection::btree_set(any_net(), 0..4),
            routes in proptest::collection::btree_set(any_net(), 0..6),
            had_addresses in proptest::collection::btree_set(any_net(), 0..4),
            had_routes in proptest::collection::btree_set(any_net(), 0..6),
            connected in proptest::collection::btree_set(any_net(), 0..3),
            is_up in any::<bool>(),
        ) {
            let routes = routes.iter().map(IpNet::trunc).collect();
            let connected = connected.iter().map(IpNet::trunc).collect();
            let desired = Desired { mtu: 1420, addresses, routes, endpoints: BTreeSet::new() };
            let had_routes = had_routes.iter().map(|route| (route.trunc(), None)).collect();
            let mut observed = Observed {
                mtu: 1500,
                is_up,
                addresses: had_addresses,
                routes: had_routes,
                connected,
                underlay: Underlay::default(),
            };
            let (changes, _) = difference(&desired, &observed);
            apply(&mut observed, &changes);
            prop_assert_eq!(difference(&desired, &observed).0, vec![]);
        }
    }
}
