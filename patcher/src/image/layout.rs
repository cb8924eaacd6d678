//! Images on disk: an OCI layout as a directory, or as a tar of one.
//!
//! `index.json` names the image index, under the version as its name, and then the image of each platform without a
//! name. skopeo and podman choose by the name; the imager's `ociPath` looks for the platforms right there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tar::{EntryType, Header};

use super::build::Image;
use super::model::{Descriptor, Index, MAX_DOCUMENT, REF_NAME};
use super::{Digest, DigestError};

/// What every layout has in its `oci-layout`.
const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The largest blob, and all blobs of a tar together, in bytes.
pub(super) const MAX_BLOBS: u64 = 256 << 20;

/// How many files a tar of a layout may have.
const MAX_FILES: usize = 1000;

/// A layout that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The file system refused.
    #[error("failed to access {path}")]
    Io {
        /// The file.
        path: String,
        /// What it said.
        source: io::Error,
    },
    /// A directory or tar that is no layout.
    #[error("{path} is no OCI layout: it has no {missing}")]
    NotALayout {
        /// The directory or tar.
        path: String,
        /// The file that is missing.
        missing: &'static str,
    },
    /// More than is read.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What it is.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A blob that is not there.
    #[error("the blob {0} is missing")]
    MissingBlob(Digest),
    /// A blob that is not what its name says.
    #[error("the blob {digest} does not have the {what} that its descriptor says")]
    WrongBlob {
        /// The digest in the descriptor.
        digest: Digest,
        /// Size or digest.
        what: &'static str,
    },
    /// A document that is not understood.
    #[error("failed to read {what}")]
    Json {
        /// Which document.
        what: String,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A name in a layout that is no digest.
    #[error("failed to read the name of a blob")]
    Name(#[from] DigestError),
}

/// The blobs of an image, wherever they came from. Every one is checked when it is taken out.
#[derive(Debug)]
pub struct Store {
    name: String,
    index: Vec<u8>,
    blobs: Blobs,
}

#[derive(Debug)]
enum Blobs {
    Directory(PathBuf),
    Memory(BTreeMap<Digest, Vec<u8>>),
}

impl Store {
    /// A store of blobs in memory; `index` names those to start with.
    pub(super) fn new(name: String, index: Vec<u8>, blobs: BTreeMap<Digest, Vec<u8>>) -> Self {
        Self { name, index, blobs: Blobs::Memory(blobs) }
    }

    /// Where it came from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The images that the store is about, as its index lists them.
    pub(super) fn roots(&self) -> Result<Vec<Descriptor>, LayoutError> {
        let index: Index = parse(&self.index, "index.json")?;
        Ok(index.manifests)
    }

    /// A blob of at most `limit` bytes, with size and digest checked.
    pub(super) fn blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>, LayoutError> {
        let digest = descriptor.digest;
        if descriptor.size > limit {
            return Err(LayoutError::TooLarge { what: format!("the blob {digest}"), limit });
        }
        let bytes = match &self.blobs {
            Blobs::Directory(directory) => {
                let path = directory.join(blob_path(digest));
                match read_file(&path, limit) {
                    Err(LayoutError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                        return Err(LayoutError::MissingBlob(digest));
                    }
                    result => result?,
                }
            }
            Blobs::Memory(blobs) => blobs.get(&digest).cloned().ok_or(LayoutError::MissingBlob(digest))?,
        };
        verify(descriptor, &bytes)?;
        Ok(bytes)
    }

    /// A document, with size and digest checked.
    pub(super) fn document<T: DeserializeOwned>(&self, descriptor: &Descriptor) -> Result<T, LayoutError> {
        let bytes = self.blob(descriptor, MAX_DOCUMENT)?;
        parse(&bytes, &format!("the document {}", descriptor.digest))
    }
}

/// Checks bytes against their descriptor.
pub(super) fn verify(descriptor: &Descriptor, bytes: &[u8]) -> Result<(), LayoutError> {
    let digest = descriptor.digest;
    if bytes.len() as u64 != descriptor.size {
        return Err(LayoutError::WrongBlob { digest, what: "size" });
    }
    if Digest::of(bytes) != digest {
        return Err(LayoutError::WrongBlob { digest, what: "digest" });
    }
    Ok(())
}

/// Parses a JSON document.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, LayoutError> {
    serde_json::from_slice(bytes).map_err(|source| LayoutError::Json { what: what.to_owned(), source })
}

/// Opens a layout: a directory, or a tar of one, which is read into memory.
///
/// # Errors
///
/// When it is none, or larger than what is read.
pub fn open(path: &Path) -> Result<Store, LayoutError> {
    let metadata = fs::metadata(path).map_err(io_error(path))?;
    let name = path.display().to_string();
    if !metadata.is_dir() {
        let file = File::open(path).map_err(io_error(path))?;
        return read_archive(name, file);
    }
    let not_a_layout = |missing| LayoutError::NotALayout { path: name.clone(), missing };
    if !path.join("oci-layout").is_file() {
        return Err(not_a_layout("oci-layout"));
    }
    let index = match read_file(&path.join("index.json"), MAX_DOCUMENT) {
        Err(LayoutError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Err(not_a_layout("index.json"));
        }
        result => result?,
    };
    Ok(Store { name, index, blobs: Blobs::Directory(path.to_owned()) })
}

fn read_archive(name: String, file: impl Read) -> Result<Store, LayoutError> {
    let too_large = || LayoutError::TooLarge { what: name.clone(), limit: MAX_BLOBS };
    let failed = |source| LayoutError::Io { path: name.clone(), source };
    let mut archive = tar::Archive::new(file.take(MAX_BLOBS + (1 << 20)));
    let (mut index, mut has_marker) = (None, false);
    let mut blobs = BTreeMap::new();
    let mut total = 0;
    for (number, entry) in archive.entries().map_err(failed)?.enumerate() {
        let mut entry = entry.map_err(failed)?;
        if entry.header().entry_type() != EntryType::Regular {
            continue;
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        total += entry.size();
        if total > MAX_BLOBS || number > MAX_FILES {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(failed)?;
        let path = path.strip_prefix("./").unwrap_or(&path);
        match path.strip_prefix("blobs/sha256/") {
            Some(digits) => drop(blobs.insert(format!("sha256:{digits}").parse()?, bytes)),
            None if path == "index.json" => index = Some(bytes),
            None => has_marker |= path == "oci-layout",
        }
    }
    let missing = |missing| LayoutError::NotALayout { path: name.clone(), missing };
    if !has_marker {
        return Err(missing("oci-layout"));
    }
    let index = index.ok_or_else(|| missing("index.json"))?;
    Ok(Store { name, index, blobs: Blobs::Memory(blobs) })
}

/// Reads a regular file; links are not followed out of a layout.
fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, LayoutError> {
    let metadata = fs::symlink_metadata(path).map_err(io_error(path))?;
    if !metadata.is_file() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
        return Err(io_error(path)(source));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io_error(path))?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io_error(path))?;
    if bytes.len() as u64 > limit {
        return Err(LayoutError::TooLarge { what: path.display().to_string(), limit });
    }
    Ok(bytes)
}

/// Writes an image as a directory, which is made if needed. Blobs that are there already stay.
///
/// # Errors
///
/// Those of the file system.
pub fn write_directory(image: &Image, path: &Path) -> Result<(), LayoutError> {
    fs::create_dir_all(path.join("blobs/sha256")).map_err(io_error(path))?;
    for (name, bytes) in files(image) {
        let path = path.join(name);
        fs::write(&path, bytes).map_err(io_error(&path))?;
    }
    Ok(())
}

/// Writes an image as a tar; the same image gives the same bytes.
///
/// # Errors
///
/// Those of writing.
pub fn write_archive(image: &Image, to: impl Write) -> io::Result<()> {
    let mut builder = tar::Builder::new(to);
    for (name, bytes) in files(image) {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(image.seconds());
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, &*bytes)?;
    }
    builder.into_inner()?.flush()
}

/// The files of a layout, sorted by name.
fn files(image: &Image) -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, Vec<u8>> =
        image.blobs().map(|(digest, bytes)| (blob_path(digest), bytes.to_vec())).collect();
    files.insert("index.json".to_owned(), index_json(image));
    files.insert("oci-layout".to_owned(), MARKER.to_vec());
    files
}

fn index_json(image: &Image) -> Vec<u8> {
    let mut named = image.descriptor().clone();
    named.annotations.insert(REF_NAME.to_owned(), image.version().to_owned());
    let manifests = std::iter::once(named).chain(image.platforms().iter().cloned()).collect();
    json(&Index { schema_version: 2, media_type: Some(super::model::INDEX.to_owned()), manifests })
}

/// A document of ours as bytes. Writing to memory does not fail, and our documents have text as keys.
pub(super) fn json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> LayoutError {
    let path = path.display().to_string();
    move |source| LayoutError::Io { path, source }
}
