//! `etcd verify`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::exit::Exit;
use crate::output::{Format, Output, Table, bytes};
use crate::snapshot::{HashCheck, Verified, verify};

/// Flags of `etcd verify`.
#[derive(Args, Debug)]
pub(super) struct Verify {
    /// The snapshot
    path: PathBuf,
    /// Take a file without a hash too: a copy of etcd's own database
    #[arg(long)]
    skip_hash_check: bool,
    /// How to print what is in it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Shown {
    path: String,
    #[serde(flatten)]
    verified: Verified,
}

impl Verify {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let hash = if self.skip_hash_check { HashCheck::Skipped } else { HashCheck::Required };
        let path = self.path.clone();
        let verified = tokio::task::spawn_blocking(move || verify(&path, hash)).await??;
        let shown = Shown { path: self.path.display().to_string(), verified };
        Output::new(self.output).record(&shown, |shown| {
            format!("{:?}: {} bytes\n{}", shown.path, shown.verified.bytes, describe(&shown.verified))
        })?;
        Ok(Exit::Done)
    }
}

/// What a snapshot holds, for people.
pub(super) fn describe(verified: &Verified) -> String {
    let contents = &verified.contents;
    let or_none = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let version = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let hash = match &verified.sha256 {
        Some(sha256) => format!("verified, sha256 {sha256}"),
        None => "none: this is no snapshot but a copy of a database".to_owned(),
    };
    let facts = [
        ("hash", hash),
        ("revision", contents.revision.to_string()),
        ("keys", format!("{} ({} revisions of keys)", contents.total_keys, contents.revisions)),
        ("database", format!("{}, crc32c {:08x}", bytes(contents.database_bytes), contents.crc32c)),
        ("applied", format!("index {}, term {}", or_none(contents.consistent_index), or_none(contents.term))),
        (
            "version",
            format!(
                "cluster {}, storage {}",
                version(&contents.cluster_version),
                version(&contents.storage_version)
            ),
        ),
    ];
    let facts = facts.into_iter().map(|(name, value)| [name.to_owned(), value]);
    let mut text = Table::default().lines(facts);
    let members = contents.members.iter().map(|member| {
        let name = if member.name.is_empty() { "(not started)" } else { &member.name };
        [member.id.clone(), name.to_owned(), member.peer_urls.join(","), member.is_learner.to_string()]
    });
    let head = ["MEMBER", "NAME", "PEER URLS", "LEARNER"].map(str::to_owned);
    text.push_str(&Table::default().lines(std::iter::once(head).chain(members)));
    text
}
