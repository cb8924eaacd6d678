//! The files of an image from its layers, in memory: nothing is ever written to a disk.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use tar::EntryType;

use super::model::{DOCKER_LAYER, LAYER, LAYER_GZIP};
use crate::extension::{Entry, Fault, Kind, Rule, Tree, TreeError, normalize};

/// What all layers of an image may unpack to, in bytes.
const MAX_UNPACKED: u64 = 256 << 20;

/// How many entries all layers of an image may have.
const MAX_ENTRIES: usize = 50_000;

/// What OCI puts in front of the name of something that a layer removes.
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// Layers that cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// A kind of layer that is not read here.
    #[error("failed to unpack a layer of type {0:?}: only tar and tar+gzip are read")]
    MediaType(String),
    /// A bomb, or an image that is not for us.
    #[error("failed to unpack the layers: they have more than {MAX_UNPACKED} bytes")]
    TooLarge,
    /// The same, with many small files.
    #[error("failed to unpack the layers: they have more than {MAX_ENTRIES} entries")]
    TooMany,
    /// Damaged.
    #[error("failed to read a layer")]
    Read(#[source] io::Error),
}

/// Merges layers, one on top of the other.
#[derive(Debug, Default)]
pub(super) struct Unpacker {
    tree: Tree,
    faults: Vec<Fault>,
    bytes: u64,
    entries: usize,
}

impl Unpacker {
    /// Puts a layer on top.
    pub(super) fn layer(&mut self, media_type: &str, blob: &[u8]) -> Result<(), UnpackError> {
        match media_type {
            LAYER => self.archive(blob),
            LAYER_GZIP | DOCKER_LAYER => self.archive(MultiGzDecoder::new(blob)),
            other => Err(UnpackError::MediaType(other.chars().take(100).collect())),
        }
    }

    /// The files, and what is wrong with how they are packed.
    pub(super) fn finish(self) -> (Tree, Vec<Fault>) {
        (self.tree, self.faults)
    }

    fn archive(&mut self, reader: impl Read) -> Result<(), UnpackError> {
        let room = MAX_UNPACKED - self.bytes;
        // One byte more than there is room for tells a layer that is too large from one that fits.
        let mut limited = reader.take(room + 1);
        let mut seen = std::collections::BTreeSet::new();
        let result = self.entries(&mut limited, &mut seen);
        // What follows the end of the archive counts, too.
        let rest = result.and_then(|()| io::copy(&mut limited, &mut io::sink()).map_err(UnpackError::Read));
        let left = limited.limit();
        if left == 0 {
            return Err(UnpackError::TooLarge);
        }
        self.bytes += room + 1 - left;
        rest.map(|_| ())
    }

    fn entries(
        &mut self,
        reader: impl Read,
        seen: &mut std::collections::BTreeSet<String>,
    ) -> Result<(), UnpackError> {
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries().map_err(UnpackError::Read)? {
            let mut entry = entry.map_err(UnpackError::Read)?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(UnpackError::TooMany);
            }
            let raw = entry.path_bytes().into_owned();
            if entry.header().entry_type() == EntryType::XGlobalHeader {
                continue;
            }
            let path = match normalize(&raw) {
                Ok(path) if path.is_empty() => continue,
                Ok(path) => path,
                Err(error) => {
                    self.refuse(error);
                    continue;
                }
            };
            if self.remove(&path) {
                continue;
            }
            if !seen.insert(path.clone()) {
                let detail = "it is in a layer twice";
                self.faults.push(Fault::new(&*path, Rule::DuplicatePath, detail));
                continue;
            }
            let packed = self.entry(&path, &mut entry).map_err(UnpackError::Read)?;
            let is_directory = packed.kind == Kind::Directory;
            if !is_directory || self.tree.get(&path).is_some_and(|old| old.kind != Kind::Directory) {
                self.tree.remove(&path);
            }
            if let Err(error) = self.tree.insert(&path, packed) {
                self.refuse(error);
            }
        }
        Ok(())
    }

    fn entry(&self, path: &str, entry: &mut tar::Entry<'_, impl Read>) -> io::Result<Entry> {
        let has_xattrs = entry.pax_extensions()?.is_some_and(|records| {
            records.flatten().any(|record| record.key().is_ok_and(|key| key.starts_with("SCHILY.xattr.")))
        });
        let header = entry.header();
        let (mode, uid, gid) = (header.mode()? & 0o7777, header.uid()?, header.gid()?);
        let link = entry.link_name_bytes().map(|name| String::from_utf8_lossy(&name).into_owned());
        let kind = match entry.header().entry_type() {
            EntryType::Directory => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                Kind::File { size: content.len() as u64, content: Some(content) }
            }
            EntryType::Symlink => Kind::Symlink(link.unwrap_or_default()),
            EntryType::Link => self.linked(path, &link.unwrap_or_default()),
            EntryType::Char => Kind::Special("a character device"),
            EntryType::Block => Kind::Special("a block device"),
            EntryType::Fifo => Kind::Special("a pipe"),
            // A sparse file may unpack to any size, whatever the archive has.
            _ => Kind::Special("of an unknown type"),
        };
        Ok(Entry { mode, uid, gid, has_xattrs, kind })
    }

    /// A hard link is the file that it names, if that came before.
    fn linked(&self, path: &str, target: &str) -> Kind {
        let target = normalize(target.as_bytes()).ok().filter(|target| target != path);
        match target.and_then(|target| self.tree.get(&target)).map(|entry| &entry.kind) {
            // The content is not copied: many links to one large file are a bomb, too.
            Some(Kind::File { size, content }) if content.as_ref().is_none_or(|it| it.len() < 64 << 10) => {
                Kind::File { size: *size, content: content.clone() }
            }
            Some(Kind::File { size, .. }) => Kind::File { size: *size, content: None },
            _ => Kind::Special("a hard link to something that is no file of the image"),
        }
    }

    /// Removes what a whiteout names. True when `path` is one.
    fn remove(&mut self, path: &str) -> bool {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(gone) = name.strip_prefix(WHITEOUT) else { return false };
        match (name, directory) {
            (OPAQUE, "") => self.tree = Tree::default(),
            (OPAQUE, directory) => self.tree.remove_below(directory),
            (_, "") => self.tree.remove(gone),
            (_, directory) => self.tree.remove(&format!("{directory}/{gone}")),
        }
        true
    }

    fn refuse(&mut self, error: TreeError) {
        let file = error.path.chars().take(200).collect::<String>();
        self.faults.push(Fault::new(file, Rule::Path, format!("the path {}", error.problem)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::layer::gzip;
    use super::*;

    fn packed(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, text) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
            header.set_size(if is_link { 0 } else { text.len() as u64 });
            if is_link {
                header.set_link_name_literal(text).unwrap();
            }
            header.set_cksum();
            builder.append(&header, if is_link { &[][..] } else { text.as_bytes() }).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpack(layers: &[Vec<u8>]) -> (Tree, Vec<Fault>) {
        let mut unpacker = Unpacker::default();
        for layer in layers {
            unpacker.layer(LAYER, layer).unwrap();
        }
        unpacker.finish()
    }

    #[test]
    fn paths_that_leave_the_image_are_faults_and_nothing_else() {
        let file = EntryType::Regular;
        let (tree, faults) =
            unpack(&[packed(&[("../x", file, "1"), ("/etc/x", file, "2"), ("a", file, "3")])]);
        assert_eq!(tree.iter().map(|(path, _)| path).collect::<Vec<_>>(), ["a"]);
        assert_eq!(faults.iter().map(|fault| fault.rule).collect::<Vec<_>>(), [Rule::Path; 2]);
    }

    #[test]
    fn a_path_below_a_link_is_a_fault() {
        let link = ("a", EntryType::Symlink, "/etc");
        let (_, faults) = unpack(&[packed(&[link, ("a/passwd", EntryType::Regular, "x")])]);
        assert_eq!(faults[0].rule, Rule::Path);
    }

    #[test]
    fn whiteouts_remove_what_lower_layers_brought() {
        let file = EntryType::Regular;
        let lower = packed(&[("d/a", file, ""), ("d/b", file, ""), ("e/c", file, "")]);
        let upper = packed(&[("d/.wh.a", file, ""), ("e/.wh..wh..opq", file, "")]);
        let (tree, faults) = unpack(&[lower, upper]);
        assert_eq!(tree.iter().map(|(path, _)| path).collect::<Vec<_>>(), ["d", "d/b", "e"]);
        assert_eq!(faults, []);
    }

    #[test]
    fn a_bomb_is_refused_while_it_unpacks() {
        let zeros = vec![0; 1 << 20];
        let mut bomb = Vec::new();
        // Members of one gzip file follow each other.
        let member = gzip(&zeros).unwrap();
        for _ in 0..=(MAX_UNPACKED >> 20) {
            bomb.extend_from_slice(&member);
        }
        let error = Unpacker::default().layer(LAYER_GZIP, &bomb).unwrap_err();
        assert!(matches!(error, UnpackError::TooLarge), "{error:?}");
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let good = packed(&[("a", EntryType::Regular, "text"), ("l", EntryType::Link, "a")]);
        for at in 0..good.len().min(1200) {
            let mut damaged = good.clone();
            damaged[at] ^= 0xff;
            let _ = Unpacker::default().layer(LAYER, &damaged);
            let _ = Unpacker::default().layer(LAYER, &good[..at]);
        }
        assert!(Unpacker::default().layer("application/zstd", &good).is_err());
    }
}
