//! The configuration file of the daemon.

use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::cluster::{Cluster, Node, Route};

/// Where the extension has it mounted.
pub const PATH: &str = "/usr/local/etc/ichor/ichord.yaml";

/// Seconds between packets that keep the binding of a NAT open: below the 30 s of the shortest common ones.
const KEEPALIVE: u16 = 25;

/// What the daemon of a node is told: its address, and the members whose keys are known.
///
/// All texts in it are checked by the cluster file: names of letters, digits and dashes, addresses, base64.
pub fn config(cluster: &Cluster, node: &Node) -> String {
    let mesh = &cluster.mesh;
    // Only one side may own the route to the range: with a prefix of its own address the daemon makes none.
    let prefix = if mesh.route == Route::Config { 32 } else { mesh.range.prefix_len() };
    let own6 = node.address6.zip(mesh.range6);
    let own6 =
        own6.map(|(address, range)| format!(", \"{address}/{}\"", range.prefix_len())).unwrap_or_default();
    let mut text = format!(
        "listenPort: {}\nmtu: {}\nstatic:\n  addresses: [{}/{prefix}{}]\n",
        mesh.port, mesh.mtu, node.address, own6
    );
    let peers = cluster.nodes.iter().filter(|peer| peer.name != node.name);
    let peers = peers.filter_map(|peer| peer.public_key.as_ref().map(|key| (peer, key)));
    for (index, (peer, key)) in peers.enumerate() {
        if index == 0 {
            text.push_str("  peers:\n");
        }
        let address = peer.address;
        let address6 = peer.address6.map(|address| format!(", \"{address}/128\"")).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "    - name: {}\n      publicKey: {key}\n      allowedIPs: [{address}/32{address6}]\n",
            peer.name
        );
        if let Some(endpoint) = endpoint(cluster, node, peer) {
            let _ = write!(text, "      endpoint: \"{endpoint}\"\n      persistentKeepalive: {KEEPALIVE}\n");
        }
    }
    text
}

/// Where a node finds another one: on the LAN of their site, else at its public endpoint. None for nodes that can only
/// be found by being asked.
pub fn endpoint(cluster: &Cluster, node: &Node, peer: &Node) -> Option<SocketAddr> {
    let site = cluster.site(&peer.site).filter(|site| site.name == node.site);
    let lan = site.and_then(|site| {
        peer.api_address().filter(|address| site.lans.iter().any(|lan| lan.contains(address)))
    });
    lan.map(|address| SocketAddr::new(address, cluster.mesh.port)).or(peer.endpoint)
}
