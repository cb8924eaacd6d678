//! The extension as it lies on a node: the image made of the shipped binaries, and its layers unpacked by tar.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use ichorctl::extension::{MANIFEST, Machine, SERVICE};
use ichorctl::image::{self, Inputs};
use serde_json::Value;
use tempfile::TempDir;

use super::SPEC;
use crate::shell::output;

const LOCK: &str = include_str!("../../../Cargo.lock");

/// Where `make static` puts the daemon for a machine.
pub fn shipped(machine: Machine) -> PathBuf {
    let architecture = match machine {
        Machine::Amd64 => "x86_64",
        Machine::Arm64 => "aarch64",
    };
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../dist/{architecture}/ichord"))
}

/// What the layers for this machine unpack to. It is removed with this value.
#[derive(Debug)]
pub struct Unpacked(TempDir);

impl Unpacked {
    /// Makes the image of the shipped binaries and unpacks it.
    ///
    /// # Errors
    /// When a binary is missing or not fit for the extension, and those of tar.
    pub fn of_shipped() -> Result<Self> {
        let read = |machine| {
            let path = shipped(machine);
            fs::read(&path).with_context(|| format!("failed to read {}: run `make static`", path.display()))
        };
        let (amd64, arm64) = (read(Machine::Amd64)?, read(Machine::Arm64)?);
        let image = image::build(&Inputs {
            binaries: [&amd64, &arm64],
            lock: LOCK,
            manifest: MANIFEST,
            service: SERVICE,
            seconds: 1_700_000_000,
        })?;
        let layout = tempfile::tempdir()?;
        image::write_directory(&image, layout.path())?;
        let folder = tempfile::Builder::new().prefix("ichor-extension-").tempdir()?;
        for layer in layers(layout.path())? {
            output(Command::new("tar").arg("-xpf").arg(layer).arg("-C").arg(folder.path()))?;
        }
        Ok(Self(folder))
    }

    /// The service spec.
    ///
    /// # Errors
    /// When it is missing or no YAML.
    pub fn spec(&self) -> Result<Value> {
        Ok(yaml_serde::from_str(&fs::read_to_string(self.0.path().join(SPEC))?)?)
    }

    /// The root of the service's container: Talos runs a service `NAME` in `/usr/local/lib/containers/NAME`.
    pub fn root(&self) -> PathBuf {
        self.0.path().join("rootfs/usr/local/lib/containers/ichor")
    }
}

/// The layers of this machine's image in an OCI layout, bottom first, by the image-spec: index.json names an index,
/// that names a manifest for each platform, that names layers.
fn layers(layout: &Path) -> Result<Vec<PathBuf>> {
    let architecture = if env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let read = |path: &Path| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let blob = |descriptor: &Value| -> Result<PathBuf> {
        let digest = descriptor["digest"].as_str().context("a descriptor without digest")?;
        Ok(layout.join("blobs").join(digest.replace(':', "/")))
    };
    let index = read(&blob(&read(&layout.join("index.json"))?["manifests"][0])?)?;
    let manifests = index["manifests"].as_array().context("an index without manifests")?;
    let ours = manifests.iter().find(|manifest| manifest["platform"]["architecture"] == architecture);
    let manifest = read(&blob(ours.with_context(|| format!("nothing for {architecture}"))?)?)?;
    manifest["layers"].as_array().context("a manifest without layers")?.iter().map(blob).collect()
}
