//! `owner`: who decides about members.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use ichor_mesh::crypto::{RealCrypto, Secret};
use ichor_mesh::record::OwnerKey;
use ichor_mesh::record::genesis::Owner;
use ichor_mesh::record::owner::{OwnerChange, SignedOwnerChange};
use ichor_mesh::roster::Item;
use ichor_mesh::roster::owners::{OwnerState, Standing};
use ipnet::Ipv4Net;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;

use super::mesh_folder::Which;
use super::operation::{At, confirm};
use crate::exit::{Exit, Refusal, UsageError};
use crate::files::read_bounded;
use crate::output::{Format, Output, note};
use crate::owner::folder::{self, Mesh, OpenBook};
use crate::owner::mint;

/// Longest invitation that is read.
const MAX_INVITATION: u64 = 1 << 20;

/// Flags of `owner`.
#[derive(Args, Debug)]
pub struct OwnerArgs {
    #[command(subcommand)]
    command: OwnerCommand,
}

#[derive(Debug, Subcommand)]
enum OwnerCommand {
    /// List the owners that are known here, most senior first
    #[command(after_help = "Examples:\n  ichorctl owner list\n  ichorctl owner list --mesh home -o json")]
    List(List),
    /// Make a key for somebody who is to become an owner, and print its public half
    ///
    /// On the new owner's machine. The key never leaves it; a present owner adds the public half.
    #[command(after_help = "Examples:\n  ichorctl owner key --mesh home")]
    Key(Key),
    /// Let somebody else decide about members, too, and give out part of our addresses
    ///
    /// Prints an invitation for the new owner: `owner accept`. Owners are ranked by when they were added.
    #[command(
        after_help = "Examples:\n  ichorctl owner add 41d2...9c --range 10.213.64.0/18 > invitation.json"
    )]
    Add(Add),
    /// Complete the folder of a new owner with the invitation that `owner add` printed
    #[command(after_help = "Examples:\n  ichorctl owner accept invitation.json --mesh home")]
    Accept(Accept),
    /// End an ownership
    ///
    /// Any more senior owner may do that, the owner itself, or more than half of all owners together. What it granted
    /// stays. With --stolen what it revoked is void, and so is every owner that it added.
    #[command(after_help = "Examples:\n  ichorctl owner remove 41d2...9c --yes\n  \
                            ichorctl owner remove 41d2...9c --stolen --sign-with /media/b/owner.key --yes")]
    Remove(Remove),
    /// Put a new key in the place of ours
    ///
    /// It has the same rank and the same addresses. The old key is deleted here; should it turn up elsewhere:
    /// `owner remove OLD --stolen`.
    #[command(after_help = "Examples:\n  ichorctl owner rotate --yes")]
    Rotate(Rotate),
}

/// Flags of `owner list`.
#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    which: Which,
    /// How to print them
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Flags of `owner key`.
#[derive(Args, Debug)]
struct Key {
    #[command(flatten)]
    which: Which,
}

/// Flags of `owner add`.
#[derive(Args, Debug)]
struct Add {
    /// The public half of its key, as `owner key` printed it
    key: OwnerKey,
    /// The part of our addresses that it gives out from now on
    #[arg(long, value_name = "CIDR")]
    range: Ipv4Net,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    at: At,
}

/// Flags of `owner accept`.
#[derive(Args, Debug)]
struct Accept {
    /// The invitation (- is standard input)
    invitation: PathBuf,
    #[command(flatten)]
    which: Which,
}

/// Flags of `owner remove`.
#[derive(Args, Debug)]
struct Remove {
    /// The public half of its key, or how it starts
    key: String,
    /// Its key is in wrong hands: what it revoked is void, and whom it added is no owner any more
    #[arg(long)]
    stolen: bool,
    /// The key of another owner who signs, too
    #[arg(long = "sign-with", value_name = "FILE")]
    sign_with: Vec<PathBuf>,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    at: At,
    /// Do it: there is no way back
    #[arg(long)]
    yes: bool,
}

/// Flags of `owner rotate`.
#[derive(Args, Debug)]
struct Rotate {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    at: At,
    /// Do it: there is no way back
    #[arg(long)]
    yes: bool,
}

/// An owner, as it is printed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    key: String,
    range: Ipv4Net,
    standing: &'static str,
    is_us: bool,
    added_by: Option<String>,
}

impl OwnerArgs {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read or written, the change is not valid, or no member took it.
    pub async fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            OwnerCommand::List(command) => command.run(),
            OwnerCommand::Key(command) => command.run(),
            OwnerCommand::Add(command) => command.run().await,
            OwnerCommand::Accept(command) => command.run(),
            OwnerCommand::Remove(command) => command.run().await,
            OwnerCommand::Rotate(command) => command.run().await,
        }
    }
}

impl List {
    fn run(self) -> anyhow::Result<Exit> {
        let mesh = folder::open(&self.which.folder()?)?;
        let us = mint::owner_key(&mesh.owner);
        let row = |owner: &OwnerState| Row {
            key: owner.owner.key.to_string(),
            range: owner.owner.range,
            standing: match owner.standing {
                Standing::Active => "active",
                Standing::Retired => "retired",
                Standing::Void => "void",
            },
            is_us: owner.owner.key == us,
            added_by: owner.added_by.map(|key| key.to_string()),
        };
        let rows: Vec<Row> = mesh.owners.iter().map(row).collect();
        Output::new(self.output).rows(["KEY", "RANGE", "STANDING", ""], &rows, |row| {
            [
                row.key.clone(),
                row.range.to_string(),
                row.standing.to_owned(),
                if row.is_us { "you" } else { "" }.to_owned(),
            ]
        })?;
        Ok(Exit::Done)
    }
}

impl Key {
    fn run(self) -> anyhow::Result<Exit> {
        let path = self.which.new_folder()?;
        let key = folder::begin_owner(&path)?;
        Output::new(Format::Text).raw(format!("{}\n", mint::owner_key(&key)).as_bytes())?;
        note(&format!("the key is in {}; give the line above to a present owner", path.display()));
        Ok(Exit::Done)
    }
}

impl Add {
    async fn run(self) -> anyhow::Result<Exit> {
        let path = self.which.folder()?;
        let mesh = folder::open(&path)?;
        let range = self.range.trunc();
        let is_part = mesh.range.contains(&range) && mesh.range != range;
        if !is_part || !mesh.owners.may_grant(&mint::owner_key(&mesh.owner), &range) {
            return Err(Refusal {
                reason: format!("{range} is not part of {}, or is another owner's already", mesh.range),
                advice: Some("ichorctl owner list shows who gives out what".to_owned()),
            }
            .into());
        }
        if let Some(holder) = OpenBook::open(&path)?.book.holder(&range, "") {
            return Err(Refusal {
                reason: format!("{} in it was given to {}", holder.addresses, holder.names),
                advice: Some("choose a part that nothing was given out of".to_owned()),
            }
            .into());
        }
        let change = OwnerChange::Add(Owner { key: self.key, range });
        tell(&mesh, &self.at, &change, &[]).await?;
        let mesh = folder::open(&path)?;
        Output::new(Format::Text).raw(&mesh.invitation()?)?;
        note("the lines above are for the new owner: ichorctl owner accept");
        Ok(Exit::Done)
    }
}

impl Accept {
    fn run(self) -> anyhow::Result<Exit> {
        let path = self.which.new_folder()?;
        let what = || format!("failed to read {}", self.invitation.display());
        let text = if self.invitation.as_os_str() == "-" {
            crate::files::read_to_limit(std::io::stdin().lock(), MAX_INVITATION).with_context(what)?
        } else {
            read_bounded(&self.invitation, MAX_INVITATION).with_context(what)?
        };
        let mesh = folder::accept(&path, &text)?;
        note(&format!("you give out {} of network {}", mesh.range, mesh.genesis.name));
        note("  next: ichorctl token create --name NODE");
        Ok(Exit::Done)
    }
}

impl Remove {
    async fn run(self) -> anyhow::Result<Exit> {
        let path = self.which.folder()?;
        let mesh = folder::open(&path)?;
        let matching = |owner: &&OwnerState| owner.owner.key.to_string().starts_with(&self.key);
        let found: Vec<_> = mesh.owners.iter().filter(matching).collect();
        let [target] = found[..] else {
            let reason = if found.is_empty() { "no owner" } else { "more than one owner" };
            let text = format!("{reason} has a key that starts with {:?}: ichorctl owner list", self.key);
            return Err(UsageError(text).into());
        };
        let target = target.owner.key;
        confirm(self.yes, || format!("owner {target} would not decide about members any more"))?;
        let others = self.sign_with.iter().map(|path| folder::read_key(path));
        let others: Vec<Secret> = others.collect::<Result<_, _>>()?;
        let change = OwnerChange::Remove { owner: target, void: self.stolen };
        tell(&mesh, &self.at, &change, &others).await?;
        // The folder of an owner who removed itself does not open any more.
        let standing =
            folder::open(&path).ok().and_then(|mesh| mesh.owners.get(&target).map(|owner| owner.standing));
        if standing == Some(Standing::Active) {
            return Err(Refusal {
                reason: "neither a more senior owner nor more than half of all signed that".to_owned(),
                advice: Some("sign together with others: --sign-with FILE".to_owned()),
            }
            .into());
        }
        note(&format!("{target} decides about nobody any more, wherever that is heard of"));
        Ok(Exit::Done)
    }
}

impl Rotate {
    async fn run(self) -> anyhow::Result<Exit> {
        let path = self.which.folder()?;
        let mesh = folder::open(&path)?;
        confirm(self.yes, || "this key would be replaced by a new one".to_owned())?;
        let next = folder::next_key(&path)?;
        let change = OwnerChange::Rotate(mint::owner_key(&next));
        tell(&mesh, &self.at, &change, std::slice::from_ref(&next)).await?;
        // Puts the new key in its place.
        let mesh = folder::open(&path)?;
        note(&format!(
            "you sign as {} from now on; renew your backup of the folder",
            mint::owner_key(&mesh.owner)
        ));
        Ok(Exit::Done)
    }
}

/// Signs a change, hands it in, and writes it down once a member has taken it.
async fn tell(
    mesh: &Mesh,
    at: &At,
    change: &OwnerChange,
    others: &[Secret],
) -> anyhow::Result<SignedOwnerChange> {
    let mut serial = [0; 8];
    SystemRandom::new().fill(&mut serial).map_err(|_| mint::NoRandomness)?;
    let signers: Vec<&Secret> = [&mesh.owner].into_iter().chain(others).collect();
    let signed = change
        .seal(&mesh.network(), serial, &signers, &RealCrypto)
        .map_err(|error| UsageError(format!("such a change cannot be: {error}")))?;
    at.hand_in(mesh, Item::OwnerChange(signed.clone()), &[] as &[SocketAddr]).await?;
    mesh.note_change(&signed)?;
    Ok(signed)
}
