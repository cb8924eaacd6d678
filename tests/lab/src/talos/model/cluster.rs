//! A cluster of nodes and what they share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tonic::Code;

use super::apply::{Applied, Apply};
use super::config::{Config, ConfigRules, ExtensionConfig, MachineType};
use super::etcd::Etcd;
use super::fault::{Fate, Faults};
use super::image::{Image, Registry};
use super::node::{Api, Job, Node, NodeSpec, Stage, uuid};
use super::refusal::Refusal;
use super::service::Verb;

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct ClusterSpec {
    /// Its nodes.
    pub nodes: Vec<NodeSpec>,
    /// What its nodes take as configs.
    pub rules: Arc<dyn ConfigRules>,
    /// The installer images that its nodes can pull.
    pub images: Vec<Image>,
}

/// What the world around the nodes must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Run an extension service with this config, or give the one that runs this config.
    Run {
        /// Name of the node.
        node: String,
        /// Id of the service: `ext-NAME`.
        service: String,
        /// What it gets.
        config: ExtensionConfig,
    },
    /// Stop an extension service.
    Stop {
        /// Name of the node.
        node: String,
        /// Id of the service.
        service: String,
    },
}

/// A node as the others know it.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) hostname: String,
    pub(crate) machine_type: MachineType,
    pub(crate) tag: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// A cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    nodes: BTreeMap<String, Node>,
    etcd: Etcd,
    rules: Arc<dyn ConfigRules>,
    pub(super) images: Registry,
    actors: u64,
    pub(super) installers: u64,
}

impl Cluster {
    /// A cluster whose nodes all run.
    ///
    /// # Errors
    ///
    /// When a node would not take its own config.
    pub fn new(spec: ClusterSpec, now: Duration) -> Result<Self, String> {
        let mut nodes = BTreeMap::new();
        for node in spec.nodes {
            let read = |text: &String| Config::read(text.as_bytes(), node.line, &*spec.rules);
            let config = node.config.as_ref().map(read).transpose()?;
            if let Some(config) = &config {
                config.validate()?;
            }
            nodes.insert(node.name.clone(), Node::new(node, config, now));
        }
        let mut images = Registry::default();
        spec.images.into_iter().for_each(|image| images.add(image));
        let etcd = Etcd::default();
        let mut cluster = Self { nodes, etcd, rules: spec.rules, images, actors: 0, installers: 0 };
        cluster.settle(now);
        cluster.etcd.begin();
        Ok(cluster)
    }

    /// The names of all nodes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// A node.
    ///
    /// # Errors
    ///
    /// NotFound.
    pub fn node(&self, name: &str) -> Result<&Node, Refusal> {
        self.nodes.get(name).ok_or_else(|| Refusal::new(Code::NotFound, format!("there is no node {name}")))
    }

    pub(super) fn node_mut(&mut self, name: &str) -> Result<&mut Node, Refusal> {
        let missing = || Refusal::new(Code::NotFound, format!("there is no node {name}"));
        self.nodes.get_mut(name).ok_or_else(missing)
    }

    /// The etcd of the cluster.
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// The etcd of the cluster, to break it.
    pub fn etcd_mut(&mut self) -> &mut Etcd {
        &mut self.etcd
    }

    /// The next moment at which something happens by itself.
    pub fn deadline(&self) -> Option<Duration> {
        self.nodes.values().filter_map(Node::deadline).min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Duration) {
        for node in self.nodes.values_mut() {
            node.tick(now);
        }
        self.settle(now);
    }

    /// What the world must do, once.
    pub fn effects(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (name, node) in &mut self.nodes {
            effects.extend(node.jobs.drain(..).map(|job| match job {
                Job::Run { service, config } => Effect::Run { node: name.clone(), service, config },
                Job::Stop { service } => Effect::Stop { node: name.clone(), service },
            }));
        }
        effects
    }

    /// Sends a config to a node.
    ///
    /// # Errors
    ///
    /// Those of Talos.
    pub fn apply(&mut self, node: &str, apply: Apply, now: Duration) -> Result<Applied, Refusal> {
        let rules = self.rules.clone();
        let result = self.node_mut(node)?.apply(apply, &*rules, now);
        // A refused call may have ended a try.
        self.settle(now);
        result
    }

    /// Makes a node reboot or shut down; returns the id under which its events speak of it.
    ///
    /// # Errors
    ///
    /// NotFound.
    pub fn leave(&mut self, node: &str, back: bool, now: Duration) -> Result<String, Refusal> {
        let actor = self.actor(node);
        self.node_mut(node)?.leave(if back { "reboot" } else { "shutdown" }, &actor, back, now);
        self.settle(now);
        Ok(actor)
    }

    pub(super) fn actor(&mut self, node: &str) -> String {
        self.actors += 1;
        uuid(&format!("actor {node} {}", self.actors))
    }

    /// What is wrong with a node, to be changed.
    ///
    /// # Errors
    ///
    /// NotFound.
    pub fn faults_mut(&mut self, node: &str) -> Result<&mut Faults, Refusal> {
        Ok(&mut self.node_mut(node)?.faults)
    }

    /// What becomes of a call to a node, by the name of its method.
    pub fn fate(&mut self, node: &str, method: &str, now: Duration) -> Fate {
        let Ok(node) = self.node_mut(node) else { return Fate::Answered };
        // It was on for a while when the lab began.
        let since_boot = match node.boots {
            1 => Duration::MAX,
            _ => now.saturating_sub(node.booted_at),
        };
        node.faults.fate(method, since_boot)
    }

    /// Starts, stops or restarts a service of a node.
    ///
    /// # Errors
    ///
    /// Those of Talos.
    pub fn control(&mut self, node: &str, id: &str, verb: Verb, now: Duration) -> Result<String, Refusal> {
        let node = self.node_mut(node)?;
        let was_mounted = node.mounted(id).is_some();
        let reply = node.services.control(id, verb, &mut node.events, now)?;
        let service = id.to_owned();
        if verb != Verb::Start && was_mounted {
            node.jobs.push(Job::Stop { service: service.clone() });
        }
        if verb != Verb::Stop
            && let Some(config) = node.mount(id)
        {
            node.jobs.push(Job::Run { service, config });
        }
        self.settle(now);
        Ok(reply)
    }

    /// Changes the addresses that a node has.
    ///
    /// # Errors
    ///
    /// NotFound.
    pub fn set_addresses(
        &mut self,
        node: &str,
        addresses: Vec<(String, IpNet)>,
        now: Duration,
    ) -> Result<(), Refusal> {
        self.node_mut(node)?.spec.addresses = addresses;
        self.settle(now);
        Ok(())
    }

    /// Damages the disk of a node: its next boot finds this config there, as when a file system loses what was written
    /// last.
    ///
    /// # Errors
    ///
    /// NotFound, and InvalidArgument for what no node of its line takes.
    pub fn tear_config(&mut self, node: &str, config: &str) -> Result<(), Refusal> {
        let rules = self.rules.clone();
        let node = self.node_mut(node)?;
        let config = Config::read(config.as_bytes(), node.line(), &*rules).map_err(Refusal::invalid)?;
        node.torn = Some(config);
        Ok(())
    }

    /// Adds a line to the log of a service.
    ///
    /// # Errors
    ///
    /// NotFound for the node.
    pub fn write_log(&mut self, node: &str, id: &str, line: &str) -> Result<(), Refusal> {
        self.node_mut(node)?.services.write(id, line);
        Ok(())
    }

    /// The log of a service of a node.
    ///
    /// # Errors
    ///
    /// Those of Talos.
    pub fn log(&self, node: &str, id: &str) -> Result<&super::Log, Refusal> {
        self.node(node)?.services.log(id)
    }

    /// Whether `node` is a control plane node that runs, for calls that only those have.
    ///
    /// # Errors
    ///
    /// Unimplemented, as Talos says it of `what`.
    pub fn require_control_plane(&self, node: &str, what: &str) -> Result<(), Refusal> {
        match self.node(node)?.machine_type() {
            Some(MachineType::ControlPlane) => Ok(()),
            _ => Err(Refusal::new(
                Code::Unimplemented,
                format!("{what} is only available on control plane nodes"),
            )),
        }
    }

    /// Removes a member from etcd. Its node stays without etcd until it boots again.
    ///
    /// # Errors
    ///
    /// Those of etcd.
    pub fn remove_member(&mut self, id: u64, now: Duration) -> Result<(), Refusal> {
        let found = self.etcd.members().iter().find(|member| member.id == id);
        let node = found.map(|member| member.node.clone()).unwrap_or_default();
        let boots = self.node(&node).map_or(0, Node::boots);
        self.etcd.remove(id, &node, boots)?;
        self.settle(now);
        Ok(())
    }

    /// What `talosctl health` looks at, and the nodes for which it is not so.
    pub fn unhealthy(&self) -> Vec<(&'static str, String)> {
        let members: Vec<&Node> = self.nodes.values().filter(|node| node.machine_type().is_some()).collect();
        let of = |is: &dyn Fn(&&&Node) -> bool| -> String {
            members.iter().filter(is).map(|node| node.name()).collect::<Vec<_>>().join(", ")
        };
        let mut checks = Vec::new();
        let down: Vec<&str> =
            self.etcd.members().iter().filter(|it| !it.up).map(|it| it.node.as_str()).collect();
        checks.push(("etcd to be healthy", down.join(", ")));
        checks.push(("apid to be ready", of(&|node| node.api() == Api::Down)));
        checks.push(("all nodes to finish boot sequence", of(&|node| node.stage() != Stage::Running)));
        checks.push(("all k8s nodes to report ready", of(&|node| !node.is_ready())));
        checks
    }

    /// Brings what nodes share up to date: etcd, who knows whom, and what each tells.
    pub(super) fn settle(&mut self, now: Duration) {
        for node in self.nodes.values_mut() {
            if std::mem::take(&mut node.lost_data) {
                self.etcd.lose(node.name());
            }
            let runs = self.etcd.member(node.name()).is_some_and(|member| member.up);
            match (node.runs_etcd(now), runs) {
                (true, false) if !self.etcd.has_left(node.name(), node.boots()) => {
                    self.etcd.start(node.name(), node.advertised().unwrap_or_default());
                }
                (false, true) => self.etcd.stop(node.name()),
                (true, true) => {
                    if let Some(advertised) = node.advertised() {
                        self.etcd.advertise(node.name(), &advertised);
                    }
                }
                _ => {}
            }
        }
        for node in self.nodes.values_mut().filter(|node| node.is_up()) {
            let runs = self.etcd.member(&node.spec.name).is_some_and(|member| member.up);
            node.services.set_etcd(runs, &mut node.events, now);
            node.progress(now);
        }
        let peers: Vec<Peer> = self.nodes.values().filter_map(peer).collect();
        for node in self.nodes.values_mut() {
            let member = self.etcd.member(&node.spec.name);
            let etcd = member.filter(|member| member.up).map(|it| (it.id, it.advertised.as_slice()));
            node.publish(&peers, etcd, now);
        }
    }

    /// Removes the etcd member of a node.
    ///
    /// # Errors
    ///
    /// Those of etcd.
    pub fn leave_etcd(&mut self, node: &str, now: Duration) -> Result<(), Refusal> {
        let boots = self.node(node)?.boots();
        self.etcd.leave(node, boots)?;
        self.settle(now);
        Ok(())
    }
}

fn peer(node: &Node) -> Option<Peer> {
    Some(Peer {
        name: node.name().to_owned(),
        hostname: node.hostname().to_owned(),
        machine_type: node.machine_type()?,
        tag: node.tag().to_owned(),
        addresses: node.routed().iter().map(IpNet::addr).collect(),
    })
}
