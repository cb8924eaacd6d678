//! What a node would see of an image, and what is wrong with it.

use std::collections::BTreeMap;

use super::layout::{LayoutError, MAX_BLOBS, Store};
use super::model::{Config, Descriptor, Index, Manifest};
use super::unpack::Unpacker;
use super::{Digest, UnpackError};
use crate::extension::{self, Fault, Kind, Machine, Manifest as ExtensionManifest, Rule, ServiceSpec};

/// How many images one index may have, signatures and attestations included.
const MAX_IMAGES: usize = 64;

/// How many layers one image may have.
const MAX_LAYERS: usize = 128;

/// How deep indexes may be in indexes.
const MAX_NESTING: usize = 3;

/// What an image is.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Where it came from.
    pub name: String,
    /// The digest to pin: that of the index of all platforms, where there is one.
    pub digest: Option<Digest>,
    /// What it is for each machine.
    pub platforms: Vec<PlatformReport>,
    /// What is wrong with the image as a whole.
    pub faults: Vec<Fault>,
}

/// What an image is for one machine.
#[derive(Clone, Debug)]
pub struct PlatformReport {
    /// The machine.
    pub machine: Machine,
    /// Digest of the image for it.
    pub digest: Digest,
    /// Size of its layers as they travel, in bytes.
    pub compressed: u64,
    /// Size of its files, in bytes.
    pub unpacked: u64,
    /// Number of its regular files.
    pub files: usize,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its manifest.
    pub manifest: Option<ExtensionManifest>,
    /// Its services.
    pub services: Vec<ServiceSpec>,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

impl Inspection {
    /// All faults: of the whole, and of each machine's image.
    pub fn faults(&self) -> impl Iterator<Item = (Option<Machine>, &Fault)> {
        let whole = self.faults.iter().map(|fault| (None, fault));
        let single = |it: &'_ PlatformReport| it.machine;
        whole.chain(
            self.platforms
                .iter()
                .flat_map(move |it| it.faults.iter().map(move |fault| (Some(single(it)), fault))),
        )
    }
}

/// Looks at the images of a store.
///
/// # Errors
///
/// When it cannot be read at all; what can be read and is wrong becomes faults.
pub fn inspect(store: &Store) -> Result<Inspection, LayoutError> {
    let roots = store.roots()?;
    let mut images = Vec::new();
    collect(store, &roots, 0, &mut images)?;
    let digest = roots.iter().find(|root| root.is_index()).or(roots.first()).map(|root| root.digest);
    let mut inspection =
        Inspection { name: store.name().to_owned(), digest, platforms: Vec::new(), faults: Vec::new() };
    let mut seen: Vec<Digest> = Vec::new();
    for descriptor in images.iter().filter(|it| it.is_manifest()) {
        if seen.contains(&descriptor.digest) {
            continue;
        }
        seen.push(descriptor.digest);
        let manifest: Manifest = store.document(descriptor)?;
        // Without a platform in the index, and without an index at all, the image itself says for whom it is.
        let config: Config = match store.document(&manifest.config) {
            Ok(config) => config,
            Err(LayoutError::Json { .. }) if descriptor.platform.is_some() => continue,
            Err(error) => return Err(error),
        };
        let platform = descriptor.platform.as_ref();
        let (os, architecture) =
            platform.map_or((&config.os, &config.architecture), |it| (&it.os, &it.architecture));
        let Some(machine) = Machine::of_name(architecture).filter(|_| os == "linux") else { continue };
        let report = platform_report(store, machine, descriptor, &manifest, config)?;
        inspection.platforms.push(report);
    }
    for machine in Machine::ALL {
        match inspection.platforms.iter().filter(|report| report.machine == machine).count() {
            0 => inspection.faults.push(whole(format!("there is no image for linux/{machine}"))),
            1 => {}
            count => inspection.faults.push(whole(format!("there are {count} images for linux/{machine}"))),
        }
    }
    inspection.platforms.sort_by_key(|report| report.machine);
    Ok(inspection)
}

fn whole(detail: String) -> Fault {
    Fault::new("index", Rule::Platform, detail)
}

/// The images behind indexes.
fn collect(
    store: &Store,
    descriptors: &[Descriptor],
    depth: usize,
    images: &mut Vec<Descriptor>,
) -> Result<(), LayoutError> {
    for descriptor in descriptors {
        if images.len() > MAX_IMAGES || depth > MAX_NESTING {
            return Err(LayoutError::TooLarge {
                what: "the list of images".to_owned(),
                limit: MAX_IMAGES as u64,
            });
        }
        if descriptor.is_index() {
            let index: Index = store.document(descriptor)?;
            collect(store, &index.manifests, depth + 1, images)?;
        } else {
            images.push(descriptor.clone());
        }
    }
    Ok(())
}

fn platform_report(
    store: &Store,
    machine: Machine,
    descriptor: &Descriptor,
    manifest: &Manifest,
    config: Config,
) -> Result<PlatformReport, LayoutError> {
    let mut report = PlatformReport {
        machine,
        digest: descriptor.digest,
        compressed: 0,
        unpacked: 0,
        files: 0,
        labels: config.config.labels,
        manifest: None,
        services: Vec::new(),
        faults: Vec::new(),
    };
    if manifest.layers.len() > MAX_LAYERS {
        let what = format!("the list of layers of {}", descriptor.digest);
        return Err(LayoutError::TooLarge { what, limit: MAX_LAYERS as u64 });
    }
    if config.architecture != machine.name() || config.os != "linux" {
        let detail =
            format!("the index says linux/{machine}, the image {}/{}", config.os, config.architecture);
        report.faults.push(whole(detail));
    }
    let mut unpacker = Unpacker::default();
    for layer in &manifest.layers {
        report.compressed = report.compressed.saturating_add(layer.size);
        if report.compressed > MAX_BLOBS {
            let what = format!("the layers of {}", descriptor.digest);
            return Err(LayoutError::TooLarge { what, limit: MAX_BLOBS });
        }
        let blob = store.blob(layer, MAX_BLOBS)?;
        if let Err(error) = unpacker.layer(&layer.media_type, &blob) {
            report.faults.push(layer_fault(layer, &error));
            return Ok(report);
        }
    }
    let (tree, faults) = unpacker.finish();
    report.faults.extend(faults);
    for (_, entry) in tree.iter() {
        if let Kind::File { size, .. } = entry.kind {
            report.files += 1;
            report.unpacked = report.unpacked.saturating_add(size);
        }
    }
    let checked = extension::check(&tree, machine);
    report.faults.extend(checked.faults);
    report.manifest = checked.manifest;
    report.services = checked.services;
    Ok(report)
}

fn layer_fault(layer: &Descriptor, error: &UnpackError) -> Fault {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Fault::new(format!("layer {}", layer.digest), Rule::Layer, format!("{error}{cause}"))
}
