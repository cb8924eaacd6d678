//! `kubeconfig`: the admin kubeconfig of the cluster.

use std::fs::DirBuilder;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{ArgAction, Args};
use zeroize::Zeroizing;

use super::connection::Connection;
use crate::exit::{Exit, Refusal, UsageError};
use crate::files;
use crate::kubeconfig::{Conflict, default_path, merge};
use crate::output::{self, Format, Output};

/// Larger kubeconfigs are refused.
const MAX_BYTES: u64 = 16 << 20;

/// Flags of `kubeconfig`.
#[derive(Args, Debug)]
pub struct Kubeconfig {
    /// The file or directory to write to; - with --merge=false prints it
    path: Option<PathBuf>,
    /// Replace what is there: the file, or with --merge whatever has the same name
    #[arg(short, long)]
    force: bool,
    /// With --merge: the name of the context
    #[arg(long, value_name = "NAME")]
    force_context_name: Option<String>,
    /// Merge into a kubeconfig that is there
    #[arg(short, long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, value_name = "BOOL",
          default_value_t = true, default_missing_value = "true")]
    merge: bool,
}

impl Kubeconfig {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When the node does not send it, or it cannot be written.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let node = connection.session()?.single("kubeconfig")?;
        if !self.merge && self.path.as_deref() == Some(Path::new("-")) {
            let text = node.kubeconfig().await?;
            Output::new(Format::Text).raw(text.as_bytes())?;
            return Ok(Exit::Done);
        }
        let path = self.target()?;
        let exists = path.exists();
        if exists && !self.force && !self.merge {
            let reason = format!("{} is there already", path.display());
            return Err(
                Refusal { reason, advice: Some("use --force to replace it, or --merge".to_owned()) }.into()
            );
        }
        let text = node.kubeconfig().await?;
        let text = if exists && self.merge { self.merged(&path, &text)? } else { text };
        if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(directory);
            made.with_context(|| format!("failed to make {}", directory.display()))?;
        }
        files::write_private(&path, text.as_bytes())
            .with_context(|| format!("failed to write {}", path.display()))?;
        Ok(Exit::Done)
    }

    fn target(&self) -> anyhow::Result<PathBuf> {
        let path = match &self.path {
            Some(path) => path.clone(),
            None if self.merge => {
                let variable = std::env::var("KUBECONFIG").ok();
                let home = std::env::var_os("HOME").map(PathBuf::from);
                let missing =
                    || UsageError("KUBECONFIG names several files: give one as the argument".to_owned());
                default_path(variable.as_deref(), home).ok_or_else(missing)?
            }
            None => PathBuf::from("."),
        };
        Ok(if path.is_dir() { path.join("kubeconfig") } else { path })
    }

    fn merged(&self, path: &Path, new: &str) -> anyhow::Result<Zeroizing<String>> {
        let existing = files::read_bounded(path, MAX_BYTES).map(Zeroizing::new);
        let existing = existing.with_context(|| format!("failed to read {}", path.display()))?;
        let decide = |what: &'static str, name: &str| match self.force {
            true => Conflict::Overwrite,
            false => ask(what, name),
        };
        let (text, renames) = merge(&existing, new, self.force_context_name.as_deref(), decide)
            .with_context(|| format!("failed to merge into {}", path.display()))?;
        for rename in renames {
            output::note(&format!("renamed {} {:?} -> {:?}", rename.what, rename.from, rename.to));
        }
        Ok(text)
    }
}

/// Asks on a terminal; otherwise, and in doubt, the newcomer is renamed.
fn ask(what: &str, name: &str) -> Conflict {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Conflict::Rename;
    }
    let mut stderr = io::stderr().lock();
    let question = output::escape(&format!("{what} {name:?} already exists"));
    let mut answer = String::new();
    let asked = write!(stderr, "{question} [(r)ename/(o)verwrite]: ").and_then(|()| stderr.flush());
    if asked.is_err() || io::stdin().lock().read_line(&mut answer).is_err() {
        return Conflict::Rename;
    }
    match answer.trim().to_lowercase().as_str() {
        "o" | "overwrite" => Conflict::Overwrite,
        _ => Conflict::Rename,
    }
}
