//! Joining the nodes of a lab to a network, as an operator would join real ones.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use ichord::status::Status;
use ipnet::{IpNet, Ipv4Net};
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Progress, talos};
use crate::error::LabError;
use crate::lab::{Lab, within};
use crate::plan::{Addresses, Place};
use crate::topology::{Family, NodeSpec, Talos, Topology};

/// The name of a lab's network.
const NAME: &str = "lab";
const RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 213, 0, 0), 16);
/// How long all nodes together may take to join.
const JOIN_LIMIT: Duration = Duration::from_secs(60);

/// What an [`Operator`] does.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, Box<dyn Error + Send + Sync>>> + 'a>>;

/// The owner of a lab's network, who plans meshes for Talos nodes, too. The lab is a library of the program that can do
/// this, so that program gives it.
pub trait Operator {
    /// Begins a network.
    ///
    /// # Errors
    ///
    /// When it cannot be what is wanted.
    fn begin<'a>(&'a self, network: &'a Network) -> Work<'a, ()>;

    /// Mints a token in the folder of a network; its join string, with a line feed.
    ///
    /// # Errors
    ///
    /// When the guest cannot have what it is to have.
    fn token<'a>(&'a self, folder: &'a Path, guest: &'a Guest) -> Work<'a, Zeroizing<String>>;

    /// Brings Talos nodes to what their cluster file says, gives them their tokens, and makes sure that a second plan is
    /// empty. `tell` hears what is done.
    ///
    /// # Errors
    ///
    /// When a node cannot be read, the plan is refused, a step fails, or a second plan is not empty.
    fn join<'a>(&'a self, nodes: &'a ToJoin, tell: &'a dyn Fn(&str)) -> Work<'a, Joined>;
}

/// A network that is to begin.
#[derive(Debug, Clone)]
pub struct Network {
    /// The folder for its owner's key, which is made.
    pub folder: PathBuf,
    /// Its name.
    pub name: String,
    /// The addresses of its members.
    pub range: Ipv4Net,
    /// Ranges that are in use.
    pub avoid: Vec<IpNet>,
    /// Where members can be reached.
    pub seeds: Vec<SocketAddr>,
}

/// A node that is to be let in.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// What it is for, in a word.
    pub role: &'static str,
    /// Where it stands.
    pub site: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The incarnation that it replaces.
    pub replaces: Option<String>,
}

/// Nodes that are to be joined.
#[derive(Clone)]
pub struct ToJoin {
    /// The text of their cluster file.
    pub cluster: String,
    /// The folder of their network.
    pub folder: PathBuf,
    /// Those of them that are to be let in, in their order.
    pub guests: Vec<Guest>,
    /// The text of a talosconfig. It was in no file and need not be.
    pub talosconfig: String,
    /// Where each node answers for itself, by its name: from here, not every one can be reached through another.
    pub endpoints: BTreeMap<String, SocketAddr>,
}

impl fmt::Debug for ToJoin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToJoin").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// What it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    /// How many nodes were changed.
    pub nodes: usize,
    /// How many steps were applied and verified.
    pub steps: usize,
    /// How many tokens were used.
    pub tokens: usize,
}

/// Begins the network of a lab in `folder`, and lets all its members in.
pub(super) async fn join(
    lab: &Lab,
    topology: &Topology,
    folder: PathBuf,
    operator: &dyn Operator,
    progress: &Progress,
) -> Result<Joined, LabError> {
    let network = network(topology, folder);
    done("begin a network", operator.begin(&network).await)?;
    progress.tell("the network has an owner: its key is in a folder, nobody else knows it");
    let guests = guests(topology);
    let joined = match &topology.talos {
        Some(talos) => {
            let (talosconfig, ports) = talos::talosconfig(lab, talos).await?;
            let endpoints = topology.nodes().map(|(_, node)| node.name.clone()).zip(ports).collect();
            let cluster = cluster_file(topology, talos);
            let nodes = ToJoin { cluster, folder: network.folder, guests, talosconfig, endpoints };
            progress.tell("planning the mesh from the configs of the nodes, profile beside");
            let joined = operator.join(&nodes, &|text| progress.tell(text)).await;
            let joined = done("join the nodes to a mesh", joined)?;
            let Joined { nodes, steps, .. } = joined;
            progress
                .tell(&format!("{nodes} nodes took {steps} steps, each verified; a second plan is empty"));
            joined
        }
        None => {
            for guest in &guests {
                let join = done("make a token", operator.token(&network.folder, guest).await)?;
                let node = lab.node(&guest.name);
                node.configure(&config(topology, &guest.name, &join)).await?;
            }
            Joined { nodes: guests.len(), steps: 0, tokens: guests.len() }
        }
    };
    let members = guests_of(topology).map(|(_, _, node)| node.name.as_str()).collect::<Vec<_>>();
    until_all_see_each_other(lab, &members).await?;
    progress.tell(&format!("{} tokens let {0} members in, and all see each other", members.len()));
    Ok(joined)
}

/// The configuration of a node's ichord that has a join string.
pub(super) fn config(topology: &Topology, name: &str, join: &str) -> Zeroizing<String> {
    let port = topology.nodes().find(|(_, node)| node.name == name).map(|(_, node)| node.listen_port);
    let mut text = Zeroizing::new(String::new());
    if let Some(port) = port {
        text.push_str(&format!("listenPort: {port}\n"));
    }
    if let Some(mtu) = topology.mesh_mtu {
        text.push_str(&format!("mtu: {mtu}\n"));
    }
    text.push_str("mesh:\n  join: ");
    text.push_str(join.trim());
    text.push('\n');
    text
}

/// The cause of what an operator could not do.
pub(super) fn done<T>(what: &str, result: Result<T, Box<dyn Error + Send + Sync>>) -> Result<T, LabError> {
    result.map_err(|error| LabError::failed(what, &*error))
}

/// Waits until each of `names` is a member and knows all others.
async fn until_all_see_each_other(lab: &Lab, names: &[&str]) -> Result<(), LabError> {
    let is_whole = |status: &Status| {
        status.network.as_ref().is_some_and(|it| it.member.is_some() && it.members == names.len())
    };
    within(JOIN_LIMIT, "all members to see each other", async {
        for name in names {
            let mut watch = lab.node(name).watch_status().await?;
            while !is_whole(&watch.next().await?) {}
        }
        Ok(())
    })
    .await
}

/// Where a node is in the mesh, as its ichord says; nothing while it is no member.
pub(super) fn mesh_addresses(status: &Status) -> Option<Addresses> {
    let nets = status.addresses.iter().filter_map(|net| net.parse::<IpNet>().ok());
    let (mut v4, mut v6) = (None, None);
    for net in nets {
        match net {
            IpNet::V4(net) => v4 = Some(net),
            IpNet::V6(net) => v6 = Some(net),
        }
    }
    Some(Addresses { v4: v4?, v6: v6? })
}

fn network(topology: &Topology, folder: PathBuf) -> Network {
    let lans = (0..topology.sites.len()).map(|site| topology.gateway(site).v4.trunc().into());
    // The one that begins: it asks nobody else before it does.
    let seed =
        guests_of(topology).find_map(|(_, place, node)| topology.public_endpoint(place, node.listen_port));
    Network {
        folder,
        name: NAME.to_owned(),
        range: RANGE,
        avoid: lans.collect(),
        seeds: seed.into_iter().collect(),
    }
}

/// The members of a lab with their indices and places, in the order of their numbers.
fn guests_of(topology: &Topology) -> impl Iterator<Item = (usize, Place, &NodeSpec)> {
    let all = topology.places().enumerate().map(|(index, (place, node))| (index, place, node));
    all.filter(|(_, _, node)| node.daemon)
}

/// The members of a lab. First comes one that others can reach: it begins the network.
pub(super) fn guests(topology: &Topology) -> Vec<Guest> {
    let mut guests: Vec<_> = guests_of(topology).collect();
    guests.sort_by_key(|(_, place, node)| topology.public_endpoint(*place, node.listen_port).is_none());
    let guest = |(index, place, node): (usize, Place, &NodeSpec)| Guest {
        name: node.name.clone(),
        role: role(topology.talos.as_ref(), index),
        site: topology.sites[place.site].name.clone(),
        address: Topology::mesh_address(place).v4.addr(),
        replaces: None,
    };
    guests.into_iter().map(guest).collect()
}

fn role(talos: Option<&Talos>, index: usize) -> &'static str {
    if talos.is_some_and(|talos| index < talos.control_planes) { "controlplane" } else { "worker" }
}

/// `ichor.yaml` of the members of a lab; JSON is YAML.
pub(super) fn cluster_file(topology: &Topology, talos: &Talos) -> String {
    let port = guests_of(topology).next().map(|(_, _, node)| node.listen_port);
    let sites: Vec<Value> = topology
        .sites
        .iter()
        .enumerate()
        .map(|(index, site)| {
            json!({"name": site.name, "lans": [topology.gateway(index).v4.trunc().to_string()]})
        })
        .collect();
    let nodes: Vec<Value> = guests_of(topology)
        .map(|(index, place, node)| {
            let mut entry = json!({
                "name": node.name,
                "role": role(Some(talos), index),
                "site": topology.sites[place.site].name,
                "address": Topology::mesh_address(place).ip(Family::V4),
                "api": topology.underlay_of(place).ip(Family::V4),
            });
            if let Some(endpoint) = port.and_then(|port| topology.public_endpoint(place, port)) {
                entry["endpoint"] = json!(endpoint);
            }
            entry
        })
        .collect();
    let mut mesh = json!({"name": NAME, "range": RANGE, "membership": "tokens", "profile": "beside"});
    if let Some(port) = port {
        mesh["port"] = json!(port);
    }
    if let Some(mtu) = topology.mesh_mtu {
        mesh["mtu"] = json!(mtu);
    }
    json!({"mesh": mesh, "sites": sites, "nodes": nodes}).to_string()
}
