//! An extension to break, installers to look into, the official library to compare with, and a registry to push to.

pub mod faults;
pub mod installer;
pub mod oracle;
pub mod registry;
pub mod unpacked;

use std::path::Path;

use anyhow::{Context, Result, bail};
use ichorctl::extension::{Entry, Kind, MANIFEST, Machine, SERVICE, Tree};

/// Where our binary is in the image.
pub const BINARY: &str = "rootfs/usr/local/lib/containers/ichor/usr/local/bin/ichord";

/// Where our service spec is in the image.
pub const SPEC: &str = "rootfs/usr/local/etc/containers/ichor.yaml";

/// Where our bill of materials is in the image.
pub const SBOM: &str = "rootfs/usr/local/share/spdx/ichor.spdx.json";

/// The smallest static program for a machine, as far as a check can tell: one segment with code.
pub fn program(machine: Machine) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(64 + 56, 0);
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let number: u16 = match machine {
        Machine::Amd64 => 62,
        Machine::Arm64 => 183,
    };
    put(16, &2_u16.to_le_bytes());
    put(18, &number.to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &1_u16.to_le_bytes());
    // One loaded segment that may be executed: the file from its start.
    put(64, &1_u32.to_le_bytes());
    put(68, &5_u32.to_le_bytes());
    put(64 + 32, &120_u64.to_le_bytes());
    bytes
}

/// The files of our extension for a machine, with a program of no use in place of the daemon.
///
/// # Errors
///
/// When the paths above are in each other's way.
pub fn files(machine: Machine) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.insert("manifest.yaml", Entry::file(0o644, MANIFEST.into()))?;
    tree.insert(SPEC, Entry::file(0o644, SERVICE.into()))?;
    tree.insert(BINARY, Entry::file(0o755, program(machine)))?;
    tree.insert(SBOM, Entry::file(0o644, br#"{"spdxVersion": "SPDX-2.3"}"#.to_vec()))?;
    Ok(tree)
}

/// Writes the files of a tree, as the imager unpacks them, below a directory.
///
/// # Errors
///
/// Those of the file system.
pub fn write(tree: &Tree, directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    for (path, entry) in tree.iter() {
        let target = directory.join(path);
        match &entry.kind {
            Kind::Directory => std::fs::create_dir_all(&target)?,
            Kind::File { content, .. } => {
                std::fs::write(
                    &target,
                    content.as_deref().with_context(|| format!("{path} has no content"))?,
                )?;
            }
            Kind::Symlink(to) => std::os::unix::fs::symlink(to, &target)?,
            Kind::Special(_) => {
                let made = std::process::Command::new("mkfifo").arg(&target).status()?;
                if !made.success() {
                    bail!("mkfifo {} failed", target.display());
                }
            }
        }
        if matches!(entry.kind, Kind::Directory | Kind::File { .. }) {
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(entry.mode))?;
        }
    }
    Ok(())
}
