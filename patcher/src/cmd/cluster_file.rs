//! The cluster file of those commands that take one.

use std::path::Path;

use anyhow::Context as _;

use crate::cluster::{self, Cluster};
use crate::exit::UsageError;
use crate::files::read_bounded;

/// Reads a cluster file; everything that is wrong with it is told at once, with file and line.
///
/// # Errors
///
/// Those of reading, and [`UsageError`] for what it says.
pub(super) fn load(path: &Path) -> anyhow::Result<Cluster> {
    let read = || format!("failed to read the cluster file {}", path.display());
    let text = read_bounded(path, cluster::MAX_BYTES).with_context(read)?;
    Cluster::parse(&text).map_err(|errors| {
        let errors = errors.0.iter().map(|error| format!("{}: {error}", path.display()));
        UsageError(errors.collect::<Vec<_>>().join("\n")).into()
    })
}
