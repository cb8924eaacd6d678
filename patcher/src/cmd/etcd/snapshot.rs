//! `etcd snapshot`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::api::NodeClient;
use crate::exit::Exit;
use crate::output::{Format, Output};
use crate::snapshot;

/// Flags of `etcd snapshot`.
#[derive(Args, Debug)]
pub(super) struct Snapshot {
    /// The file to write
    path: PathBuf,
    /// How to print what was written
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Saved {
    node: String,
    path: String,
    bytes: u64,
    sha256: String,
}

impl Snapshot {
    pub(super) async fn run(self, node: &NodeClient) -> anyhow::Result<Exit> {
        let info = snapshot::save(node, &self.path).await?;
        let saved = Saved {
            node: node.name().to_owned(),
            path: self.path.display().to_string(),
            bytes: info.bytes,
            sha256: info.sha256_hex(),
        };
        Output::new(self.output).record(&saved, |saved| {
            format!(
                "etcd snapshot saved to {:?} ({} bytes)\nsnapshot info: hash verified, sha256 {}\n",
                saved.path, saved.bytes, saved.sha256
            )
        })?;
        Ok(Exit::Done)
    }
}
