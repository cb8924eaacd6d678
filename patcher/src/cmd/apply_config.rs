//! `apply-config`: gives nodes a machine config from a file.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use zeroize::Zeroizing;

use super::change::{ApplyFlags, Target};
use super::connection::{Connection, Insecure};
use super::patches::patched;
use crate::api::NodeClient;
use crate::config_update::NodeConfig;
use crate::exit::{Exit, UsageError};
use crate::files;
use crate::machine::parse::MAX_BYTES;
use crate::patch::TalosLine;

/// Flags of `apply-config`.
#[derive(Args, Debug)]
pub struct ApplyConfig {
    /// The machine config
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// A patch for the config before it is sent, strategic merge or JSON; @FILE reads it from a file; may be given
    /// several times
    #[arg(short = 'p', long = "config-patch", value_name = "PATCH")]
    patches: Vec<String>,
    #[command(flatten)]
    apply: ApplyFlags,
    #[command(flatten)]
    insecure: Insecure,
    /// With --insecure and patches: the Talos version whose rules apply, for nodes that do not tell theirs
    #[arg(long, value_name = "VERSION", requires = "insecure", value_parser = talos_line)]
    talos_version: Option<TalosLine>,
}

impl ApplyConfig {
    /// Runs the command, on all nodes side by side.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, there is nobody to ask, or nowhere to print.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let text = read(&self.file)?;
        let fleet = connection.session_or_insecure(&self.insecure)?.fleet()?;
        let (this, text) = (&self, &text);
        let call = |node: NodeClient| async move {
            match this.insecure.insecure {
                true => this.first(&node, text).await,
                false => this.replace(&node, text).await,
            }
        };
        Ok(fleet.run(call).await?.finish())
    }

    async fn replace(&self, node: &NodeClient, text: &str) -> anyhow::Result<()> {
        let target = Target::of(node, self.apply).await?;
        let before = NodeConfig::read(node).await?;
        let after = self.patch(text, target.line)?;
        self.apply.apply(node, &target, &before, &after).await
    }

    /// A node in maintenance mode has no config, and up to Talos 1.12 it does not tell its version either.
    async fn first(&self, node: &NodeClient, text: &str) -> anyhow::Result<()> {
        let text = match (&*self.patches, self.talos_version) {
            ([], _) => Zeroizing::new(text.to_owned()),
            (_, Some(line)) => self.patch(text, line)?,
            (_, None) => match Target::of(node, self.apply).await {
                Ok(target) => self.patch(text, target.line)?,
                Err(error) => {
                    let advice = "its version is needed for the patches: give it with --talos-version";
                    return Err(error.context(format!("{} does not tell its version; {advice}", node.name())));
                }
            },
        };
        self.apply.send_first(node, &text).await
    }

    fn patch(&self, text: &str, line: TalosLine) -> anyhow::Result<Zeroizing<String>> {
        match &*self.patches {
            [] => Ok(Zeroizing::new(text.to_owned())),
            patches => patched(text, patches, line),
        }
    }
}

/// Reads a config; one that no node takes anyway is refused here.
fn read(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = files::read_bounded(path, MAX_BYTES as u64);
    let text = Zeroizing::new(text.with_context(|| format!("failed to read {}", path.display()))?);
    if text.trim().is_empty() {
        bail!(UsageError(format!("{} is empty: there is no machine config in it", path.display())));
    }
    Ok(text)
}

fn talos_line(version: &str) -> Result<TalosLine, String> {
    TalosLine::of_version(version).ok_or_else(|| "give v1.11 or newer".to_owned())
}
