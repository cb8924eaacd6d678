//! What a lab is made of: sites, nodes, NATs and links. Plain values, checked once.

mod talos;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::talos::model::Line;

pub use self::talos::{Nodes, Talos, TalosFault, TalosImage};

/// Most sites, and most nodes, of one lab: each node is a process and some namespaces, and has one number in
/// every /24.
pub const MAX: usize = 100;

/// A lab.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topology {
    /// The sites, all joined by one internet.
    pub sites: Vec<Site>,
    /// The family of the endpoints that nodes are configured with.
    #[serde(default)]
    pub underlay: Family,
    /// MTU of the mesh interface; ichord's default where there is none.
    #[serde(default)]
    pub mesh_mtu: Option<u16>,
    /// Where all chance of the shaped links comes from.
    #[serde(default)]
    pub seed: u64,
    /// How the ichords become a mesh.
    #[serde(default)]
    pub membership: Membership,
    /// Makes every node a simulated Talos node, besides its ichord.
    #[serde(default)]
    pub talos: Option<Talos>,
}

/// How the ichords of a lab become a mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Membership {
    /// Each is configured with the keys of all others, and starts with the lab.
    #[default]
    Listed,
    /// They start without a configuration, and wait for join strings.
    Tokens,
}

impl Topology {
    /// A Talos cluster: its control plane at home behind a NAT, its workers in the cloud, and new machines at home.
    pub fn talos(nodes: Nodes, version: Line) -> Self {
        let site = |name: &str, nat, count| {
            let mut site = Site::new(name, nat);
            site.nodes = (1..=count).map(|n| NodeSpec::new(format!("{name}-{n}"))).collect();
            site
        };
        let mut sites = vec![site("home", Nat::PortPreserving, nodes.control_planes)];
        if nodes.workers > 0 {
            sites.push(site("cloud", Nat::None, nodes.workers));
        }
        if nodes.new > 0 {
            let mut shed = site("new", Nat::PortPreserving, nodes.new);
            shed.nodes.iter_mut().for_each(|node| node.daemon = false);
            sites.push(shed);
        }
        let talos =
            Talos { version, control_planes: nodes.control_planes, new: nodes.new, ..Talos::default() };
        Self { sites, talos: Some(talos), ..Self::default() }
    }
}

/// A site: a LAN behind a router.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// What its router does to IPv4 addresses.
    #[serde(default)]
    pub nat: Nat,
    /// What its router lets in by IPv6; as a home router does behind a NAT, all elsewhere.
    #[serde(default)]
    pub ipv6: Option<Ipv6>,
    /// The link from its router to the internet.
    #[serde(default)]
    pub uplink: Link,
    /// Its nodes.
    pub nodes: Vec<NodeSpec>,
}

impl Site {
    /// A site called `name` behind `nat`, without nodes.
    pub fn new(name: impl Into<String>, nat: Nat) -> Self {
        Self { name: name.into(), nat, ipv6: None, uplink: Link::default(), nodes: Vec::new() }
    }

    /// What its router lets in by IPv6.
    pub fn ipv6(&self) -> Ipv6 {
        self.ipv6.unwrap_or(if self.nat == Nat::None { Ipv6::Open } else { Ipv6::Firewalled })
    }
}

/// A node of a site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSpec {
    /// Its name, which is its host name too.
    pub name: String,
    /// Whether it is a member of the mesh, with an ichord that starts with the lab.
    #[serde(default = "yes")]
    pub daemon: bool,
    /// Its link to the LAN.
    #[serde(default)]
    pub link: Link,
    /// UDP port of its ichord.
    #[serde(default = "default_port")]
    pub listen_port: u16,
}

impl NodeSpec {
    /// A member of the mesh called `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), daemon: true, link: Link::default(), listen_port: default_port() }
    }
}

fn yes() -> bool {
    true
}

fn default_port() -> u16 {
    51840
}

/// An address family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What a site's router does to the IPv4 addresses of its nodes. Words of RFC 4787.
///
/// What comes back is filtered by Linux' connection tracking, which lets in only what answers (address and
/// port-dependent filtering), except with [`Nat::Static`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Nat {
    /// None: nodes have public addresses.
    #[default]
    None,
    /// Endpoint-independent mapping of the nodes' mesh ports. The first node keeps its port, each other one
    /// always gets the same port of its own.
    PortPreserving,
    /// Address and port-dependent mapping: every new destination is seen from another, random port.
    Random,
    /// Each node has a public address for itself, and everything sent there reaches it.
    Static,
}

impl Nat {
    const NAMES: [(&'static str, Self); 4] = [
        ("none", Self::None),
        ("port-preserving", Self::PortPreserving),
        ("random", Self::Random),
        ("static", Self::Static),
    ];
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(_, nat)| nat == self).map_or("?", |(name, _)| name))
    }
}

impl FromStr for Nat {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        Self::NAMES.iter().find(|(name, _)| *name == text).map(|(_, nat)| *nat).ok_or_else(|| {
            let names = Self::NAMES.map(|(name, _)| name).join(", ");
            LabError::Topology(format!("{text:?} is no kind of NAT; there are {names}"))
        })
    }
}

/// What a site's router lets in by IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipv6 {
    /// Everything.
    Open,
    /// Only what answers.
    Firewalled,
}

/// A link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// MTU of both ends; 1500 without.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// How the link treats packets. With a shape, even one that does nothing, the link can be shaped anew at
    /// any time; without, it is a plain veth at full speed.
    #[serde(default)]
    pub shape: Option<Shape>,
}

/// How a shaped link treats packets, each direction for itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Shape {
    /// Share of packets that get lost, 0 to 1.
    pub loss: f64,
    /// Time on the way, in milliseconds.
    pub delay_ms: f64,
    /// At most this much is added to the delay, in milliseconds, evenly spread. Packets stay in order.
    pub jitter_ms: f64,
    /// Share of packets that overtake those before them: they are not delayed.
    pub reorder: f64,
    /// Share of packets that arrive twice.
    pub duplicate: f64,
    /// Share of packets that are marked to have met congestion, as a router does that does not want to lose
    /// them (RFC 3168), of those that can be.
    pub congestion: f64,
    /// Bits per second; 0 for no limit.
    pub rate: u64,
    /// Most bytes that wait for their turn or are on the way; more are lost.
    pub queue: usize,
    /// Longer IP packets vanish without a word.
    pub silent_mtu: Option<u16>,
}

impl Default for Shape {
    /// Does nothing to packets.
    fn default() -> Self {
        Self {
            loss: 0.0,
            delay_ms: 0.0,
            jitter_ms: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            congestion: 0.0,
            rate: 0,
            queue: 16 << 20,
            silent_mtu: None,
        }
    }
}

impl Shape {
    /// A link that takes `delay` for each packet.
    pub fn delay(delay: Duration) -> Self {
        Self { delay_ms: delay.as_secs_f64() * 1000.0, ..Self::default() }
    }

    /// Checks that all values mean something.
    ///
    /// # Errors
    /// [`LabError::Topology`] names the value.
    pub fn check(&self) -> Result<(), LabError> {
        let shares = [
            ("loss", self.loss),
            ("reorder", self.reorder),
            ("duplicate", self.duplicate),
            ("congestion", self.congestion),
        ];
        for (what, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return Err(LabError::Topology(format!("{what} is {share}, and must be between 0 and 1")));
            }
        }
        for (what, time) in [("delayMs", self.delay_ms), ("jitterMs", self.jitter_ms)] {
            if !(0.0..=60_000.0).contains(&time) {
                return Err(LabError::Topology(format!("{what} is {time}, and must be between 0 and 60000")));
            }
        }
        Ok(())
    }
}

impl Topology {
    /// The lab of the README: three nodes at home behind a NAT that opens nothing, two in a cloud with public
    /// addresses. Each node at home keeps its mapping to those in the cloud open, so that all pairs connect
    /// without NAT traversal or relays.
    pub fn demo() -> Self {
        let mut home = Site::new("home", Nat::PortPreserving);
        home.nodes = (1..=3).map(|n| NodeSpec::new(format!("home-{n}"))).collect();
        let mut cloud = Site::new("cloud", Nat::None);
        cloud.nodes = (1..=2).map(|n| NodeSpec::new(format!("cloud-{n}"))).collect();
        Self { sites: vec![home, cloud], ..Self::default() }
    }

    /// Reads a topology file (YAML).
    ///
    /// # Errors
    /// [`LabError::Topology`] names the file, and what is wrong where.
    pub fn load(path: &Path) -> Result<Self, LabError> {
        let failed = |problem: String| LabError::Topology(format!("{}: {problem}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let topology: Self = yaml_serde::from_str(&text).map_err(|error| failed(error.to_string()))?;
        topology.check()?;
        Ok(topology)
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`LabError::Topology`] names what is wrong.
    pub fn check(&self) -> Result<(), LabError> {
        let problem = |text: String| Err(LabError::Topology(text));
        let nodes = self.nodes().count();
        if self.sites.len() > MAX || nodes > MAX {
            return problem(format!("a lab has at most {MAX} sites and {MAX} nodes"));
        }
        if nodes == 0 {
            return problem("a lab needs a node".to_owned());
        }
        let (mut sites, mut names) = (BTreeSet::new(), BTreeSet::new());
        for site in &self.sites {
            check_name("site", &site.name)?;
            if !sites.insert(&site.name) {
                return problem(format!("there are two sites called {}", site.name));
            }
            check_link(&site.uplink)?;
        }
        for (_, node) in self.nodes() {
            check_name("node", &node.name)?;
            if !names.insert(&node.name) {
                return problem(format!("there are two nodes called {}", node.name));
            }
            if node.listen_port == 0 {
                return problem(format!("{}: listenPort must not be 0", node.name));
            }
            check_link(&node.link)?;
        }
        if let Some(talos) = &self.talos {
            talos.check(self.nodes().map(|(_, node)| node.name.as_str()))?;
        }
        Ok(())
    }

    /// All nodes, each with the index of its site, in the order of their numbers.
    pub fn nodes(&self) -> impl Iterator<Item = (usize, &NodeSpec)> {
        self.sites.iter().enumerate().flat_map(|(site, spec)| spec.nodes.iter().map(move |node| (site, node)))
    }

    /// The index of the site `name`.
    ///
    /// # Errors
    /// [`LabError::Unknown`].
    pub fn site(&self, name: &str) -> Result<usize, LabError> {
        let found = self.sites.iter().position(|site| site.name == name);
        found.ok_or_else(|| LabError::unknown("site", name, self.sites.iter().map(|site| site.name.as_str())))
    }
}

impl FromStr for Site {
    type Err = LabError;

    /// Reads `NAME:NODES[:NAT]`, such as `home:3:port-preserving`.
    fn from_str(text: &str) -> Result<Self, LabError> {
        let malformed = || LabError::Topology(format!("{text:?} is not NAME:NODES[:NAT]"));
        let mut parts = text.split(':');
        let (Some(name), Some(count)) = (parts.next(), parts.next()) else { return Err(malformed()) };
        let nat = parts.next().map_or(Ok(Nat::None), str::parse)?;
        if parts.next().is_some() {
            return Err(malformed());
        }
        let count: usize = count.parse().ok().filter(|count| *count <= MAX).ok_or_else(malformed)?;
        let mut site = Self::new(name, nat);
        site.nodes = (1..=count).map(|n| NodeSpec::new(format!("{name}-{n}"))).collect();
        Ok(site)
    }
}

/// Names become host names, and parts of file names.
pub(crate) fn check_name(what: &str, name: &str) -> Result<(), LabError> {
    let valid = (1..=32).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if valid {
        return Ok(());
    }
    let rule = "expected 1 to 32 lower-case letters, digits and hyphens, first a letter";
    Err(LabError::Topology(format!("{name:?} cannot name a {what}: {rule}")))
}

fn check_link(link: &Link) -> Result<(), LabError> {
    if link.mtu.is_some_and(|mtu| mtu < 576) {
        return Err(LabError::Topology("the MTU of a link must be at least 576".to_owned()));
    }
    link.shape.as_ref().map_or(Ok(()), Shape::check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_is_three_and_two() {
        let demo = Topology::demo();
        demo.check().unwrap();
        let names: Vec<_> = demo.nodes().map(|(site, node)| (site, node.name.as_str())).collect();
        assert_eq!(names, [(0, "home-1"), (0, "home-2"), (0, "home-3"), (1, "cloud-1"), (1, "cloud-2")]);
    }

    #[test]
    fn a_site_is_written_in_one_word() {
        let site: Site = "home:2:random".parse().unwrap();
        assert_eq!((site.name.as_str(), site.nat, site.nodes.len()), ("home", Nat::Random, 2));
        assert_eq!("dc:1".parse::<Site>().unwrap().nat, Nat::None);
        for bad in ["home", "home:x", "home:1:cone", "home:1:none:x", "home:1000"] {
            bad.parse::<Site>().unwrap_err();
        }
    }

    #[test]
    fn a_cluster_is_written_in_numbers() {
        let nodes: Nodes = "3+2+1".parse().unwrap();
        assert_eq!((nodes.control_planes, nodes.workers, nodes.new), (3, 2, 1));
        let topology = Topology::talos(nodes, Line::V1_13);
        topology.check().unwrap();
        let names: Vec<_> = topology.nodes().map(|(_, node)| (node.name.as_str(), node.daemon)).collect();
        assert_eq!(names[0], ("home-1", true));
        assert_eq!(names[3], ("cloud-1", true));
        assert_eq!(names[5], ("new-1", false));
        for bad in ["3", "0+2", "3+x", "1+1+1+1", "1000+1"] {
            bad.parse::<Nodes>().unwrap_err();
        }
        let talos = Some(Talos { control_planes: 2, ..Talos::default() });
        let mut small = Topology { talos, ..Topology::talos("1+0".parse().unwrap(), Line::V1_14) };
        small.check().unwrap_err();
        small.talos = None;
        small.check().unwrap();
    }

    #[test]
    fn what_cannot_be_built_is_refused() {
        let one = |name: &str| Topology {
            sites: vec![format!("{name}:1").parse().unwrap()],
            ..Topology::default()
        };
        one("a").check().unwrap();
        for bad in ["", "A", "-a", "1a", "a_b", &"a".repeat(33)] {
            one(bad).check().unwrap_err();
        }
        let mut twice = one("a");
        twice.sites.push(twice.sites[0].clone());
        twice.check().unwrap_err();
        let mut shaped = one("a");
        shaped.sites[0].uplink.shape = Some(Shape { loss: 1.5, ..Shape::default() });
        shaped.check().unwrap_err();
        Topology::default().check().unwrap_err();
    }

    #[test]
    fn a_topology_file_says_only_what_matters() {
        let text = "sites:\n  - name: home\n    nat: static\n    uplink: {shape: {delayMs: 10, loss: 0.01}}\n    \
                    nodes: [{name: a}, {name: b, daemon: false}]\n";
        let topology: Topology = yaml_serde::from_str(text).unwrap();
        topology.check().unwrap();
        assert_eq!(topology.sites[0].nat, Nat::Static);
        assert_eq!(topology.sites[0].uplink.shape.unwrap().delay_ms, 10.0);
        assert!(topology.sites[0].nodes[0].daemon && !topology.sites[0].nodes[1].daemon);
    }
}
