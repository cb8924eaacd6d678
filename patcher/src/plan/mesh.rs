//! What a node needs to be a member: the daemon's file, names, certificates, its site, routes.

use std::net::IpAddr;

use super::pin::{NodeForm, legacy, node_config};
use super::{Case, INTERFACE, daemon};
use crate::cluster::{Cluster, Hosts, Membership, Node, Profile, Role, Route};
use crate::machine::DocumentId;
use crate::patch::TalosLine;
use crate::patch::ensure::{Edit, Place, Setting, Wish};

/// The label of Kubernetes for a place whose nodes fail together.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Metric of routes in the machine config: they lose against those that Talos makes by itself (1024).
const METRIC: i64 = 2048;

pub(super) fn edits(case: &Case<'_>) -> Vec<Edit> {
    let mut edits: Vec<Edit> = extension(case).into_iter().collect();
    edits.extend(hosts(case));
    edits.extend(certificates(case));
    edits.extend(label(case));
    edits.extend(mesh_route(case));
    edits.extend(gateway(case));
    edits
}

/// None where the daemon is let in by a token: what it was given is its own affair.
fn extension(case: &Case<'_>) -> Option<Edit> {
    if case.cluster.mesh.membership == Membership::Tokens {
        return None;
    }
    let place = Place::at("configFiles").item("mountPath", daemon::PATH).key("content");
    Some(Edit {
        document: DocumentId::new("ExtensionServiceConfig", "ichor"),
        wish: Wish::Is(place, Setting::text(daemon::config(case.cluster, case.node))),
        reason:
            "what the daemon needs to know: its address and the members; as a file, because variables of a \
                 second patch come after the old ones, and the first wins"
                .to_owned(),
    })
}

fn hosts(case: &Case<'_>) -> Vec<Edit> {
    let cluster = case.cluster;
    let members = cluster.nodes.iter().filter(|node| match cluster.hosts() {
        Hosts::All => true,
        Hosts::ControlPlanes => node.role == Role::ControlPlane,
        Hosts::None => false,
    });
    // The list of the legacy document and the documents add up. One form per node is enough.
    let is_legacy = case.line < TalosLine::V1_12 || case.facts.has_host_entries;
    let edit = |member: &Node| {
        let ip = member.address.to_string();
        let names = names(cluster, member).into_iter().map(Setting::text).collect();
        let reason = "members find each other by name without any DNS";
        if is_legacy {
            let place = Place::at("machine.network.extraHostEntries").item("ip", ip).key("aliases");
            return legacy(Wish::Contains(place, names), reason);
        }
        Edit {
            document: DocumentId::new("StaticHostConfig", ip),
            wish: Wish::Contains(Place::at("hostnames"), names),
            reason: reason.to_owned(),
        }
    };
    members.map(edit).collect()
}

/// The names of a member: its own only where its node address is on the mesh, too. Else whoever uses it today would
/// suddenly go another way.
fn names(cluster: &Cluster, member: &Node) -> Vec<String> {
    let long = format!("{}.{}", member.name, cluster.mesh.name);
    match cluster.mesh.profile {
        Profile::Beside => vec![long],
        Profile::Nodes | Profile::Stretched => vec![member.name.clone(), long],
    }
}

fn certificates(case: &Case<'_>) -> Vec<Edit> {
    let name = format!("{}.{}", case.node.name, case.cluster.mesh.name);
    let names = || vec![Setting::text(case.node.address.to_string()), Setting::text(name.clone())];
    let reason = "the Talos API answers under the mesh address and name with a certificate that fits";
    let mut edits = vec![legacy(Wish::Contains(Place::at("machine.certSANs"), names()), reason)];
    if case.is_control_plane() {
        let reason =
            "the Kubernetes API answers under the mesh address and name with a certificate that fits";
        if case.facts.has("KubeAPIServerConfig") {
            edits.push(Edit {
                document: DocumentId::new("KubeAPIServerConfig", ""),
                wish: Wish::Contains(Place::at("certExtraSANs"), names()),
                reason: reason.to_owned(),
            });
        } else {
            edits.push(legacy(Wish::Contains(Place::at("cluster.apiServer.certSANs"), names()), reason));
        }
    }
    edits
}

fn label(case: &Case<'_>) -> Vec<Edit> {
    // Somebody else's answer to the same question stays.
    let is_ours = case.facts.labels.iter().all(|label| label != ZONE);
    if !is_ours {
        return Vec::new();
    }
    let reason = "Kubernetes can spread and keep together by site";
    let site = Setting::text(&case.node.site);
    if case.node_form() == NodeForm::Legacy {
        return vec![legacy(Wish::Is(Place::at("machine.nodeLabels").key(ZONE), site), reason)];
    }
    let mut edits = case.node_document();
    edits.push(node_config(Wish::Is(Place::at("labels").key(ZONE), site), reason));
    edits
}

/// A route to the range, on request. In the legacy form links keep their DHCP; with link documents that is over
/// already, and the route goes where the other links are.
fn mesh_route(case: &Case<'_>) -> Vec<Edit> {
    let mesh = &case.cluster.mesh;
    if mesh.route != Route::Config {
        return Vec::new();
    }
    let range = mesh.range.to_string();
    let reason = "the route to the mesh belongs to Talos, as asked for; it waits until the interface appears";
    if case.facts.link_documents().next().is_some() {
        let route = [("destination", Setting::text(range)), ("metric", Setting::Int(METRIC))];
        return vec![Edit {
            document: DocumentId::new("LinkConfig", INTERFACE),
            wish: Wish::Contains(Place::at("routes"), vec![Setting::map(route)]),
            reason: reason.to_owned(),
        }];
    }
    let place = Place::at("machine.network.interfaces").item("interface", INTERFACE).key("routes");
    let route = [("network", Setting::text(range)), ("metric", Setting::Int(METRIC))];
    vec![legacy(Wish::Contains(place, vec![Setting::map(route)]), reason)]
}

/// A gateway outside of the node's own prefix: first how to reach it on the link, then the default route through it.
fn gateway(case: &Case<'_>) -> Vec<Edit> {
    let Some(gateway) = case.cluster.site(&case.node.site).and_then(|site| site.gateway) else {
        return Vec::new();
    };
    let Some(link) = case.lan_link() else { return Vec::new() };
    let reason = format!("{gateway} is reached on the link itself, no address of the node contains it");
    let host = Setting::text(format!("{gateway}/32"));
    let via = Setting::text(gateway.to_string());
    if case.facts.link_documents().next().is_some() {
        let routes = vec![Setting::map([("destination", host)]), Setting::map([("gateway", via)])];
        return vec![Edit {
            document: DocumentId::new("LinkConfig", link),
            wish: Wish::Contains(Place::at("routes"), routes),
            reason,
        }];
    }
    let item = || Place::at("machine.network.interfaces").item("interface", &link);
    let mut edits = Vec::new();
    if case.facts.interfaces.iter().all(|interface| interface.name != link) {
        let reason = format!("a link that is listed loses the DHCP that {link} has without being listed");
        edits.push(legacy(Wish::Is(item().key("dhcp"), Setting::Bool(true)), &reason));
    }
    let routes = vec![
        Setting::map([("network", host)]),
        Setting::map([("network", Setting::text("0.0.0.0/0")), ("gateway", via)]),
    ];
    edits.push(legacy(Wish::Contains(item().key("routes"), routes), &reason));
    edits
}

impl Case<'_> {
    /// The link that carries the node's LAN.
    pub(super) fn lan_link(&self) -> Option<String> {
        let lans = self.lans();
        let known = self
            .addresses()
            .into_iter()
            .find(|(net, link)| !link.is_empty() && lans.iter().any(|lan| lan.contains(&net.addr())));
        self.node.link.clone().or(known.map(|(_, link)| link))
    }
}

/// What the operator should know about one node.
pub(super) fn notes(case: &Case<'_>) -> Vec<String> {
    let name = &case.node.name;
    let mut notes = Vec::new();
    match case.observation.has_extension {
        Some(true) => {}
        Some(false) => notes.push(format!(
            "{name}: the ichor extension is not installed; install an image that has it after the pins are applied"
        )),
        None => {}
    }
    if case.cluster.mesh.membership == Membership::Listed && case.node.public_key.is_none() {
        notes.push(format!(
            "{name}: no publicKey yet, so it is nobody's peer; its daemon makes a key at its first start and shows it \
             in its status"
        ));
    }
    let moves_nodes = case.cluster.mesh.profile != Profile::Beside;
    if moves_nodes && case.is_control_plane() && case.facts.cni.as_deref().is_some_and(|cni| cni != "flannel")
    {
        let mtu = case.cluster.mesh.mtu;
        notes.push(format!(
            "{name}: the CNI is not Talos' flannel; tell it to use {INTERFACE} with an MTU of {mtu} (Cilium: \
             devices={INTERFACE} MTU={mtu})"
        ));
    }
    notes
}

/// What the operator should know about the cluster.
pub(super) fn cluster_notes(cluster: &Cluster) -> Vec<String> {
    let mut notes = Vec::new();
    let members: Vec<&Node> = cluster.nodes.iter().filter(|node| node.public_key.is_some()).collect();
    let is_lost = |one: &Node, other: &Node| {
        daemon::endpoint(cluster, one, other).is_none() && daemon::endpoint(cluster, other, one).is_none()
    };
    // Many pairs would say the same: the sites matter.
    let mut told: Vec<(&str, &str)> = Vec::new();
    for (index, one) in members.iter().enumerate().filter(|(_, node)| node.endpoint.is_none()) {
        for other in members[index + 1..].iter().filter(|node| node.endpoint.is_none()) {
            let pair = (one.site.as_str().min(&other.site), one.site.as_str().max(&other.site));
            if !told.contains(&pair) && is_lost(one, other) {
                told.push(pair);
                notes.push(format!(
                    "{} ({}) and {} ({}) have no endpoint for each other: give one of the sites a node with a public \
                     endpoint",
                    one.name, one.site, other.name, other.site
                ));
            }
        }
    }
    notes
}

/// Whether an address belongs to the mesh.
pub(super) fn is_in_mesh(cluster: &Cluster, address: IpAddr) -> bool {
    cluster.mesh.ranges().any(|range| range.contains(&address))
}
