//! Joining simulated Talos nodes to a mesh, as an operator would join real ones.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use serde::Serialize;
use serde_json::{Value, json};

use super::{Progress, talos};
use crate::error::LabError;
use crate::lab::Lab;
use crate::topology::{Family, Talos, Topology};

/// The work of a [`Planner`].
pub type Joining<'a> = Pin<Box<dyn Future<Output = Result<Joined, Box<dyn Error + Send + Sync>>> + 'a>>;

/// Plans meshes for Talos nodes and applies the plans. The lab is a library of the program that can do this, so that
/// program gives it.
pub trait Planner {
    /// Brings nodes to what their cluster file says, and makes sure that a second plan is empty. `tell` hears what is
    /// done.
    ///
    /// # Errors
    ///
    /// When a node cannot be read, the plan is refused, a step fails, or a second plan is not empty.
    fn join<'a>(&'a self, nodes: &'a ToJoin, tell: &'a dyn Fn(&str)) -> Joining<'a>;
}

/// Nodes that are to be joined.
#[derive(Clone)]
pub struct ToJoin {
    /// The text of their cluster file.
    pub cluster: String,
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
}

/// Joins the Talos nodes of a lab that started without a mesh.
pub(super) async fn join(
    lab: &Lab,
    topology: &Topology,
    talos: &Talos,
    planner: &dyn Planner,
    progress: &Progress,
) -> Result<Joined, LabError> {
    let (talosconfig, ports) = talos::talosconfig(lab, talos).await?;
    let endpoints = topology.nodes().map(|(_, node)| node.name.clone()).zip(ports).collect();
    let nodes = ToJoin { cluster: cluster_file(lab, topology, talos).await?, talosconfig, endpoints };
    progress.tell("planning the mesh from the configs of the nodes, profile beside");
    let joined = planner.join(&nodes, &|text| progress.tell(text)).await;
    let joined = joined.map_err(|error| LabError::failed("join the nodes to a mesh", &*error))?;
    let Joined { nodes, steps } = joined;
    progress.tell(&format!("{nodes} nodes took {steps} steps, each verified; a second plan is empty"));
    Ok(joined)
}

/// `ichor.yaml` of the members of a lab; JSON is YAML.
async fn cluster_file(lab: &Lab, topology: &Topology, talos: &Talos) -> Result<String, LabError> {
    let view = lab.view().await?;
    let members = || topology.places().enumerate().filter(|(_, (_, node))| node.daemon);
    let port = members().next().map(|(_, (_, node))| node.listen_port);
    let sites: Vec<Value> = topology
        .sites
        .iter()
        .enumerate()
        .map(|(index, site)| {
            json!({"name": site.name, "lans": [topology.gateway(index).v4.trunc().to_string()]})
        })
        .collect();
    let nodes: Vec<Value> = members()
        .map(|(index, (place, node))| {
            let role = if index < talos.control_planes { "controlplane" } else { "worker" };
            let mut entry = json!({
                "name": node.name,
                "role": role,
                "site": topology.sites[place.site].name,
                "address": Topology::mesh_address(place).ip(Family::V4),
                "address6": Topology::mesh_address(place).ip(Family::V6),
                "api": topology.underlay_of(place).ip(Family::V4),
            });
            if let Some(endpoint) = port.and_then(|port| topology.public_endpoint(place, port)) {
                entry["endpoint"] = json!(endpoint);
            }
            if let Some(key) = view.nodes.iter().find(|it| it.name == node.name).map(|it| &it.public_key) {
                entry["publicKey"] = json!(key);
            }
            entry
        })
        .collect();
    let mut mesh = json!({"name": "lab", "range": "10.213.0.0/16", "range6": "fd69:6368:6f72::/48", "profile": "beside"});
    if let Some(port) = port {
        mesh["port"] = json!(port);
    }
    if let Some(mtu) = topology.mesh_mtu {
        mesh["mtu"] = json!(mtu);
    }
    Ok(json!({"mesh": mesh, "sites": sites, "nodes": nodes}).to_string())
}
