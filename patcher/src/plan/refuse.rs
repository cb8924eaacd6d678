//! What makes a plan unsafe. Each refusal names the two facts that do not go together, and what to do.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::mesh::is_in_mesh;
use super::{Case, INTERFACE, Options};
use crate::api::Support;
use crate::cluster::{Cluster, Node, Profile, Role};
use crate::patch::TalosLine;
use crate::patch::conflict::Contradiction;
use crate::ranges::{DEFAULT_PODS, DEFAULT_SERVICES, overlap};

/// Longest round trip between voters, in milliseconds.
const MAX_RTT_MS: u32 = 150;
/// Most loss between voters, in parts of a thousand.
const MAX_LOSS_PER_MILLE: u32 = 10;

/// Why a plan is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// The range of the mesh has addresses in common with another one.
    RangeOverlap,
    /// KubeSpan would carry the mesh inside itself.
    KubeSpan,
    /// A subnet takes no address of the node.
    NoAddress,
    /// A node uses another address today than the one that it would be pinned to.
    NotToday,
    /// etcd would go over the mesh although its voters have a LAN.
    EtcdOnMesh,
    /// etcd would go over paths that nobody measured, or that are too bad.
    NotMeasured,
    /// Link documents end the DHCP that the node lives on.
    DhcpLost,
    /// A Talos that is newer than what is known.
    UnknownTalos,
    /// A Talos that is older than what is known.
    OldTalos,
    /// The config on the disk is not the active one.
    Pending,
    /// Another mesh has the port.
    PortTaken,
    /// A shared address of Talos on the mesh.
    VipOnMesh,
    /// File and node disagree about the role.
    WrongRole,
    /// There is no config of a node.
    NoConfig,
    /// A route must name its link, and nobody knows it.
    NoLink,
    /// The firewall would lock the operator out.
    LockedOut,
    /// The node would refuse the config.
    Contradiction,
}

/// Two facts that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The node; none where it is about the cluster.
    pub node: Option<String>,
    /// Why.
    pub reason: Reason,
    /// The two facts.
    pub facts: [String; 2],
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = &self.node {
            write!(f, "{node}: ")?;
        }
        write!(f, "{}, but {}", self.facts[0], self.facts[1])
    }
}

fn refusal(node: Option<&Node>, reason: Reason, facts: [String; 2], advice: impl Into<String>) -> Refusal {
    Refusal { node: node.map(|node| node.name.clone()), reason, facts, advice: advice.into() }
}

pub(super) fn missing(node: &Node) -> Refusal {
    let facts = [
        format!("ichor.yaml lists {} on line {}", node.name, node.line),
        "there is no machine config of it".to_owned(),
    ];
    refusal(Some(node), Reason::NoConfig, facts, "add its config, or take the node out of the file")
}

pub(super) fn contradiction(node: &str, found: &Contradiction) -> Refusal {
    Refusal {
        node: Some(node.to_owned()),
        reason: Reason::Contradiction,
        facts: [format!("the config has {}", found.document), found.message.clone()],
        advice: format!("move {} into the document, or take the document out", found.path),
    }
}

/// What the cluster file alone shows.
pub(super) fn cluster(cluster: &Cluster) -> Vec<Refusal> {
    let mut found = Vec::new();
    let overlaps = |net: &IpNet| cluster.mesh.ranges().any(|range| overlap(net, &range));
    for site in &cluster.sites {
        for lan in site.lans.iter().filter(|lan| overlaps(lan)) {
            let facts = [mesh_range(cluster), format!("the LAN of {} is {lan}", site.name)];
            found.push(refusal(None, Reason::RangeOverlap, facts, "choose another range for the mesh"));
        }
    }
    if overlaps(&DEFAULT_SERVICES) {
        let facts = [
            mesh_range(cluster),
            format!("Kubernetes has services at {DEFAULT_SERVICES}, where Talos sees no node addresses"),
        ];
        found.push(refusal(None, Reason::RangeOverlap, facts, "choose another range, such as 10.213.0.0/16"));
    }
    if cluster.mesh.profile == Profile::Stretched {
        found.extend(stretched(cluster));
    }
    found
}

fn stretched(cluster: &Cluster) -> Option<Refusal> {
    let sites: BTreeSet<&str> = cluster.voters().map(|voter| voter.site.as_str()).collect();
    if let (1, Some(site)) = (sites.len(), sites.first()) {
        let facts = [
            "the profile stretched moves etcd onto the mesh".to_owned(),
            format!("all voters share the LAN of {site}"),
        ];
        let advice = "use the profile nodes: etcd is fastest and safest on the LAN";
        return Some(refusal(None, Reason::EtcdOnMesh, facts, advice));
    }
    let wants = "the profile stretched sends every write of etcd between sites".to_owned();
    let Some(measured) = cluster.mesh.measured else {
        let facts = [wants, "nobody measured the paths between them".to_owned()];
        let advice = "measure them, and write mesh.measured.rttMs (P99) and .lossPerMille into ichor.yaml";
        return Some(refusal(None, Reason::NotMeasured, facts, advice));
    };
    if measured.rtt_ms <= MAX_RTT_MS && measured.loss_per_mille <= MAX_LOSS_PER_MILLE {
        return None;
    }
    let facts = [
        wants,
        format!(
            "their paths have {} ms and lose {} of a thousand packets",
            measured.rtt_ms, measured.loss_per_mille
        ),
    ];
    let advice = format!(
        "at most {MAX_RTT_MS} ms and {MAX_LOSS_PER_MILLE} of a thousand will do; keep the voters in one site"
    );
    Some(refusal(None, Reason::NotMeasured, facts, advice))
}

/// What a node shows.
pub(super) fn node(case: &Case<'_>, options: Options) -> Vec<Refusal> {
    let mut found = Vec::new();
    found.extend(version(case, options));
    found.extend(ranges(case));
    found.extend(role(case));
    found.extend(pending(case));
    found.extend(kubespan(case));
    found.extend(address(case));
    found.extend(today(case));
    found.extend(etcd(case));
    found.extend(dhcp(case));
    found.extend(port(case));
    found.extend(vip(case));
    found.extend(link(case));
    found.extend(firewall(case));
    found
}

fn version(case: &Case<'_>, options: Options) -> Option<Refusal> {
    let version = case.observation.version.as_ref()?;
    let has = format!("the node has Talos {version}");
    match case.observation.support()? {
        Support::TooOld => {
            let facts = [has, "the rules of configs are known from 1.11 on".to_owned()];
            Some(refusal(Some(case.node), Reason::OldTalos, facts, "upgrade it first"))
        }
        Support::Unknown if !options.allow_unknown_talos => {
            let facts = [has, "the rules of configs are known up to 1.14".to_owned()];
            let advice = "get a newer ichorctl, or use --allow-unknown-talos to treat it like Talos 1.14";
            Some(refusal(Some(case.node), Reason::UnknownTalos, facts, advice))
        }
        _ => None,
    }
}

fn ranges(case: &Case<'_>) -> Vec<Refusal> {
    let named = |what: &'static str, nets: &[IpNet]| -> Vec<(&'static str, IpNet)> {
        nets.iter().map(|net| (what, *net)).collect()
    };
    let pods = if case.facts.pods.is_empty() { &[DEFAULT_PODS][..] } else { &case.facts.pods };
    let mut all = named("pods are at", pods);
    all.extend(named("services are at", &case.facts.services));
    // An address of ours from an earlier run is no LAN.
    let lans = case.addresses().into_iter().filter(|(_, link)| link != INTERFACE);
    all.extend(lans.map(|(net, _)| ("the node has an address in", net.trunc())));
    let mesh = &case.cluster.mesh;
    let overlapping = all.into_iter().filter(|(_, net)| mesh.ranges().any(|range| overlap(net, &range)));
    let refuse = |(what, net): (&str, IpNet)| {
        let facts = [mesh_range(case.cluster), format!("{what} {net}")];
        refusal(Some(case.node), Reason::RangeOverlap, facts, "choose another range for the mesh")
    };
    overlapping.map(refuse).collect()
}

fn role(case: &Case<'_>) -> Option<Refusal> {
    let found = case.facts.machine_type.as_deref().unwrap_or("worker");
    let is_control_plane = matches!(found, "controlplane" | "init");
    if is_control_plane == (case.node.role == Role::ControlPlane) {
        return None;
    }
    let facts = [format!("ichor.yaml says {}", case.node.role), format!("machine.type is {found}")];
    Some(refusal(Some(case.node), Reason::WrongRole, facts, "correct the role in ichor.yaml"))
}

fn pending(case: &Case<'_>) -> Option<Refusal> {
    let facts = || {
        [
            "the plan starts from the active config".to_owned(),
            "the config on the disk is another one (staged, or a trial that is not over)".to_owned(),
        ]
    };
    let advice = "reboot the node to finish what is staged, or wait until the trial is over";
    case.observation.is_pending.then(|| refusal(Some(case.node), Reason::Pending, facts(), advice))
}

fn kubespan(case: &Case<'_>) -> Option<Refusal> {
    let kubespan = case.facts.kubespan.as_ref()?;
    let range = IpNet::V4(case.cluster.mesh.range);
    let covers = |text: &str| super::facts::net(text).is_some_and(|net| net.contains(&range));
    let filtered = kubespan.endpoints.iter().any(|entry| entry.strip_prefix('!').is_some_and(covers));
    let excluded = kubespan.excluded.iter().any(|entry| covers(entry));
    // 1.11 cannot say what is not advertised.
    if filtered && (excluded || case.line < TalosLine::V1_12) {
        return None;
    }
    let facts = [
        "KubeSpan is on, and takes every address of a peer for one behind itself".to_owned(),
        format!("{range} of the mesh is not in its exclusions"),
    ];
    let advice = format!(
        "turn KubeSpan off, or give it filters.endpoints [0.0.0.0/0, \"!{range}\"] and excludeAdvertisedNetworks [{range}]"
    );
    Some(refusal(Some(case.node), Reason::KubeSpan, facts, advice))
}

fn address(case: &Case<'_>) -> Option<Refusal> {
    let known = case.addresses();
    let lans = case.lans();
    if known.is_empty() || known.iter().any(|(net, _)| lans.iter().any(|lan| lan.contains(&net.addr()))) {
        return None;
    }
    let list = |nets: &mut dyn Iterator<Item = String>| nets.collect::<Vec<_>>().join(", ");
    let facts = [
        format!("the LAN of {} is {}", case.node.site, list(&mut lans.iter().map(ToString::to_string))),
        format!("the node has {}", list(&mut known.iter().map(|(net, _)| net.addr().to_string()))),
    ];
    let advice = "correct the LANs of the site or the site of the node: kubelet and etcd wait for an address that matches";
    Some(refusal(Some(case.node), Reason::NoAddress, facts, advice))
}

/// A pin keeps what is so; it must not be what moves a node.
fn today(case: &Case<'_>) -> Vec<Refusal> {
    let lans = case.lans();
    let is_elsewhere = |address: &&IpAddr| {
        !is_in_mesh(case.cluster, **address) && !lans.iter().any(|lan| lan.contains(*address))
    };
    let uses = [("kubelet", &case.observation.node_ips), ("etcd", &case.observation.etcd_ips)];
    let moved = uses.into_iter().filter_map(|(user, addresses)| {
        // IPv6 beside IPv4 is no other place.
        let all_elsewhere = !addresses.is_empty() && addresses.iter().all(|address| is_elsewhere(&address));
        all_elsewhere.then(|| (user, addresses[0]))
    });
    let refuse = |(user, address): (&str, IpAddr)| {
        let facts = [
            format!("{user} uses {address} today"),
            format!("the LANs of {} do not have that address", case.node.site),
        ];
        let advice = "add the network of that address to the LANs of the site";
        refusal(Some(case.node), Reason::NotToday, facts, advice)
    };
    moved.map(refuse).collect()
}

fn etcd(case: &Case<'_>) -> Option<Refusal> {
    let advertised = case.advertised();
    let is_on_mesh = case.selects_mesh_only(&advertised);
    let stays = case.cluster.mesh.profile != Profile::Stretched;
    if !(case.is_control_plane() && stays && is_on_mesh) {
        return None;
    }
    let facts = [
        format!("etcd advertises {}, the mesh", advertised.join(", ")),
        format!("voters share the LAN of {}", case.node.site),
    ];
    let advice = "move etcd back to the LAN first, one control plane at a time with a reboot each";
    Some(refusal(Some(case.node), Reason::EtcdOnMesh, facts, advice))
}

/// Talos runs DHCP on every link by itself only as long as no document names a link.
fn dhcp(case: &Case<'_>) -> Option<Refusal> {
    let document = case.facts.link_documents().next()?;
    let is_ours = |name: &str| name == INTERFACE;
    let dhcp = case.facts.kinds.iter().any(|id| matches!(id.kind.as_str(), "DHCPv4Config" | "DHCPv6Config"));
    let has_address = case.facts.addresses().any(|(_, link)| !is_ours(link) && link != "lo");
    let has_interface = case.facts.interfaces.iter().any(|interface| !is_ours(&interface.name));
    if dhcp || has_address || has_interface {
        return None;
    }
    let facts = [
        format!("the config has {document}, with which Talos stops DHCP on every link"),
        "nothing in it gives another link an address".to_owned(),
    ];
    let link = case.lan_link().unwrap_or_else(|| "eth0".to_owned());
    let advice =
        format!("add a DHCPv4Config for {link}, or use machine.network.interfaces in place of the document");
    Some(refusal(Some(case.node), Reason::DhcpLost, facts, advice))
}

fn port(case: &Case<'_>) -> Option<Refusal> {
    let port = case.cluster.mesh.port;
    let foreign = |name: &&(u16, String)| name.0 == port && name.1 != INTERFACE;
    let taken = case.facts.wireguard.iter().chain(&case.observation.wireguard).find(foreign);
    let owner = if let Some((_, name)) = taken {
        format!("the WireGuard interface {name} listens there")
    } else if port == 51820 && case.facts.kubespan.is_some() {
        "KubeSpan listens there".to_owned()
    } else if let Some(owner) = default_owner(port, case) {
        format!("that is the port of {owner}, which the cluster may have")
    } else {
        return None;
    };
    let facts = [format!("the mesh has UDP port {port}"), owner];
    Some(refusal(Some(case.node), Reason::PortTaken, facts, "choose another port, such as 51840"))
}

/// Who usually has a port, with the CNI of the cluster. Configs of control planes say which that is.
fn default_owner(port: u16, case: &Case<'_>) -> Option<&'static str> {
    let is_foreign = case.is_control_plane() && !case.facts.has_flannel();
    match port {
        51871 if is_foreign => Some("Cilium's WireGuard"),
        51820 | 51821 if is_foreign => Some("Calico's WireGuard"),
        8472 if is_foreign => Some("Cilium's VXLAN"),
        4789 => Some("the VXLAN of flannel and Calico"),
        _ => None,
    }
}

fn vip(case: &Case<'_>) -> Option<Refusal> {
    let is_on_mesh = |(address, link): &&(String, String)| {
        let in_range = address.parse().is_ok_and(|address| is_in_mesh(case.cluster, address));
        in_range || link == INTERFACE
    };
    let (address, link) = case.facts.vips.iter().find(is_on_mesh)?;
    let role =
        if case.facts.endpoint.as_deref() == Some(address) { ", the endpoint of the cluster," } else { "" };
    let facts = [
        format!(
            "the shared address {address}{role} is on {}",
            if link.is_empty() { "the mesh" } else { link }
        ),
        format!("{} has no layer 2 to share an address on", mesh_range(case.cluster)),
    ];
    let advice = "use KubePrism and a name for the endpoint, or a shared address on the LAN";
    Some(refusal(Some(case.node), Reason::VipOnMesh, facts, advice))
}

fn link(case: &Case<'_>) -> Option<Refusal> {
    let site = case.cluster.site(&case.node.site)?;
    let gateway = site.gateway?;
    if case.lan_link().is_some() {
        return None;
    }
    let facts = [
        format!("the site {} has the gateway {gateway} on its link", site.name),
        "the link of the node is not known".to_owned(),
    ];
    Some(refusal(
        Some(case.node),
        Reason::NoLink,
        facts,
        "write `link: eth0`, or what it is, into ichor.yaml",
    ))
}

fn firewall(case: &Case<'_>) -> Option<Refusal> {
    let address = case.node.api_address()?;
    let is_inside = is_in_mesh(case.cluster, address) || case.lans().iter().any(|lan| lan.contains(&address));
    if !case.cluster.mesh.firewall || is_inside || case.node.via.is_some() {
        return None;
    }
    let facts = [
        "the firewall lets only mesh and LAN reach the Talos API".to_owned(),
        format!("we reach it at {address}, from outside"),
    ];
    let advice = "give its LAN or mesh address as `api`, with `via` for the way there";
    Some(refusal(Some(case.node), Reason::LockedOut, facts, advice))
}

fn mesh_range(cluster: &Cluster) -> String {
    let ranges: Vec<String> = cluster.mesh.ranges().map(|range| range.to_string()).collect();
    format!("the mesh has {}", ranges.join(" and "))
}
