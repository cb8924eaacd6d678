//! The key that a daemon has of its own, when its config names none.

use std::io;
use std::path::{Path, PathBuf};

use ichor_mesh::key::SecretKey;

use crate::store::Store;

/// The file in the state directory.
pub(crate) const PRIVATE_KEY: &str = "private-key";

/// Saves the key for the next start, as if the daemon had made it: others can be told of it before it runs.
///
/// # Errors
/// Those of the file system: it may be full or read-only.
pub fn save(state_directory: &Path, secret: &SecretKey) -> io::Result<()> {
    Store::new(PathBuf::from(state_directory)).save(PRIVATE_KEY, secret.expose_base64().as_bytes())
}
