//! Files that must survive: written whole or not at all, with a checksum, for our eyes only.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use blake2::{Blake2s256, Digest as _};

/// Longest file that is read back.
const MAX_LEN: u64 = 64 << 20;
const MAGIC: &str = "ichor-state-1";

/// A directory of state files.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    directory: PathBuf,
}

/// What reading a file gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// What was saved last.
    Found(Vec<u8>),
    /// It was never saved.
    Missing,
    /// It is damaged, and was set aside under this name.
    Damaged(PathBuf),
}

impl Store {
    /// Uses `directory`, which is made with mode 0700 when the first file is saved.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Where `name` is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Replaces the file `name` by `content`. After a crash at any instruction the old or the new content is
    /// there, whole.
    ///
    /// # Errors
    /// Those of the file system: it may be full or read-only.
    pub(crate) fn save(&self, name: &str, content: &[u8]) -> io::Result<()> {
        if !self.directory.is_dir() {
            fs::DirBuilder::new().recursive(true).create(&self.directory)?;
            fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
        }
        let temporary = self.path(&format!(".{name}.new"));
        let written = write_synced(&temporary, &[header(content).as_bytes(), content]);
        if let Err(error) = written.and_then(|()| fs::rename(&temporary, self.path(name))) {
            // What cannot be removed is overwritten next time.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        // The rename itself must reach the disk.
        fs::File::open(&self.directory)?.sync_all()
    }

    /// Reads the file `name`. A damaged one is set aside, so that the next save cannot destroy what a person
    /// may still want to look at.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn load(&self, name: &str) -> io::Result<Loaded> {
        let path = self.path(name);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::Missing),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        file.take(MAX_LEN).read_to_end(&mut bytes)?;
        if let Some(content) = verify(&bytes) {
            return Ok(Loaded::Found(content.to_vec()));
        }
        Ok(Loaded::Damaged(self.set_aside(name)?))
    }

    /// Removes the file `name`, if it is there.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Renames a file that cannot be used, and returns its new name.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn set_aside(&self, name: &str) -> io::Result<PathBuf> {
        let aside = self.path(&format!("{name}.damaged"));
        fs::rename(self.path(name), &aside)?;
        Ok(aside)
    }

    /// What is in a file that was set aside, whatever its checksum says.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn salvage(aside: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        fs::File::open(aside)?.take(MAX_LEN).read_to_end(&mut bytes)?;
        let head = bytes.iter().take(128).position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        bytes.drain(..head);
        Ok(bytes)
    }
}

/// A state file with this content, with its checksum, as the daemon writes it: for those that make up a state.
pub fn file(content: &[u8]) -> Vec<u8> {
    [header(content).as_bytes(), content].concat()
}

fn header(content: &[u8]) -> String {
    let digest = Blake2s256::digest(content);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{MAGIC} {hex}\n")
}

fn verify(bytes: &[u8]) -> Option<&[u8]> {
    let at = bytes.iter().take(128).position(|byte| *byte == b'\n')?;
    let (head, content) = bytes.split_at(at + 1);
    (head == header(content).as_bytes()).then_some(content)
}

/// Writes a file for our eyes only and makes sure that it is on the disk.
fn write_synced(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // The mode above holds for a new file only; a left-over one may have another.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("state"));
        (directory, store)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (_directory, store) = store();
        assert_eq!(store.load("key").unwrap(), Loaded::Missing);
        store.save("key", b"one").unwrap();
        store.save("key", b"two\nlines").unwrap();
        assert_eq!(store.load("key").unwrap(), Loaded::Found(b"two\nlines".to_vec()));
    }

    #[test]
    fn files_are_for_our_eyes_only() {
        let (_directory, store) = store();
        store.save("key", b"secret").unwrap();
        assert_eq!(fs::metadata(store.path("key")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(store.path("")).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn every_damage_is_noticed_and_set_aside() {
        let (_directory, store) = store();
        store.save("key", b"content").unwrap();
        let whole = fs::read(store.path("key")).unwrap();
        for damage in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[damage] ^= 1;
            fs::write(store.path("key"), &flipped).unwrap();
            assert_eq!(
                store.load("key").unwrap(),
                Loaded::Damaged(store.path("key.damaged")),
                "byte {damage}"
            );
            fs::write(store.path("key"), &whole[..damage]).unwrap();
            assert_eq!(
                store.load("key").unwrap(),
                Loaded::Damaged(store.path("key.damaged")),
                "cut at {damage}"
            );
        }
        assert_eq!(store.load("key").unwrap(), Loaded::Missing);
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_content() {
        let (_directory, store) = store();
        store.save("key", b"old").unwrap();
        fs::write(store.path(".key.new"), b"half of the n").unwrap();
        assert_eq!(store.load("key").unwrap(), Loaded::Found(b"old".to_vec()));
        store.save("key", b"new").unwrap();
        assert_eq!(store.load("key").unwrap(), Loaded::Found(b"new".to_vec()));
    }
}
