//! The catalogue of extensions of a self-hosted factory: two files in an image `extensions:<Talos version>`.
//!
//! `image-digests` has one line `registry/user/name:version@sha256:...` per extension, `descriptions.yaml` maps exactly
//! these lines to author and description. The catalogue of a mirror is extended, not replaced.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::image::Reference;

/// The largest file of a catalogue that is read, in bytes.
const MAX_BYTES: usize = 4 << 20;

/// A catalogue: its extensions, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    entries: Vec<CatalogueEntry>,
}

/// One extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// The image, with tag and digest.
    pub reference: Reference,
    /// Who made it.
    pub author: String,
    /// What it is.
    pub description: String,
}

#[derive(Default, Deserialize, Serialize)]
struct Description {
    #[serde(default)]
    author: String,
    #[serde(default)]
    description: String,
}

/// A catalogue that is not understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogueError {
    /// Too long to be one.
    #[error("failed to read the catalogue: it has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// A line of `image-digests`.
    #[error("failed to read image-digests: line {line} is not REPOSITORY:TAG@sha256:DIGEST")]
    Line {
        /// Which line, from 1.
        line: usize,
    },
    /// The other file.
    #[error("failed to read descriptions.yaml")]
    Descriptions(#[source] yaml_serde::Error),
    /// An extension without what a catalogue needs.
    #[error("failed to add {reference} to the catalogue: it needs a tag and a digest")]
    Unpinned {
        /// The reference.
        reference: String,
    },
}

impl Catalogue {
    /// Reads the two files.
    ///
    /// # Errors
    ///
    /// [`CatalogueError`].
    pub fn parse(digests: &str, descriptions: &str) -> Result<Self, CatalogueError> {
        if digests.len().max(descriptions.len()) > MAX_BYTES {
            return Err(CatalogueError::TooLarge);
        }
        let mut known: BTreeMap<String, Description> = match descriptions.trim() {
            "" => BTreeMap::new(),
            text => yaml_serde::from_str(text).map_err(CatalogueError::Descriptions)?,
        };
        let mut catalogue = Self::default();
        for (index, line) in digests.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = || CatalogueError::Line { line: index + 1 };
            let reference: Reference = line.trim().parse().map_err(|_| wrong())?;
            if reference.tag.is_none() || reference.digest.is_none() {
                return Err(wrong());
            }
            let Description { author, description } = known.remove(line.trim()).unwrap_or_default();
            let description = description.trim_end().to_owned();
            catalogue.entries.push(CatalogueEntry { reference, author, description });
        }
        Ok(catalogue)
    }

    /// The extensions.
    pub fn entries(&self) -> &[CatalogueEntry] {
        &self.entries
    }

    /// Adds an extension; another version of the same repository is replaced where it stands.
    ///
    /// # Errors
    ///
    /// When the reference has no tag or no digest.
    pub fn set(&mut self, mut entry: CatalogueEntry) -> Result<(), CatalogueError> {
        if entry.reference.tag.is_none() || entry.reference.digest.is_none() {
            return Err(CatalogueError::Unpinned { reference: entry.reference.to_string() });
        }
        // Line ends at the end mean nothing, and not every YAML library keeps them.
        entry.description.truncate(entry.description.trim_end().len());
        let same = |other: &CatalogueEntry| other.reference.repository == entry.reference.repository;
        match self.entries.iter().position(same) {
            Some(index) => self.entries[index] = entry,
            None => self.entries.push(entry),
        }
        Ok(())
    }

    /// The file `image-digests`.
    pub fn image_digests(&self) -> String {
        self.entries.iter().map(|entry| format!("{}\n", entry.reference)).collect()
    }

    /// The file `descriptions.yaml`.
    ///
    /// # Errors
    ///
    /// When it cannot be written as YAML.
    pub fn descriptions(&self) -> Result<String, CatalogueError> {
        let describe = |entry: &CatalogueEntry| {
            let CatalogueEntry { author, description, .. } = entry.clone();
            (entry.reference.to_string(), Description { author, description })
        };
        let map: BTreeMap<String, Description> = self.entries.iter().map(describe).collect();
        yaml_serde::to_string(&map).map_err(CatalogueError::Descriptions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    fn entry(text: &str) -> CatalogueEntry {
        let reference = format!("{text}@{}", Digest::of(text.as_bytes())).parse().unwrap();
        CatalogueEntry { reference, author: "A: B".into(), description: "one\ntwo # three\n".into() }
    }

    #[test]
    fn the_files_of_a_catalogue_are_read_as_they_are_written() {
        let mut catalogue = Catalogue::default();
        catalogue.set(entry("ghcr.io/siderolabs/iscsi-tools:v0.2.0")).unwrap();
        catalogue.set(entry("ghcr.io/ichor-mesh/ichor:0.1.0")).unwrap();
        let again = Catalogue::parse(&catalogue.image_digests(), &catalogue.descriptions().unwrap()).unwrap();
        assert_eq!(again, catalogue);
    }

    #[test]
    fn a_new_version_takes_the_place_of_the_old_one_and_the_rest_stays() {
        let mut catalogue = Catalogue::default();
        for text in ["a.b/x/ichor:0.1.0", "a.b/siderolabs/tailscale:1.0.0", "a.b/x/ichor:0.2.0"] {
            catalogue.set(entry(text)).unwrap();
        }
        let tags: Vec<_> = catalogue.entries().iter().map(|it| it.reference.tag.clone().unwrap()).collect();
        assert_eq!(tags, ["0.2.0", "1.0.0"]);
    }

    #[test]
    fn lines_without_digest_are_refused() {
        assert!(matches!(Catalogue::parse("\na.b/x:1\n", ""), Err(CatalogueError::Line { line: 2 })));
        let mut unpinned = entry("a.b/x:1");
        unpinned.reference.digest = None;
        assert!(matches!(Catalogue::default().set(unpinned), Err(CatalogueError::Unpinned { .. })));
    }
}
