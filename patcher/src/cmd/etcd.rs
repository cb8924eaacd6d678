//! `etcd`: the members, their state, and what is done to them.

mod alarm;
mod restore;
mod snapshot;
mod verify;

use clap::{Args, Subcommand};
use ichor_proto::talos::machine::{EtcdMember, EtcdMemberStatus};
use serde::Serialize;

use super::connection::Connection;
use crate::api::NodeClient;
use crate::exit::{Exit, UsageError};
use crate::output::{Format, Output, bytes};

/// Flags of `etcd`.
#[derive(Args, Debug)]
pub struct Etcd {
    #[command(subcommand)]
    command: Command,
}

/// Flags of commands that only print.
#[derive(Args, Debug)]
struct Print {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List or disarm alarms
    #[command(subcommand)]
    #[command(
        after_help = "Examples:\n  ichorctl -n 10.0.0.2 etcd alarm list\n  ichorctl -n 10.0.0.2 etcd alarm disarm"
    )]
    Alarm(alarm::Alarm),
    /// Defragment the database of one member, which does not answer meanwhile
    #[command(
        after_help = "Examples:\n  ichorctl -n 10.0.0.2 etcd defrag\n  ichorctl -n 10.0.0.3 -e 10.0.0.2 etcd defrag"
    )]
    Defrag,
    /// Have members give up the lead
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 etcd forfeit-leadership\n  \
                            ichorctl -n 10.0.0.2 etcd forfeit-leadership -o json")]
    ForfeitLeadership(Print),
    /// Have one node leave etcd and delete its data
    #[command(
        after_help = "Examples:\n  ichorctl -n 10.0.0.4 etcd leave\n  ichorctl -n 10.0.0.4 -e 10.0.0.2 etcd leave"
    )]
    Leave,
    /// List the members as each node sees them
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 etcd members\n  \
                            ichorctl -n 10.0.0.2,10.0.0.3,10.0.0.4 etcd members")]
    Members(Print),
    /// Remove a member that cannot leave by itself
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 etcd remove-member 8d4d6c1e2f3a4b5c\n  \
                            ichorctl -n 10.0.0.3 etcd remove-member 00000000deadbeef")]
    RemoveMember {
        /// Its id, 16 hexadecimal digits as `members` shows it
        id: String,
    },
    /// Start etcd anew from a snapshot, after its quorum was lost for good
    ///
    /// All control plane nodes are looked at, those of -n and those that the snapshot knows. Where etcd is alive, or
    /// may be, nothing is done.
    #[command(
        after_help = "Examples:\n  ichorctl -n cp-1,cp-2,cp-3 etcd restore db.snapshot --node cp-1 --wipe\n  \
                            ichorctl -n cp-1 etcd restore db.snapshot --node cp-1 --lost cp-2,cp-3 --yes --confirm cp-1"
    )]
    Restore(restore::Restore),
    /// Take a snapshot of one member and verify it
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 etcd snapshot db.snapshot\n  \
                            ichorctl -n 10.0.0.2 etcd snapshot /backup/etcd-$(date +%F).db -o json")]
    Snapshot(snapshot::Snapshot),
    /// Show the state of members
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2,10.0.0.3,10.0.0.4 etcd status\n  \
                            ichorctl -n 10.0.0.2 etcd status -o json")]
    Status(Print),
    /// Open a snapshot and say what is in it; fails when it is damaged
    #[command(after_help = "Examples:\n  ichorctl etcd verify db.snapshot\n  \
                            ichorctl etcd verify --skip-hash-check /backup/member/snap/db -o json")]
    Verify(verify::Verify),
}

#[derive(Serialize)]
struct MemberRow {
    node: String,
    id: String,
    hostname: String,
    peer_urls: Vec<String>,
    client_urls: Vec<String>,
    is_learner: bool,
}

#[derive(Serialize)]
struct StatusRow {
    node: String,
    member_id: String,
    leader: String,
    db_size: i64,
    db_size_in_use: i64,
    raft_index: u64,
    raft_term: u64,
    raft_applied_index: u64,
    is_learner: bool,
    protocol_version: String,
    storage_version: String,
    errors: Vec<String>,
}

#[derive(Serialize)]
struct LeaderRow {
    node: String,
    new_leader: Option<String>,
}

impl Etcd {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When there is nobody to ask, or nowhere to print.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let command = match self.command {
            Command::Restore(restore) => return restore.run(connection).await,
            Command::Verify(verify) => return verify.run().await,
            command => command,
        };
        let session = connection.session()?;
        match command {
            // These were handled above.
            Command::Restore(_) | Command::Verify(_) => {}
            Command::Alarm(alarm) => return alarm.run(&session.fleet()?).await,
            Command::Defrag => session.single("etcd defrag")?.etcd_defragment().await?,
            Command::ForfeitLeadership(print) => {
                let cells = |row: &LeaderRow| {
                    [
                        row.node.clone(),
                        row.new_leader.clone().unwrap_or_else(|| "(was not the leader)".to_owned()),
                    ]
                };
                let output = Output::new(print.output);
                let columns = ["NODE", "NEW LEADER"];
                return Ok(session.fleet()?.rows(output, columns, forfeit, cells).await?.finish());
            }
            Command::Leave => session.single("etcd leave")?.etcd_leave().await?,
            Command::Members(print) => {
                let columns = ["NODE", "ID", "HOSTNAME", "PEER URLS", "CLIENT URLS", "LEARNER"];
                let output = Output::new(print.output);
                return Ok(session.fleet()?.rows(output, columns, members, MemberRow::cells).await?.finish());
            }
            Command::RemoveMember { id } => {
                let id = parse_member_id(&id)?;
                session.single("etcd remove-member")?.etcd_remove_member(id).await?;
            }
            Command::Snapshot(snapshot) => return snapshot.run(&session.single("etcd snapshot")?).await,
            Command::Status(print) => {
                let output = Output::new(print.output);
                return Ok(session
                    .fleet()?
                    .rows(output, StatusRow::COLUMNS, status, StatusRow::cells)
                    .await?
                    .finish());
            }
        }
        Ok(Exit::Done)
    }
}

/// Member ids are shown with 16 hexadecimal digits everywhere in Talos.
fn member_id(id: u64) -> String {
    format!("{id:016x}")
}

fn parse_member_id(text: &str) -> Result<u64, UsageError> {
    u64::from_str_radix(text, 16).map_err(|_| {
        UsageError(format!("{text:?} is not the id of a member: it has up to 16 hexadecimal digits"))
    })
}

async fn members(node: NodeClient) -> anyhow::Result<Vec<MemberRow>> {
    let members = node.etcd_members(true).await?;
    Ok(members.into_iter().map(|member| MemberRow::new(node.name(), member)).collect())
}

async fn status(node: NodeClient) -> anyhow::Result<Vec<StatusRow>> {
    Ok(vec![StatusRow::new(node.name(), node.etcd_status().await?)])
}

async fn forfeit(node: NodeClient) -> anyhow::Result<Vec<LeaderRow>> {
    let new_leader = node.etcd_forfeit_leadership().await?;
    Ok(vec![LeaderRow { node: node.name().to_owned(), new_leader }])
}

impl MemberRow {
    fn new(node: &str, member: EtcdMember) -> Self {
        Self {
            node: node.to_owned(),
            id: member_id(member.id),
            hostname: member.hostname,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
            is_learner: member.is_learner,
        }
    }

    fn cells(&self) -> [String; 6] {
        [
            self.node.clone(),
            self.id.clone(),
            self.hostname.clone(),
            self.peer_urls.join(","),
            self.client_urls.join(","),
            self.is_learner.to_string(),
        ]
    }
}

impl StatusRow {
    const COLUMNS: [&str; 12] = [
        "NODE",
        "MEMBER",
        "DB SIZE",
        "IN USE",
        "LEADER",
        "RAFT INDEX",
        "RAFT TERM",
        "RAFT APPLIED INDEX",
        "LEARNER",
        "PROTOCOL",
        "STORAGE",
        "ERRORS",
    ];

    fn new(node: &str, status: EtcdMemberStatus) -> Self {
        Self {
            node: node.to_owned(),
            member_id: member_id(status.member_id),
            leader: member_id(status.leader),
            db_size: status.db_size,
            db_size_in_use: status.db_size_in_use,
            raft_index: status.raft_index,
            raft_term: status.raft_term,
            raft_applied_index: status.raft_applied_index,
            is_learner: status.is_learner,
            protocol_version: status.protocol_version,
            storage_version: status.storage_version,
            errors: status.errors,
        }
    }

    fn cells(&self) -> [String; 12] {
        let size = |bytes_: i64| bytes(u64::try_from(bytes_).unwrap_or_default());
        let share =
            if self.db_size > 0 { self.db_size_in_use as f64 / self.db_size as f64 * 100.0 } else { 0.0 };
        [
            self.node.clone(),
            self.member_id.clone(),
            size(self.db_size),
            format!("{} ({share:.2}%)", size(self.db_size_in_use)),
            self.leader.clone(),
            self.raft_index.to_string(),
            self.raft_term.to_string(),
            self.raft_applied_index.to_string(),
            self.is_learner.to_string(),
            self.protocol_version.clone(),
            self.storage_version.clone(),
            self.errors.join(", "),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_ids_are_hexadecimal_both_ways() {
        assert_eq!(member_id(0xbeef), "000000000000beef");
        assert_eq!(parse_member_id("000000000000beef").unwrap(), 0xbeef);
        assert!(parse_member_id("cp-1").is_err() && parse_member_id("10000000000000000").is_err());
    }
}
