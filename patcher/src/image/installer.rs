//! What an installer of Talos puts on a disk, read from its image.
//!
//! ```text
//! image -> layers, the last first -> usr/install/ARCH/vmlinuz.efi (a unified kernel image, that is a PE file)
//!       -> section .osrel: the version of Talos
//!       -> section .initrd: archives, one after the other, some compressed -> extensions.yaml
//! ```
//! Talos: the imager appends one compressed archive with the extensions and `extensions.yaml` to the initramfs. Installers
//! before 1.10 have the initramfs as a file of its own; they are not read here.

use std::collections::BTreeMap;
use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use object::read::pe::PeFile64;
use object::{Object as _, ObjectSection as _};
use serde::{Deserialize, Serialize};

use super::model::{DOCKER_LAYER, Descriptor, LAYER, LAYER_GZIP};
use super::{Digest, LayoutError, RegistryError, UnpackError};

/// Longest kernel image that is read, in bytes.
const MAX_KERNEL: u64 = 1 << 30;
/// Longest layer that is read, in bytes as it travels.
pub(super) const MAX_LAYER: u64 = 1 << 30;
/// What all archives of one initramfs may unpack to, in bytes.
const MAX_UNPACKED: u64 = 4 << 30;
/// Longest list of extensions, in bytes.
const MAX_LIST: u64 = 4 << 20;
/// Most files in one archive.
const MAX_FILES: usize = 100_000;

/// What begins a file in an archive (cpio, "new ASCII format": `Documentation/driver-api/early-userspace` of Linux).
const CPIO: &[u8] = b"070701";
/// What begins a Zstandard frame (RFC 8878 section 3.1.1).
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// The list of what extensions there are (Talos: `constants.ExtensionsConfigFile`).
const LIST: &str = "extensions.yaml";
/// The layer that is made of the modules of all (Talos: `pkg/imager/extensions`).
const MODULES: &str = "modules.dep";
/// The pseudo extension whose version is the id of the schematic.
const SCHEMATIC: &str = "schematic";

/// An installer that could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallerImageError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// There is no image for such machines.
    #[error("there is no image for {0}")]
    Machine(String),
    /// It is another kind of image.
    #[error("it has no kernel at usr/install/{0}/vmlinuz.efi: no installer of Talos 1.10 or later")]
    NoKernel(String),
    /// A layer.
    #[error(transparent)]
    Layer(#[from] UnpackError),
    /// The kernel image.
    #[error("its kernel image cannot be read: {0}")]
    Kernel(String),
    /// The initramfs.
    #[error("failed to read its initramfs")]
    Initramfs(#[source] io::Error),
    /// The list.
    #[error("its list of extensions cannot be read")]
    List(#[source] yaml_serde::Error),
}

impl From<LayoutError> for InstallerImageError {
    fn from(error: LayoutError) -> Self {
        Self::Registry(error.into())
    }
}

/// What an installer installs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstallerContents {
    /// The digest that its reference stands for, of the index where there is one.
    pub digest: Digest,
    /// The machines that it is for, as OCI calls them: `amd64` or `arm64`.
    pub architecture: String,
    /// The version of Talos, such as `v1.14.1`.
    pub version: String,
    /// Its extensions, with their versions.
    pub extensions: BTreeMap<String, String>,
    /// The id of its schematic, if it comes from an image factory.
    pub schematic: Option<String>,
}

/// The kernel image in a layer, if it is there.
pub(super) fn kernel(layer: &Descriptor, blob: &[u8], machine: &str) -> Result<Option<Vec<u8>>, UnpackError> {
    match layer.media_type.as_str() {
        LAYER => search(blob, machine),
        LAYER_GZIP | DOCKER_LAYER => search(MultiGzDecoder::new(blob), machine),
        other => Err(UnpackError::MediaType(other.chars().take(100).collect())),
    }
}

fn search(reader: impl Read, machine: &str) -> Result<Option<Vec<u8>>, UnpackError> {
    let path = format!("usr/install/{machine}/vmlinuz.efi");
    let signed = format!("{path}.signed");
    let mut archive = tar::Archive::new(reader.take(MAX_UNPACKED));
    for (index, entry) in archive.entries().map_err(UnpackError::Read)?.enumerate() {
        if index == MAX_FILES {
            return Err(UnpackError::TooMany);
        }
        let entry = entry.map_err(UnpackError::Read)?;
        let name = entry.path_bytes();
        let name = String::from_utf8_lossy(&name);
        let name = name.trim_start_matches("./").trim_start_matches('/');
        if name != path && name != signed {
            continue;
        }
        let mut content = Vec::new();
        entry.take(MAX_KERNEL + 1).read_to_end(&mut content).map_err(UnpackError::Read)?;
        if content.len() as u64 > MAX_KERNEL {
            return Err(UnpackError::TooLarge);
        }
        return Ok(Some(content));
    }
    Ok(None)
}

/// What the kernel image of an installer brings. `digest`: that of the installer's image.
///
/// # Errors
///
/// When it is none, or cannot be read.
pub fn installer_contents(
    digest: Digest,
    machine: &str,
    kernel: &[u8],
) -> Result<InstallerContents, InstallerImageError> {
    let refuse = |problem: String| InstallerImageError::Kernel(problem);
    let file = PeFile64::parse(kernel).map_err(|error| refuse(error.to_string()))?;
    let section = |name: &str| {
        let section =
            file.section_by_name(name).ok_or_else(|| refuse(format!("it has no section {name}")))?;
        section.data().map_err(|error| refuse(format!("section {name}: {error}")))
    };
    let release = section(".osrel")?;
    let version = version(&String::from_utf8_lossy(release))
        .ok_or_else(|| refuse("section .osrel names no version".to_owned()))?;
    let list = list(section(".initrd")?).map_err(InstallerImageError::Initramfs)?;
    let mut contents = InstallerContents {
        digest,
        architecture: machine.to_owned(),
        version,
        extensions: BTreeMap::new(),
        schematic: None,
    };
    // An initramfs without the list has no extensions.
    let Some(list) = list else { return Ok(contents) };
    let list: List = yaml_serde::from_slice(&list).map_err(InstallerImageError::List)?;
    for Metadata { name, version } in list.layers.into_iter().map(|layer| layer.metadata) {
        match name.as_str() {
            SCHEMATIC => contents.schematic = Some(version),
            MODULES => {}
            _ => _ = contents.extensions.insert(name, version),
        }
    }
    Ok(contents)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct List {
    layers: Vec<Layer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Layer {
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    version: String,
}

/// `VERSION_ID` of an os-release file.
fn version(release: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.trim().strip_prefix("VERSION_ID="))?;
    let value = value.trim_matches('"');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    (!value.is_empty() && value.len() <= 64 && value.chars().all(is_plain)).then(|| value.to_owned())
}

/// The list of extensions in an initramfs: of several, the last, which is the one that Linux leaves there.
fn list(mut initramfs: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut found = None;
    let mut room = MAX_UNPACKED;
    loop {
        // Zeros fill archives up, and sections.
        let zeros = initramfs.iter().take_while(|byte| **byte == 0).count();
        initramfs = &initramfs[zeros..];
        if initramfs.is_empty() {
            return Ok(found);
        }
        if initramfs.starts_with(CPIO) {
            room = room.saturating_sub(archive(&mut initramfs, &mut found)?);
        } else if initramfs.starts_with(ZSTD) {
            let decoder =
                ruzstd::decoding::StreamingDecoder::new(&mut initramfs).map_err(io::Error::other)?;
            let mut limited = decoder.take(room);
            archive(&mut limited, &mut found)?;
            // To the end of the frame: what comes next begins behind it.
            io::copy(&mut limited, &mut io::sink())?;
            room = limited.limit();
        } else {
            return Err(io::Error::other("a part of it is compressed in a way that is not read here"));
        }
        if room == 0 {
            return Err(io::Error::other("it unpacks to too much"));
        }
    }
}

/// Reads one archive to its end, and keeps the list of extensions if it is in it. Tells how many bytes the archive has.
fn archive(reader: &mut impl Read, found: &mut Option<Vec<u8>>) -> io::Result<u64> {
    let mut total = 0;
    for _ in 0..MAX_FILES {
        let mut header = [0; 110];
        reader.read_exact(&mut header)?;
        if !header.starts_with(CPIO) {
            return Err(io::Error::other("a file in an archive does not begin as one"));
        }
        let (size, name_size) = (field(&header, 6)?, field(&header, 11)?);
        if name_size > 4096 {
            return Err(io::Error::other("a file in an archive has too long a name"));
        }
        // Names and contents begin at multiples of four bytes from the begin of the header.
        let name = take(reader, name_size, padding(110 + name_size))?;
        let name = name.strip_suffix(b"\0").unwrap_or(&name);
        total += 110 + name_size + size;
        if name == b"TRAILER!!!" {
            return Ok(total);
        }
        let name = name.strip_prefix(b"./").unwrap_or(name);
        if name.strip_prefix(b"/").unwrap_or(name) == LIST.as_bytes() {
            if size > MAX_LIST {
                return Err(io::Error::other("the list of extensions is too long"));
            }
            *found = Some(take(reader, size, padding(size))?);
        } else if io::copy(&mut reader.take(size + padding(size)), &mut io::sink())? != size + padding(size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Err(io::Error::other("an archive has too many files"))
}

/// The field with this number of a header: eight hexadecimal digits, after six bytes that every header begins with.
fn field(header: &[u8; 110], number: usize) -> io::Result<u64> {
    let digits = header.get(6 + 8 * number..14 + 8 * number).and_then(|it| std::str::from_utf8(it).ok());
    let value = digits.filter(|it| it.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let value = value.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    value.ok_or_else(|| io::Error::other("a header in an archive is damaged"))
}

const fn padding(size: u64) -> u64 {
    size.wrapping_neg() % 4
}

fn take(reader: &mut impl Read, size: u64, padding: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(size + padding).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != size + padding {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(usize::try_from(size).map_err(io::Error::other)?);
    Ok(bytes)
}
