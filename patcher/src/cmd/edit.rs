//! `edit`: changes the machine config of a node in an editor.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::process::Command;
use zeroize::Zeroizing;

use super::change::{ApplyFlags, Subject, Target};
use super::connection::Connection;
use crate::api::{ApiError, Cause, NodeClient};
use crate::config_update::NodeConfig;
use crate::exit::Exit;
use crate::files;
use crate::interrupt::Hold;
use crate::machine::parse::MAX_BYTES;
use crate::output;

/// Flags of `edit`.
#[derive(Args, Debug)]
pub struct Edit {
    #[command(flatten)]
    _subject: Subject,
    #[command(flatten)]
    apply: ApplyFlags,
}

impl Edit {
    /// Runs the command, one node after the other.
    ///
    /// # Errors
    ///
    /// When there is nobody to ask, or nowhere to print.
    pub async fn run(self, connection: &Connection) -> anyhow::Result<Exit> {
        let fleet = connection.session()?.fleet()?;
        let flags = self.apply;
        Ok(fleet.in_turn(|node| async move { edit(flags, &node).await }).await?.finish())
    }
}

/// Opens the editor until the node takes what comes out of it, or the user gives up: by leaving the text as it was,
/// or by emptying it.
async fn edit(flags: ApplyFlags, node: &NodeClient) -> anyhow::Result<()> {
    let target = Target::of(node, flags).await?;
    let before = NodeConfig::read(node).await?;
    let base = &before.base(flags.mode()).text;
    let mut draft = Draft::new(node.name());
    let mut text = base.clone();
    let mut problem: Option<anyhow::Error> = None;
    loop {
        let edited = draft.open(&text, problem.as_ref().map(|error| format!("{error:#}")).as_deref()).await?;
        if let Some(problem) = problem.take().filter(|_| *edited == *text) {
            return Err(problem.context("nothing was changed in the editor after the last refusal"));
        }
        if edited.trim().is_empty() {
            output::note(&format!("{}: nothing to do, the text is empty", node.name()));
            return Ok(());
        }
        match flags.apply(node, &target, &before, &edited).await {
            Ok(()) => return Ok(()),
            // What is wrong with the text can be mended in the editor; the rest cannot.
            Err(error) if is_refusal(&error) => (text, problem) = (edited, Some(error)),
            Err(error) => {
                let kept = draft.keep(&edited)?;
                return Err(error.context(format!("your text is kept in {}", kept.display())));
            }
        }
    }
}

fn is_refusal(error: &anyhow::Error) -> bool {
    let refused = |cause: &ApiError| matches!(cause.cause, Cause::Invalid(_) | Cause::Other { .. });
    error.chain().any(|cause| cause.downcast_ref().is_some_and(refused))
}

/// A private file for the editor. It holds secrets, so it is gone when this is dropped.
struct Draft {
    directory: PathBuf,
    file: PathBuf,
    title: String,
    is_kept: bool,
}

impl Draft {
    fn new(node: &str) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        // In memory where there is such a place.
        let base = env::var_os("XDG_RUNTIME_DIR").map_or_else(env::temp_dir, PathBuf::from);
        let directory = base.join(format!("ichorctl-edit-{}-{count}", std::process::id()));
        let file = directory.join("machineconfig.yaml");
        let title = format!("# Machine config of {node}. Save and leave the editor to apply it.");
        Self { directory, file, title, is_kept: false }
    }

    /// Has the user edit `text`, below a comment with `problem`.
    async fn open(&mut self, text: &str, problem: Option<&str>) -> anyhow::Result<Zeroizing<String>> {
        let mut head = vec![self.title.clone()];
        head.extend(
            problem.into_iter().flat_map(str::lines).map(|line| format!("# {}", output::escape(line))),
        );
        let head = head.join("\n");
        self.write(&Zeroizing::new(format!("{head}\n{text}")))?;
        launch(&self.file).await?;
        let edited = files::read_bounded(&self.file, MAX_BYTES as u64);
        let edited =
            Zeroizing::new(edited.with_context(|| format!("failed to read {}", self.file.display()))?);
        Ok(Zeroizing::new(without_head(&edited, &head).to_owned()))
    }

    /// Leaves the file where it is, with the text alone.
    fn keep(&mut self, text: &str) -> anyhow::Result<&Path> {
        self.write(text)?;
        self.is_kept = true;
        Ok(&self.file)
    }

    fn write(&self, text: &str) -> anyhow::Result<()> {
        files::write_private(&self.file, text.as_bytes())
            .with_context(|| format!("failed to write {}", self.file.display()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept {
            // Nobody is left to tell.
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// What the user left of the file, without those of our lines that are still at its top.
fn without_head<'a>(edited: &'a str, head: &str) -> &'a str {
    head.lines().fold(edited, |rest, line| {
        let rest_of_line = rest.strip_prefix(line);
        rest_of_line
            .and_then(|rest| rest.strip_prefix('\n').or_else(|| rest.strip_prefix("\r\n")))
            .unwrap_or(rest)
    })
}

/// Runs the user's editor, which may be a command with arguments, and waits for its end.
async fn launch(file: &Path) -> anyhow::Result<()> {
    let set = |name| env::var_os(name).filter(|value: &OsString| !value.is_empty());
    let editor = set("TALOS_EDITOR").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".into());
    let mut script = editor.clone();
    script.push(" \"$1\"");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg("sh").arg(file);
    command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let _hold = Hold::begin();
    let status = command.status().await;
    let status = status.with_context(|| format!("failed to start the editor {}", editor.display()))?;
    if !status.success() {
        bail!("the editor {} failed ({status}): nothing was changed", editor.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_go_and_comments_of_the_user_stay() {
        let head = "# title\n# problem";
        assert_eq!(without_head("# title\n# problem\n# mine\na: 1\n", head), "# mine\na: 1\n");
        assert_eq!(without_head("# problem\na: 1\n", head), "a: 1\n");
        assert_eq!(without_head("a: 1\n", head), "a: 1\n");
    }
}
