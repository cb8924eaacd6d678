//! Files that hold secrets or must never be half-written.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A file that appears under its name all at once, with mode 0600.
///
/// Bytes go to a temporary file beside it. [`AtomicFile::commit`] makes them durable and renames; a drop without it
/// leaves what was there before and no trace of the rest. A name that is a symbolic link keeps being one: its
/// target is replaced.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl AtomicFile {
    /// Starts to write what will be `path`. Its directory must be there.
    ///
    /// # Errors
    ///
    /// Those of creating a file in that directory.
    pub fn create(path: &Path) -> io::Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let target = match fs::canonicalize(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
            resolved => resolved?,
        };
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = target.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        Ok(Self { file, temporary, target, committed: false })
    }

    /// Opens what was written so far for reading.
    ///
    /// # Errors
    ///
    /// Those of opening a file.
    pub fn reopen(&self) -> io::Result<File> {
        File::open(&self.temporary)
    }

    /// Makes the content durable and gives it its name.
    ///
    /// # Errors
    ///
    /// Those of fsync and rename. The old file is untouched then.
    pub fn commit(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.temporary, &self.target)?;
        self.committed = true;
        let directory = self.target.parent().filter(|path| !path.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nobody is left to tell: the error that led here is already on its way up.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Writes a whole file as [`AtomicFile`] does, after making its directory (mode 0700) if it is missing.
///
/// # Errors
///
/// Those of the file system. The old file is untouched then.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut file = AtomicFile::create(path)?;
    file.write_all(content)?;
    file.commit()
}

/// Reads a text file of at most `limit` bytes.
///
/// # Errors
///
/// Those of reading, `FileTooLarge` above the limit, and `InvalidData` when it is not UTF-8.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<String> {
    read_to_limit(File::open(path)?, limit)
}

/// Reads text of at most `limit` bytes from any source, as [`read_bounded`] does from a file.
///
/// # Errors
///
/// As [`read_bounded`].
pub fn read_to_limit(source: impl Read, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {limit} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_committed_file_is_private_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/config");
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(names(path.parent().unwrap()), ["config"]);
    }

    #[test]
    fn a_dropped_file_changes_nothing_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot");
        fs::write(&path, "old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["snapshot"]);
    }

    #[test]
    fn a_symbolic_link_stays_and_its_target_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        let link = dir.path().join("link");
        fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write_private(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"new");
    }

    #[test]
    fn reading_stops_at_the_limit() {
        assert_eq!(read_to_limit(&b"12345"[..], 5).unwrap(), "12345");
        assert_eq!(read_to_limit(&b"123456"[..], 5).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_to_limit(&[0xff, 0xfe][..], 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}
