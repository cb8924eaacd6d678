//! Handing an owner's operation to a member.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use ichor_mesh::crypto::RealCrypto;
use ichor_mesh::record::RecordId;
use ichor_mesh::record::tombstone::{End, Tombstone};
use ichor_mesh::roster::Item;

use crate::exit::{Refusal, Unproven, UsageError};
use crate::output::note;
use crate::owner::act::{ActError, act};
use crate::owner::folder::Mesh;

/// Where an owner's operation is handed in.
#[derive(Args, Debug)]
pub(super) struct At {
    /// A member's UDP port [default: the seeds of the mesh, and where members are seen]
    #[arg(long = "at", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    at: Vec<SocketAddr>,
}

impl At {
    /// Hands in what is signed. `more`: where members were seen beside the seeds.
    pub(super) async fn hand_in(&self, mesh: &Mesh, item: Item, more: &[SocketAddr]) -> anyhow::Result<()> {
        let mut to = if self.at.is_empty() { [&mesh.seeds[..], more].concat() } else { self.at.clone() };
        to.sort_unstable();
        to.dedup();
        if to.is_empty() {
            return Err(UsageError("where is a member? say --at ADDRESS:PORT".to_owned()).into());
        }
        match act(mesh, &item, &to).await {
            Ok((by, acted)) => {
                note(&format!("taken by the member at {by}"));
                if let Some(Err(error)) = acted.map(|acted| mesh.learn(&acted)) {
                    note(&format!("warning: what it said could not be written down: {error}"));
                }
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

    /// Signs the end of a member or token, and hands it in. `more`: where members were seen beside the seeds.
    pub(super) async fn revoke(&self, mesh: &Mesh, end: End, more: &[SocketAddr]) -> anyhow::Result<()> {
        let tombstone = Tombstone { end, time: now() }.seal(&mesh.network(), &mesh.owner, &RealCrypto)?;
        self.hand_in(mesh, Item::Tombstone(tombstone), more).await
    }

    /// Revokes the unused rest of a token.
    pub(super) async fn revoke_token(&self, mesh: &Mesh, grant: RecordId) -> anyhow::Result<()> {
        self.revoke(mesh, End::Token(grant), &[]).await
    }
}

/// Refuses what was not meant.
pub(super) fn confirm(yes: bool, what: impl FnOnce() -> String) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    Err(Refusal { reason: what(), advice: Some("the same command with --yes does it".to_owned()) }.into())
}

/// Seconds since the Unix epoch.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
