//! Files of JSON behind a checksum: what a torn disk left is noticed and not believed.

use std::io;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::digest_of;
use crate::files;

/// Longest file that is read.
const MAX_BYTES: u64 = 256 << 20;

/// Reads a file; the default value where there is none.
///
/// # Errors
///
/// When it is there and cannot be read, or is damaged.
pub(crate) fn read<T: Default + DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let failed = || format!("failed to read {}", path.display());
    let text = match files::read_bounded(path, MAX_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        text => Zeroizing::new(text.with_context(failed)?),
    };
    let (sum, json) = text.split_once('\n').with_context(failed)?;
    anyhow::ensure!(sum == seal(json), "{} is damaged", path.display());
    serde_json::from_str(json).with_context(failed)
}

/// Writes a file, in place of an older one or not at all.
///
/// # Errors
///
/// When it cannot be written.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let json = Zeroizing::new(serde_json::to_string(value)?);
    let text = Zeroizing::new(format!("{}\n{}", seal(&json), *json));
    files::write_private(path, text.as_bytes()).with_context(|| format!("failed to write {}", path.display()))
}

fn seal(json: &str) -> String {
    format!("{:016x}", digest_of(json.as_bytes()).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_refused_and_a_missing_one_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.json");
        assert_eq!(read::<Vec<String>>(&path).unwrap(), Vec::<String>::new());
        write(&path, &vec!["one", "two"]).unwrap();
        assert_eq!(read::<Vec<String>>(&path).unwrap(), ["one", "two"]);
        let text = std::fs::read_to_string(&path).unwrap().replace("two", "too");
        std::fs::write(&path, text).unwrap();
        assert!(read::<Vec<String>>(&path).unwrap_err().to_string().contains("damaged"));
    }
}
