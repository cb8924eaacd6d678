//! `patch`: changes the machine configs of nodes with patches.

use std::path::PathBuf;

use clap::Args;

use super::change::{ApplyFlags, Subject, Target};
use super::connection::Connection;
use super::patches::patched;
use crate::api::NodeClient;
use crate::config_update::{NodeConfig, is_same};
use crate::exit::{Exit, UsageError};

/// Flags of `patch`.
#[derive(Args, Debug)]
pub struct Patch {
    #[command(flatten)]
    _subject: Subject,
    /// A patch, strategic merge or JSON; @FILE reads it from a file; may be given several times
    #[arg(short, long = "patch", value_name = "PATCH")]
    patches: Vec<String>,
    /// A file with a patch, applied after the others
    #[arg(long, value_name = "FILE")]
    patch_file: Option<PathBuf>,
    #[command(flatten)]
    apply: ApplyFlags,
}

impl Patch {
    /// Runs the command: one node after the other, and no further after a failure. A dry run asks all at once.
    ///
    /// # Errors
    ///
    /// When there is nothing to apply, nobody to ask, or nowhere to print.
    pub async fn run(mut self, connection: &Connection) -> anyhow::Result<Exit> {
        if let Some(file) = self.patch_file.take() {
            self.patches.push(format!("@{}", file.display()));
        }
        if self.patches.is_empty() {
            return Err(UsageError("there is no patch: give one with --patch or --patch-file".into()).into());
        }
        let fleet = connection.session()?.fleet()?;
        let (flags, patches) = (self.apply, &self.patches);
        let call = |node: NodeClient| async move { change(flags, &node, patches).await };
        let failures = if flags.is_dry() { fleet.run(call).await? } else { fleet.in_turn(call).await? };
        Ok(failures.finish())
    }
}

async fn change(flags: ApplyFlags, node: &NodeClient, patches: &[String]) -> anyhow::Result<()> {
    let target = Target::of(node, flags).await?;
    let before = NodeConfig::read(node).await?;
    let base = &before.base(flags.mode()).text;
    let after = patched(base, patches, target.line)?;
    // A patch that only changes how it is written changes nothing.
    let after = if is_same(base, &after) { base.clone() } else { after };
    flags.apply(node, &target, &before, &after).await
}
