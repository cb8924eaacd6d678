//! Makes the image of the extension from two binaries. Pure: the same input gives the same bytes.

use std::collections::BTreeMap;
use std::io;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Digest;
use super::layer::{archive, gzip};
use super::layout::{Store, json};
use super::model::{
    CONFIG, Config, Descriptor, INDEX, Index, LAYER_GZIP, MANIFEST, Manifest, Platform, RootFs, RunConfig,
    SOURCE,
};
use super::sbom::{SbomError, spdx};
use crate::extension::{
    self, CONTAINER_DIRECTORY, Entry, Fault, MANIFEST_FILE, Machine, NAME, ROOTFS, SBOM_DIRECTORY,
    SPEC_DIRECTORY, Tree, TreeError,
};

/// Where the daemon is in the root file system of its service.
const BINARY: &str = "usr/local/bin/ichord";

/// What an image is made of.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `ichord` for each machine, in the order of [`Machine::ALL`].
    pub binaries: [&'a [u8]; 2],
    /// The lock file that the binaries were built with.
    pub lock: &'a str,
    /// The manifest.
    pub manifest: &'a str,
    /// The service spec.
    pub service: &'a str,
    /// The time that everything gets, in seconds since 1970.
    pub seconds: u64,
}

/// An image for all machines.
#[derive(Debug)]
pub struct Image {
    version: String,
    seconds: u64,
    descriptor: Descriptor,
    platforms: Vec<Descriptor>,
    blobs: BTreeMap<Digest, Vec<u8>>,
}

/// An image that is not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// What should go into it breaks rules.
    #[error("the extension for {machine} is refused: {}", list(faults))]
    Faults {
        /// For which machine.
        machine: Machine,
        /// What is wrong.
        faults: Vec<Fault>,
    },
    /// The bill of materials cannot be made.
    #[error(transparent)]
    Sbom(#[from] SbomError),
    /// A path of ours is no path.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The layer cannot be made.
    #[error("failed to pack a layer")]
    Pack(#[from] io::Error),
    /// A time that no calendar has.
    #[error("failed to date the image: {0} seconds since 1970 is no time")]
    Time(u64),
}

fn list(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Makes an image.
///
/// # Errors
///
/// When what goes into it breaks a rule of [`extension::check`], or cannot be packed.
pub fn build(inputs: &Inputs<'_>) -> Result<Image, BuildError> {
    let created = created(inputs.seconds)?;
    let mut image = Image {
        version: String::new(),
        seconds: inputs.seconds,
        descriptor: Descriptor::new(INDEX, b""),
        platforms: Vec::new(),
        blobs: BTreeMap::new(),
    };
    for (machine, binary) in Machine::ALL.into_iter().zip(inputs.binaries) {
        let tree = files(inputs, binary, &created)?;
        let checked = extension::check(&tree, machine);
        if !checked.faults.is_empty() {
            return Err(BuildError::Faults { machine, faults: checked.faults });
        }
        image.version = checked.manifest.map(|manifest| manifest.version).unwrap_or_default();
        image.platform(&tree, machine, &created)?;
    }
    let index =
        Index { schema_version: 2, media_type: Some(INDEX.to_owned()), manifests: image.platforms.clone() };
    image.descriptor = image.add(INDEX, json(&index));
    Ok(image)
}

/// The bill of materials of the daemon as it is in the image: SPDX in JSON.
///
/// # Errors
///
/// When the lock file is not that of the daemon, or the time is none.
pub fn bill_of_materials(lock: &str, seconds: u64) -> Result<Vec<u8>, BuildError> {
    Ok(spdx(lock, &created(seconds)?)?)
}

/// The files of the image, directories included.
fn files(inputs: &Inputs<'_>, binary: &[u8], created: &str) -> Result<Tree, BuildError> {
    let mut tree = Tree::default();
    let sbom = spdx(inputs.lock, created)?;
    let container = format!("{ROOTFS}/{CONTAINER_DIRECTORY}/{NAME}");
    tree.insert(MANIFEST_FILE, Entry::file(0o644, inputs.manifest.into()))?;
    tree.insert(
        &format!("{ROOTFS}/{SPEC_DIRECTORY}/{NAME}.yaml"),
        Entry::file(0o644, inputs.service.into()),
    )?;
    tree.insert(&format!("{container}/{BINARY}"), Entry::file(0o755, binary.to_vec()))?;
    tree.insert(&format!("{ROOTFS}/{SBOM_DIRECTORY}/{NAME}.spdx.json"), Entry::file(0o644, sbom))?;
    Ok(tree)
}

fn created(seconds: u64) -> Result<String, BuildError> {
    let time =
        i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).ok_or(BuildError::Time(seconds))
}

impl Image {
    /// The version in its manifest.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The descriptor of the index: its digest is that of the image.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The descriptors of the images for the single machines.
    pub fn platforms(&self) -> &[Descriptor] {
        &self.platforms
    }

    /// All blobs.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, &[u8])> {
        self.blobs.iter().map(|(digest, bytes)| (*digest, &**bytes))
    }

    /// The time of everything in it.
    pub(super) fn seconds(&self) -> u64 {
        self.seconds
    }

    /// The image as something to be read.
    pub fn store(&self) -> Store {
        let index = Index { schema_version: 2, media_type: None, manifests: vec![self.descriptor.clone()] };
        Store::new("the image".to_owned(), json(&index), self.blobs.clone())
    }

    fn platform(&mut self, tree: &Tree, machine: Machine, created: &str) -> Result<(), BuildError> {
        let tar = archive(tree, self.seconds)?;
        let layer = self.add(LAYER_GZIP, gzip(&tar)?);
        let architecture = machine.name().to_owned();
        let source = (SOURCE.to_owned(), env!("CARGO_PKG_REPOSITORY").to_owned());
        let config = Config {
            created: Some(created.to_owned()),
            architecture: architecture.clone(),
            os: "linux".to_owned(),
            config: RunConfig { labels: BTreeMap::from([source]) },
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![Digest::of(&tar)] },
        };
        let config = self.add(CONFIG, json(&config));
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST.to_owned()),
            config,
            layers: vec![layer],
        };
        let mut descriptor = self.add(MANIFEST, json(&manifest));
        descriptor.platform = Some(Platform { architecture, os: "linux".to_owned() });
        self.platforms.push(descriptor);
        Ok(())
    }

    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::new(media_type, &bytes);
        self.blobs.insert(descriptor.digest, bytes);
        descriptor
    }
}
