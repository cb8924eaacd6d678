//! What an image factory is asked for: a schematic, its id, the installers that come of it, and the two other ways
//! to bake the extension into an image (a factory of one's own, and the imager).
//!
//! The public factory serves the official catalogue only. A schematic with our extension is for a factory whose
//! catalogue has it; everybody else uses the imager.

mod canonical;
mod catalogue;
mod imager;
mod installer;
mod parse;

pub use canonical::{QuotingError, canonical, id};
pub use catalogue::{Catalogue, CatalogueEntry, CatalogueError};
pub use imager::{ImagerInput, ImagerPlan, imager};
pub use installer::{Installer, InstallerError};
pub use parse::{SchematicError, parse};

/// The repository of our extension, as a factory compares it: without registry and tag.
pub const EXTENSION: &str = "ichor-mesh/ichor";

/// Where the extension is published.
pub const EXTENSION_IMAGE: &str = "ghcr.io/ichor-mesh/ichor";

/// The public image factory.
pub const PUBLIC_FACTORY: &str = "factory.talos.dev";

/// A schematic. Lists keep their order: it is part of the id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schematic {
    /// Whose it is (Enterprise factories).
    pub owner: Option<String>,
    /// For single-board computers.
    pub overlay: Option<Overlay>,
    /// Arguments of the kernel behind those of Talos.
    pub kernel_args: Vec<String>,
    /// Values for the META partition.
    pub meta: Vec<Meta>,
    /// Repositories of extensions.
    pub extensions: Vec<String>,
    /// The boot loader.
    pub bootloader: Option<String>,
    /// How keys of secure boot are enrolled.
    pub enroll_keys: Option<String>,
    /// Whether Microsoft's certificates are among the keys.
    pub well_known_certificates: bool,
    /// Sector size of disk images.
    pub sector_size: Option<u32>,
}

/// An overlay: what a board needs beside Talos.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Repository of its image.
    pub image: String,
    /// Its name in that image.
    pub name: String,
}

/// A value for the META partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its key.
    pub key: u8,
    /// The value.
    pub value: String,
}

impl Schematic {
    /// Adds an extension at the end, unless it is there. True when it was added.
    pub fn add_extension(&mut self, repository: &str) -> bool {
        let is_new = !self.extensions.iter().any(|other| other == repository);
        if is_new {
            self.extensions.push(repository.to_owned());
        }
        is_new
    }
}
