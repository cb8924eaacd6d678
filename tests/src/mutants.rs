//! Wrong rules, planted one after the other into a copy of the source, to see whether a check notices them.
//!
//! Honest by construction: what is checked is the source with one text changed and nothing else. The unchanged copy must
//! pass first. A text that is not there exactly once is an error and no catch.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

/// A wrong rule.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// What it does.
    pub name: &'static str,
    /// The file that it is in, from the root.
    pub file: &'static str,
    /// The right rule.
    pub from: &'static str,
    /// The wrong one.
    pub to: &'static str,
}

/// A copy of the source, to plant in.
#[derive(Debug)]
pub struct Copy {
    /// The folder of the copy.
    pub tree: PathBuf,
    /// Where what belongs to it can be built.
    pub target: PathBuf,
}

impl Copy {
    /// Copies the tracked files into the folder `name` of the target folder.
    ///
    /// # Errors
    ///
    /// When git, or the disk, does not go along.
    pub fn new(name: &str) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests are below the root")?;
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let target = target.join(name);
        let copy = Self { tree: target.join("tree"), target };
        copy_tracked(root, &copy.tree)?;
        Ok(copy)
    }

    /// Plants each of `mutants` in turn. `check` says what the copy comes to when something is noticed, and nothing
    /// when not. `passed` says what the unchanged copy came to.
    ///
    /// # Errors
    ///
    /// When the unchanged copy does not pass, a rule is not there, or a check comes to no end.
    pub fn plant(
        &self,
        mutants: &[Mutant],
        passed: &str,
        check: impl Fn(&Self) -> Result<Option<String>>,
    ) -> Result<ExitCode> {
        let mut out = io::stdout().lock();
        let found = check(self).context("the source as it is")?;
        ensure!(found.is_none(), "the source as it is must pass: {}", found.unwrap_or_default());
        writeln!(out, "{passed}: the source as it is")?;
        let mut missed = 0;
        for mutant in mutants {
            let path = self.tree.join(mutant.file);
            let text = fs::read_to_string(&path)?;
            let count = text.matches(mutant.from).count();
            ensure!(count == 1, "{}: the rule stands {count} times in {}", mutant.name, mutant.file);
            fs::write(&path, text.replace(mutant.from, mutant.to))?;
            let found = check(self).with_context(|| mutant.name);
            fs::write(&path, text)?;
            match found? {
                Some(found) => writeln!(out, "{found}: {}", mutant.name)?,
                None => {
                    missed += 1;
                    writeln!(out, "not noticed: {}", mutant.name)?;
                }
            }
            out.flush()?;
        }
        writeln!(out, "{} of {} wrong rules were noticed", mutants.len() - missed, mutants.len())?;
        Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Makes `to` the tracked files of `from`. What is the same already keeps its time, so that little is built anew.
fn copy_tracked(from: &Path, to: &Path) -> Result<()> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(from).output()?;
    ensure!(listed.status.success(), "git ls-files failed in {}", from.display());
    let names = String::from_utf8(listed.stdout)?;
    for name in names.split_terminator('\0') {
        let source = from.join(name);
        let content = match fs::read(&source) {
            // Taken out, but not committed yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            content => content.with_context(|| format!("failed to read {}", source.display()))?,
        };
        write_if_new(&to.join(name), &content)?;
    }
    Ok(())
}

/// Writes a file, unless it is so already: then it keeps its time.
///
/// # Errors
///
/// When the disk does not go along.
pub fn write_if_new(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    fs::write(path, content).with_context(|| format!("failed to write {}", path.display()))
}
