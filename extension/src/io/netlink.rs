//! Addresses and routes of the interface, by rtnetlink.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
};
use rtnetlink::{Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc;

use crate::reconcile::{Change, Observed};

/// Marks our routes in the kernel (`ip route` shows `proto 105`), so that we never touch another's.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(105);
/// Loses against every route to the same prefix that the host or Talos made (Talos' default is 1024).
const METRIC: u32 = 2100;

/// What the names of interfaces start with that lead to pods or into other meshes: nobody else reaches their addresses.
const INNER: [&str; 14] = [
    "cali",
    "cilium",
    "cni",
    "docker",
    "dummy",
    "flannel",
    "ichor",
    "kube",
    "lxc",
    "nodelocaldns",
    "podman",
    "tailscale",
    "weave",
    "wg",
];

/// A connection to the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Netlink {
    handle: Handle,
}

/// What was attempted on what.
#[derive(Debug, thiserror::Error)]
#[error("failed to {what}")]
pub(crate) struct NetlinkError {
    what: String,
    source: rtnetlink::Error,
}

impl Netlink {
    /// Connects. The receiver gets a note after something changed in the kernel; notes that nobody took yet
    /// are not repeated.
    pub(crate) fn connect() -> std::io::Result<(Self, mpsc::Receiver<()>)> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            use futures_util::StreamExt as _;
            while messages.next().await.is_some() {
                // A note is waiting already when the channel is full.
                if let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(()) {
                    return;
                }
            }
        });
        Ok((Self { handle }, receiver))
    }

    /// The index of the interface `name`.
    pub(crate) async fn index(&self, name: &str) -> Result<u32, NetlinkError> {
        Ok(self.link(name).await?.header.index)
    }

    /// What the kernel has on the interface `name`, and what is connected elsewhere.
    pub(crate) async fn observe(&self, name: &str) -> Result<Observed, NetlinkError> {
        let link = self.link(name).await?;
        let index = link.header.index;
        let mtu = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        let mut observed = Observed {
            mtu: mtu.unwrap_or(0),
            is_up: link.header.flags.contains(LinkFlags::Up),
            ..Observed::default()
        };
        let outside = self.outside().await?;
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.map_err(failed("list addresses"))? {
            let Some(address) = address_of(&message) else { continue };
            if message.header.index == index {
                observed.addresses.insert(address);
            } else if outside.contains(&message.header.index) {
                observed.underlay.addresses.insert((message.header.index, address));
            }
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let (ours, connected) = self.routes(family, index).await?;
            observed.routes.extend(ours);
            observed.connected.extend(connected);
        }
        Ok(observed)
    }

    /// Interfaces that lead out of this host.
    async fn outside(&self) -> Result<BTreeSet<u32>, NetlinkError> {
        let mut outside = BTreeSet::new();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(failed("list interfaces"))? {
            let name = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.as_str()),
                _ => None,
            });
            let is_inner = name.is_none_or(|name| INNER.iter().any(|prefix| name.starts_with(prefix)));
            let is_up = link.header.flags.contains(LinkFlags::Up);
            if is_up && !is_inner && !link.header.flags.contains(LinkFlags::Loopback) {
                outside.insert(link.header.index);
            }
        }
        Ok(outside)
    }

    /// Our routes on the interface `index`, and the prefixes that are connected on others.
    async fn routes(
        &self,
        family: AddressFamily,
        index: u32,
    ) -> Result<(BTreeMap<IpNet, Option<IpAddr>>, BTreeSet<IpNet>), NetlinkError> {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        let (mut ours, mut connected) = (BTreeMap::new(), BTreeSet::new());
        let mut routes = self.handle.route().get(query).execute();
        while let Some(message) = routes.try_next().await.map_err(failed("list routes"))? {
            let Some(route) = Route::of(&message) else { continue };
            if route.interface == Some(index) {
                if route.protocol == PROTOCOL {
                    ours.insert(route.destination, route.source);
                }
            } else if route.is_connected {
                connected.insert(route.destination);
            }
        }
        Ok((ours, connected))
    }

    /// Carries out one step on the interface `index`.
    pub(crate) async fn apply(&self, index: u32, change: &Change) -> Result<(), NetlinkError> {
        match change {
            Change::SetMtu(mtu) => {
                let message = LinkUnspec::new_with_index(index).mtu(*mtu).build();
                self.handle.link().set(message).execute().await.map_err(failed("set the MTU"))
            }
            Change::SetUp => {
                let message = LinkUnspec::new_with_index(index).up().build();
                self.handle.link().set(message).execute().await.map_err(failed("bring the interface up"))
            }
            Change::AddAddress(address) => self
                .handle
                .address()
                .add(index, address.addr(), address.prefix_len())
                .replace()
                .execute()
                .await
                .map_err(failed(format!("add the address {address}"))),
            Change::RemoveAddress(address) => self.remove_address(index, *address).await,
            Change::SetRoute(route, source) => self
                .handle
                .route()
                .add(route_message(index, *route, *source))
                .replace()
                .execute()
                .await
                .map_err(failed(format!("set the route {route}"))),
            Change::RemoveRoute(route) => self
                .handle
                .route()
                .del(route_message(index, *route, None))
                .execute()
                .await
                .or_else(ignore_missing)
                .map_err(failed(format!("remove the route {route}"))),
        }
    }

    async fn remove_address(&self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let what = || format!("remove the address {address}");
        let mut addresses = self.handle.address().get().set_link_index_filter(index).execute();
        while let Some(message) = addresses.try_next().await.map_err(failed(what()))? {
            if message.header.index == index && address_of(&message) == Some(address) {
                let removed = self.handle.address().del(message).execute().await;
                return removed.or_else(ignore_missing).map_err(failed(what()));
            }
        }
        Ok(())
    }

    async fn link(&self, name: &str) -> Result<LinkMessage, NetlinkError> {
        let what = || format!("find the interface {name}");
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let found = links.try_next().await.map_err(failed(what()))?;
        found.ok_or_else(|| NetlinkError { what: what(), source: rtnetlink::Error::RequestFailed })
    }
}

/// The parts of a route that matter here.
struct Route {
    destination: IpNet,
    interface: Option<u32>,
    source: Option<IpAddr>,
    protocol: RouteProtocol,
    is_connected: bool,
}

impl Route {
    /// A unicast route of the main table; `None` for others.
    fn of(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.table != RouteHeader::RT_TABLE_MAIN {
            return None;
        }
        let unspecified = match header.address_family {
            AddressFamily::Inet => IpAddr::from([0; 4]),
            AddressFamily::Inet6 => IpAddr::from([0; 16]),
            _ => return None,
        };
        let mut route = Self {
            destination: IpNet::new(unspecified, 0).ok()?,
            interface: None,
            source: None,
            protocol: header.protocol,
            is_connected: header.protocol == RouteProtocol::Kernel,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => {
                    route.destination =
                        IpNet::new(plain_address(address)?, header.destination_prefix_length).ok()?;
                }
                RouteAttribute::Oif(index) => route.interface = Some(*index),
                RouteAttribute::PrefSource(address) => route.source = plain_address(address),
                RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => route.is_connected = false,
                _ => {}
            }
        }
        // Only what is reachable without a router is connected; link-local prefixes are on every interface.
        route.is_connected &= header.destination_prefix_length > 0
            && !matches!(route.destination.addr(), IpAddr::V6(address) if address.is_unicast_link_local());
        Some(route)
    }
}

fn plain_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    IpNet::new(address, message.header.prefix_len).ok()
}

fn route_message(index: u32, route: IpNet, source: Option<IpAddr>) -> RouteMessage {
    let mut message = match route {
        IpNet::V4(net) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .output_interface(index)
            .priority(METRIC)
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .output_interface(index)
            .priority(METRIC)
            .build(),
    };
    message.header.protocol = PROTOCOL;
    message.header.scope = if route.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    match source {
        Some(IpAddr::V4(address)) => {
            message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(address)));
        }
        Some(IpAddr::V6(address)) => {
            message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet6(address)));
        }
        None => {}
    }
    message
}

/// What is to be removed may be gone already.
fn ignore_missing(error: rtnetlink::Error) -> Result<(), rtnetlink::Error> {
    match &error {
        rtnetlink::Error::NetlinkError(message)
            if matches!(-message.raw_code(), libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENODEV) =>
        {
            Ok(())
        }
        _ => Err(error),
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    move |source| NetlinkError { what: what.into(), source }
}
