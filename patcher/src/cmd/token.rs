//! `token`: what lets a node in.

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use ichor_mesh::crypto::RealCrypto;
use ichor_mesh::join_string::{JoinString, MAX_SEEDS};
use ichor_mesh::record::genesis::Genesis;
use ichor_mesh::record::grant::Grant;
use ichor_mesh::record::name::{Name, NamePattern, Role};
use ichor_mesh::record::{NetworkId, RecordId, TokenKey};
use ipnet::{IpNet, Ipv4Net};
use serde::Serialize;
use zeroize::Zeroizing;

use super::mesh_folder::Which;
use super::operation::{At, now};
use crate::duration;
use crate::exit::{Exit, Refusal, UsageError};
use crate::extension;
use crate::output::{Format, Output, date, note};
use crate::owner::address::next_free;
use crate::owner::folder::{self, Entry, Mesh, OpenBook};
use crate::owner::mint::{self, Way};
use crate::plan::daemon;

/// Longest text that is read as a join string.
const MAX_TEXT: u64 = 64 << 10;

/// Flags of `token`.
#[derive(Args, Debug)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print its join string
    ///
    /// Talks to nobody. A name keeps its address: a second token for it has the same.
    #[command(
        after_help = "Examples:\n  ichorctl token create --name cp-1 --role controlplane --site rack\n  \
                            ichorctl token create --name w-1 --routes 10.0.0.0/24 --ttl 24h\n  \
                            ichorctl token create --pattern 'pool-*' --range 10.213.128.0/20 --uses 50 --ephemeral 10m \\\n    \
                            --user-data talos >> worker.yaml"
    )]
    Create(Box<Create>),
    /// List the tokens that were made here
    #[command(after_help = "Examples:\n  ichorctl token list\n  ichorctl token list --mesh home -o json")]
    List(List),
    /// Revoke what is unused of a token
    ///
    /// Signed here and handed to any member over its UDP port. Who has joined with it stays: `member remove`.
    #[command(after_help = "Examples:\n  ichorctl token revoke 4f9a21c07be35d88\n  \
                            ichorctl token revoke 4f9a21c07be35d88 --at 203.0.113.7:51840")]
    Revoke(Revoke),
    /// Show what a join string lets its holder do, and nothing secret of it
    #[command(after_help = "Examples:\n  ichorctl token show ichor1-...\n  ichorctl token show - < join")]
    Show(Show),
}

/// Flags of `token create`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("names").required(true).args(["name", "pattern"]))]
struct Create {
    #[command(flatten)]
    which: Which,
    /// The node that it is for
    #[arg(long)]
    name: Option<Name>,
    /// A pool: every name like this, with one star
    #[arg(long, value_parser = parse_pool, requires = "range")]
    pattern: Option<NamePattern>,
    /// What its nodes are for: controlplane, worker, relay or admin
    #[arg(long, default_value = "worker")]
    role: Role,
    /// Where they stand
    #[arg(long)]
    site: Option<Name>,
    /// With --name: its address [default: the one it had, else the next free one]
    #[arg(long, conflicts_with = "pattern")]
    address: Option<Ipv4Addr>,
    /// With --pattern: the addresses of the pool
    #[arg(long, value_name = "CIDR", conflicts_with = "name")]
    range: Option<Ipv4Net>,
    /// Prefixes that may be behind them
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    routes: Vec<IpNet>,
    /// How many nodes it lets in
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    uses: u16,
    /// Print a patch for the machine config of its node, in place of the join string
    #[arg(long)]
    patch: bool,
    /// Print what a controller that creates machines appends to their user data, in place of the join string
    #[arg(long, value_enum, value_name = "KIND", conflicts_with = "patch")]
    user_data: Option<UserData>,
    /// For how long it lets anybody in
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration::parse)]
    ttl: Duration,
    /// Its nodes are forgotten when nobody hears of them for this long
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    ephemeral: Option<Duration>,
    /// The one incarnation of the node that it replaces
    #[arg(long, value_name = "ID", value_parser = parse_record, conflicts_with = "pattern")]
    replace: Option<RecordId>,
    /// Replace it even if it still answers
    #[arg(long, requires = "replace")]
    force: bool,
    /// Where members may be reached, beside those of the mesh
    #[arg(long = "seed", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    seeds: Vec<SocketAddr>,
    /// The node may begin the network if nobody answers; so may the first one ever
    #[arg(long, conflicts_with = "pattern")]
    first: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What machines are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum UserData {
    /// A machine config of Talos: one more document
    Talos,
    /// cloud-init, on other Linux: a file of the daemon
    CloudInit,
}

impl UserData {
    fn text(self, join: &str) -> String {
        match self {
            Self::Talos => format!("---\n{}", patch(join)),
            Self::CloudInit => format!(
                "#cloud-config\nwrite_files:\n  - path: /etc/ichor/ichord.yaml\n    permissions: \"0600\"\n    \
                 content: |\n      mesh:\n        join: {join}\n"
            ),
        }
    }
}

/// Flags of `token list`.
#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    which: Which,
    /// How to print them
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Flags of `token revoke`.
#[derive(Args, Debug)]
struct Revoke {
    /// The id of the token, or how it starts
    token: String,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    at: At,
}

/// Flags of `token show`.
#[derive(Args, Debug)]
struct Show {
    /// The join string, or - to read it
    join: String,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// A new token, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created<'c> {
    join_string: &'c str,
    #[serde(flatten)]
    entry: &'c Entry,
}

/// What a join string holds, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    mesh: String,
    network: String,
    #[serde(flatten)]
    entry: Entry,
    expired: bool,
    may_begin: bool,
    seeds: Vec<SocketAddr>,
}

impl TokenArgs {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When an address is not free, the folder cannot be read or written, or a text is no join string.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            TokenCommand::Create(command) => command.run(),
            TokenCommand::List(command) => command.run(),
            TokenCommand::Revoke(command) => command.run().await,
            TokenCommand::Show(command) => command.run(),
        }
    }
}

impl Create {
    fn run(self) -> anyhow::Result<Exit> {
        let path = self.which.folder()?;
        let mesh = folder::open(&path)?;
        let mut open = OpenBook::open(&path)?;
        let minted = now();
        let (names, addresses) = self.place(&mesh, &open)?;
        if self.uses > 1 && self.pattern.is_none() {
            return Err(
                UsageError("a name can be had by one node only: --uses is for --pattern".to_owned()).into()
            );
        }
        let mut seeds = [&mesh.seeds[..], &self.seeds].concat();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.len() > MAX_SEEDS {
            return Err(UsageError(format!(
                "{} seeds are more than the {MAX_SEEDS} of a join string",
                seeds.len()
            ))
            .into());
        }
        let is_first = self.first
            || (open.book.tokens.is_empty() && self.pattern.is_none() && mesh.first_hello.is_some());
        let grant = Grant {
            token: TokenKey([0; 32]),
            names,
            role: self.role,
            site: self.site.as_ref().map(ToString::to_string).unwrap_or_default(),
            addresses,
            routes: self.routes.iter().map(IpNet::trunc).collect(),
            uses: self.uses,
            not_after: minted.saturating_add(self.ttl.as_secs()),
            ephemeral: self.ephemeral,
            replaces: self.replace,
            force: self.force,
            serial: open.book.serial + 1,
            minted,
        };
        if self.first && mesh.first_hello.is_none() {
            return Err(Refusal {
                reason: "only the owner who began the network can let a node begin it".to_owned(),
                advice: None,
            }
            .into());
        }
        let way = Way {
            genesis: &mesh.signed,
            hello: mesh.hello,
            tombstones: mesh.tombstones,
            first_hello: mesh.first_hello.as_ref().filter(|_| is_first),
            seeds,
        };
        let join = mint::token(grant, &mesh.owner, mint::secret()?, way)
            .map_err(|error| UsageError(format!("such a token cannot be: {error}")))?;
        // What is not in the book must not be out in the world.
        open.book.serial += 1;
        open.book.tokens.push(entry(&join));
        open.save()?;
        let entry = open.book.tokens.last().context("it was put there")?;
        let text = join.encode();
        let output = Output::new(self.output);
        if output.is_json() {
            output.json(&Created { join_string: &text, entry })?;
        } else {
            if let Some(kind) = self.user_data {
                output.raw(Zeroizing::new(kind.text(&text)).as_bytes())?;
                return Ok(Exit::Done);
            }
            if self.patch {
                output.raw(Zeroizing::new(patch(&text)).as_bytes())?;
                return Ok(Exit::Done);
            }
            note(&format!(
                "lets {} node{} called {} in as {} at {}, until {}",
                entry.uses,
                if entry.uses == 1 { "" } else { "s" },
                entry.names,
                entry.role,
                short(&entry.addresses),
                date(entry.not_after)
            ));
            if is_first {
                note("it may begin the network: give it to the first node");
            } else if join.seeds.is_empty() {
                note("it names no seed: its node must find a member on its own LAN");
            }
            output.raw(Zeroizing::new(format!("{}\n", *text)).as_bytes())?;
        }
        Ok(Exit::Done)
    }

    /// For which names and addresses it is.
    fn place(&self, mesh: &Mesh, open: &OpenBook) -> anyhow::Result<(NamePattern, Ipv4Net)> {
        let us = mint::owner_key(&mesh.owner);
        let (names, wanted) = match (&self.name, &self.pattern) {
            (Some(name), _) => {
                let known = open.book.address_of(name.as_str());
                let free = || {
                    next_free(&mesh.range, &mesh.genesis.range, |address| {
                        open.book.holder(&address.into(), name.as_str()).is_some()
                            || !mesh.owners.may_grant(&us, &address.into())
                    })
                };
                let address = self.address.or(known).or_else(free).ok_or_else(|| Refusal {
                    reason: format!("no address of {} is free", mesh.range),
                    advice: Some("revoke what is not needed any more".to_owned()),
                })?;
                if let Some(known) = known.filter(|known| *known != address) {
                    note(&format!(
                        "warning: {name} had {known} before; certificates and configs may name it"
                    ));
                }
                (NamePattern::Exact(name.clone()), Ipv4Net::from(address))
            }
            (None, Some(pattern)) => {
                (pattern.clone(), self.range.map(|range| range.trunc()).context("clap requires it")?)
            }
            (None, None) => {
                return Err(UsageError("for which name? say --name or --pattern".to_owned()).into());
            }
        };
        if !mesh.owners.may_grant(&us, &wanted) {
            let reason =
                format!("{} is not in {}, or another owner gives it out", short(&wanted), mesh.range);
            return Err(Refusal { reason, advice: Some("ichorctl owner list".to_owned()) }.into());
        }
        if let Some(holder) = open.book.holder(&wanted, &names.to_string()) {
            let reason =
                format!("{} was given to {} ({})", short(&wanted), holder.names, short(&holder.addresses));
            let advice =
                Some("choose another one; `ichorctl token list` shows what was given out".to_owned());
            return Err(Refusal { reason, advice }.into());
        }
        Ok((names, wanted))
    }
}

impl List {
    fn run(self) -> anyhow::Result<Exit> {
        let open = OpenBook::open(&self.which.folder()?)?;
        let columns = ["NAMES", "ROLE", "SITE", "ADDRESSES", "USES", "NOT AFTER", "ID"];
        Output::new(self.output).rows(columns, &open.book.tokens, |entry| {
            [
                match &entry.renamed {
                    Some(renamed) => format!("{} (now {renamed})", entry.names),
                    None => entry.names.clone(),
                },
                entry.role.clone(),
                entry.site.clone(),
                short(&entry.addresses),
                entry.uses.to_string(),
                date(entry.not_after),
                entry.id.chars().take(16).collect(),
            ]
        })?;
        Ok(Exit::Done)
    }
}

impl Revoke {
    async fn run(self) -> anyhow::Result<Exit> {
        let path = self.which.folder()?;
        let mesh = folder::open(&path)?;
        // Not held while members are asked.
        let book = OpenBook::open(&path)?.book.clone();
        let found: Vec<_> = book.tokens.iter().filter(|entry| entry.id.starts_with(&self.token)).collect();
        let [entry] = found[..] else {
            let reason = if found.is_empty() { "no token" } else { "more than one token" };
            return Err(UsageError(format!(
                "{reason} has an id that starts with {:?}; `ichorctl token list` shows them",
                self.token
            ))
            .into());
        };
        self.at.revoke_token(&mesh, entry.id.parse()?).await?;
        note(&format!("the token for {} lets nobody in any more, wherever it is heard of", entry.names));
        Ok(Exit::Done)
    }
}

impl Show {
    fn run(self) -> anyhow::Result<Exit> {
        let mut text = Zeroizing::new(self.join);
        if text.as_str() == "-" {
            text.clear();
            std::io::stdin()
                .lock()
                .take(MAX_TEXT)
                .read_to_string(&mut text)
                .context("failed to read the join string")?;
        }
        let join = JoinString::decode(&text, &RealCrypto)?;
        let (genesis, _) = Genesis::open(join.genesis.bytes(), &RealCrypto)?;
        let entry = entry(&join);
        let shown = Shown {
            mesh: genesis.name.to_string(),
            network: NetworkId(join.genesis.id().0).to_string(),
            expired: entry.not_after < now(),
            may_begin: join.first_hello.is_some(),
            seeds: join.seeds,
            entry,
        };
        Output::new(self.output).record(&shown, describe)?;
        Ok(Exit::Done)
    }
}

/// The document of a machine config that gives the daemon a join string.
fn patch(join: &str) -> String {
    format!(
        "apiVersion: v1alpha1\nkind: ExtensionServiceConfig\nname: {}\nconfigFiles:\n  - mountPath: {}\n    \
         content: |\n      mesh:\n        join: {join}\n",
        extension::NAME,
        daemon::PATH
    )
}

fn describe(shown: &Shown) -> String {
    let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
    let Shown { mesh, network, entry, expired, may_begin, seeds } = shown;
    format!(
        "mesh      {mesh} ({network})\nnames     {}\nrole      {}\nsite      {}\naddresses {}\nroutes    {}\nuses      {}\n\
         not after {}{}\nephemeral {}\nreplaces  {}\nseeds     {}\nmay begin the network: {}\n",
        entry.names,
        entry.role,
        if entry.site.is_empty() { "nowhere special" } else { &entry.site },
        short(&entry.addresses),
        list(entry.routes.iter().map(ToString::to_string).collect()),
        entry.uses,
        date(entry.not_after),
        if *expired { ", expired" } else { "" },
        entry.ephemeral.map_or_else(|| "no".to_owned(), |seconds| format!("after {seconds} s")),
        entry.replaces.as_deref().unwrap_or("nothing"),
        list(seeds.iter().map(ToString::to_string).collect()),
        if *may_begin { "yes" } else { "no" },
    )
}

fn entry(join: &JoinString) -> Entry {
    let grant = &join.grant.grant;
    Entry {
        id: join.grant.id.to_string(),
        names: grant.names.to_string(),
        role: grant.role.as_str().to_owned(),
        site: grant.site.clone(),
        addresses: grant.addresses,
        routes: grant.routes.clone(),
        uses: grant.uses,
        minted: grant.minted,
        not_after: grant.not_after,
        ephemeral: grant.ephemeral.map(|lifetime| lifetime.as_secs()),
        replaces: grant.replaces.map(|id| id.to_string()),
        renamed: None,
    }
}

/// One address without its prefix length.
fn short(net: &Ipv4Net) -> String {
    if net.prefix_len() == 32 { net.addr().to_string() } else { net.to_string() }
}

fn parse_pool(text: &str) -> Result<NamePattern, String> {
    match text.parse() {
        Ok(pattern @ NamePattern::Pool { .. }) => Ok(pattern),
        Ok(NamePattern::Exact(_)) => Err("it has no star: say --name".to_owned()),
        Err(error) => Err(format!("{error}")),
    }
}

fn parse_record(text: &str) -> Result<RecordId, String> {
    text.parse().map_err(|error| format!("not the id of an incarnation: {error}"))
}
