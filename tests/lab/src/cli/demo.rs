//! `ichorctl lab demo`.

use std::time::Duration;

use futures_util::future::try_join_all;
use serde::Serialize;

use super::join::{self, Joined};
use super::table::{matrix, table};
use super::{Format, INTERRUPTED, Operator, Progress, print, print_json, until_interrupted};
use crate::background::{self, OWNER};
use crate::error::LabError;
use crate::lab::Lab;
use crate::protocol::{NodeView, View};
use crate::topology::{Family, Membership, Topology};
use crate::traffic::{self, Ping, Tcp};

/// How long a pair may take to answer the first time.
const PING_LIMIT: Duration = Duration::from_secs(10);
const THROUGHPUT_TIME: Duration = Duration::from_secs(3);
/// What the mesh must carry.
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// The exit code when pairs are left that do not reach each other.
const FAILED: u8 = 1;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    connected: bool,
    seconds: f64,
    /// What joined the nodes to the mesh; none where ichords start with their mesh.
    applied: Option<Joined>,
    /// The families that are proven.
    families: [Family; 2],
    nodes: Vec<NodeView>,
    pairs: Vec<Pair>,
    throughput: Option<Throughput>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pair {
    from: String,
    to: String,
    /// Microseconds of a round trip over IPv4; none if there was no answer.
    ipv4_us: Option<u64>,
    /// The same over IPv6.
    ipv6_us: Option<u64>,
}

impl Pair {
    fn us(&self, family: Family) -> Option<u64> {
        match family {
            Family::V4 => self.ipv4_us,
            Family::V6 => self.ipv6_us,
        }
    }

    fn answers(&self) -> bool {
        FAMILIES.iter().all(|family| self.us(*family).is_some())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Throughput {
    from: String,
    to: String,
    seconds: f64,
    bits_per_second: f64,
}

/// Makes the lab of `topology`, proves and measures it, and takes it down; returns the exit code.
pub(super) async fn demo(
    topology: Topology,
    format: Format,
    operator: &dyn Operator,
) -> Result<u8, LabError> {
    let progress = Progress::new();
    let work = async {
        let sites = topology.sites.len();
        progress.tell(&format!("making {} nodes on {sites} sites", topology.nodes().count()));
        let lab = Lab::builder().topology(topology.clone()).up_with(|text| progress.tell(text)).await?;
        let result = join_and_prove(&lab, &topology, operator, &progress).await;
        lab.down().await?;
        result
    };
    // When interrupted, the work is dropped and with it the lab.
    let Some(result) = until_interrupted(work).await? else {
        progress.tell("interrupted; the lab is gone");
        return Ok(INTERRUPTED);
    };
    let report = result?;
    progress.tell("the lab is gone");
    match format {
        Format::Json => print_json(&report)?,
        Format::Text => print(&text(&report))?,
    }
    Ok(if report.connected { 0 } else { FAILED })
}

async fn join_and_prove(
    lab: &Lab,
    topology: &Topology,
    operator: &dyn Operator,
    progress: &Progress,
) -> Result<Report, LabError> {
    if topology.membership == Membership::Listed {
        return prove(lab, None, progress).await;
    }
    // It holds the owner's key, and goes with the lab.
    let directory = background::temporary()?;
    let joined = join::join(lab, topology, directory.path().join(OWNER), operator, progress).await?;
    prove(lab, Some(joined), progress).await
}

async fn prove(lab: &Lab, applied: Option<Joined>, progress: &Progress) -> Result<Report, LabError> {
    let mut view = lab.view().await?;
    for node in view.nodes.iter_mut().filter(|node| node.member) {
        if let Some(mesh) = join::mesh_addresses(&lab.node(&node.name).status().await?) {
            node.mesh = mesh;
        }
    }
    let members: Vec<NodeView> = view.nodes.iter().filter(|node| node.member).cloned().collect();
    progress.tell("waiting until all pairs have agreed on keys");
    match lab.until_connected().await {
        // The pings show who is missing.
        Ok(()) | Err(LabError::TimedOut { .. }) => {}
        Err(error) => return Err(error),
    }
    let pairs: Vec<Pair> = try_join_all(members.iter().map(|from| ping(lab, from, &members)))
        .await?
        .into_iter()
        .flatten()
        .collect();
    let good = pairs.iter().filter(|pair| pair.answers()).count();
    let connected = good == pairs.len();
    progress.tell(&format!("{good} of {} ordered pairs answer over {}", pairs.len(), names(" and ")));
    let throughput = match farthest(&view, &members) {
        Some((from, to)) if connected => {
            progress.tell(&format!("measuring a TCP stream from {} to {}", from.name, to.name));
            let tcp = Tcp::throughput(THROUGHPUT_TIME);
            let ip = to.mesh.ip(Family::V4);
            let report = traffic::tcp(&lab.node(&from.name), &lab.node(&to.name), ip, tcp).await?;
            Some(Throughput {
                from: from.name.clone(),
                to: to.name.clone(),
                seconds: report.seconds,
                bits_per_second: report.rate(),
            })
        }
        _ => None,
    };
    let seconds = progress.seconds();
    Ok(Report { connected, seconds, applied, families: FAMILIES, nodes: view.nodes, pairs, throughput })
}

/// Asks all other members for echoes.
async fn ping(lab: &Lab, from: &NodeView, members: &[NodeView]) -> Result<Vec<Pair>, LabError> {
    let others: Vec<&NodeView> = members.iter().filter(|to| to.name != from.name).collect();
    let targets = others.iter().flat_map(|to| FAMILIES.map(|family| to.mesh.ip(family)));
    // The best of three: the first may have had to look up a neighbour.
    let ping = Ping { replies: 3, limit: PING_LIMIT, ..Ping::once(targets) };
    let pinged = traffic::ping(&lab.node(&from.name), ping).await?;
    let rtt = |to: &NodeView, family| {
        let ip = to.mesh.ip(family);
        pinged.iter().find(|pinged| pinged.target == ip).and_then(|pinged| pinged.rtt_us)
    };
    let pairs = others.iter().map(|to| Pair {
        from: from.name.clone(),
        to: to.name.clone(),
        ipv4_us: rtt(to, Family::V4),
        ipv6_us: rtt(to, Family::V6),
    });
    Ok(pairs.collect())
}

/// Two members for a measurement: of different sites if there are.
fn farthest<'n>(view: &View, members: &'n [NodeView]) -> Option<(&'n NodeView, &'n NodeView)> {
    let from = members.first()?;
    let elsewhere = members.iter().find(|to| to.site != from.site && view.sites.len() > 1);
    Some((from, elsewhere.or(members.get(1))?))
}

fn names(between: &str) -> String {
    FAMILIES.map(|family| family.to_string()).join(between)
}

fn text(report: &Report) -> String {
    let rows = report.nodes.iter().map(|node| {
        let (underlay, mesh) = (&node.underlay, &node.mesh);
        vec![
            node.name.clone(),
            node.site.clone(),
            underlay.v4.addr().to_string(),
            mesh.v4.addr().to_string(),
            mesh.v6.addr().to_string(),
        ]
    });
    let mut text = table(["NODE", "SITE", "UNDERLAY", "MESH", ""], rows);
    let members: Vec<String> =
        report.nodes.iter().filter(|node| node.member).map(|node| node.name.clone()).collect();
    let times = matrix("RTT (ms)", &members, |from, to| {
        let pair = report.pairs.iter().find(|pair| pair.from == from && pair.to == to);
        let ms = |us: Option<u64>| us.map_or("-".to_owned(), |us| format!("{:.2}", us as f64 / 1000.0));
        let times = |pair: &Pair| FAMILIES.map(|family| ms(pair.us(family)));
        pair.map_or_else(String::new, |pair| times(pair).join(" / "))
    });
    text.push_str(&format!("\n{times}\n"));
    if let Some(Joined { nodes, steps, tokens }) = &report.applied {
        text.push_str(&match steps {
            0 => format!("{nodes} nodes joined by {tokens} tokens\n"),
            _ => format!(
                "{nodes} Talos nodes joined by {tokens} tokens and {steps} verified steps; a second plan is empty\n"
            ),
        });
    }
    let good = report.pairs.iter().filter(|pair| pair.answers()).count();
    let total = report.pairs.len();
    text.push_str(&format!("{good} of {total} ordered pairs connected, {}\n", names(" / ")));
    if let Some(Throughput { from, to, bits_per_second, seconds }) = &report.throughput {
        let gigabits = bits_per_second / 1e9;
        text.push_str(&format!(
            "one TCP stream from {from} to {to}: {gigabits:.2} Gbit/s over {seconds:.1} s, both ends on this \
             machine\n"
        ));
    }
    text
}
