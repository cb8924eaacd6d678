//! Keeping the addresses of today, before there can be others.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Case;
use super::facts::net;
use crate::cluster::Profile;
use crate::machine::DocumentId;
use crate::patch::ensure::{Edit, Place, Setting, Wish};

/// Pins what kubelet and etcd use today. What is on its way to the mesh already stays.
pub(super) fn edits(case: &Case<'_>) -> Vec<Edit> {
    let mut edits = Vec::new();
    let facts = case.facts;
    let profile = case.cluster.mesh.profile;
    let lan = case.lan_subnets(&case.observation.node_ips);
    let node_stays = profile == Profile::Beside || !case.selects_mesh_only(&facts.valid_subnets);
    if node_stays && !case.selects_lan_only(&facts.valid_subnets) {
        let what = if facts.valid_subnets.is_empty() {
            "without this kubelet may take the mesh address as soon as there is one, and change back when it goes"
        } else {
            "this list lets kubelet take the mesh address as soon as there is one"
        };
        let reason = format!("keep the node address of today ({}): {what}", lan.join(", "));
        edits.extend(case.valid_subnets(&lan, &reason));
    }
    if !case.is_control_plane() {
        return edits;
    }
    let advertised = case.advertised();
    let lan = case.lan_subnets(&case.observation.etcd_ips);
    let etcd_stays = profile != Profile::Stretched || !case.selects_mesh_only(&advertised);
    if etcd_stays {
        if !case.selects_lan_only(&advertised) {
            let reason = format!(
                "keep the address that etcd advertises today ({}): without this the first address of the node wins, \
                 and members look for each other where nobody listens",
                lan.join(", ")
            );
            edits.push(legacy(
                Wish::Is(Place::at("cluster.etcd.advertisedSubnets"), Setting::texts(lan.clone())),
                &reason,
            ));
        } else if facts.advertised.is_empty() {
            let reason = "the list is the form that Talos still has; it says the same as the single subnet";
            edits.push(legacy(
                Wish::Is(Place::at("cluster.etcd.advertisedSubnets"), Setting::texts(advertised)),
                reason,
            ));
        }
        if facts.listen.is_empty() {
            let reason = "listen where members look: said outright, so that later steps can widen it first";
            edits
                .push(legacy(Wish::Is(Place::at("cluster.etcd.listenSubnets"), Setting::texts(lan)), reason));
        }
    }
    if facts.single_subnet.is_some() {
        let reason = "Talos refuses the single subnet beside the list";
        edits.push(legacy(Wish::Absent(Place::at("cluster.etcd.subnet")), reason));
    }
    edits
}

/// A wish about the legacy document.
pub(super) fn legacy(wish: Wish, reason: &str) -> Edit {
    Edit { document: DocumentId::legacy(), wish, reason: reason.to_owned() }
}

/// Which document says what kubelet registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeForm {
    /// `KubeNodeConfig`, which is there.
    Document,
    /// The legacy document.
    Legacy,
    /// `KubeNodeConfig`, which is not there; but kubelet is not in the legacy document either.
    NewDocument,
}

impl Case<'_> {
    /// The subnets a node's selections are pinned to: the LANs of its site, or the very address of today where a LAN
    /// holds several addresses of the node.
    pub(super) fn lan_subnets(&self, today: &[IpAddr]) -> Vec<String> {
        let lans = self.lans();
        let inside = |address: &IpAddr| lans.iter().any(|lan| lan.contains(address));
        let known: Vec<IpAddr> =
            self.addresses().into_iter().map(|(net, _)| net.addr()).filter(inside).collect();
        let today: Vec<IpAddr> = today.iter().copied().filter(inside).collect();
        let of_family = |v4: bool| known.iter().filter(|address| address.is_ipv4() == v4).count();
        if of_family(true) <= 1 && of_family(false) <= 1 {
            let matching =
                |lan: &&IpNet| known.is_empty() || known.iter().any(|address| lan.contains(address));
            let subnets: Vec<String> = lans.iter().filter(matching).map(ToString::to_string).collect();
            return if subnets.is_empty() { lans.iter().map(ToString::to_string).collect() } else { subnets };
        }
        let chosen = if today.is_empty() { &known[..1] } else { &today[..] };
        chosen.iter().map(|address| IpNet::from(*address).to_string()).collect()
    }

    pub(super) fn lans(&self) -> &[IpNet] {
        self.cluster.site(&self.node.site).map_or(&[], |site| &site.lans)
    }

    /// Addresses that the node is known to have, without that of the mesh.
    pub(super) fn addresses(&self) -> Vec<(IpNet, String)> {
        let mesh = IpAddr::V4(self.node.address);
        let observed = self.observation.addresses.iter().cloned();
        let known: Vec<(IpNet, String)> = if self.observation.addresses.is_empty() {
            self.facts.addresses().map(|(net, link)| (net, link.to_owned())).collect()
        } else {
            observed.collect()
        };
        // A shared address is on another node tomorrow.
        let is_shared = |address: IpAddr| {
            self.facts.vips.iter().any(|(vip, _)| vip.parse::<IpAddr>().is_ok_and(|vip| vip == address))
        };
        known.into_iter().filter(|(net, _)| net.addr() != mesh && !is_shared(net.addr())).collect()
    }

    /// What etcd advertises, in either form.
    pub(super) fn advertised(&self) -> Vec<String> {
        let list = &self.facts.advertised;
        if list.is_empty() { self.facts.single_subnet.iter().cloned().collect() } else { list.clone() }
    }

    /// An address of the node on the LAN of its site: a known one, or one that it could have.
    fn lan_probe(&self) -> Option<IpAddr> {
        let lans = self.lans();
        let inside = |address: &IpAddr| lans.iter().any(|lan| lan.contains(address));
        let known = self.addresses().into_iter().map(|(net, _)| net.addr()).find(inside);
        let api = self.node.api_address().filter(inside);
        known.or(api).or_else(|| lans.first().and_then(|lan| lan.hosts().next()))
    }

    /// Whether a list takes the LAN address of the node, and never that of the mesh.
    pub(super) fn selects_lan_only(&self, list: &[String]) -> bool {
        self.lan_probe().is_some_and(|address| selects(list, address))
            && !selects(list, IpAddr::V4(self.node.address))
    }

    /// Whether a list takes the mesh address of the node, and never that of the LAN.
    pub(super) fn selects_mesh_only(&self, list: &[String]) -> bool {
        selects(list, IpAddr::V4(self.node.address))
            && !self.lan_probe().is_some_and(|address| selects(list, address))
    }

    pub(super) fn node_form(&self) -> NodeForm {
        match (self.facts.has("KubeNodeConfig"), self.facts.has("KubeletConfig")) {
            (true, _) => NodeForm::Document,
            (false, true) => NodeForm::NewDocument,
            (false, false) => NodeForm::Legacy,
        }
    }

    /// Edits that make kubelet choose from these subnets.
    pub(super) fn valid_subnets(&self, subnets: &[String], reason: &str) -> Vec<Edit> {
        let list = Setting::texts(subnets.iter().cloned());
        if self.node_form() == NodeForm::Legacy {
            return vec![legacy(Wish::Is(Place::at("machine.kubelet.nodeIP.validSubnets"), list), reason)];
        }
        let mut edits = self.node_document();
        edits.push(node_config(Wish::Is(Place::at("nodeIP.validSubnets"), list), reason));
        edits
    }

    /// What a new `KubeNodeConfig` must say besides: it replaces what Talos adds by itself without it.
    pub(super) fn node_document(&self) -> Vec<Edit> {
        if self.node_form() != NodeForm::NewDocument || !self.is_control_plane() {
            return Vec::new();
        }
        let reason = "with this document Talos no longer adds the marks of control planes by itself";
        let role = "node-role.kubernetes.io/control-plane";
        vec![
            node_config(Wish::Is(Place::at("labels").key(role), Setting::text("")), reason),
            node_config(Wish::Is(Place::at("taints").key(role), Setting::text("NoSchedule")), reason),
        ]
    }
}

pub(super) fn node_config(wish: Wish, reason: &str) -> Edit {
    Edit { document: DocumentId::new("KubeNodeConfig", ""), wish, reason: reason.to_owned() }
}

/// Whether a list of subnets takes an address. Talos reads it from left to right: a positive entry adds, one with `!`
/// takes away what was added so far. An empty list stands for every address.
pub(super) fn selects(list: &[String], address: IpAddr) -> bool {
    if list.is_empty() {
        return true;
    }
    list.iter().fold(false, |taken, entry| match entry.strip_prefix('!') {
        Some(entry) => taken && !net(entry).is_some_and(|net| net.contains(&address)),
        None => taken || net(entry).is_some_and(|net| net.contains(&address)),
    })
}
