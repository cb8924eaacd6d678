//! What only the whole file shows: things that occur twice, and things that do not fit together.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Cluster, ClusterError, Role, Route};
use crate::machine::Document;

/// Everything that is wrong with a cluster whose single values are right.
pub(super) fn cluster(cluster: &Cluster, tree: &Document) -> Vec<ClusterError> {
    let mut checks = Checks { tree, errors: Vec::new() };
    checks.mesh(cluster);
    checks.range6(cluster);
    checks.sites(cluster);
    checks.nodes(cluster);
    checks.errors
}

struct Checks<'a> {
    tree: &'a Document,
    errors: Vec<ClusterError>,
}

impl Checks<'_> {
    fn mesh(&mut self, cluster: &Cluster) {
        let range = cluster.mesh.range;
        if range.trunc() != range {
            let message = format!("{range} has bits behind its prefix, {} is meant", range.trunc());
            self.error("mesh", None, "range", message);
        }
        if !(8..=29).contains(&range.prefix_len()) {
            self.error("mesh", None, "range", format!("{range} is no range of 6 to 16 million addresses"));
        }
    }

    fn range6(&mut self, cluster: &Cluster) {
        let Some(range) = cluster.mesh.range6 else { return };
        let problem = if range.trunc() != range {
            format!("{range} has bits behind its prefix, {} is meant", range.trunc())
        } else if !range.network().is_unique_local() || !(32..=120).contains(&range.prefix_len()) {
            format!("{range} is no unique local range (RFC 4193), such as fd12:3456:789a::/48")
        } else if cluster.mesh.route == Route::Config {
            "a route in the machine config carries IPv4 only: leave range6 out, or let the daemon own the route".to_owned()
        } else {
            return;
        };
        self.error("mesh", None, "range6", problem);
    }

    fn sites(&mut self, cluster: &Cluster) {
        self.unique("sites", "name", cluster.sites.iter().map(|site| Some(&site.name)));
        for (index, site) in cluster.sites.iter().enumerate() {
            for lan in &site.lans {
                let problem = if lan.trunc() != *lan {
                    Some(format!("{lan} has bits behind its prefix, {} is meant", lan.trunc()))
                } else if lan.prefix_len() == 0 {
                    Some(format!("{lan} is everything, not a LAN"))
                } else {
                    None
                };
                if let Some(problem) = problem {
                    self.error("sites", Some(index), "lans", problem);
                }
            }
        }
    }

    fn nodes(&mut self, cluster: &Cluster) {
        let nodes = &cluster.nodes;
        self.unique("nodes", "name", nodes.iter().map(|node| Some(&node.name)));
        self.unique("nodes", "address", nodes.iter().map(|node| Some(&node.address)));
        self.unique("nodes", "address6", nodes.iter().map(|node| node.address6.as_ref()));
        self.unique("nodes", "endpoint", nodes.iter().map(|node| node.endpoint.as_ref()));
        self.unique("nodes", "publicKey", nodes.iter().map(|node| node.public_key.as_ref()));
        let machine = |role| role != Role::Admin;
        self.unique("nodes", "api", nodes.iter().map(|node| machine(node.role).then_some(&node.api)));
        for (index, node) in nodes.iter().enumerate() {
            self.address(cluster, index, node.address);
            if let Some(address) = node.address6 {
                self.address6(cluster, index, address);
            }
            if cluster.site(&node.site).is_none() {
                let names: Vec<&str> = cluster.sites.iter().map(|site| site.name.as_str()).collect();
                let message = format!("there is no site {:?}; there are {}", node.site, names.join(", "));
                self.error("nodes", Some(index), "site", message);
            }
        }
    }

    fn address(&mut self, cluster: &Cluster, index: usize, address: Ipv4Addr) {
        let range = cluster.mesh.range;
        let problem = if !range.contains(&address) {
            Some(format!("{address} is outside of the range {range} of the mesh"))
        } else if address == range.network() || address == range.broadcast() {
            Some(format!("{address} is the first or last address of {range}, which no host can have"))
        } else {
            None
        };
        if let Some(problem) = problem {
            self.error("nodes", Some(index), "address", problem);
        }
    }

    fn address6(&mut self, cluster: &Cluster, index: usize, address: Ipv6Addr) {
        let problem = match cluster.mesh.range6 {
            None => "the mesh has no range6 that it could be from".to_owned(),
            Some(range) if !range.contains(&address) => {
                format!("{address} is outside of the range {range} of the mesh")
            }
            Some(range) if address == range.network() => {
                format!(
                    "{address} is the first address of {range}, which is every router's (RFC 4291, 2.6.1)"
                )
            }
            Some(_) => return,
        };
        self.error("nodes", Some(index), "address6", problem);
    }

    fn unique<T: Display + Ord>(&mut self, list: &str, key: &str, values: impl Iterator<Item = Option<T>>) {
        let mut seen = BTreeMap::new();
        for (index, value) in values.enumerate() {
            let Some(value) = value else { continue };
            match seen.get(&value) {
                Some(first) => {
                    let message = format!("{value} is that of {list}[{first}] already");
                    self.error(list, Some(index), key, message);
                }
                None => {
                    seen.insert(value, index);
                }
            }
        }
    }

    fn error(&mut self, list: &str, index: Option<usize>, key: &str, message: String) {
        let tree = self.tree;
        let outer = tree.get(tree.root(), list).map(|value| tree.target(value));
        let item = match index {
            None => outer,
            Some(index) => outer.and_then(|list| tree.items(list).get(index).map(|item| tree.target(*item))),
        };
        let value = item.and_then(|item| tree.get(item, key).or(Some(item)));
        let line = value.map_or(1, |value| tree.node(value).line);
        let key = match index {
            None => format!("{list}.{key}"),
            Some(index) => format!("{list}[{index}].{key}"),
        };
        self.errors.push(ClusterError { line, key, message, suggestion: None });
    }
}
