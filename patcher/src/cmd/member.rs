//! `member`: who is in a network, and the end of a membership.

use std::net::{IpAddr, SocketAddr};

use clap::{Args, Subcommand};
use ichor_mesh::crypto::RealCrypto;
use ichor_mesh::record::NetworkId;
use ichor_mesh::record::genesis::UlaPlan;
use ichor_mesh::record::name::Name;
use ichor_mesh::record::owner::Rename as Renaming;
use ichor_mesh::record::tombstone::End;
use ichor_mesh::roster::Item;
use ipnet::IpNet;
use serde::Serialize;

use super::connection::Connection;
use super::mesh_folder::Which;
use super::operation::{At, confirm, now};
use super::seen::Seen;
use crate::daemon_status::{Conflict, DaemonStatus};
use crate::exit::{Exit, Refusal, UsageError};
use crate::output::{Format, Output, date, note};
use crate::owner::folder::{self, OpenBook};

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
    /// Show one member, or one that waits for a decision
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 member show w-7\n  \
                            ichorctl member show w-7 --status status.json -o json")]
    Show(Show),
    /// Decide for a machine that waits: whoever has its name, its address or the use of its token goes
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 member list\n  \
                            ichorctl -n 10.0.0.2 member accept 5d0c1f --yes")]
    Accept(Accept),
    /// Decide against a machine that waits: it is refused for good, and so is whoever else holds its token
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 member reject 5d0c1f --yes")]
    Reject(Reject),
    /// Give a member another name
    ///
    /// Its IPv4 address stays. Its IPv6 address follows the name, so certificates and configs that hold it must be renewed.
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 member rename w-7 gateway --yes")]
    Rename(Rename),
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

/// Flags of `member show`.
#[derive(Args, Debug)]
struct Show {
    /// The name of the member, or its identity
    member: String,
    #[command(flatten)]
    seen: Seen,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Flags of `member accept`.
#[derive(Args, Debug)]
struct Accept {
    /// The identity of the machine that waits, or how it starts
    member: String,
    /// The member that goes, where several came by the same token
    #[arg(long, value_name = "NAME")]
    instead_of: Option<String>,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    seen: Seen,
    #[command(flatten)]
    at: At,
    /// Do it: there is no way back
    #[arg(long)]
    yes: bool,
}

/// Flags of `member reject`.
#[derive(Args, Debug)]
struct Reject {
    /// The identity of the machine that waits, or how it starts
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

/// Flags of `member rename`.
#[derive(Args, Debug)]
struct Rename {
    /// The name of the member, or its identity
    member: String,
    /// Its new name
    name: Name,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    seen: Seen,
    #[command(flatten)]
    at: At,
    /// Do it: there is no way back
    #[arg(long)]
    yes: bool,
}

/// One member.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) addresses: Vec<String>,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) state: &'static str,
    pub(super) version: Option<String>,
    pub(super) rtt_micros: Option<u64>,
    pub(super) full_size: Option<bool>,
    pub(super) since: Option<u64>,
    pub(super) identity: String,
    pub(super) incarnation: String,
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
            MemberCommand::Show(command) => command.run(connection).await,
            MemberCommand::Accept(command) => command.run(connection).await,
            MemberCommand::Reject(command) => command.run(connection).await,
            MemberCommand::Rename(command) => command.run(connection).await,
        }
    }
}

impl List {
    async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let status = self.seen.status(connection, "member list").await?;
        let columns = ["NAME", "ADDRESSES", "ENDPOINT", "STATE", "RTT", "VERSION", "INCARNATION"];
        Output::new(self.output).rows(columns, &rows(&status), |row| {
            [
                row.name.clone(),
                row.addresses.join(","),
                row.endpoint.map_or_else(String::new, |endpoint| endpoint.to_string()),
                row.state.to_owned(),
                row.rtt_micros.map_or_else(String::new, milliseconds),
                row.version.clone().unwrap_or_default(),
                row.incarnation.clone(),
            ]
        })?;
        for problem in status.problems.iter().filter(|problem| problem.part == "member") {
            note(&format!("problem: {}", problem.cause));
        }
        for waiting in status.network.iter().flat_map(|network| &network.conflicts) {
            note(&format!(
                "waits for a decision: {} as {} at {}",
                waiting.identity, waiting.name, waiting.address
            ));
        }
        Ok(Exit::Done)
    }
}

/// The members that a node sees, itself first.
pub(super) fn rows(status: &DaemonStatus) -> Vec<Row> {
    let us = status.network.as_ref().and_then(|network| {
        let mut addresses: Vec<String> =
            status.addresses.iter().filter_map(|net| Some(net.split('/').next()?.to_owned())).collect();
        addresses.truncate(2);
        Some(Row {
            name: network.member.clone()?,
            addresses,
            endpoint: None,
            state: "this node",
            version: Some(status.version.clone()),
            rtt_micros: None,
            full_size: None,
            since: None,
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
                (true, _) if peer.full_size == Some(false) => "no long packets",
                (true, _) => "connected",
                (false, Some(_)) => "silent",
                (false, None) => "not contacted",
            },
            version: peer.version.clone(),
            rtt_micros: peer.rtt_micros,
            full_size: peer.full_size,
            since: peer.since,
            identity: peer.identity.clone()?,
            incarnation: peer.incarnation.clone()?,
        })
    });
    us.into_iter().chain(others).collect()
}

impl Remove {
    async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let mesh = folder::open(&self.which.folder()?)?;
        let (identity, seen_at) = match self.member.parse() {
            Ok(identity) => (identity, Vec::new()),
            Err(_) => {
                let status = self.seen.of_mesh(&mesh, connection, "member remove").await?;
                (find(&status, &self.member)?.identity.parse()?, seen_at(&status))
            }
        };
        confirm(self.yes, || format!("{} would be removed for good ({identity})", self.member))?;
        let end = End::Revoked { identity, keep_token: self.keep_token };
        self.at.revoke(&mesh, end, &seen_at).await?;
        note(&format!("{} is no member any more, wherever it is heard of", self.member));
        Ok(Exit::Done)
    }
}

impl Show {
    async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let status = self.seen.status(connection, "member show").await?;
        if let Ok(waiting) = find_waiting(&status, &self.member) {
            Output::new(self.output).record(waiting, |waiting| {
                let why = match &waiting.with {
                    Some(with) => format!("its name or address is that of {with}"),
                    None => format!("its token {} was used too often", waiting.token),
                };
                format!(
                    "name        {}\naddress     {}\nstate       waits: {why}\nidentity    {}\nincarnation {}\n",
                    waiting.name, waiting.address, waiting.identity, waiting.incarnation
                )
            })?;
            return Ok(Exit::Done);
        }
        let rows = rows(&status);
        let row = find_row(&rows, &self.member)?;
        Output::new(self.output).record(row, |row| {
            let or_none = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
            format!(
                "name        {}\naddresses   {}\nendpoint    {}\nstate       {}\nsince       {}\nround trip  {}\n\
                 version     {}\nidentity    {}\nincarnation {}\n",
                row.name,
                row.addresses.join(", "),
                or_none(row.endpoint.map(|endpoint| endpoint.to_string())),
                row.state,
                or_none(row.since.map(date)),
                or_none(row.rtt_micros.map(milliseconds)),
                or_none(row.version.clone()),
                row.identity,
                row.incarnation,
            )
        })?;
        Ok(Exit::Done)
    }
}

impl Accept {
    async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let mesh = folder::open(&self.which.folder()?)?;
        let status = self.seen.of_mesh(&mesh, connection, "member accept").await?;
        let waiting = find_waiting(&status, &self.member)?;
        let instead = match (&self.instead_of, &waiting.with) {
            (Some(name), _) => find(&status, name)?.identity,
            (None, Some(with)) => with.clone(),
            (None, None) => used_token(&status, &waiting.token)?,
        };
        let name_of = |identity: &str| {
            let rows = rows(&status);
            rows.iter()
                .find(|row| row.identity == identity)
                .map_or(identity.to_owned(), |row| row.name.clone())
        };
        confirm(self.yes, || {
            format!(
                "{} ({instead}) would be removed for good, in favour of {}",
                name_of(&instead),
                waiting.identity
            )
        })?;
        // What the one that goes has used up is what the other came by.
        let end = End::Revoked { identity: instead.parse()?, keep_token: true };
        self.at.revoke(&mesh, end, &seen_at(&status)).await?;
        note(&format!("{} is {} from now on, wherever that is heard of", waiting.identity, waiting.name));
        Ok(Exit::Done)
    }
}

impl Reject {
    async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let mesh = folder::open(&self.which.folder()?)?;
        let status = self.seen.of_mesh(&mesh, connection, "member reject").await?;
        let waiting = find_waiting(&status, &self.member)?;
        let identity = waiting.identity.parse()?;
        confirm(self.yes, || {
            format!("{identity}, which claims to be {}, would be refused for good", waiting.name)
        })?;
        self.at
            .revoke(&mesh, End::Revoked { identity, keep_token: self.keep_token }, &seen_at(&status))
            .await?;
        note(&format!("{identity} is refused, wherever that is heard of"));
        Ok(Exit::Done)
    }
}

impl Rename {
    async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let path = self.which.folder()?;
        let mesh = folder::open(&path)?;
        let status = self.seen.of_mesh(&mesh, connection, "member rename").await?;
        let row = find(&status, &self.member)?;
        let name = self.name.to_string();
        let is_given = OpenBook::open(&path)?.book.address_of(&name).is_some();
        if is_given || rows(&status).iter().any(|row| row.name == name) {
            return Err(Refusal {
                reason: format!("{name} is, or was, the name of another node"),
                advice: Some("choose another name".to_owned()),
            }
            .into());
        }
        confirm(self.yes, || format!("{} would be called {name}, and have another IPv6 address", row.name))?;
        let rename = Renaming { member: row.identity.parse()?, name: self.name.clone(), serial: now() };
        let signed = rename.seal(&mesh.network(), &mesh.owner, &RealCrypto)?;
        self.at.hand_in(&mesh, Item::Rename(signed), &seen_at(&status)).await?;
        let mut open = OpenBook::open(&path)?;
        open.book.rename(&row.name, &name);
        open.save()?;
        note(&format!("{} is called {name} from now on, wherever that is heard of", row.name));
        Ok(Exit::Done)
    }
}

/// Where members are seen.
fn seen_at(status: &DaemonStatus) -> Vec<SocketAddr> {
    status.peers.iter().filter_map(|peer| peer.endpoint).collect()
}

fn find(status: &DaemonStatus, text: &str) -> anyhow::Result<Row> {
    find_row(&rows(status), text).cloned()
}

/// The member with this name, or this identity.
fn find_row<'r>(rows: &'r [Row], text: &str) -> anyhow::Result<&'r Row> {
    match rows.iter().filter(|row| row.name == text || row.identity == text).collect::<Vec<_>>()[..] {
        [one] => Ok(one),
        [] => {
            let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
            Err(UsageError(format!("no member is called {text}; there are {}", names.join(", "))).into())
        }
        _ => Err(UsageError(format!(
            "several members are called {text}: say the identity of one (member list -o json)"
        ))
        .into()),
    }
}

/// The machine that waits for a decision and has this identity, or one that starts like this, or this name.
fn find_waiting<'s>(status: &'s DaemonStatus, text: &str) -> anyhow::Result<&'s Conflict> {
    let waiting = status.network.iter().flat_map(|network| &network.conflicts);
    let found: Vec<_> =
        waiting.filter(|it| it.name == text || (text.len() >= 4 && it.identity.starts_with(text))).collect();
    match found[..] {
        [one] => Ok(one),
        [] => {
            Err(UsageError(format!("nobody like {text} waits for a decision; ichorctl member list")).into())
        }
        _ => Err(UsageError(format!("several machines like {text} wait: say the identity of one")).into()),
    }
}

/// The one member that came by this token.
fn used_token(status: &DaemonStatus, token: &str) -> anyhow::Result<String> {
    let users = status.peers.iter().filter(|peer| peer.token.as_deref() == Some(token));
    let us = status.network.as_ref().filter(|network| network.token.as_deref() == Some(token));
    let users = users.filter_map(|peer| peer.identity.clone());
    let users: Vec<String> = users.chain(us.and_then(|network| network.identity.clone())).collect();
    match &users[..] {
        [one] => Ok(one.clone()),
        [] => {
            Err(UsageError("whoever used its token is no member any more: make a new token".to_owned())
                .into())
        }
        _ => Err(UsageError("several members came by its token: say --instead-of NAME".to_owned()).into()),
    }
}

pub(super) fn milliseconds(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
}
