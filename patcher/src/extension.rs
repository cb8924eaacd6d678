//! What a Talos system extension must be, and our own one.
//!
//! Talos is lenient where it hurts: it passes over keys that it does not know, and neither the node nor the tools
//! that build boot assets look at what an extension brings along. A service that is wrong stays away, or keeps the
//! node from booting. So everything is checked here, before there is an image, and each [`Fault`] names its file
//! and its [`Rule`].
//!
//! ```text
//! text  -> Reader (strict) -> Manifest, ServiceSpec --.
//! files -> Tree ------------------------------------- check -> faults
//! ```

mod check;
mod content;
mod elf;
mod fault;
mod manifest;
mod range;
mod reader;
mod service;
mod tree;

pub use check::{Checked, check};
pub use elf::{ElfProblem, Machine};
pub use fault::{Fault, Rule};
pub use manifest::Manifest;
pub use range::{Range, RangeError};
pub use service::{Dependency, Mount, Restart, ServiceSpec};
pub(crate) use tree::normalize;
pub use tree::{Entry, Kind, Tree, TreeError};

/// Name of the extension and of its service.
pub const NAME: &str = "ichor";

/// The manifest, as it is in the source tree. The workspace is built as a whole and its crates are not published
/// one by one, so a path across crates is always there.
pub const MANIFEST: &str = include_str!("../../extension/manifest.yaml");

/// The service spec, as it is in the source tree.
pub const SERVICE: &str = include_str!("../../extension/ichor.yaml");

/// Where an image has its manifest.
pub const MANIFEST_FILE: &str = "manifest.yaml";

/// The directory of an image that is laid over the root of the node.
pub const ROOTFS: &str = "rootfs";

/// Where Talos looks for service specs, below the root of the node.
pub const SPEC_DIRECTORY: &str = "usr/local/etc/containers";

/// Where the root file systems of services are, below the root of the node.
pub const CONTAINER_DIRECTORY: &str = "usr/local/lib/containers";

/// Where Talos collects bills of materials, below the root of the node.
pub const SBOM_DIRECTORY: &str = "usr/local/share/spdx";

/// A binary above this is refused, in bytes: the extension travels in the initramfs and sits in memory at boot.
pub const MAX_BINARY_BYTES: u64 = 10_000_000;

/// The longest name or value of a Kubernetes label; the node is labelled with name and version.
const MAX_LABEL: usize = 63;
