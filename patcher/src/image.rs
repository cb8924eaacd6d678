//! OCI images of the extension: made, stored, pushed and looked at, without docker and without root.
//!
//! ```text
//! binaries -> build -> Image (blobs) -> layout (directory, tar) or registry
//! layout, registry -> Store (blobs) -> unpack -> extension::Tree -> inspect
//! ```
//! Whatever comes from outside is bounded and checked against its digest before it is read.

mod build;
mod digest;
mod docker;
mod inspect;
mod installer;
mod layer;
mod layout;
mod model;
mod reference;
mod registry;
mod sbom;
mod unpack;

pub use build::{BuildError, Image, Inputs, bill_of_materials, build};
pub use digest::{Digest, DigestError};
pub use docker::{Credentials, DockerConfig, DockerConfigError};
pub use inspect::{Inspection, PlatformReport, inspect};
pub use installer::{InstallerContents, InstallerImageError, installer_contents};
pub use layout::{LayoutError, Store, open, write_archive, write_directory};
pub use model::Descriptor;
pub use reference::{Reference, ReferenceError};
pub use registry::{Registry, RegistryError};
pub use sbom::SbomError;
pub use unpack::UnpackError;
