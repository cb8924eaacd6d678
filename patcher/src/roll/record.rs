//! The journal on the disk.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ichor_rollout::journal::{Entry, Journal, decode, encode, whole_len};

use crate::exit::Refusal;

/// Longest journal that is read.
const MAX_BYTES: u64 = 64 << 20;

/// A journal that is open for writing. Each entry is on the disk before [`Record::write`] returns.
#[derive(Debug)]
pub(crate) struct Record {
    file: File,
    path: PathBuf,
}

impl Record {
    /// Opens a journal, or begins one. One that is finished is begun anew; the old one is kept beside it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<(Self, Journal)> {
        let failed = || format!("failed to open the journal {}", path.display());
        if let Some(folder) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(failed)?;
        }
        let (mut file, entries) = Self::read(path).with_context(failed)?;
        if matches!(entries.last(), Some(Entry::Finish { .. })) {
            std::fs::rename(path, path.with_extension("journal.finished")).with_context(failed)?;
            (file, _) = Self::read(path).with_context(failed)?;
            return Ok((Self { file, path: path.to_owned() }, Journal::default()));
        }
        file.seek(SeekFrom::End(0)).with_context(failed)?;
        Ok((Self { file, path: path.to_owned() }, Journal::replay(entries)))
    }

    /// All whole entries. A torn last line is cut off: what it was about was never done.
    fn read(path: &Path) -> anyhow::Result<(File, Vec<Entry>)> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        // Two processes would write over each other.
        file.try_lock().map_err(|_| Refusal {
            reason: "another process is at it".to_owned(),
            advice: Some("wait until it is done".to_owned()),
        })?;
        anyhow::ensure!(file.metadata()?.len() <= MAX_BYTES, "it is too long");
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let entries = decode(&bytes)?;
        file.set_len(whole_len(&bytes) as u64)?;
        Ok((file, entries))
    }

    /// Writes an entry.
    pub(crate) fn write(&mut self, entry: &Entry) -> anyhow::Result<()> {
        let failed = || format!("failed to write the journal {}", self.path.display());
        let line = encode(entry)?;
        let mut write = || -> io::Result<()> {
            self.file.write_all(line.as_bytes())?;
            self.file.sync_data()
        };
        write().with_context(failed)
    }
}

/// The file of the journal in a folder.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("rollout.journal")
}

/// What an earlier process left in a folder, without taking it up.
pub(crate) fn peek(folder: &Path) -> anyhow::Result<Journal> {
    let path = path(folder);
    match std::fs::read(&path) {
        Ok(bytes) => {
            Ok(Journal::replay(decode(&bytes).with_context(|| format!("failed to read {}", path.display()))?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Journal::default()),
        Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
    }
}

/// Where journals and snapshots of a cluster are kept: a folder in that of all clusters.
pub(crate) fn folder(name: &str) -> anyhow::Result<PathBuf> {
    let safe: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    Ok(state()?.join(safe.trim_start_matches('.')))
}

/// Where this program keeps what it remembers: `$XDG_STATE_HOME/ichor`, by default in `~/.local/state`.
pub(crate) fn state() -> anyhow::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value: &std::ffi::OsString| !value.is_empty());
    let state = variable("XDG_STATE_HOME").map(PathBuf::from);
    let home = || variable("HOME").map(|home| Path::new(&home).join(".local/state"));
    let state = state.or_else(home).context("neither XDG_STATE_HOME nor HOME is set: say --state DIR")?;
    Ok(state.join("ichor"))
}
