//! `mesh status`: what the daemons of nodes say of themselves and of each other, what is wrong first.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use serde::Serialize;

use super::connection::Connection;
use super::fleet::Failures;
use super::member;
use crate::daemon_status::{self, DaemonStatus};
use crate::exit::Exit;
use crate::output::{Format, Output, age, escape_lines, timestamp};

/// Wait between two rounds of `--watch`.
const INTERVAL: Duration = Duration::from_secs(2);
/// Puts a terminal's cursor to its upper left corner and clears what is below (ECMA-48, CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Flags of `mesh status`.
#[derive(Args, Debug)]
pub(super) struct MeshStatus {
    /// The outputs of `ichord status` on nodes, in place of asking nodes
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    status: Vec<PathBuf>,
    /// Look again every two seconds, until interrupted
    #[arg(short, long, conflicts_with = "status")]
    watch: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// One node, and the members as it sees them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    node: String,
    member: String,
    version: String,
    connected: usize,
    peers: usize,
    problems: Vec<Problem>,
    members: Vec<member::Row>,
}

/// Something that is wrong with it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Problem {
    part: String,
    cause: String,
    /// What to do next.
    next: String,
}

impl Node {
    fn of(node: String, status: DaemonStatus) -> Self {
        let members = member::rows(&status);
        let problems = status.problems.into_iter().map(|problem| {
            let next = next_step(&node, &problem.part);
            Problem { part: problem.part, cause: problem.cause, next }
        });
        Self {
            problems: problems.collect(),
            member: status.network.and_then(|network| network.member).unwrap_or_default(),
            version: status.version,
            connected: status.peers.iter().filter(|peer| peer.connected).count(),
            peers: status.peers.len(),
            members,
            node,
        }
    }
}

/// What to do about a problem with a part of the daemon.
fn next_step(node: &str, part: &str) -> String {
    match part {
        "config" => format!("correct the file of the daemon: ichorctl -n {node} patch mc"),
        "membership" => "make a new join string: ichorctl token create".to_owned(),
        "member" => format!("look who waits or was refused: ichorctl -n {node} member list"),
        "peers" => format!("look at the entries that are not used: ichorctl -n {node} member list -o json"),
        "path" => "lower mtu in ichor.yaml on all nodes, or mend the path".to_owned(),
        "socket" | "services" => {
            format!("see what else has the port: ichorctl -n {node} dmesg, or change it")
        }
        "device" => format!("see whether /dev/net/tun is there: ichorctl -n {node} read /proc/misc"),
        _ => format!("see what the daemon says: ichorctl -n {node} logs ext-ichor"),
    }
}

impl MeshStatus {
    pub(super) async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        if !self.status.is_empty() {
            let nodes = self.status.iter().map(PathBuf::as_path).map(read).collect::<Result<Vec<_>, _>>()?;
            return Ok(self.print(nodes, None)?);
        }
        let session = connection.session()?;
        loop {
            let fleet = session.fleet()?;
            let call = async |node| daemon_status::read(&node).await;
            let (found, failures) = fleet.gather(call).await?;
            let nodes = found.into_iter().map(|(node, status)| Node::of(node, status)).collect();
            let exit = self.print(nodes, Some(failures))?;
            if !self.watch {
                return Ok(exit);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    fn print(&self, mut nodes: Vec<Node>, failures: Option<Failures>) -> std::io::Result<Exit> {
        nodes.sort_by(|a, b| (a.problems.is_empty(), &a.node).cmp(&(b.problems.is_empty(), &b.node)));
        let output = Output::new(self.output);
        if output.is_json() {
            if self.watch { output.json_line(&nodes)? } else { output.json(&nodes)? }
        } else {
            if self.watch && std::io::stdout().is_terminal() {
                output.raw(CLEAR.as_bytes())?;
            }
            output.raw(problems(&nodes).as_bytes())?;
            output.rows(["NODE", "MEMBER", "VERSION", "CONNECTED"], &nodes, |node| {
                let connected = format!("{} of {}", node.connected, node.peers);
                [node.node.clone(), node.member.clone(), node.version.clone(), connected]
            })?;
            output.raw(b"\n")?;
            let rows: Vec<_> =
                nodes.iter().flat_map(|node| node.members.iter().map(move |it| (node, it))).collect();
            let columns = ["NODE", "MEMBER", "ADDRESSES", "VERSION", "PATH", "RTT", "SINCE", "STATE"];
            output.rows(columns, &rows, |(node, member)| cells(node, member))?;
        }
        let exit = failures.map_or(Exit::Done, |failures| failures.finish());
        let is_healthy = nodes.iter().all(|node| node.problems.is_empty());
        Ok(if exit == Exit::Done && !is_healthy { Exit::Failed } else { exit })
    }
}

/// The problems of all nodes, each with its cause and the next step.
fn problems(nodes: &[Node]) -> String {
    let mut text = String::new();
    for node in nodes {
        for Problem { part, cause, next } in &node.problems {
            text.push_str(&escape_lines(&format!("{}: {part}: {cause}\n  next: {next}\n", node.node)));
        }
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

fn cells(node: &Node, member: &member::Row) -> [String; 8] {
    let path = match (member.endpoint, member.state) {
        (_, "this node") => String::new(),
        (Some(endpoint), _) => format!("direct {endpoint}"),
        (None, _) => "none".to_owned(),
    };
    let since = member.since.map(|seconds| age(Some(&timestamp(seconds)), SystemTime::now()));
    [
        node.node.clone(),
        member.name.clone(),
        member.addresses.join(","),
        member.version.clone().unwrap_or_default(),
        path,
        member.rtt_micros.map(member::milliseconds).unwrap_or_default(),
        since.unwrap_or_default(),
        member.state.to_owned(),
    ]
}

fn read(path: &Path) -> anyhow::Result<Node> {
    Ok(Node::of(path.display().to_string(), daemon_status::from_file(path)?))
}
