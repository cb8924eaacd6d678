//! The hosts and links of a lab, and what can be done to them.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;

use ipnet::IpNet;

use super::host::{Host, Role};
use super::processes::{Process, Processes};
use super::root;
use crate::error::{Attempt as _, LabError};
use crate::net::link::{End, Links};
use crate::net::nat::{self, WAN};
use crate::net::nft;
use crate::plan::{self, Addresses, Member, PRIVATE_KEY_FILE, Place};
use crate::protocol::{Cut, Daemon, LinkName, NodeView, ShapeCounters, SiteView, View};
use crate::reentry::DAEMON;
use crate::shaper::{Shaper, Tap};
use crate::talos::Simulation;
use crate::talos::model::{ConfigRules, Effect};
use crate::topology::{Family, Link, Membership, Nat, Shape, Topology};

/// A node's interface to its LAN.
pub(super) const LAN_OF_NODE: &str = "eth0";
/// The bridge of a router, to which its nodes are connected.
const BRIDGE: &str = "lan";
const DEFAULT_MTU: u16 = 1500;
pub(super) const CONFIG_FILE: &str = ichord::config::LINUX_PATH;

/// All of a lab.
pub(crate) struct World {
    pub(super) topology: Topology,
    processes: Processes,
    internet: Host,
    routers: Vec<Host>,
    nodes: BTreeMap<String, Node>,
    shapers: BTreeMap<LinkName, Shaper>,
    cuts: BTreeSet<Cut>,
    pub(super) simulation: Option<Simulation>,
    /// Nodes whose addresses are told to the simulation by what their ichords say.
    pub(super) followed: BTreeSet<String>,
}

struct Node {
    host: Host,
    start: Place,
    place: Place,
    link: Link,
    listen_port: u16,
    member: bool,
    public_key: Option<String>,
    starts: Daemon,
    daemon: Option<Process>,
    is_off: Rc<Cell<bool>>,
}

/// One end of a link that is to be made.
struct Port<'h> {
    host: &'h Host,
    name: String,
}

impl World {
    /// Makes everything that `topology` describes, and tells `progress` about it.
    pub(crate) async fn build(
        topology: Topology,
        processes: Processes,
        rules: Arc<dyn ConfigRules>,
        progress: &dyn Fn(String),
    ) -> Result<Self, LabError> {
        topology.check()?;
        let internet = Host::start("internet", Role::Router).await?;
        let mut world = Self {
            topology,
            processes,
            internet,
            routers: Vec::new(),
            nodes: BTreeMap::new(),
            shapers: BTreeMap::new(),
            cuts: BTreeSet::new(),
            simulation: None,
            followed: BTreeSet::new(),
        };
        for site in 0..world.topology.sites.len() {
            world.build_site(site).await?;
        }
        progress(format!("{} sites are joined by an internet", world.topology.sites.len()));
        let places: Vec<_> = world.topology.places().map(|(place, node)| (place, node.clone())).collect();
        for (place, spec) in &places {
            let host = Host::start(&spec.name, Role::Node).await?;
            let node = Node {
                host,
                start: *place,
                place: *place,
                link: spec.link,
                listen_port: spec.listen_port,
                member: spec.daemon,
                public_key: None,
                starts: Daemon::default(),
                daemon: None,
                is_off: Rc::default(),
            };
            world.nodes.insert(spec.name.clone(), node);
            world.attach(&spec.name).await?;
        }
        for site in 0..world.topology.sites.len() {
            world.write_rules(site).await?;
        }
        progress(format!("{} nodes are connected to their LANs", places.len()));
        let configs = world.configure().await?;
        if let Some(talos) = world.topology.talos.clone() {
            let simulation = world.simulate(&talos, &configs, rules).await?;
            let versions = talos.describe(places.iter().map(|(_, node)| node.name.as_str()));
            progress(format!("{} nodes run Talos {versions}", places.len()));
            for effect in simulation.effects() {
                if let Effect::Run { node, config, .. } = effect {
                    world.run_extension(&node, &config).await?;
                }
            }
            return Ok(world);
        }
        let members: Vec<_> = places.iter().filter(|(_, node)| node.daemon).collect();
        for (_, node) in &members {
            world.start_daemon(&node.name).await?;
        }
        progress(format!("{} ichords were started", members.len()));
        Ok(world)
    }

    async fn build_site(&mut self, index: usize) -> Result<(), LabError> {
        let site = &self.topology.sites[index];
        let (site_name, nat, link) = (site.name.clone(), site.nat, site.uplink);
        let gateway = self.topology.gateway(index);
        let router = Host::start(&format!("router-{site_name}"), Role::Router).await?;
        let (outside, core) = plan::uplink(index);
        let port = internet_port(index);
        self.connect(
            LinkName::Uplink(site_name),
            link,
            Port { host: &router, name: WAN.to_owned() },
            Port { host: &self.internet.clone(), name: port.clone() },
        )
        .await?;
        let (to4, to6) = (outside.ip(Family::V4), outside.ip(Family::V6));
        let [lan4, lan6] = gateway.networks();
        self.internet
            .run(move |links| async move {
                assign(&links, &port, core).await?;
                links.add_route(lan6, to6).await?;
                match nat {
                    Nat::None => links.add_route(lan4, to4).await,
                    Nat::Static => links.add_route(plan::pool(index).into(), to4).await,
                    Nat::PortPreserving | Nat::Random => Ok(()),
                }
            })
            .await?;
        let (via4, via6) = (core.ip(Family::V4), core.ip(Family::V6));
        router
            .run(move |links| async move {
                assign(&links, WAN, outside).await?;
                add_default_routes(&links, via4, via6).await?;
                links.add_bridge(BRIDGE).await?;
                assign(&links, BRIDGE, gateway).await
            })
            .await?;
        self.routers.push(router);
        Ok(())
    }

    /// Connects a node to the LAN of the site where it is now.
    async fn attach(&mut self, name: &str) -> Result<(), LabError> {
        let node = self.node(name)?;
        let (place, link, host) = (node.place, node.link, node.host.clone());
        let router = self.routers[place.site].clone();
        let port = format!("node{}", place.number);
        self.connect(
            LinkName::Node(name.to_owned()),
            link,
            Port { host: &host, name: LAN_OF_NODE.to_owned() },
            Port { host: &router, name: port.clone() },
        )
        .await?;
        router
            .run(move |links| async move {
                links.enslave(&port, BRIDGE).await?;
                links.set_up(&port).await
            })
            .await?;
        self.address(name).await
    }

    /// Gives a node the addresses of its place.
    async fn address(&self, name: &str) -> Result<(), LabError> {
        let node = self.node(name)?;
        let addresses = self.topology.underlay_of(node.place);
        let gateway = self.topology.gateway(node.place.site);
        node.host
            .run(move |links| async move {
                assign(&links, LAN_OF_NODE, addresses).await?;
                add_default_routes(&links, gateway.ip(Family::V4), gateway.ip(Family::V6)).await
            })
            .await
    }

    /// Makes a link between two hosts, of which both ends stay down.
    async fn connect(
        &mut self,
        name: LinkName,
        link: Link,
        here: Port<'_>,
        there: Port<'_>,
    ) -> Result<(), LabError> {
        let mtu = link.mtu.unwrap_or(DEFAULT_MTU);
        let Some(shape) = link.shape else {
            let network =
                there.host.network().try_clone_to_owned().attempt(|| "share a namespace".to_owned())?;
            let (here_name, there_name) = (here.name, there.name);
            let add = here.host.run(move |links| async move {
                use std::os::fd::AsFd as _;
                let (here, there) = (End { name: &here_name, mtu }, End { name: &there_name, mtu });
                links.add_veth(here, there, network.as_fd()).await
            });
            return add.await;
        };
        let mut taps = Vec::new();
        for port in [here, there] {
            let make = port.host.run(move |links| async move {
                let tap = Tap::make(&port.name)?;
                links.set_mtu(&port.name, mtu).await?;
                Ok(tap)
            });
            taps.push(make.await?);
        }
        let taps = <[Tap; 2]>::try_from(taps).map_err(|_| LabError::Gone("an end of a link".to_owned()))?;
        // Each link has chances of its own.
        let seed = self.topology.seed ^ (self.shapers.len() as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.shapers.insert(name, Shaper::start(taps, shape, seed)?);
        Ok(())
    }

    /// Writes the router's rules for those who are in `site` now.
    async fn write_rules(&self, site: usize) -> Result<(), LabError> {
        let mut nodes: Vec<_> = self
            .nodes
            .values()
            .filter(|node| node.place.site == site)
            .map(|node| (node.place, node.listen_port))
            .collect();
        nodes.sort_by_key(|(place, _)| place.number);
        let table = nat::router(&self.topology, site, &self.topology.sites[site], &nodes);
        self.routers[site].run(move |_| async move { nft::replace(&table) }).await
    }

    /// Makes the keys and writes the configurations of all members, which are returned by their names.
    async fn configure(&mut self) -> Result<BTreeMap<String, String>, LabError> {
        let hosts = self.topology.hosts();
        let mut members = Vec::new();
        for (place, spec) in self.topology.places() {
            let Some(node) = self.nodes.get_mut(&spec.name) else { continue };
            let hosts = hosts.clone();
            let is_listed = node.member && self.topology.membership == Membership::Listed;
            let public = node.host.run(move |_| async move {
                root::write("/etc/hosts".as_ref(), 0o644, &hosts)?;
                if !is_listed {
                    return Ok(None);
                }
                // The key never leaves the node.
                let secret = ichord::random::secret_key();
                root::write(PRIVATE_KEY_FILE.as_ref(), 0o600, &secret.expose_base64())?;
                // A config without a key file must not change who the node is.
                ichord::identity::save(ichord::config::STATE_DIRECTORY.as_ref(), &secret)
                    .attempt(|| "save the key of a node".to_owned())?;
                Ok(Some(secret.public().to_string()))
            });
            node.public_key = public.await?;
            if let Some(key) = &node.public_key {
                members.push(Member { place, node: spec, key: key.clone() });
            }
        }
        let mut configs = BTreeMap::new();
        for member in &members {
            let text = self.topology.config(member.place, member.node.listen_port, &members);
            configs.insert(member.node.name.clone(), text.clone());
            // Simulated nodes get it with their machine configs.
            if self.topology.talos.is_none() {
                let host = self.node(&member.node.name)?.host.clone();
                host.run(move |_| async move { root::write(CONFIG_FILE.as_ref(), 0o600, &text) }).await?;
            }
        }
        Ok(configs)
    }

    /// Takes the power from a node, and returns the ichord that is to be killed; or gives it back.
    pub(crate) async fn power(&mut self, name: &str, on: bool) -> Result<Option<Process>, LabError> {
        let node = self.node(name)?;
        let (is_off, is_member) = (Rc::clone(&node.is_off), node.member);
        let running = node.daemon.clone().filter(|daemon| !on && !daemon.has_ended());
        is_off.set(!on);
        self.cut(Cut::Node(name.to_owned()), !on).await?;
        if on && is_member {
            self.start_daemon(name).await?;
        }
        Ok(running)
    }

    /// Whether a node has no power, now and later.
    pub(crate) fn is_off(&self, name: &str) -> Result<Rc<Cell<bool>>, LabError> {
        Ok(Rc::clone(&self.node(name)?.is_off))
    }

    /// Starts a node's ichord, unless it runs or has no power.
    pub(crate) async fn start_daemon(&mut self, name: &str) -> Result<(), LabError> {
        let processes = self.processes.clone();
        let node = self.node_mut(name)?;
        if node.is_off.get() || node.daemon.as_ref().is_some_and(|daemon| !daemon.has_ended()) {
            return Ok(());
        }
        let starts = node.starts.clone();
        let start = node.host.run(move |_| async move {
            let what = || "start ichord".to_owned();
            let log = OpenOptions::new().create(true).append(true).open(root::LOG).attempt(what)?;
            let mut command = Command::new(starts.program.as_deref().unwrap_or(root::program()));
            if starts.program.is_none() {
                command.arg(DAEMON).env(ichord::cli::REENTER_VARIABLE, DAEMON);
            }
            command
                .args(["run", "--config", CONFIG_FILE])
                .envs(starts.environment)
                .stdin(Stdio::null())
                .stdout(log.try_clone().attempt(what)?)
                .stderr(log);
            processes.spawn(&mut command).attempt(what)
        });
        node.daemon = Some(start.await?);
        Ok(())
    }

    /// Starts a node's ichord in this way from now on.
    pub(crate) fn set_daemon(&mut self, name: &str, daemon: Daemon) -> Result<(), LabError> {
        self.node_mut(name)?.starts = daemon;
        Ok(())
    }

    /// The process of a node's ichord, if it was ever started.
    pub(crate) fn daemon(&self, name: &str) -> Result<Option<&Process>, LabError> {
        Ok(self.node(name)?.daemon.as_ref())
    }

    /// The namespaces of a node.
    pub(crate) fn host(&self, name: &str) -> Result<Host, LabError> {
        Ok(self.node(name)?.host.clone())
    }

    /// The lab as it is now.
    pub(crate) fn view(&self) -> View {
        let nodes = self.topology.nodes().filter_map(|(_, spec)| {
            let node = self.nodes.get(&spec.name)?;
            let running = node.daemon.as_ref().filter(|daemon| !daemon.has_ended());
            Some(NodeView {
                name: spec.name.clone(),
                site: self.topology.sites[node.place.site].name.clone(),
                member: node.member,
                pid: running.map(Process::id),
                underlay: self.topology.underlay_of(node.place),
                mesh: Topology::mesh_address(node.start),
                peers: self.topology.peers(node.start),
                public_key: node.public_key.clone(),
            })
        });
        let sites = self.topology.sites.iter();
        View {
            sites: sites.map(|site| SiteView { name: site.name.clone(), nat: site.nat }).collect(),
            nodes: nodes.collect(),
        }
    }

    /// Shapes a link anew.
    pub(crate) fn shape(&self, link: &LinkName, shape: Shape) -> Result<(), LabError> {
        shape.check()?;
        self.shaper(link)?.set(shape);
        Ok(())
    }

    /// What a shaped link did.
    pub(crate) fn counters(&self, link: &LinkName) -> Result<ShapeCounters, LabError> {
        Ok(self.shaper(link)?.counters())
    }

    /// Cuts something off, or heals it.
    pub(crate) async fn cut(&mut self, what: Cut, cut: bool) -> Result<(), LabError> {
        // Checked before anything changes.
        match &what {
            Cut::Node(node) => {
                self.node(node)?;
            }
            Cut::Site(site) => {
                self.topology.site(site)?;
            }
            Cut::Sites(a, b) => {
                self.topology.site(a).and(self.topology.site(b))?;
            }
        }
        if cut {
            self.cuts.insert(what.clone());
        } else {
            self.cuts.remove(&what);
            if let Cut::Sites(a, b) = &what {
                self.cuts.remove(&Cut::Sites(b.clone(), a.clone()));
            }
        }
        let one = |name: &str| BTreeSet::from([name.to_owned()]);
        let none = BTreeSet::new();
        let (host, table) = match &what {
            Cut::Node(node) => {
                let table = nat::cuts(&if cut { one(LAN_OF_NODE) } else { none }, &BTreeSet::new());
                (self.host(node)?, table)
            }
            Cut::Site(site) => {
                let router = self.routers[self.topology.site(site)?].clone();
                (router, nat::cuts(&if cut { one(WAN) } else { none }, &BTreeSet::new()))
            }
            Cut::Sites(..) => {
                let pairs = self.cuts.iter().filter_map(|cut| match cut {
                    Cut::Sites(a, b) => {
                        let port = |name| self.topology.site(name).ok().map(internet_port);
                        Some((port(a)?, port(b)?))
                    }
                    Cut::Node(_) | Cut::Site(_) => None,
                });
                (self.internet.clone(), nat::cuts(&none, &pairs.collect()))
            }
        };
        host.run(move |_| async move { nft::replace(&table) }).await
    }

    /// Moves a node to a site; to its other address there if that is where it is.
    pub(crate) async fn relocate(&mut self, name: &str, site: &str) -> Result<(), LabError> {
        let site = self.topology.site(site)?;
        let node = self.node(name)?;
        let (old, host) = (node.place, node.host.clone());
        if old.site == site {
            let before = self.topology.underlay_of(old);
            self.node_mut(name)?.place.second = !old.second;
            host.run(move |links| async move {
                for address in before.nets() {
                    links.remove_address(LAN_OF_NODE, address).await?;
                }
                Ok(())
            })
            .await?;
            self.address(name).await?;
        } else {
            self.node_mut(name)?.place = Place { site, second: false, ..old };
            let link = LinkName::Node(name.to_owned());
            if self.shapers.remove(&link).is_some() {
                // The devices go with the thread that holds them, which may take a moment.
                let port = format!("node{}", old.number);
                let router = self.routers[old.site].clone();
                router.run(move |links| async move { links.until_gone(&port).await }).await?;
                host.run(|links| async move { links.until_gone(LAN_OF_NODE).await }).await?;
            } else {
                host.run(|links| async move { links.remove(LAN_OF_NODE).await }).await?;
            }
            self.attach(name).await?;
            self.write_rules(old.site).await?;
        }
        self.write_rules(site).await
    }

    fn shaper(&self, link: &LinkName) -> Result<&Shaper, LabError> {
        self.shapers.get(link).ok_or_else(|| LabError::Failed {
            what: format!("shape the {link}"),
            cause: "it was not made with a shape, or does not exist".to_owned(),
        })
    }

    fn node(&self, name: &str) -> Result<&Node, LabError> {
        let unknown = || LabError::unknown("node", name, self.nodes.keys().map(String::as_str));
        self.nodes.get(name).ok_or_else(unknown)
    }

    fn node_mut(&mut self, name: &str) -> Result<&mut Node, LabError> {
        self.node(name)?;
        self.nodes.get_mut(name).ok_or_else(|| LabError::unknown("node", name, std::iter::empty()))
    }
}

/// The internet's end of the link to the site `index`.
fn internet_port(index: usize) -> String {
    format!("site{}", index + 1)
}

async fn assign(links: &Links, name: &str, addresses: Addresses) -> Result<(), LabError> {
    // Before it is up, so that the kernel adds no route twice.
    for address in addresses.nets() {
        links.add_address(name, address).await?;
    }
    links.set_up(name).await
}

async fn add_default_routes(links: &Links, v4: IpAddr, v6: IpAddr) -> Result<(), LabError> {
    let everything = |address: IpAddr| {
        let unspecified = if address.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        IpNet::new_assert(unspecified, 0)
    };
    for gateway in [v4, v6] {
        links.add_route(everything(gateway), gateway).await?;
    }
    Ok(())
}
