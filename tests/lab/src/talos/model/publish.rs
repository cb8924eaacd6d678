//! What a node tells about itself: its resources, made anew from what it is.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ichor_proto::talos::resource::config::MachineConfigSpec;
use ipnet::IpNet;
use prost::Message as _;
use prost::encoding::{bool, int32, string};

use super::cluster::Peer;
use super::config::{Config, MachineType};
use super::kind::{DEFINITIONS, Kind};
use super::node::{Node, uuid};
use super::store::{Content, Key};

/// Marks a spec in YAML that is a string (Talos: machine config resource).
const QUOTED: (&str, &str) = ("talos.dev/yaml-spec", "string");

/// Resources in the making.
#[derive(Default)]
struct Wanted(BTreeMap<Key, Content>);

impl Wanted {
    fn add(&mut self, kind: &'static str, id: &str, yaml: String) -> &mut Content {
        let namespace = Kind::find(kind, super::Line::V1_14).map_or("runtime", |kind| kind.namespace);
        let key = Key { namespace: namespace.to_owned(), kind, id: id.to_owned() };
        // What has no native form here has its YAML in it: it is never empty.
        let proto = yaml.clone().into_bytes();
        let content = self.0.entry(key).or_default();
        *content = Content { yaml, proto, annotations: Vec::new() };
        content
    }
}

impl Node {
    /// Brings the resources up to date. `peers` are the nodes of the cluster that can be discovered.
    pub(crate) fn publish(&mut self, peers: &[Peer], etcd: Option<(u64, &[String])>, now: Duration) {
        let mut wanted = Wanted::default();
        for kind in Kind::of(self.line()) {
            wanted.add(DEFINITIONS, &kind.name.to_lowercase(), kind.definition());
        }
        self.add_configs(&mut wanted);
        self.add_machine(&mut wanted);
        self.add_network(&mut wanted);
        self.add_services(&mut wanted);
        if self.machine_type().is_some() {
            self.add_cluster(&mut wanted, peers);
        }
        if let Some((member, advertised)) = etcd {
            let id = format!("{member:016x}");
            let content = wanted.add("EtcdMembers.etcd.talos.dev", "local", format!("memberID: {id}\n"));
            content.proto = text(1, &id);
            let yaml = format!(
                "name: {}\nadvertisedAddresses:{}listenPeerAddresses:{}listenClientAddresses:{}image: \
                 registry.k8s.io/etcd:v{}\nextraArgs: {{}}\n",
                self.hostname(),
                list(advertised),
                list(advertised),
                list(advertised),
                self.line().etcd()
            );
            wanted.add("EtcdSpecs.etcd.talos.dev", "etcd", yaml);
        }
        let line = self.line();
        wanted.0.retain(|key, _| Kind::find(key.kind, line).is_some());
        self.resources.sync(wanted.0, now);
    }

    fn add_configs(&self, wanted: &mut Wanted) {
        const KIND: &str = "MachineConfigs.config.talos.dev";
        for (id, config) in [("v1alpha1", &self.active), ("persistent", &self.persistent)] {
            let Some(config) = config else { continue };
            let quotes = self.line().quotes_machine_configs();
            let yaml = match quotes {
                true => yaml_serde::to_string(config.text()).unwrap_or_default(),
                false => config.text().to_owned(),
            };
            let content = wanted.add(KIND, id, yaml);
            content.proto = MachineConfigSpec { yaml_marshalled: config.text().into() }.encode_to_vec();
            content.annotations.extend(quotes.then_some(QUOTED));
        }
        let kind = self.machine_type().map_or("unknown", MachineType::name);
        wanted.add("MachineTypes.config.talos.dev", "machine-type", format!("{kind}\n"));
    }

    fn add_machine(&self, wanted: &mut Wanted) {
        let conditions = self.unmet();
        let unmet: String = conditions
            .iter()
            .map(|it| format!("        - name: {}\n          reason: {}\n", it.name, it.reason))
            .collect();
        let unmet = if unmet.is_empty() { " []\n".to_owned() } else { format!("\n{unmet}") };
        let (stage, ready) = (self.stage, self.is_ready());
        let yaml =
            format!("stage: {}\nstatus:\n    ready: {ready}\n    unmetConditions:{unmet}", stage.name());
        let content = wanted.add("MachineStatuses.runtime.talos.dev", "machine", yaml);
        content.proto = {
            let mut bytes = Vec::new();
            int32::encode(1, &stage.number().into(), &mut bytes);
            let status = ichor_proto::talos::machine::machine_status_event::MachineStatus {
                ready,
                unmet_conditions: conditions,
            };
            prost::encoding::message::encode(2, &status, &mut bytes);
            bytes
        };
        let tag = self.tag();
        let yaml = format!("name: Talos\nversion: {tag}\n");
        wanted.add("Versions.runtime.talos.dev", "version", yaml).proto = {
            let mut bytes = text(1, tag);
            bytes.extend(text(2, "Talos"));
            bytes
        };
        let boot = self.boot_id();
        let yaml = format!("bootID: {boot}\n");
        wanted.add("BootIDs.runtime.talos.dev", "boot-id", yaml).proto = text(1, &boot);
        wanted.add(
            "PlatformMetadatas.talos.dev",
            "platformmetadata",
            format!("platform: metal\nhostname: {}\n", self.spec.name),
        );
        wanted.add(
            "SecurityStates.talos.dev",
            "securitystate",
            "secureBoot: false\nbootedWithUKI: true\n".to_owned(),
        );
        let yaml = "diskID: vda\ndevPath: /dev/vda\n".to_owned();
        wanted.add("SystemDisks.block.talos.dev", "system-disk", yaml);
        let yaml = "synced: true\nepoch: 0\nsyncDisabled: false\n".to_owned();
        wanted.add("TimeStatuses.v1alpha1.talos.dev", "node", yaml);
        // 20 GiB less what the other partitions take.
        let yaml = "phase: ready\ntype: partition\nsize: 19262341120\nprettySize: 19 GB\n".to_owned();
        wanted.add("VolumeStatuses.block.talos.dev", "EPHEMERAL", yaml);
        let schematic = self.image().schematic.iter().map(|id| ("schematic", id.as_str()));
        let extensions =
            self.image().extensions.iter().map(|(name, version)| (name.as_str(), version.as_str()));
        for (index, (name, version)) in extensions.chain(schematic).enumerate() {
            let yaml = format!("image: {index}.sqsh\nmetadata:\n    name: {name}\n    version: {version}\n");
            wanted.add("ExtensionStatuses.runtime.talos.dev", &index.to_string(), yaml);
        }
        for (key, value) in &self.meta {
            wanted
                .add("MetaKeys.runtime.talos.dev", &format!("0x{key:02x}"), format!("value: {value}\n"))
                .proto = text(1, value);
        }
    }

    fn add_network(&self, wanted: &mut Wanted) {
        let yaml = format!("hostname: {}\ndomainname: \"\"\n", self.hostname());
        wanted.add("HostnameStatuses.net.talos.dev", "hostname", yaml);
        let addresses = self.routed();
        let all: Vec<String> = addresses.iter().map(IpNet::to_string).collect();
        let first: Vec<String> = all.iter().take(1).cloned().collect();
        for id in ["default", "current", "accumulative", "routed"] {
            let addresses = list(if id == "default" { &first } else { &all });
            let yaml = format!("addresses:{addresses}sortAlgorithm: v1\n");
            wanted.add("NodeAddresses.net.talos.dev", id, yaml.clone());
            wanted.add("NodeAddresses.net.talos.dev", &format!("{id}-no-k8s"), yaml);
        }
        let mut links: BTreeMap<&str, usize> = BTreeMap::new();
        for (link, net) in &self.spec.addresses {
            let next = links.len() + 2;
            let index = *links.entry(link).or_insert(next);
            let family = if net.addr().is_ipv4() { "inet4" } else { "inet6" };
            let yaml = format!(
                "address: {net}\nlinkIndex: {index}\nlinkName: {link}\nfamily: {family}\nscope: global\n\
                 flags: permanent\n"
            );
            wanted.add("AddressStatuses.net.talos.dev", &format!("{link}/{net}"), yaml);
            let (dst, via) = (net.trunc(), format!("linkName: {link}\n"));
            let yaml = format!("family: {family}\ndst: {dst}\noutLinkName: {link}\n{via}table: main\n");
            wanted.add("RouteStatuses.net.talos.dev", &format!("{family}//{dst}/0"), yaml);
        }
        for (link, index) in links {
            let (kind, state) = if link.starts_with("eth") { ("", "up") } else { ("tun", "unknown") };
            let yaml = format!(
                "index: {index}\ntype: {}\nkind: \"{kind}\"\noperationalState: {state}\nlinkState: true\n",
                if kind.is_empty() { "ether" } else { "none" }
            );
            wanted.add("LinkStatuses.net.talos.dev", link, yaml);
        }
    }

    /// The addresses that others use, in the order of Talos' algorithm v1: IPv4 first, then by address.
    pub(crate) fn routed(&self) -> Vec<IpNet> {
        let mut addresses: Vec<IpNet> = self.spec.addresses.iter().map(|(_, net)| *net).collect();
        addresses.sort_by_key(|net| (net.addr().is_ipv6(), net.addr()));
        addresses
    }

    fn add_services(&self, wanted: &mut Wanted) {
        for (id, service) in self.services.iter().filter(|(_, service)| service.running) {
            let (healthy, unknown) = (service.healthy.unwrap_or(false), service.healthy.is_none());
            let yaml = format!("running: true\nhealthy: {healthy}\nunknown: {unknown}\n");
            wanted.add("Services.v1alpha1.talos.dev", id, yaml).proto = {
                let mut bytes = Vec::new();
                for (tag, value) in [(1, true), (2, healthy), (3, unknown)] {
                    bool::encode(tag, &value, &mut bytes);
                }
                bytes
            };
        }
        for (name, config) in self.active.iter().flat_map(Config::extensions) {
            let file = |(path, content): &(String, String)| {
                let quoted = |text| serde_json::to_string(text).unwrap_or_default();
                format!("    - content: {}\n      mountPath: {}\n", quoted(content), quoted(path))
            };
            let files: String = config.files.iter().map(file).collect();
            let files = if files.is_empty() { " []\n".to_owned() } else { format!("\n{files}") };
            let yaml = format!("files:{files}environment:{}", list(&config.environment));
            wanted.add("ExtensionServiceConfigs.runtime.talos.dev", name, yaml);
            // The version of what was written, which changes with it.
            let version = super::digest(&format!("{config:?}")).iter().map(|b| u64::from(*b)).sum::<u64>();
            let yaml = format!("specVersion: \"{version}\"\n");
            wanted.add("ExtensionServiceConfigStatuses.runtime.talos.dev", name, yaml);
        }
    }

    fn add_cluster(&self, wanted: &mut Wanted, peers: &[Peer]) {
        let hostname = self.hostname();
        let yaml = format!("nodeId: {}\n", uuid(&self.spec.name).replace('-', ""));
        wanted.add("Identities.cluster.talos.dev", "local", yaml);
        let yaml = format!("clusterId: {}\nclusterName: lab\n", uuid("lab").replace('-', ""));
        wanted.add("Infos.cluster.talos.dev", "current", yaml);
        for peer in peers {
            let control = match peer.machine_type {
                MachineType::ControlPlane => "controlPlane:\n    port: 6443\n",
                MachineType::Worker => "",
            };
            let yaml = format!(
                "nodeId: {}\naddresses:{}hostname: {}\nmachineType: {}\noperatingSystem: Talos ({})\n{control}",
                uuid(&peer.name).replace('-', ""),
                list(&peer.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>()),
                peer.hostname,
                peer.machine_type.name(),
                peer.tag,
            );
            wanted.add("Members.cluster.talos.dev", &peer.hostname, yaml);
        }
        let yaml = format!("nodename: {hostname}\nhostnameVersion: 1\nskipNodeRegistration: false\n");
        wanted.add("Nodenames.kubernetes.talos.dev", "nodename", yaml).proto = text(1, hostname);
        let ready = self.stage == super::Stage::Running && self.services.is_running("kubelet");
        let yaml = format!("nodename: {hostname}\nnodeReady: {ready}\nunschedulable: false\n");
        wanted.add("NodeStatuses.kubernetes.talos.dev", hostname, yaml);
        let ips: Vec<String> = self.node_ips().iter().map(IpAddr::to_string).collect();
        if !ips.is_empty() {
            wanted.add("NodeIPs.kubernetes.talos.dev", "kubelet", format!("addresses:{}", list(&ips)));
        }
    }

    /// The node's addresses for Kubernetes: the first of each family that the config allows.
    fn node_ips(&self) -> Vec<IpAddr> {
        let Some(active) = &self.active else { return Vec::new() };
        let mut subnets = active.list(&["machine", "kubelet", "nodeIP", "validSubnets"]);
        let documents = active.document("KubeNodeConfig");
        let listed =
            documents.filter_map(|document| document.get("nodeIP")?.get("validSubnets")?.as_sequence());
        subnets.extend(listed.flatten().filter_map(yaml_serde::Value::as_str));
        let routed = self.routed();
        let chosen = if subnets.is_empty() {
            routed.iter().map(IpNet::addr).collect()
        } else {
            choose(&subnets, &routed)
        };
        let first = |v6: bool| chosen.iter().find(|ip| ip.is_ipv6() == v6).copied();
        first(false).into_iter().chain(first(true)).collect()
    }

    /// The addresses that its etcd tells others: the first, or all that the config allows. `None` where none fits:
    /// then nothing changes.
    pub(crate) fn advertised(&self) -> Option<Vec<String>> {
        let subnets = self.active.as_ref()?.list(&["cluster", "etcd", "advertisedSubnets"]);
        let routed = self.routed();
        let chosen = match subnets.is_empty() {
            true => routed.iter().take(1).map(IpNet::addr).collect(),
            false => choose(&subnets, &routed),
        };
        let chosen: Vec<String> = chosen.iter().map(IpAddr::to_string).collect();
        (!chosen.is_empty()).then_some(chosen)
    }
}

/// The addresses in `subnets`, of which those with a `!` take away what was collected so far.
fn choose(subnets: &[&str], addresses: &[IpNet]) -> Vec<IpAddr> {
    let parse =
        |text: &str| text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let mut chosen: Vec<IpAddr> = Vec::new();
    for subnet in subnets {
        match subnet.strip_prefix('!') {
            Some(subnet) => {
                if let Some(net) = parse(subnet) {
                    chosen.retain(|ip| !net.contains(ip));
                }
            }
            None => {
                let Some(net) = parse(subnet) else { continue };
                let fitting = addresses.iter().map(IpNet::addr).filter(|ip| net.contains(ip));
                let new: Vec<IpAddr> = fitting.filter(|ip| !chosen.contains(ip)).collect();
                chosen.extend(new);
            }
        }
    }
    chosen
}

/// A list in YAML, after its key.
fn list(items: &[String]) -> String {
    if items.is_empty() {
        return " []\n".to_owned();
    }
    let item = |item: &String| format!("    - {}\n", serde_json::to_string(item).unwrap_or_default());
    format!("\n{}", items.iter().map(item).collect::<String>())
}

/// A field of protobuf that is a string.
fn text(tag: u32, value: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    string::encode(tag, &value.to_owned(), &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_subnets_is_their_priority_and_negatives_take_away() {
        let addresses = ["10.0.0.5/24", "192.168.1.5/24"].map(|net| net.parse().unwrap());
        let chosen = |subnets: &[&str]| {
            choose(subnets, &addresses).iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(chosen(&["192.168.0.0/16", "10.0.0.0/8"]), "192.168.1.5 10.0.0.5");
        assert_eq!(chosen(&["0.0.0.0/0", "!10.0.0.0/8"]), "192.168.1.5");
        assert_eq!(chosen(&["!10.0.0.0/8"]), "");
        assert_eq!(chosen(&["10.0.0.5"]), "10.0.0.5");
    }
}
