//! The flag that says whose view of a network is meant.

use std::path::PathBuf;

use clap::Args;

use super::connection::Connection;
use crate::daemon_status::{self, DaemonStatus};
use crate::exit::UsageError;
use crate::owner::folder::Mesh;

/// Where the members are known from.
#[derive(Args, Debug, Default)]
pub(super) struct Seen {
    /// The output of `ichord status` on any member (- is standard input), in place of asking a node
    #[arg(long, value_name = "FILE")]
    status: Option<PathBuf>,
}

impl Seen {
    /// What the daemon of that node says.
    pub(super) async fn status(
        &self,
        connection: &Connection,
        command: &str,
    ) -> anyhow::Result<DaemonStatus> {
        match &self.status {
            Some(path) => daemon_status::from_file(path),
            None => daemon_status::read(&connection.session()?.single(command)?).await,
        }
    }

    /// The same, of a node in `mesh`.
    pub(super) async fn of_mesh(
        &self,
        mesh: &Mesh,
        connection: &Connection,
        command: &str,
    ) -> anyhow::Result<DaemonStatus> {
        let status = self.status(connection, command).await?;
        let (network, seen_in) = (mesh.network().to_string(), status.network.as_ref());
        if seen_in.is_none_or(|seen_in| seen_in.id != network) {
            return Err(UsageError(format!(
                "that node is not in network {network}; say which mesh is meant: --mesh"
            ))
            .into());
        }
        Ok(status)
    }
}
