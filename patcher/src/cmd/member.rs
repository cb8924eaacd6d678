//! `member`: who is in a network, and the end of a membership.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use ichor_mesh::crypto::RealCrypto;
use ichor_mesh::record::genesis::UlaPlan;
use ichor_mesh::record::tombstone::{End, Tombstone};
use ichor_mesh::record::{IdentityKey, NetworkId, RecordId};
use ichor_mesh::roster::Item;
use ipnet::IpNet;
use serde::Serialize;

use super::connection::Connection;
use super::mesh_folder::Which;
use crate::daemon_status::{self, DaemonStatus};
use crate::exit::{Exit, Refusal, Unproven, UsageError};
use crate::output::{Format, Output, note};
use crate::owner::act::{ActError, act};
use crate::owner::folder::{self, Mesh};

/// Flags of `member`.
#[derive(Args, Debug)]
pub struct MemberArgs {
    #[command(subcommand)]
    command: MemberCommand,
}

#[derive(Debug, Subcommand)]
enum MemberCommand {
    /// List the members, as one node sees them
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 member list\n  \
                            ssh gateway ichord status | ichorctl member list --status -")]
    List(List),
    /// End a membership, for good
    ///
    /// Signed here and handed to any member over its UDP port. Who was removed comes back only with a new token.
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 member remove w-7 --yes\n  \
                            ichorctl member remove w-7 --status status.json --at 203.0.113.7:51840 --yes")]
    Remove(Remove),
}

/// Where the members are known from.
#[derive(Args, Debug)]
struct Seen {
    /// The output of `ichord status` on any member (- is standard input), in place of asking a node
    #[arg(long, value_name = "FILE")]
    status: Option<PathBuf>,
}

/// Where an owner's operation is handed in.
#[derive(Args, Debug)]
pub(super) struct At {
    /// A member's UDP port [default: the seeds of the mesh, and where members are seen]
    #[arg(long = "at", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    at: Vec<SocketAddr>,
}

/// Flags of `member list`.
#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    seen: Seen,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Flags of `member remove`.
#[derive(Args, Debug)]
struct Remove {
    /// The name of the member, or its identity
    member: String,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    seen: Seen,
    #[command(flatten)]
    at: At,
    /// What is unused of its token stays good
    #[arg(long)]
    keep_token: bool,
    /// Do it: there is no way back
    #[arg(long)]
    yes: bool,
}

/// One member.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    addresses: Vec<String>,
    endpoint: Option<SocketAddr>,
    state: &'static str,
    identity: String,
    incarnation: String,
}

impl MemberArgs {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When the members cannot be had, or nobody took the operation.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        match self.command {
            MemberCommand::List(command) => command.run(connection).await,
            MemberCommand::Remove(command) => command.run(connection).await,
        }
    }
}

impl Seen {
    async fn status(&self, connection: &Connection, command: &str) -> anyhow::Result<DaemonStatus> {
        match &self.status {
            Some(path) => daemon_status::from_file(path),
            None => daemon_status::read(&connection.session()?.single(command)?).await,
        }
    }
}

impl List {
    async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let status = self.seen.status(connection, "member list").await?;
        let columns = ["NAME", "ADDRESSES", "ENDPOINT", "STATE", "INCARNATION"];
        Output::new(self.output).rows(columns, &rows(&status), |row| {
            [
                row.name.clone(),
                row.addresses.join(","),
                row.endpoint.map_or_else(String::new, |endpoint| endpoint.to_string()),
                row.state.to_owned(),
                row.incarnation.clone(),
            ]
        })?;
        for problem in status.problems.iter().filter(|problem| problem.part == "member") {
            note(&format!("problem: {}", problem.cause));
        }
        Ok(Exit::Done)
    }
}

/// The members that a node sees, itself first.
fn rows(status: &DaemonStatus) -> Vec<Row> {
    let us = status.network.as_ref().and_then(|network| {
        let mut addresses: Vec<String> =
            status.addresses.iter().filter_map(|net| Some(net.split('/').next()?.to_owned())).collect();
        addresses.truncate(2);
        Some(Row {
            name: network.member.clone()?,
            addresses,
            endpoint: None,
            state: "this node",
            identity: network.identity.clone()?,
            incarnation: network.incarnation.clone()?,
        })
    });
    let network = status.network.as_ref().and_then(|network| network.id.parse().ok());
    // Addresses for control packets are no host's.
    let control = network.map(|network: NetworkId| UlaPlan::of(&network).control_range());
    let others = status.peers.iter().filter_map(|peer| {
        let nets = peer.allowed_ips.iter().filter_map(|net| net.parse::<IpNet>().ok());
        let hosts = nets.filter(|net| net.prefix_len() == net.max_prefix_len());
        let own = hosts.filter(|net| !control.is_some_and(|control| IpNet::from(control).contains(net)));
        let mut addresses: Vec<IpAddr> = own.map(|net| net.addr()).collect();
        addresses.sort_unstable();
        let addresses = addresses.iter().map(ToString::to_string).collect();
        Some(Row {
            name: peer.name.clone(),
            addresses,
            endpoint: peer.endpoint,
            state: match (peer.connected, peer.last_handshake) {
                (true, _) => "connected",
                (false, Some(_)) => "silent",
                (false, None) => "not contacted",
            },
            identity: peer.identity.clone()?,
            incarnation: peer.incarnation.clone()?,
        })
    });
    us.into_iter().chain(others).collect()
}

impl Remove {
    async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let mesh = folder::open(&self.which.folder()?)?;
        let network = NetworkId(mesh.signed.id().0);
        let (identity, seen_at) = match self.member.parse() {
            Ok(identity) => (identity, Vec::new()),
            Err(_) => {
                let status = self.seen.status(connection, "member remove").await?;
                let seen_in = status.network.as_ref().map(|network| network.id.as_str());
                if seen_in != Some(network.to_string().as_str()) {
                    return Err(UsageError(format!(
                        "that node is not in network {network}; say which mesh is meant: --mesh"
                    ))
                    .into());
                }
                (self.find(&status)?, status.peers.iter().filter_map(|peer| peer.endpoint).collect())
            }
        };
        if !self.yes {
            return Err(Refusal {
                reason: format!("{} would be removed for good ({identity})", self.member),
                advice: Some("the same command with --yes does it".to_owned()),
            }
            .into());
        }
        let end = End::Revoked { identity, keep_token: self.keep_token };
        self.at.revoke(&mesh, end, &seen_at).await?;
        note(&format!("{} is no member any more, wherever it is heard of", self.member));
        Ok(Exit::Done)
    }

    fn find(&self, status: &DaemonStatus) -> anyhow::Result<IdentityKey> {
        let rows = rows(status);
        match &rows.iter().filter(|row| row.name == self.member).collect::<Vec<_>>()[..] {
            [one] => Ok(one.identity.parse()?),
            [] => {
                let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
                Err(UsageError(format!(
                    "no member is called {}; there are {}",
                    self.member,
                    names.join(", ")
                ))
                .into())
            }
            _ => Err(UsageError(format!(
                "several members are called {}: say the identity of one (member list -o json)",
                self.member
            ))
            .into()),
        }
    }
}

impl At {
    /// Signs the end of a member or token, and hands it in. `more`: where members were seen beside the seeds.
    pub(super) async fn revoke(&self, mesh: &Mesh, end: End, more: &[SocketAddr]) -> anyhow::Result<()> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let network = NetworkId(mesh.signed.id().0);
        let tombstone = Tombstone { end, time }.seal(&network, &mesh.owner, &RealCrypto)?;
        let mut to = if self.at.is_empty() { [&mesh.seeds[..], more].concat() } else { self.at.clone() };
        to.sort_unstable();
        to.dedup();
        if to.is_empty() {
            return Err(UsageError("where is a member? say --at ADDRESS:PORT".to_owned()).into());
        }
        match act(mesh, &Item::Tombstone(tombstone), &to).await {
            Ok(by) => {
                note(&format!("taken by the member at {by}"));
                Ok(())
            }
            Err(error @ ActError::Silence(_)) => Err(Unproven {
                what: format!("{error}: whether it was taken is not known"),
                advice: "ichorctl -n NODE member list".to_owned(),
            }
            .into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Revokes the unused rest of a token.
    pub(super) async fn revoke_token(&self, mesh: &Mesh, grant: RecordId) -> anyhow::Result<()> {
        self.revoke(mesh, End::Token(grant), &[]).await
    }
}
