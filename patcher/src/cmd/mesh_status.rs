//! `mesh status`: what the daemons of nodes say of themselves, what is wrong first.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::connection::Connection;
use crate::daemon_status::{self, DaemonStatus};
use crate::exit::Exit;
use crate::output::{Format, Output};

/// Flags of `mesh status`.
#[derive(Args, Debug)]
pub(super) struct MeshStatus {
    /// The outputs of `ichord status` on nodes, in place of asking nodes
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    status: Vec<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// One node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    node: String,
    member: String,
    addresses: Vec<String>,
    version: String,
    connected: usize,
    peers: usize,
    problems: Vec<String>,
}

impl Row {
    fn of(node: String, status: DaemonStatus) -> Self {
        let network = status.network.unwrap_or_default();
        Self {
            node,
            member: network.member.unwrap_or_default(),
            addresses: status.addresses,
            version: status.version,
            connected: status.peers.iter().filter(|peer| peer.connected).count(),
            peers: status.peers.len(),
            problems: status
                .problems
                .into_iter()
                .map(|problem| format!("{}: {}", problem.part, problem.cause))
                .collect(),
        }
    }
}

impl MeshStatus {
    pub(super) async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let (mut rows, failures) = if self.status.is_empty() {
            let fleet = connection.session()?.fleet()?;
            let call = async |node| daemon_status::read(&node).await;
            let (found, failures) = fleet.gather(call).await?;
            (found.into_iter().map(|(node, status)| Row::of(node, status)).collect(), Some(failures))
        } else {
            (self.status.iter().map(PathBuf::as_path).map(read).collect::<Result<Vec<_>, _>>()?, None)
        };
        rows.sort_by(|a, b| (a.problems.is_empty(), &a.node).cmp(&(b.problems.is_empty(), &b.node)));
        let columns = ["NODE", "MEMBER", "ADDRESSES", "VERSION", "CONNECTED", "PROBLEMS"];
        Output::new(self.output).rows(columns, &rows, |row| {
            [
                row.node.clone(),
                row.member.clone(),
                row.addresses.join(","),
                row.version.clone(),
                format!("{} of {}", row.connected, row.peers),
                row.problems.join("; "),
            ]
        })?;
        let exit = failures.map_or(Exit::Done, |failures| failures.finish());
        let is_healthy = rows.iter().all(|row| row.problems.is_empty());
        Ok(if exit == Exit::Done && !is_healthy { Exit::Failed } else { exit })
    }
}

fn read(path: &Path) -> anyhow::Result<Row> {
    Ok(Row::of(path.display().to_string(), daemon_status::from_file(path)?))
}
