//! What a machine config says about the things that a plan touches, whichever dialect it is written in.

use ipnet::IpNet;

use crate::machine::document::Part;
use crate::machine::{DocumentId, Kind, MachineConfig, NodeId};

/// What a config says.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// `machine.type`
    pub machine_type: Option<String>,
    /// Networks of pods and services.
    pub pods: Vec<IpNet>,
    pub services: Vec<IpNet>,
    /// Subnets of kubelet and etcd, as they are written.
    pub valid_subnets: Vec<String>,
    pub advertised: Vec<String>,
    pub listen: Vec<String>,
    /// The deprecated single form of `advertised`.
    pub single_subnet: Option<String>,
    /// Kinds of all documents.
    pub kinds: Vec<DocumentId>,
    /// `machine.network.interfaces[]`
    pub interfaces: Vec<Interface>,
    /// Addresses that documents give to links.
    pub link_addresses: Vec<(IpNet, String)>,
    /// Whether KubeSpan is on, and what it leaves alone.
    pub kubespan: Option<KubeSpan>,
    /// Shared addresses, with the link that they are on.
    pub vips: Vec<(String, String)>,
    /// Host of the endpoint of the control plane.
    pub endpoint: Option<String>,
    /// Ports of WireGuard interfaces, with their names.
    pub wireguard: Vec<(u16, String)>,
    /// `flannel`, `none`, `custom`
    pub cni: Option<String>,
    /// Installer image.
    pub installer: Option<String>,
    /// Whether the legacy list of host entries is in use.
    pub has_host_entries: bool,
    /// Labels of the node.
    pub labels: Vec<String>,
}

/// An interface of the legacy document.
#[derive(Debug)]
pub(super) struct Interface {
    pub name: String,
    pub addresses: Vec<IpNet>,
}

/// KubeSpan.
#[derive(Debug, Default)]
pub(super) struct KubeSpan {
    pub endpoints: Vec<String>,
    pub excluded: Vec<String>,
}

const LINK_KINDS: &[&str] = &[
    "LinkConfig",
    "DummyLinkConfig",
    "BondConfig",
    "BridgeConfig",
    "VLANConfig",
    "VRFConfig",
    "VethConfig",
    "WireguardConfig",
    "DHCPv4Config",
    "DHCPv6Config",
];

impl Facts {
    pub(super) fn of(config: &MachineConfig) -> Self {
        let mut facts = Self::default();
        for part in config.parts().iter().filter(|part| !part.is_empty()) {
            facts.kinds.push(part.id.clone());
            if part.id.is_legacy() { facts.legacy(part) } else { facts.document(part) }
        }
        facts
    }

    /// Whether there is a document of a kind.
    pub(super) fn has(&self, kind: &str) -> bool {
        self.kinds.iter().any(|id| id.kind == kind)
    }

    /// Whether Talos installs flannel. In the legacy form that is the default; among the documents of 1.14 it needs one.
    pub(super) fn has_flannel(&self) -> bool {
        let is_default = self.cni.is_none() && !self.has("KubeNetworkConfig");
        is_default || self.cni.as_deref() == Some("flannel")
    }

    /// Documents whose presence ends the DHCP that links have by default.
    pub(super) fn link_documents(&self) -> impl Iterator<Item = &DocumentId> {
        self.kinds.iter().filter(|id| LINK_KINDS.contains(&id.kind.as_str()))
    }

    /// Addresses that the config itself gives to the node.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (IpNet, &str)> {
        let legacy = self.interfaces.iter().flat_map(|interface| {
            interface.addresses.iter().map(|address| (*address, interface.name.as_str()))
        });
        legacy.chain(self.link_addresses.iter().map(|(address, link)| (*address, link.as_str())))
    }

    fn legacy(&mut self, part: &Part) {
        let look = Look(part);
        self.machine_type = look.text("machine.type");
        self.pods.extend(nets(&look.texts("cluster.network.podSubnets")));
        self.services.extend(nets(&look.texts("cluster.network.serviceSubnets")));
        self.valid_subnets.extend(look.texts("machine.kubelet.nodeIP.validSubnets"));
        self.advertised = look.texts("cluster.etcd.advertisedSubnets");
        self.listen = look.texts("cluster.etcd.listenSubnets");
        self.single_subnet = look.text("cluster.etcd.subnet");
        self.has_host_entries = !look.items("machine.network.extraHostEntries").is_empty();
        self.labels.extend(look.keys("machine.nodeLabels"));
        self.installer = self.installer.take().or(look.text("machine.install.image"));
        if let Some(endpoint) = look.text("cluster.controlPlane.endpoint") {
            self.endpoint = host_of(&endpoint);
        }
        self.cni = self.cni.take().or(look.text("cluster.network.cni.name"));
        if look.is_true("machine.network.kubespan.enabled") {
            self.kubespan = Some(KubeSpan {
                endpoints: look.texts("machine.network.kubespan.filters.endpoints"),
                excluded: look.texts("machine.network.kubespan.filters.excludeAdvertisedNetworks"),
            });
        }
        for item in look.items("machine.network.interfaces") {
            let name = look.text_in(item, "interface").unwrap_or_default();
            let mut addresses = look.texts_in(item, "addresses");
            addresses.extend(look.text_in(item, "cidr"));
            if let Some(vip) = look.text_in(item, "vip.ip") {
                self.vips.push((vip, name.clone()));
            }
            if let Some(port) = look.text_in(item, "wireguard.listenPort").and_then(|port| port.parse().ok())
            {
                self.wireguard.push((port, name.clone()));
            }
            self.interfaces.push(Interface { name, addresses: nets(&addresses) });
        }
    }

    fn document(&mut self, part: &Part) {
        let look = Look(part);
        let name = || part.id.name.clone();
        if LINK_KINDS.contains(&part.id.kind.as_str()) {
            for item in look.items("addresses") {
                let address = look.text_in(item, "address").and_then(|text| net(&text));
                self.link_addresses.extend(address.map(|address| (address, name())));
            }
        }
        match part.id.kind.as_str() {
            "KubeNodeConfig" => {
                self.valid_subnets.extend(look.texts("nodeIP.validSubnets"));
                self.labels.extend(look.keys("labels"));
            }
            "KubeNetworkConfig" => {
                self.pods.extend(nets(&look.texts("podSubnets")));
                self.services.extend(nets(&look.texts("serviceSubnets")));
            }
            "KubeClusterConfig" => {
                self.endpoint = look.text("endpoint").and_then(|endpoint| host_of(&endpoint));
            }
            "KubeFlannelCNIConfig" => self.cni = Some("flannel".to_owned()),
            "KubeSpanConfig" if look.is_true("enabled") => {
                self.kubespan = Some(KubeSpan {
                    endpoints: look.texts("filters.endpoints"),
                    excluded: look.texts("filters.excludeAdvertisedNetworks"),
                });
            }
            "Layer2VIPConfig" => self.vips.push((name(), look.text("link").unwrap_or_default())),
            "WireguardConfig" => {
                let port = look.text("listenPort").and_then(|port| port.parse().ok());
                self.wireguard.extend(port.map(|port| (port, name())));
            }
            "UnattendedInstallConfig" => self.installer = look.text("installer.image"),
            _ => {}
        }
    }
}

/// Looks into one document, along keys that are written with dots.
struct Look<'a>(&'a Part);

impl Look<'_> {
    fn find(&self, from: NodeId, path: &str) -> Option<NodeId> {
        let tree = &self.0.tree;
        path.split('.').try_fold(tree.target(from), |node, key| Some(tree.target(tree.get(node, key)?)))
    }

    fn text(&self, path: &str) -> Option<String> {
        self.text_in(self.0.tree.root(), path)
    }

    fn text_in(&self, from: NodeId, path: &str) -> Option<String> {
        let text = self.0.tree.text(self.find(from, path)?)?;
        (!matches!(text, "" | "~" | "null")).then(|| text.to_owned())
    }

    fn is_true(&self, path: &str) -> bool {
        self.text(path)
            .is_some_and(|text| matches!(text.to_lowercase().as_str(), "true" | "yes" | "on" | "y"))
    }

    fn items(&self, path: &str) -> Vec<NodeId> {
        let tree = &self.0.tree;
        let found = self.find(tree.root(), path);
        found.map(|node| tree.items(node).iter().map(|item| tree.target(*item)).collect()).unwrap_or_default()
    }

    fn texts(&self, path: &str) -> Vec<String> {
        self.texts_in(self.0.tree.root(), path)
    }

    fn texts_in(&self, from: NodeId, path: &str) -> Vec<String> {
        let tree = &self.0.tree;
        let Some(node) = self.find(from, path) else { return Vec::new() };
        let items = tree.items(node).iter().map(|item| tree.target(*item));
        items.filter_map(|item| tree.text(item).map(str::to_owned)).collect()
    }

    fn keys(&self, path: &str) -> Vec<String> {
        let tree = &self.0.tree;
        let Some(node) = self.find(tree.root(), path) else { return Vec::new() };
        let Kind::Mapping(entries) = &tree.node(node).kind else { return Vec::new() };
        entries.iter().filter_map(|(key, _)| tree.text(*key).map(str::to_owned)).collect()
    }
}

fn nets(texts: &[String]) -> Vec<IpNet> {
    texts.iter().filter_map(|text| net(text)).collect()
}

/// A network, or an address as the network of itself.
pub(super) fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

/// The host of `https://host:port/`.
fn host_of(url: &str) -> Option<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => authority.split(':').next()?,
    };
    (!host.is_empty()).then(|| host.to_owned())
}
