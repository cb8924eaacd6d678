//! Installer images as the imager of Talos makes them, as far as a reader can tell.

use std::io::{self, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::registry::TestRegistry;

/// Archives made by `cpio -H newc --create` and `zstd -18 -T0`: microcode that is not compressed, a base, and behind it
/// what the imager appends: the extensions `ichor` and `iscsi-tools`, and the id of a schematic.
pub const INITRAMFS: &[u8] = include_bytes!("../../fixtures/initramfs");

/// A kernel image for x86-64 with these sections, and nothing that would run (PE format, sections 2 to 4).
pub fn kernel(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = vec![0_u8; 0x40];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c] = 0x40;
    file.extend(b"PE\0\0");
    let count = u16::try_from(sections.len()).unwrap_or(u16::MAX);
    for half in [0x8664, count, 0, 0, 0, 0, 0, 0, 112, 0x22] {
        file.extend(half.to_le_bytes());
    }
    let mut optional = [0_u8; 112];
    optional[..2].copy_from_slice(&0x20b_u16.to_le_bytes());
    file.extend(optional);
    let mut at = file.len() + 40 * sections.len();
    for (name, content) in sections {
        let mut header = [0_u8; 40];
        header[..name.len()].copy_from_slice(name.as_bytes());
        let number = |value| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        for (offset, value) in [(8, content.len()), (12, at), (16, content.len()), (20, at)] {
            header[offset..offset + 4].copy_from_slice(&number(value));
        }
        file.extend(header);
        at += content.len();
    }
    sections.iter().for_each(|(_, content)| file.extend(*content));
    file
}

/// An archive as Linux unpacks it into its first file system, with these files (`cpio -H newc`).
pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files.iter().chain(&[("TRAILER!!!", &[][..])]) {
        archive.extend(b"070701");
        for (field, value) in [0; 13].into_iter().enumerate() {
            let value = match field {
                1 => 0o100_644,
                6 => content.len(),
                11 => name.len() + 1,
                _ => value,
            };
            archive.extend(format!("{value:08x}").bytes());
        }
        archive.extend(name.bytes().chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(*content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// An initramfs with these extensions.
pub fn initramfs(extensions: &[&str]) -> Vec<u8> {
    let layer = |name: &&str| format!("- image: x.sqsh\n  metadata: {{name: {name}, version: v1}}\n");
    let list = format!("layers:\n{}", extensions.iter().map(layer).collect::<String>());
    [INITRAMFS, &archive(&[("./extensions.yaml", list.as_bytes())])].concat()
}

/// Puts an installer into a registry: a base, and on top of it the kernel. Returns the digest of the index.
///
/// # Errors
///
/// When it cannot be packed.
pub fn put(
    registry: &TestRegistry,
    name: &str,
    tag: &str,
    version: &str,
    extensions: &[&str],
) -> io::Result<String> {
    let release = format!("NAME=\"Talos\"\nVERSION_ID={version}\n");
    let kernel = kernel(&[(".osrel", release.as_bytes()), (".initrd", &initramfs(extensions))]);
    let mut layers = Vec::new();
    for (path, content) in [("bin/installer", &b"a program"[..]), ("usr/install/amd64/vmlinuz.efi", &kernel)]
    {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, content)?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&tar.into_inner()?)?;
        let blob = gzip.finish()?;
        let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
        layers.push(json!({"mediaType": kind, "size": blob.len(), "digest": registry.put_blob(blob)}));
    }
    let config = b"{}".to_vec();
    let kind = "application/vnd.oci.image.config.v1+json";
    let config = json!({"mediaType": kind, "size": config.len(), "digest": registry.put_blob(config)});
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers});
    let manifest = manifest.to_string().into_bytes();
    let size = manifest.len();
    let digest = registry.put_manifest(name, "amd64", kind, manifest);
    let platform = json!({"architecture": "amd64", "os": "linux"});
    let entry = json!({"mediaType": kind, "size": size, "digest": digest, "platform": platform});
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]});
    Ok(registry.put_manifest(name, tag, kind, index.to_string().into_bytes()))
}
