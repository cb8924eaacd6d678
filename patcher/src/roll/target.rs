//! The nodes of a rollout, and how each is reached.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use serde::Deserialize;

use crate::api::{ListFilter, NodeClient};
use crate::cluster::{Cluster, Role};
use crate::cmd::connection::Connection;
use crate::cmd::plan::nodes::Nodes;
use crate::daemon_status;
use crate::exit::Refusal;

/// A node of a rollout.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Its name, in Kubernetes too.
    pub(crate) name: String,
    /// How it is reached.
    pub(crate) client: NodeClient,
    /// Whether an etcd member runs on it.
    pub(crate) votes: bool,
    /// Its address in the mesh, where that is known.
    pub(crate) mesh: Option<IpAddr>,
    /// All addresses that are known of it.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether nobody waits for it: it was silent when the plan was made, and is left out of it.
    pub(crate) is_given_up: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    addresses: Vec<IpAddr>,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    machine_type: String,
}

/// The nodes of a cluster file, in its order.
pub(crate) fn of_cluster(cluster: &Cluster, nodes: &Nodes) -> anyhow::Result<Vec<Target>> {
    let target = |node: &crate::cluster::Node| {
        let client = nodes.client(&node.name).context("a node of the file has no client")?;
        Ok(Target {
            name: node.name.clone(),
            client: client.clone(),
            votes: node.role == Role::ControlPlane,
            mesh: Some(node.address.into()),
            addresses: node.api_address().into_iter().chain([node.address.into()]).collect(),
            is_given_up: false,
        })
    };
    cluster.machines().map(target).collect()
}

/// The nodes of a cluster as its nodes discovered each other. Each is reached by its first address that is not one of
/// the mesh, as far as the daemons tell which those are.
pub(crate) async fn discovered(connection: &Connection) -> anyhow::Result<Vec<Target>> {
    let session = connection.session()?;
    let asked = match connection.nodes.first() {
        Some(node) => session.node(node)?,
        None => session.any_endpoint().context("there is no endpoint")?,
    };
    let mut targets: Vec<Target> = Vec::new();
    for member in asked.list("cluster", "Members.cluster.talos.dev", ListFilter::default()).await? {
        let spec: Spec = member.spec()?;
        let votes = matches!(spec.machine_type.as_str(), "controlplane" | "init");
        let address = spec.addresses.first();
        let address = address.with_context(|| format!("member {} has no address", member.metadata.id))?;
        let client = session.node(&address.to_string())?;
        let name = if spec.hostname.is_empty() { member.metadata.id.clone() } else { spec.hostname };
        let addresses = spec.addresses;
        targets.push(Target { name, client, votes, mesh: None, addresses, is_given_up: false });
    }
    let own = join_all(targets.iter().map(|target| mesh_addresses(&target.client))).await;
    for (target, own) in targets.iter_mut().zip(&own) {
        target.mesh = target.addresses.iter().find(|address| own.contains(address)).copied();
        let is_below = |address: &&IpAddr| !own.contains(address);
        if let Some(address) = target.addresses.iter().find(is_below) {
            target.client = session.node(&address.to_string())?;
        }
    }
    targets.sort_by(|one, other| (!one.votes, &one.name).cmp(&(!other.votes, &other.name)));
    if !targets.iter().any(|target| target.votes) {
        let reason = format!("{} knows no control plane node of its cluster", asked.name());
        let advice = Some("name the nodes in ichor.yaml and give it with -f".to_owned());
        return Err(Refusal { reason, advice }.into());
    }
    Ok(targets)
}

/// The addresses that a node has in the mesh, by its daemon. None where there is no daemon to tell.
async fn mesh_addresses(client: &NodeClient) -> Vec<IpAddr> {
    let patient = client.clone().with_deadline(Duration::from_secs(4));
    let status = daemon_status::read(&patient).await.unwrap_or_default();
    let address = |net: &String| net.split('/').next()?.parse().ok();
    status.addresses.iter().filter_map(address).collect()
}

/// Refuses to roll over the very mesh that the roll may take down.
pub(crate) fn refuse_over_mesh(
    targets: &[Target],
    endpoints: &[String],
    is_in_mesh: impl Fn(IpAddr) -> bool,
) -> anyhow::Result<()> {
    let over = |text: &str| text.parse().is_ok_and(&is_in_mesh);
    let host = |text: &str| text.rsplit_once(':').map_or(text.to_owned(), |(host, _)| host.to_owned());
    let through =
        endpoints.iter().find(|it| over(it) || over(&host(it))).map(|it| format!("the endpoint {it}"));
    let to = targets.iter().find(|it| over(it.client.name())).map(|it| it.name.clone());
    match through.or(to) {
        None => Ok(()),
        Some(what) => Err(Refusal {
            reason: format!("{what} is reached through the mesh, which a rollout may take down"),
            advice: Some(
                "use addresses of the network below as endpoints and nodes, or --via ssh://...".to_owned(),
            ),
        }
        .into()),
    }
}
