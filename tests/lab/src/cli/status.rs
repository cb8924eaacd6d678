//! `ichorctl lab status`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::join::mesh_addresses;
use super::table::{matrix, table};
use super::{Format, print, print_json};
use crate::error::LabError;
use crate::lab::Lab;
use crate::protocol::{NodeView, SiteView};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    sites: Vec<SiteView>,
    nodes: Vec<NodeReport>,
    pairs: Vec<Pair>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeReport {
    #[serde(flatten)]
    node: NodeView,
    /// The status of its ichord; none while that has not written one.
    status: Option<ichord::status::Status>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pair {
    from: String,
    to: String,
    connected: bool,
    endpoint: Option<String>,
    last_handshake: Option<u64>,
}

/// Shows a lab.
pub(super) async fn show(lab: &Lab, format: Format) -> Result<(), LabError> {
    let report = report(lab).await?;
    match format {
        Format::Json => print_json(&report),
        Format::Text => print(&text(&report)),
    }
}

async fn report(lab: &Lab) -> Result<Report, LabError> {
    let view = lab.view().await?;
    let (mut nodes, mut pairs) = (Vec::new(), Vec::new());
    for mut node in view.nodes {
        let status = if node.pid.is_some() { lab.node(&node.name).status().await.ok() } else { None };
        pairs.extend(status.iter().flat_map(|status| &status.peers).map(|peer| Pair {
            from: node.name.clone(),
            to: peer.name.clone(),
            connected: peer.connected,
            endpoint: peer.endpoint.map(|endpoint| endpoint.to_string()),
            last_handshake: peer.last_handshake,
        }));
        // Addresses of members follow from their network.
        if let Some(mesh) = status.as_ref().and_then(mesh_addresses) {
            node.mesh = mesh;
        }
        nodes.push(NodeReport { node, status });
    }
    Ok(Report { sites: view.sites, nodes, pairs })
}

fn text(report: &Report) -> String {
    let rows = report.nodes.iter().map(|NodeReport { node, status }| {
        let nat = report.sites.iter().find(|site| site.name == node.site).map(|site| site.nat.to_string());
        let state = match (node.member, node.pid, status) {
            (false, ..) => "no member".to_owned(),
            (true, None, _) => "stopped".to_owned(),
            (true, Some(_), None) => "starting".to_owned(),
            (true, Some(_), Some(status)) => format!("{:?}", status.state).to_lowercase(),
        };
        let (mesh, underlay) = (&node.mesh, &node.underlay);
        vec![
            node.name.clone(),
            node.site.clone(),
            nat.unwrap_or_default(),
            format!("{}, {}", underlay.v4.addr(), underlay.v6.addr()),
            format!("{}, {}", mesh.v4.addr(), mesh.v6.addr()),
            state,
        ]
    });
    let mut text = table(["NODE", "SITE", "NAT", "UNDERLAY", "MESH", "ICHORD"], rows);
    let members: Vec<String> = report
        .nodes
        .iter()
        .filter(|report| report.node.member)
        .map(|report| report.node.name.clone())
        .collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seen = matrix("HANDSHAKE", &members, |from, to| {
        let pair = report.pairs.iter().find(|pair| pair.from == from && pair.to == to);
        match pair.filter(|pair| pair.connected).map(|pair| pair.last_handshake) {
            Some(Some(at)) => format!("{} s ago", now.saturating_sub(at)),
            Some(None) => "yes".to_owned(),
            None => "-".to_owned(),
        }
    });
    let connected = report.pairs.iter().filter(|pair| pair.connected).count();
    let all = members.len() * members.len().saturating_sub(1);
    text.push_str(&format!("\n{seen}\n{connected} of {all} ordered pairs have a session\n"));
    text
}
