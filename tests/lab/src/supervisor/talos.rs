//! The simulated Talos nodes of a lab: each serves its API in its own namespaces.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::host::Host;
use super::world::{CONFIG_FILE, LAN_OF_NODE, World};
use super::{root, watch};
use crate::error::{Attempt as _, LabError};
use crate::protocol::Answer;
use crate::talos::model::{ClusterSpec, ConfigRules, ExtensionConfig, MachineType, NodeSpec};
use crate::talos::{Directory, PORT, Role, Simulation};
use crate::topology::{Family, Talos, Topology};

/// How long a simulated node takes to boot: long enough to be seen.
const BOOT_TIME: Duration = Duration::from_secs(4);
/// The interface of the mesh.
const MESH: &str = "ichor0";
/// The extension that carries ichord.
const EXTENSION: &str = "ichor";

impl World {
    /// Starts the Talos of all nodes. `configs` are those of the ichords, by the names of their nodes.
    pub(super) async fn simulate(
        &mut self,
        talos: &Talos,
        configs: &BTreeMap<String, String>,
        rules: Arc<dyn ConfigRules>,
    ) -> Result<Simulation, LabError> {
        let count = self.topology.nodes().count();
        let endpoint = self.topology.places().next().map(|(place, _)| self.topology.underlay_of(place));
        let endpoint = endpoint.map_or_else(String::new, |addresses| addresses.v4.addr().to_string());
        let mut nodes = Vec::new();
        let mut directory = Directory::default();
        for (index, (place, node)) in self.topology.places().enumerate() {
            let addresses = self.topology.underlay_of(place);
            let lan = addresses.v4.trunc();
            let machine_type =
                if index < talos.control_planes { MachineType::ControlPlane } else { MachineType::Worker };
            let ichor = configs.get(&node.name).filter(|_| !talos.without_mesh);
            let is_new = index + talos.new >= count;
            let text =
                machine_config(machine_type, &node.name, &endpoint, lan.into(), ichor.map(String::as_str));
            nodes.push(NodeSpec {
                name: node.name.clone(),
                line: talos.version_of(&node.name),
                addresses: lan_addresses(&self.topology, &node.name),
                config: (!is_new).then_some(text),
                extensions: vec![EXTENSION.to_owned()],
                schematic: talos.schematic.clone(),
                boot_time: BOOT_TIME,
            });
            directory.add(node.name.clone(), SocketAddr::new(addresses.ip(Family::V4), PORT));
        }
        let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        let images = talos.images.iter().map(Into::into).collect();
        let simulation = Simulation::new(ClusterSpec { nodes, rules, images })
            .attempt(|| "start the simulated Talos nodes".to_owned())?;
        simulation.set_directory(directory);
        for name in names {
            let simulation = simulation.clone();
            let host = self.host(&name)?;
            let serve = host.run(move |_| async move {
                let what = || format!("serve the Talos API of {name}");
                let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).await.attempt(what)?;
                tokio::spawn(async move {
                    if let Err(error) = simulation.serve(&name, listener).await {
                        tracing::error!(%error, node = name, "a simulated node does not serve any more");
                    }
                });
                Ok(())
            });
            serve.await?;
        }
        self.simulation = Some(simulation.clone());
        Ok(simulation)
    }

    /// The simulated Talos nodes, if there are.
    pub(super) fn simulation(&self) -> Option<&Simulation> {
        self.simulation.as_ref()
    }

    /// Runs a node's ichord with the file that its machine config has for it. One that runs sees that it changed.
    pub(super) async fn run_extension(
        &mut self,
        name: &str,
        config: &ExtensionConfig,
    ) -> Result<(), LabError> {
        let (mut mesh, mut is_member) = (Vec::new(), false);
        for (path, content) in &config.files {
            // Where Talos mounts it nothing can be written here.
            let path = if path == ichord::config::TALOS_PATH { CONFIG_FILE } else { path };
            if path == CONFIG_FILE {
                let config = ichord::config::Config::parse(content).ok();
                is_member = config.as_ref().is_some_and(|config| config.mesh.is_some());
                mesh = config.and_then(|config| Some(config.static_mesh?.addresses)).unwrap_or_default();
            }
            if !path.starts_with("/etc/ichor/") {
                tracing::warn!(path, node = name, "a lab has only files of ichord");
                continue;
            }
            let (path, content) = (path.to_owned(), content.clone());
            let host = self.host(name)?;
            host.run(move |_| async move { root::write(Path::new(&path), 0o600, &content) }).await?;
        }
        self.start_daemon(name).await?;
        if is_member {
            // They are known when it is let in.
            return self.follow_addresses(name);
        }
        self.set_addresses(name, &mesh)
    }

    /// Tells the simulated node which addresses its ichord has, now and whenever they change.
    fn follow_addresses(&mut self, name: &str) -> Result<(), LabError> {
        let Some(simulation) = self.simulation.clone().filter(|_| self.followed.insert(name.to_owned()))
        else {
            return Ok(());
        };
        let (host, name, lan) = (self.host(name)?, name.to_owned(), lan_addresses(&self.topology, name));
        let (sender, mut statuses) = mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            // It ends with the lab.
            let _ended = host.run(move |_| watch::status(sender)).await;
        });
        tokio::task::spawn_local(async move {
            let mut told = Vec::new();
            while let Some(Answer::Text(text)) = statuses.recv().await {
                let Ok(status) = serde_json::from_str::<ichord::status::Status>(&text) else { continue };
                let mesh: Vec<IpNet> = status.addresses.iter().filter_map(|net| net.parse().ok()).collect();
                if mesh == told {
                    continue;
                }
                let own = mesh.iter().map(|net| (MESH.to_owned(), *net));
                let addresses: Vec<_> = lan.iter().cloned().chain(own).collect();
                told = mesh;
                let set = simulation.change(|cluster, now| cluster.set_addresses(&name, addresses, now));
                if let Err(error) = set {
                    tracing::error!(%error, node = name, "a simulated node cannot have its addresses");
                }
            }
        });
        Ok(())
    }

    /// Notes that a node's ichord is gone, and its addresses with it.
    pub(super) fn forget_mesh(&self, name: &str) -> Result<(), LabError> {
        self.set_addresses(name, &[])
    }

    fn set_addresses(&self, name: &str, mesh: &[IpNet]) -> Result<(), LabError> {
        let Some(simulation) = &self.simulation else { return Ok(()) };
        let mut addresses = lan_addresses(&self.topology, name);
        addresses.extend(mesh.iter().map(|net| (MESH.to_owned(), *net)));
        let set = simulation.change(|cluster, now| cluster.set_addresses(name, addresses, now));
        set.attempt(|| format!("change the addresses of {name}"))
    }

    /// An admin's talosconfig.
    pub(super) fn talosconfig(&self, endpoints: &[String], nodes: &[String]) -> Result<String, LabError> {
        let what = || "make a talosconfig".to_owned();
        let Some(simulation) = &self.simulation else {
            return Err(LabError::Failed { what: what(), cause: "the lab has no Talos nodes".to_owned() });
        };
        simulation.talosconfig(&[Role::Admin], endpoints, nodes).attempt(what)
    }
}

fn lan_addresses(topology: &Topology, name: &str) -> Vec<(String, IpNet)> {
    let place = topology.places().find(|(_, node)| node.name == name).map(|(place, _)| place);
    let nets = place.map(|place| topology.underlay_of(place).nets());
    nets.into_iter().flatten().map(|net| (LAN_OF_NODE.to_owned(), net)).collect()
}

/// What a node of the lab has on its disk. With a mesh, its addresses in the LAN are pinned, as they must be before
/// a mesh address appears.
fn machine_config(
    machine_type: MachineType,
    name: &str,
    endpoint: &str,
    lan: IpNet,
    ichor: Option<&str>,
) -> String {
    let mut text = format!(
        "version: v1alpha1\nmachine:\n    type: {}\n    token: lab.lab\n    certSANs: []\n    network:\n        \
         hostname: {name}\n",
        machine_type.name()
    );
    if ichor.is_some() {
        text +=
            &format!("    kubelet:\n        nodeIP:\n            validSubnets:\n                - {lan}\n");
    }
    text += &format!(
        "    install:\n        disk: /dev/vda\ncluster:\n    clusterName: lab\n    controlPlane:\n        endpoint: \
         https://{endpoint}:6443\n    network:\n        podSubnets:\n            - 10.244.0.0/16\n        \
         serviceSubnets:\n            - 10.96.0.0/12\n"
    );
    if ichor.is_some() && machine_type == MachineType::ControlPlane {
        text += &format!("    etcd:\n        advertisedSubnets:\n            - {lan}\n");
    }
    if let Some(ichor) = ichor {
        let content: String = ichor.lines().map(|line| format!("          {line}\n")).collect();
        text += &format!(
            "---\napiVersion: v1alpha1\nkind: ExtensionServiceConfig\nname: {EXTENSION}\nconfigFiles:\n    - \
             content: |\n{content}      mountPath: {}\n",
            ichord::config::TALOS_PATH
        );
    }
    text
}

/// Hands on what comes to a socket from outside to the API of a node, for as long as the lab is there.
pub(super) fn forward(listener: OwnedFd, host: Host, is_off: Rc<Cell<bool>>) -> Result<(), LabError> {
    let what = || "listen for the Talos API".to_owned();
    let listener = std::net::TcpListener::from(listener);
    listener.set_nonblocking(true).attempt(what)?;
    let listener = TcpListener::from_std(listener).attempt(what)?;
    tokio::task::spawn_local(async move {
        loop {
            let Ok((outside, _)) = listener.accept().await else { continue };
            if is_off.get() {
                continue;
            }
            let Ok(outside) = outside.into_std() else { continue };
            let host = host.clone();
            tokio::task::spawn_local(async move {
                // Who cannot be connected sees that the connection ends, as behind any proxy.
                let _ended = host.run(move |_| hand_on(outside)).await;
            });
        }
    });
    Ok(())
}

async fn hand_on(outside: std::net::TcpStream) -> Result<(), LabError> {
    let what = || "hand on a connection".to_owned();
    let mut inside = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, PORT)).await.attempt(what)?;
    let mut outside = TcpStream::from_std(outside).attempt(what)?;
    tokio::io::copy_bidirectional(&mut outside, &mut inside).await.attempt(what)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talos::model::{Config, Line, PlainRules};

    #[test]
    fn every_line_takes_the_config_of_a_lab_node_and_finds_ichord_in_it() {
        let ichor = "interface: ichor0\nlistenPort: 51840\n";
        let text = machine_config(
            MachineType::ControlPlane,
            "home-1",
            "192.168.1.10",
            "192.168.1.0/24".parse().unwrap(),
            Some(ichor),
        );
        for line in Line::ALL {
            let config = Config::read(text.as_bytes(), line, &PlainRules).unwrap();
            assert_eq!(config.file(ichord::config::TALOS_PATH).as_deref(), Some(ichor));
        }
    }
}
