//! `ichor.yaml`: what the operator wants of a cluster.
//!
//! The file is read strictly: an unknown key, a value of the wrong form or a contradiction is an error that names
//! its line and key, and the key that was probably meant. What the keys mean is written down once, in
//! [`mod@schema`]: the reader and the printed JSON Schema both come from there.

mod check;
mod read;
pub mod schema;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::transport::Jump;

/// Most bytes of a cluster file: some ten thousand nodes.
pub const MAX_BYTES: u64 = 4 << 20;

/// A cluster as its operator wants it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Cluster {
    /// The mesh itself.
    pub mesh: Mesh,
    /// Where nodes stand, in the order of the file.
    pub sites: Vec<Site>,
    /// The nodes, in the order of the file.
    pub nodes: Vec<Node>,
}

/// What all nodes share.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Mesh {
    /// Name of the mesh.
    pub name: String,
    /// How the daemons know each other.
    pub membership: Membership,
    /// The addresses that nodes get.
    pub range: Ipv4Net,
    /// The IPv6 addresses that nodes get, if any.
    pub range6: Option<Ipv6Net>,
    /// UDP port of the mesh.
    pub port: u16,
    /// MTU of the interface in bytes.
    pub mtu: u16,
    /// What runs over the mesh.
    pub profile: Profile,
    /// Who owns the route to the range.
    pub route: Route,
    /// Which members every node knows by name.
    pub hosts: Option<Hosts>,
    /// Whether nodes get ingress firewall rules.
    pub firewall: bool,
    /// How the paths between the sites of voters were found to be.
    pub measured: Option<Measured>,
}

impl Mesh {
    /// All addresses of the mesh: the IPv4 range, and the IPv6 range if there is one.
    pub fn ranges(&self) -> impl Iterator<Item = IpNet> {
        [IpNet::V4(self.range)].into_iter().chain(self.range6.map(IpNet::V6))
    }
}

/// What runs over the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// The mesh stands beside the LAN; Kubernetes and etcd stay there.
    Beside,
    /// Nodes find each other over the mesh; etcd stays on the LAN of its site.
    Nodes,
    /// As `nodes`, and etcd has voters in several sites.
    Stretched,
}

/// How the daemons of a mesh know each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Membership {
    /// Each is configured with the public keys of all others.
    Listed,
    /// They are let in by tokens of the mesh's owner. Their configuration is not that of the cluster file.
    Tokens,
}

/// Who owns the route to the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The machine config has it.
    Config,
    /// The daemon sets it.
    Daemon,
}

/// Which members every node knows by name without DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    /// All.
    All,
    /// Control planes.
    ControlPlanes,
    /// None.
    None,
}

/// Paths between the sites of etcd voters, as measured by the operator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Longest round trip in milliseconds (P99).
    pub rtt_ms: u32,
    /// Most packets lost, in parts of a thousand.
    pub loss_per_mille: u32,
}

/// A place whose nodes reach each other without the mesh.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Its networks.
    pub lans: Vec<IpNet>,
    /// The gateway that nodes reach on the link although their own address does not contain it.
    pub gateway: Option<Ipv4Addr>,
}

/// A node.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Node {
    /// Its name, in Kubernetes too.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Its site.
    pub site: String,
    /// Its address in the mesh.
    pub address: Ipv4Addr,
    /// Its IPv6 address in the mesh, if it has one.
    pub address6: Option<Ipv6Addr>,
    /// Where its Talos API is.
    pub api: String,
    /// Where others send datagrams to; none for nodes behind NAT.
    pub endpoint: Option<SocketAddr>,
    /// How to get to its Talos API from here.
    pub via: Option<Jump>,
    /// The public key of its daemon, as its status shows it.
    pub public_key: Option<String>,
    /// Name of the link that carries its LAN, for documents that must name one.
    pub link: Option<String>,
    /// Where the node stands in the file, from 1.
    pub line: usize,
}

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Runs etcd and the API server.
    ControlPlane,
    /// Runs pods.
    Worker,
    /// Forwards packets of others, runs no pods.
    Relay,
    /// A laptop: no Talos, no Kubernetes.
    Admin,
}

impl Cluster {
    /// Reads a cluster file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, in the order of the text.
    pub fn parse(text: &str) -> Result<Self, ClusterErrors> {
        read::cluster(text)
    }

    /// The site with this name.
    pub fn site(&self, name: &str) -> Option<&Site> {
        self.sites.iter().find(|site| site.name == name)
    }

    /// The nodes that run Talos.
    pub fn machines(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.role != Role::Admin)
    }

    /// The nodes whose etcd members vote.
    pub fn voters(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.role == Role::ControlPlane)
    }

    /// Which members every node knows by name: all of them, unless the file says otherwise or they are so many
    /// that each config would mostly consist of names.
    pub fn hosts(&self) -> Hosts {
        let few = self.nodes.len() <= MAX_HOSTS;
        self.mesh.hosts.unwrap_or(if few { Hosts::All } else { Hosts::ControlPlanes })
    }
}

/// Up to this many members each node knows all of them by name when the file does not say.
pub const MAX_HOSTS: usize = 64;

impl Node {
    /// The address of its Talos API, when it is written as one.
    pub fn api_address(&self) -> Option<IpAddr> {
        self.api.parse().ok()
    }
}

/// One thing that is wrong with a cluster file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterError {
    /// Line, from 1.
    pub line: usize,
    /// The key, as a path: `nodes[2].role`.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean `{suggestion}`?"),
            None => Ok(()),
        }
    }
}

/// All that is wrong with a cluster file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterErrors(pub Vec<ClusterError>);

impl fmt::Display for ClusterErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let gap = if index == 0 { "" } else { "\n" };
            write!(f, "{gap}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ClusterErrors {}

/// A word that is none of those that are possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {0}")]
pub struct UnknownWord(String);

macro_rules! words {
    ($type:ident: $($word:literal => $variant:ident),+ $(,)?) => {
        impl $type {
            /// The words of the file, in the order of the variants.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// As the file writes it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl FromStr for $type {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord(Self::WORDS.join(", "))),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words!(Profile: "beside" => Beside, "nodes" => Nodes, "stretched" => Stretched);
words!(Membership: "listed" => Listed, "tokens" => Tokens);
words!(Route: "config" => Config, "daemon" => Daemon);
words!(Hosts: "all" => All, "controlplanes" => ControlPlanes, "none" => None);
words!(Role: "controlplane" => ControlPlane, "worker" => Worker, "relay" => Relay, "admin" => Admin);

#[cfg(test)]
mod tests;
