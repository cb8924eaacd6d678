//! `ichorctl lab demo`.

use std::time::Duration;

use futures_util::future::try_join_all;
use serde::Serialize;

use super::table::{matrix, table};
use super::{Format, INTERRUPTED, Progress, print, print_json, until_interrupted};
use crate::error::LabError;
use crate::lab::Lab;
use crate::protocol::{NodeView, View};
use crate::topology::{Family, Topology};
use crate::traffic::{self, Ping, Tcp};

/// How long a pair may take to answer the first time.
const PING_LIMIT: Duration = Duration::from_secs(10);
const THROUGHPUT_TIME: Duration = Duration::from_secs(3);
/// The exit code when pairs are left that do not reach each other.
const FAILED: u8 = 1;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    connected: bool,
    seconds: f64,
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
    ipv6_us: Option<u64>,
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
pub(super) async fn demo(topology: Topology, format: Format) -> Result<u8, LabError> {
    let progress = Progress::new();
    let work = async {
        let sites = topology.sites.len();
        progress.tell(&format!("making {} nodes on {sites} sites", topology.nodes().count()));
        let lab = Lab::builder().topology(topology).up_with(|text| progress.tell(text)).await?;
        let result = prove(&lab, &progress).await;
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

async fn prove(lab: &Lab, progress: &Progress) -> Result<Report, LabError> {
    let view = lab.view().await?;
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
    let connected = pairs.iter().all(|pair| pair.ipv4_us.is_some() && pair.ipv6_us.is_some());
    let good = pairs.iter().filter(|pair| pair.ipv4_us.is_some() && pair.ipv6_us.is_some()).count();
    progress.tell(&format!("{good} of {} ordered pairs answer over IPv4 and IPv6", pairs.len()));
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
    Ok(Report { connected, seconds: progress.seconds(), nodes: view.nodes, pairs, throughput })
}

/// Asks all other members for echoes.
async fn ping(lab: &Lab, from: &NodeView, members: &[NodeView]) -> Result<Vec<Pair>, LabError> {
    let others: Vec<&NodeView> = members.iter().filter(|to| to.name != from.name).collect();
    let targets = others.iter().flat_map(|to| [to.mesh.ip(Family::V4), to.mesh.ip(Family::V6)]);
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
        pair.map_or_else(String::new, |pair| format!("{} / {}", ms(pair.ipv4_us), ms(pair.ipv6_us)))
    });
    text.push_str(&format!("\n{times}\n"));
    let good = report.pairs.iter().filter(|pair| pair.ipv4_us.is_some() && pair.ipv6_us.is_some()).count();
    text.push_str(&format!("{good} of {} ordered pairs connected, IPv4 / IPv6\n", report.pairs.len()));
    if let Some(Throughput { from, to, bits_per_second, seconds }) = &report.throughput {
        let gigabits = bits_per_second / 1e9;
        text.push_str(&format!(
            "one TCP stream from {from} to {to}: {gigabits:.2} Gbit/s over {seconds:.1} s, both ends on this \
             machine\n"
        ));
    }
    text
}
