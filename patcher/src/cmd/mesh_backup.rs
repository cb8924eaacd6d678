//! `mesh backup` and `mesh restore`: the owner's folder in one file.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use zeroize::Zeroizing;

use super::mesh_folder::Which;
use crate::exit::{Exit, Refusal, UsageError};
use crate::files::{read_bounded, write_private};
use crate::output::{Format, Output, note};
use crate::owner::{backup, folder};

/// Longest backup that is read.
const MAX_BACKUP: u64 = 64 << 20;
/// Longest file with a passphrase.
const MAX_PASSPHRASE: u64 = 4 << 10;

/// Flags of `mesh backup`.
#[derive(Args, Debug)]
pub(super) struct Backup {
    /// The file to write; - is standard output
    file: PathBuf,
    #[command(flatten)]
    which: Which,
    /// Seal it with the passphrase in this file (- is standard input)
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Flags of `mesh restore`.
#[derive(Args, Debug)]
pub(super) struct Restore {
    /// The file that `mesh backup` wrote
    file: PathBuf,
    #[command(flatten)]
    which: Which,
    /// The file with the passphrase that it is sealed with (- is standard input)
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Backup {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let path = self.which.folder()?;
        // Locked, so that the files fit each other.
        let (mesh, files) = folder::export(&path)?;
        let passphrase = self.passphrase_file.as_deref().map(passphrase).transpose()?;
        let text =
            backup::pack(mesh.genesis.name.as_str(), &files, passphrase.as_ref().map(|text| text.as_str()))?;
        if self.file.as_os_str() == "-" {
            Output::new(Format::Text).raw(text.as_bytes())?;
        } else {
            if self.file.exists() {
                return Err(Refusal {
                    reason: format!("there is a {} already", self.file.display()),
                    advice: Some("write to another file: old backups are worth keeping".to_owned()),
                }
                .into());
            }
            let what = || format!("failed to write {}", self.file.display());
            write_private(&self.file, text.as_bytes()).with_context(what)?;
        }
        if passphrase.is_none() {
            note("the backup is as secret as the key in it; --passphrase-file seals it");
        }
        Ok(Exit::Done)
    }
}

impl Restore {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let what = || format!("failed to read {}", self.file.display());
        let text = Zeroizing::new(read_bounded(&self.file, MAX_BACKUP).with_context(what)?);
        let passphrase = self.passphrase_file.as_deref().map(passphrase).transpose()?;
        let files = backup::unpack(&text, passphrase.as_ref().map(|text| text.as_str()))?;
        let path = self.which.new_folder()?;
        let mesh = folder::import(&path, &files)?;
        note(&format!("the mesh {} is in {} again", mesh.genesis.name, path.display()));
        Ok(Exit::Done)
    }
}

/// The first line of a file.
fn passphrase(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = if path.as_os_str() == "-" {
        crate::files::read_to_limit(std::io::stdin().lock(), MAX_PASSPHRASE)
    } else {
        read_bounded(path, MAX_PASSPHRASE)
    };
    let text = Zeroizing::new(text.with_context(|| format!("failed to read {}", path.display()))?);
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(UsageError(format!("{} holds no passphrase", path.display())).into());
    }
    Ok(Zeroizing::new(line.to_owned()))
}
