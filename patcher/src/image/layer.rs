//! A layer: a tar in its one canonical form, and gzip around it.
//!
//! Entries are sorted, belong to root and have one time; headers are plain ustar. gzip rather than a bare tar:
//! tools that copy images compress what is not, and the digest that people pin would change. Its bytes depend on the
//! deflate crate, which the lock file pins.

use std::io::{self, Write};

use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

use crate::extension::{Kind, Tree};

/// The tar of a tree whose files have content; `seconds` since 1970 is the time of all entries.
pub(super) fn archive(tree: &Tree, seconds: u64) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, entry) in tree.iter() {
        let mut header = Header::new_ustar();
        header.set_mode(entry.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(seconds);
        header.set_size(0);
        match &entry.kind {
            Kind::Directory => {
                header.set_entry_type(EntryType::Directory);
                builder.append_data(&mut header, format!("{path}/"), io::empty())?;
            }
            Kind::File { content: Some(content), .. } => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, path, &**content)?;
            }
            Kind::Symlink(target) => {
                header.set_entry_type(EntryType::Symlink);
                builder.append_link(&mut header, path, target)?;
            }
            Kind::File { content: None, .. } | Kind::Special(_) => {
                let error = format!("{path} has no content to put into a layer");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
            }
        }
    }
    builder.into_inner()
}

/// The same bytes for the same input: no time, no name, an unknown system.
pub(super) fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extension::Entry;

    #[test]
    fn the_archive_depends_on_the_files_and_not_on_their_order() {
        let files = [("manifest.yaml", "m"), ("rootfs/usr/local/b", "b"), ("rootfs/usr/local/a", "a")];
        let build = |order: &[usize]| {
            let mut tree = Tree::default();
            for &index in order {
                let (path, text) = files[index];
                tree.insert(path, Entry::file(0o644, text.into())).unwrap();
            }
            gzip(&archive(&tree, 1_700_000_000).unwrap()).unwrap()
        };
        assert_eq!(build(&[0, 1, 2]), build(&[2, 1, 0]));
    }

    #[test]
    fn entries_are_sorted_and_roots() {
        let mut tree = Tree::default();
        tree.insert("rootfs/usr/local/b", Entry::file(0o755, b"b".to_vec())).unwrap();
        tree.insert("manifest.yaml", Entry::file(0o644, b"m".to_vec())).unwrap();
        let bytes = archive(&tree, 7).unwrap();
        let mut archive = tar::Archive::new(&*bytes);
        let mut paths = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 7));
            paths.push(entry.path().unwrap().to_string_lossy().into_owned());
        }
        assert_eq!(
            paths,
            ["manifest.yaml", "rootfs/", "rootfs/usr/", "rootfs/usr/local/", "rootfs/usr/local/b"]
        );
    }

    #[test]
    fn the_header_of_the_compression_says_nothing_about_the_machine() {
        let bytes = gzip(b"x").unwrap();
        assert_eq!(bytes[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255]);
    }
}
