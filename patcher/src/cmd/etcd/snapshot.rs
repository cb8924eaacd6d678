//! `etcd snapshot`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::verify::describe;
use crate::api::NodeClient;
use crate::exit::Exit;
use crate::output::{Format, Output};
use crate::snapshot::{self, Verified};

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
    #[serde(flatten)]
    verified: Verified,
}

impl Snapshot {
    pub(super) async fn run(self, node: &NodeClient) -> anyhow::Result<Exit> {
        let verified = snapshot::take_verified(node, &self.path).await?;
        let path = self.path.display().to_string();
        let saved = Saved { node: node.name().to_owned(), path, verified };
        Output::new(self.output).record(&saved, |saved| {
            let title = format!("etcd snapshot saved to {:?}", saved.path);
            format!("{title} ({} bytes)\n{}", saved.verified.bytes, describe(&saved.verified))
        })?;
        Ok(Exit::Done)
    }
}
