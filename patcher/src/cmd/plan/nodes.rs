//! The nodes of a cluster file over the Talos API.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::api::{ApiError, Cause, ListFilter, NodeClient};
use crate::cluster::{Cluster, Node};
use crate::cmd::connection::Connection;
use crate::cmd::fleet::{Failures, Fleet};
use crate::config_update::NodeConfig;
use crate::plan::INTERFACE;
use crate::plan::observe::Observation;
use crate::talosconfig::TalosConfig;

/// Clients of all nodes that run Talos.
#[derive(Debug)]
pub(crate) struct Nodes {
    /// Names of the cluster file and their clients, in its order.
    clients: Vec<(String, NodeClient)>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AddressStatus {
    address: IpNet,
    #[serde(default)]
    link_name: String,
    #[serde(default)]
    scope: String,
}

#[derive(Deserialize)]
struct NodeIps {
    #[serde(default)]
    addresses: Vec<IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EtcdSpec {
    #[serde(default)]
    advertised_addresses: Vec<IpAddr>,
}

#[derive(Deserialize)]
struct LinkStatus {
    #[serde(default)]
    wireguard: Option<Wireguard>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wireguard {
    #[serde(default)]
    listen_port: u16,
}

#[derive(Deserialize)]
struct ExtensionStatus {
    metadata: ExtensionMetadata,
}

#[derive(Deserialize)]
struct ExtensionMetadata {
    #[serde(default)]
    name: String,
}

impl Nodes {
    /// Clients by the talosconfig, through a node's own jump host where the file names one. `own` says where a node
    /// answers for itself, if not through the endpoints of the talosconfig. Nothing is connected yet.
    pub(crate) fn connect(
        cluster: &Cluster,
        connection: &Connection,
        talosconfig: &TalosConfig,
        own: impl Fn(&Node) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let shared = connection.session_of(talosconfig)?;
        let client = |node: &Node| {
            // A node behind a gateway answers for itself.
            let endpoint = own(node).or_else(|| node.via.as_ref().map(|_| node.api.clone()));
            let client = match endpoint {
                None => shared.node(&node.api)?,
                Some(endpoint) => {
                    let mut own = connection.clone();
                    own.via = node.via.clone().or(own.via);
                    own.endpoints = vec![endpoint];
                    own.session_of(talosconfig)?.node(&node.api)?
                }
            };
            Ok((node.name.clone(), client))
        };
        Ok(Self { clients: cluster.machines().map(client).collect::<anyhow::Result<_>>()? })
    }

    /// The client of a node.
    pub(crate) fn client(&self, name: &str) -> Option<&NodeClient> {
        self.clients.iter().find(|(own, _)| own == name).map(|(_, client)| client)
    }

    /// Reads all nodes side by side.
    pub(crate) async fn observe(&self, cluster: &Cluster) -> anyhow::Result<(Vec<Observation>, Failures)> {
        let fleet = Fleet::new(self.clients.iter().map(|(_, client)| client.clone()).collect());
        let clients = &self.clients;
        let call = |client: NodeClient| async move {
            // Both come from the cluster file, where no API address occurs twice.
            let name = clients.iter().find(|(_, other)| other.name() == client.name()).map(|(name, _)| name);
            let name = name.cloned().unwrap_or_default();
            let is_voter = cluster.voters().any(|voter| voter.name == name);
            observe(&client, name, is_voter).await
        };
        let (replies, failures) = fleet.gather(call).await?;
        Ok((replies.into_iter().map(|(_, observation)| observation).collect(), failures))
    }
}

async fn observe(client: &NodeClient, name: String, is_voter: bool) -> anyhow::Result<Observation> {
    let version = client.talos_version().await?;
    let config = NodeConfig::read(client).await?;
    let is_pending = config.pending().is_some();
    let mut observation = Observation::of_config(name, config.active.text.clone(), Some(version));
    observation.is_pending = is_pending;
    let addresses: Vec<(String, AddressStatus)> =
        list(client, "network", "AddressStatuses.net.talos.dev").await?;
    let addresses = addresses.into_iter().map(|(_, status)| status);
    observation.addresses = addresses
        .filter(|status| matches!(status.scope.as_str(), "" | "global") && status.link_name != INTERFACE)
        .map(|status| (status.address, status.link_name))
        .collect();
    let kubelet: Option<NodeIps> = get(client, "k8s", "NodeIPs.kubernetes.talos.dev", "kubelet").await?;
    observation.node_ips = kubelet.map(|it| it.addresses).unwrap_or_default();
    if is_voter {
        let etcd: Option<EtcdSpec> = get(client, "etcd", "EtcdSpecs.etcd.talos.dev", "etcd").await?;
        observation.etcd_ips = etcd.map(|it| it.advertised_addresses).unwrap_or_default();
    }
    let links: Vec<(String, LinkStatus)> = list(client, "network", "LinkStatuses.net.talos.dev").await?;
    let ports = links.into_iter().filter_map(|(name, link)| Some((link.wireguard?.listen_port, name)));
    observation.wireguard = ports.filter(|(port, name)| *port != 0 && name != INTERFACE).collect();
    let extensions: Vec<(String, ExtensionStatus)> =
        list(client, "runtime", "ExtensionStatuses.runtime.talos.dev").await?;
    observation.has_extension = Some(extensions.iter().any(|(_, status)| status.metadata.name == "ichor"));
    Ok(observation)
}

/// All resources of a kind; none where the node does not have that kind.
async fn list<T: DeserializeOwned>(
    client: &NodeClient,
    namespace: &str,
    kind: &str,
) -> anyhow::Result<Vec<(String, T)>> {
    let resources = match client.list(namespace, kind, ListFilter::default()).await {
        Err(ApiError { cause: Cause::NotFound(_), .. }) => Vec::new(),
        listed => listed?,
    };
    let read = |resource: &crate::api::Resource| Ok((resource.metadata.id.clone(), resource.spec()?));
    resources.iter().map(read).collect()
}

async fn get<T: DeserializeOwned>(
    client: &NodeClient,
    namespace: &str,
    kind: &str,
    id: &str,
) -> anyhow::Result<Option<T>> {
    match client.get(namespace, kind, id).await {
        Err(ApiError { cause: Cause::NotFound(_), .. }) => Ok(None),
        got => Ok(Some(got?.spec()?)),
    }
}
