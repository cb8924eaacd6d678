//! `mesh`: a network, its owner, and how it is.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use ichor_mesh::hello::{Acted, HelloPublic};
use ichor_mesh::record::name::Name;
use ichor_mesh::record::{NetworkId, RecordId};
use ipnet::{IpNet, Ipv4Net};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;

use super::cluster_file;
use super::connection::Connection;
use super::mesh_backup::{Backup, Restore};
use super::mesh_folder::Which;
use super::mesh_hosts::Hosts;
use super::mesh_status::MeshStatus;
use super::seen::Seen;
use crate::exit::{Exit, Refusal, UsageError};
use crate::output::{Format, Output, note};
use crate::owner::address::{Claim, conflict, propose, usual_claims};
use crate::owner::{folder, mint};

/// Flags of `mesh`.
#[derive(Args, Debug)]
pub struct MeshArgs {
    #[command(subcommand)]
    command: MeshCommand,
}

#[derive(Debug, Subcommand)]
enum MeshCommand {
    /// Begin a network: its identity, and the key of its owner
    ///
    /// Talks to nobody. The key decides who is a member: keep a copy of the folder where you keep the talosconfig.
    #[command(after_help = "Examples:\n  ichorctl mesh init home\n  \
                            ichorctl mesh init home --range 10.213.0.0/16 --avoid 10.0.0.0/24 --seed 203.0.113.7:51840\n  \
                            ichorctl mesh init -f ichor.yaml")]
    Init(Init),
    /// Show what the daemons of nodes say of themselves, what is wrong first
    ///
    /// Ends with 1 when one of them has a problem, with 5 when one cannot be asked.
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2,10.0.0.3 mesh status\n  \
                            ichorctl mesh status --status a.json,b.json -o json")]
    Status(MeshStatus),
    /// Write the names of all members for where they are looked up without DNS
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 mesh hosts > hosts.yaml\n  \
                            ssh gateway ichord status | ichorctl mesh hosts --status - --form hosts")]
    Hosts(Hosts),
    /// Learn from a member what the next join strings must say
    ///
    /// Needed by an owner who has made no change for a long time, while others removed many members.
    #[command(after_help = "Examples:\n  ichorctl -n 10.0.0.2 mesh sync")]
    Sync(Sync),
    /// Write the key and the book of tokens into one file
    #[command(after_help = "Examples:\n  ichorctl mesh backup home.backup --passphrase-file phrase\n  \
                            ichorctl mesh backup - | age -r age1... > home.age")]
    Backup(Backup),
    /// Make the folder of a mesh from its backup
    #[command(
        after_help = "Examples:\n  ichorctl mesh restore home.backup --mesh home --passphrase-file phrase"
    )]
    Restore(Restore),
}

/// Flags of `mesh sync`.
#[derive(Args, Debug)]
struct Sync {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    seen: Seen,
}

/// Flags of `mesh init`.
#[derive(Args, Debug)]
struct Init {
    /// The name of the network; without it that of the cluster file
    #[arg(required_unless_present = "file")]
    name: Option<Name>,
    /// The IPv4 range of its members; without it that of the cluster file, else a free one of 10.213.0.0/16 and the next
    #[arg(long, value_name = "CIDR")]
    range: Option<Ipv4Net>,
    /// A range that is in use and must not be overlapped
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    avoid: Vec<IpNet>,
    /// A cluster file: its name, its range, its LANs, and the public endpoints of its nodes as seeds
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where a member may be reached; goes into every join string
    #[arg(long = "seed", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    seeds: Vec<SocketAddr>,
    /// The folder for the key [default: ~/.config/ichor/NAME]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What is printed.
#[derive(Serialize)]
struct Begun {
    name: String,
    network: String,
    range: Ipv4Net,
    owner: String,
    seeds: Vec<SocketAddr>,
    dir: PathBuf,
}

impl MeshArgs {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When the range overlaps another one, there is such a mesh already, the folder cannot be written, or no node can be
    /// asked.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        match self.command {
            MeshCommand::Init(command) => command.run(),
            MeshCommand::Status(command) => command.run(connection).await,
            MeshCommand::Hosts(command) => command.run(connection).await,
            MeshCommand::Sync(command) => command.run(connection).await,
            MeshCommand::Backup(command) => command.run(),
            MeshCommand::Restore(command) => command.run(),
        }
    }
}

impl Sync {
    async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let mesh = folder::open(&self.which.folder()?)?;
        let status = self.seen.of_mesh(&mesh, connection, "mesh sync").await?;
        let network = status.network.unwrap_or_default();
        let hello = network.hello_key.as_deref().and_then(|text| text.parse::<RecordId>().ok());
        let sum = network.tombstones.as_deref().and_then(|text| u64::from_str_radix(text, 16).ok());
        let (Some(hello), Some(tombstones)) = (hello, sum) else {
            return Err(UsageError("that node is no member, or its daemon is too old".to_owned()).into());
        };
        mesh.learn(&Acted { hello: HelloPublic(hello.0), tombstones })?;
        note("the next join strings say what this member knows");
        Ok(Exit::Done)
    }
}

impl Init {
    fn run(self) -> anyhow::Result<Exit> {
        let cluster = self.file.as_deref().map(cluster_file::load).transpose()?;
        let of_file = || cluster.as_ref().map(|cluster| cluster.mesh.name.parse());
        let name = match self.name.map(Ok).or_else(of_file) {
            Some(Ok(name)) => name,
            Some(Err(error)) => {
                return Err(UsageError(format!("the mesh of the cluster file: {error}")).into());
            }
            None => return Err(UsageError("which name is the network to have?".to_owned()).into()),
        };
        let mut claims = usual_claims();
        claims.extend(self.avoid.iter().map(|net| Claim::new("--avoid", *net)));
        for site in cluster.iter().flat_map(|cluster| &cluster.sites) {
            claims.extend(site.lans.iter().map(|lan| Claim::new(format!("the LAN of {}", site.name), *lan)));
        }
        let range = match self.range.or_else(|| cluster.as_ref().map(|cluster| cluster.mesh.range)) {
            Some(range) => range.trunc(),
            None => propose(&claims).ok_or_else(|| Refusal {
                reason: "no /16 of 10.0.0.0/8 is free".to_owned(),
                advice: Some("choose one: --range".to_owned()),
            })?,
        };
        if let Some(claim) = conflict(&range, &claims) {
            let advice = propose(&claims).map(|free| format!("--range {free} is free"));
            return Err(Refusal { reason: format!("{range} overlaps {claim}"), advice }.into());
        }
        let dir = self.dir.or_else(|| folder::default_path(name.as_str()));
        let dir = dir.ok_or_else(|| UsageError("there is no home directory: say --dir".to_owned()))?;
        let mut seeds = self.seeds;
        seeds.extend(cluster.iter().flat_map(|cluster| &cluster.nodes).filter_map(|node| node.endpoint));
        seeds.sort_unstable();
        seeds.dedup();

        let (owner, hello) = (mint::secret()?, mint::secret()?);
        let mut nonce = [0; 16];
        SystemRandom::new().fill(&mut nonce).map_err(|_| mint::NoRandomness)?;
        let signed = mint::network(name.clone(), range, &owner, nonce)
            .map_err(|error| UsageError(format!("{range} cannot be the range of a network: {error}")))?;
        folder::create(&dir, &signed, &owner, &hello, &seeds)?;
        let begun = Begun {
            name: name.to_string(),
            network: NetworkId(signed.id().0).to_string(),
            range,
            owner: mint::owner_key(&owner).to_string(),
            seeds,
            dir,
        };
        Output::new(self.output).record(&begun, |begun| {
            format!(
                "network {}: {}\n  range  {}\n  owner  {}\n  folder {}\n",
                begun.name,
                begun.network,
                begun.range,
                begun.owner,
                begun.dir.display()
            )
        })?;
        note("keep a copy of the folder: without its key nobody can let members in or out");
        note(&format!("  next: ichorctl token create --mesh {} --name NODE", begun.name));
        Ok(Exit::Done)
    }
}
