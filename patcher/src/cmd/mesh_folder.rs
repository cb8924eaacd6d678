//! The flags that say which mesh is meant.

use std::path::PathBuf;

use clap::Args;
use ichor_mesh::record::name::Name;

use crate::exit::UsageError;
use crate::owner::folder;

/// Which mesh.
#[derive(Args, Debug)]
pub(super) struct Which {
    /// The mesh; not needed where there is only one
    #[arg(long, value_name = "NAME", conflicts_with = "dir")]
    pub(super) mesh: Option<Name>,
    /// The folder that `mesh init` made
    #[arg(long, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
}

impl Which {
    /// The folder of a mesh that is not here yet.
    pub(super) fn new_folder(&self) -> anyhow::Result<PathBuf> {
        match (&self.dir, &self.mesh) {
            (Some(dir), _) => Ok(dir.clone()),
            (None, Some(_)) => self.folder(),
            (None, None) => {
                Err(UsageError("which name is the mesh to have here? say --mesh".to_owned()).into())
            }
        }
    }

    /// The folder of the mesh that is meant.
    pub(super) fn folder(&self) -> anyhow::Result<PathBuf> {
        if let Some(dir) = &self.dir {
            return Ok(dir.clone());
        }
        if let Some(name) = &self.mesh {
            let path = folder::default_path(name.as_str());
            return path.ok_or_else(|| UsageError("there is no home directory: say --dir".to_owned()).into());
        }
        match &folder::known()[..] {
            [one] => Ok(one.clone()),
            [] => {
                Err(UsageError("there is no mesh here yet: `ichorctl mesh init NAME` begins one".to_owned())
                    .into())
            }
            many => {
                let names: Vec<_> =
                    many.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy())).collect();
                Err(UsageError(format!("which mesh? say --mesh: {}", names.join(", "))).into())
            }
        }
    }
}
