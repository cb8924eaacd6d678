//! Links, addresses and routes of the network namespace that the connection was made in.

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::address::AddressFlags;
use rtnetlink::packet_route::link::{InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, MulticastGroup, RouteMessageBuilder,
};

use crate::error::{Attempt as _, LabError};

/// A connection to rtnetlink.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    handle: Handle,
}

/// One end of a veth pair that is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End<'n> {
    pub(crate) name: &'n str,
    pub(crate) mtu: u16,
}

impl Links {
    /// Connects, in the namespace of the calling thread.
    pub(crate) fn connect() -> Result<Self, LabError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().attempt(|| "connect to rtnetlink".to_owned())?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Makes a veth pair: `here` in this namespace, `there` in the namespace `other`. Both are down.
    pub(crate) async fn add_veth(
        &self,
        here: End<'_>,
        there: End<'_>,
        other: BorrowedFd<'_>,
    ) -> Result<(), LabError> {
        let peer = LinkMessageBuilder::<LinkUnspec>::default()
            .name(there.name)
            .mtu(there.mtu.into())
            .setns_by_fd(other.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(here.name)
            .mtu(here.mtu.into())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let added = self.handle.link().add(message).execute().await;
        added.attempt(|| format!("make the link from {} to {}", here.name, there.name))
    }

    /// Makes a bridge that forwards at once, and up.
    pub(crate) async fn add_bridge(&self, name: &str) -> Result<(), LabError> {
        let bridge = LinkBridge::new(name)
            .append_info_data(InfoBridge::ForwardDelay(0))
            .mcast_snooping(false)
            .up()
            .build();
        let added = self.handle.link().add(bridge).execute().await;
        added.attempt(|| format!("make the bridge {name}"))
    }

    /// Puts `port` into the bridge `bridge`.
    pub(crate) async fn enslave(&self, port: &str, bridge: &str) -> Result<(), LabError> {
        let controller = self.index(bridge).await?;
        let message = LinkUnspec::new_with_index(self.index(port).await?).controller(controller).build();
        let set = self.handle.link().set(message).execute().await;
        set.attempt(|| format!("put {port} into the bridge {bridge}"))
    }

    /// Sets the MTU of `name`.
    pub(crate) async fn set_mtu(&self, name: &str, mtu: u16) -> Result<(), LabError> {
        let message = LinkUnspec::new_with_index(self.index(name).await?).mtu(mtu.into()).build();
        let set = self.handle.link().set(message).execute().await;
        set.attempt(|| format!("set the MTU of {name} to {mtu}"))
    }

    /// Brings `name` up.
    pub(crate) async fn set_up(&self, name: &str) -> Result<(), LabError> {
        let message = LinkUnspec::new_with_index(self.index(name).await?).up().build();
        let set = self.handle.link().set(message).execute().await;
        set.attempt(|| format!("bring {name} up"))
    }

    /// Removes `name`.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), LabError> {
        let index = self.index(name).await?;
        self.handle.link().del(index).execute().await.attempt(|| format!("remove {name}"))
    }

    /// Waits until there is no link called `name`.
    pub(crate) async fn until_gone(&self, name: &str) -> Result<(), LabError> {
        let what = || format!("wait for the end of the link {name}");
        // Watched from before the first look, so that nothing is missed.
        let (connection, _, mut messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).attempt(what)?;
        tokio::spawn(connection);
        while self.get(name).await.is_ok() {
            if messages.next().await.is_none() {
                return Err(LabError::Failed { what: what(), cause: "netlink closed".to_owned() });
            }
        }
        Ok(())
    }

    /// Adds an address to `name`; an IPv6 one can be used at once, without a search for duplicates.
    pub(crate) async fn add_address(&self, name: &str, address: IpNet) -> Result<(), LabError> {
        let index = self.index(name).await?;
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.attempt(|| format!("add the address {address} to {name}"))
    }

    /// Removes an address from `name`.
    pub(crate) async fn remove_address(&self, name: &str, address: IpNet) -> Result<(), LabError> {
        let what = || format!("remove the address {address} from {name}");
        let index = self.index(name).await?;
        let mut addresses = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .set_address_filter(address.addr())
            .execute();
        if let Some(message) = addresses.try_next().await.attempt(what)? {
            self.handle.address().del(message).execute().await.attempt(what)?;
        }
        Ok(())
    }

    /// Routes `net` by way of `gateway`.
    pub(crate) async fn add_route(&self, net: IpNet, gateway: IpAddr) -> Result<(), LabError> {
        let message = match (net, gateway) {
            (IpNet::V4(net), IpAddr::V4(gateway)) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(net.addr(), net.prefix_len())
                .gateway(gateway)
                .build(),
            (IpNet::V6(net), IpAddr::V6(gateway)) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(net.addr(), net.prefix_len())
                .gateway(gateway)
                .build(),
            (IpNet::V4(_), IpAddr::V6(_)) | (IpNet::V6(_), IpAddr::V4(_)) => {
                let what = format!("add a route to {net}");
                return Err(LabError::Failed { what, cause: format!("{gateway} is of another family") });
            }
        };
        let added = self.handle.route().add(message).replace().execute().await;
        added.attempt(|| format!("add a route to {net} by way of {gateway}"))
    }

    /// The index of `name`.
    pub(crate) async fn index(&self, name: &str) -> Result<u32, LabError> {
        Ok(self.get(name).await?.header.index)
    }

    async fn get(&self, name: &str) -> Result<LinkMessage, LabError> {
        let what = || format!("find the link {name}");
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let found = links.try_next().await.attempt(what)?;
        found.ok_or_else(|| LabError::Failed { what: what(), cause: "there is none".to_owned() })
    }
}

/// The name of a link in a message of the kernel.
pub(crate) fn name_of(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}
