//! The files of an image, all layers merged.

use std::collections::BTreeMap;

/// Longest path in an image, in bytes (Linux: PATH_MAX).
const MAX_PATH: usize = 4096;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file. Only files that are looked into keep their content.
    File {
        /// Size in bytes.
        size: u64,
        /// What is in it.
        content: Option<Vec<u8>>,
    },
    /// A symbolic link and where it points.
    Symlink(String),
    /// Something else, by its name.
    Special(&'static str),
}

/// A file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Number of its owner.
    pub uid: u64,
    /// Number of its group.
    pub gid: u64,
    /// Whether it has extended attributes.
    pub has_xattrs: bool,
    /// What it is.
    pub kind: Kind,
}

/// A path that cannot be in an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path {path:?} {problem}")]
pub struct TreeError {
    /// The path.
    pub path: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Entries by path. Paths have neither a slash in front nor `.` and `..` in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

impl Entry {
    /// A directory of root that everybody may enter.
    pub fn directory() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, has_xattrs: false, kind: Kind::Directory }
    }

    /// A file of root.
    pub fn file(mode: u32, content: Vec<u8>) -> Self {
        let kind = Kind::File { size: content.len() as u64, content: Some(content) };
        Self { mode, uid: 0, gid: 0, has_xattrs: false, kind }
    }
}

impl Tree {
    /// All entries, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (&**path, entry))
    }

    /// The entry of a path.
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The content of a file that is kept.
    pub fn content(&self, path: &str) -> Option<&[u8]> {
        match &self.get(path)?.kind {
            Kind::File { content, .. } => content.as_deref(),
            Kind::Directory | Kind::Symlink(_) | Kind::Special(_) => None,
        }
    }

    /// Adds an entry, and the directories above it.
    ///
    /// # Errors
    ///
    /// When something that is no directory is in its way.
    pub fn insert(&mut self, path: &str, entry: Entry) -> Result<Option<Entry>, TreeError> {
        for (at, _) in path.match_indices('/') {
            let above = self.entries.entry(path[..at].to_owned()).or_insert_with(Entry::directory);
            if above.kind != Kind::Directory {
                let problem = "is below something that is no directory";
                return Err(TreeError { path: path.to_owned(), problem });
            }
        }
        Ok(self.entries.insert(path.to_owned(), entry))
    }

    /// Removes an entry and everything below it.
    pub fn remove(&mut self, path: &str) {
        self.entries.remove(path);
        self.remove_below(path);
    }

    /// Removes everything below a directory.
    pub fn remove_below(&mut self, path: &str) {
        let prefix = format!("{path}/");
        self.entries.retain(|other, _| !other.starts_with(&prefix));
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The path as a [`Tree`] has it; empty for the root itself.
pub(crate) fn normalize(raw: &[u8]) -> Result<String, TreeError> {
    let refuse = |problem| TreeError { path: String::from_utf8_lossy(raw).into_owned(), problem };
    if raw.len() > MAX_PATH {
        return Err(TreeError { path: format!("of {} bytes", raw.len()), problem: "is too long" });
    }
    let text = str::from_utf8(raw).map_err(|_| refuse("is not text"))?;
    if text.starts_with('/') {
        return Err(refuse("is absolute"));
    }
    if text.chars().any(char::is_control) {
        return Err(refuse("has control characters"));
    }
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(refuse("climbs out with ..")),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_what_means_nothing_and_never_climb() {
        assert_eq!(normalize(b"./rootfs//usr/./local/").unwrap(), "rootfs/usr/local");
        assert_eq!(normalize(b"./").unwrap(), "");
        for bad in [&b"/etc/passwd"[..], b"rootfs/../etc", b"..", b"a\0b", b"\xff", &[b'a'; 5000]] {
            assert!(normalize(bad).is_err());
        }
    }

    #[test]
    fn nothing_can_be_put_below_a_link_or_file() {
        let mut tree = Tree::default();
        let link = Entry { kind: Kind::Symlink("/etc".into()), ..Entry::directory() };
        tree.insert("rootfs/usr", link).unwrap();
        assert!(tree.insert("rootfs/usr/local/x", Entry::file(0o644, vec![])).is_err());
    }

    #[test]
    fn a_directory_goes_with_what_is_in_it_and_not_with_its_namesakes() {
        let mut tree = Tree::default();
        tree.insert("a/b/c", Entry::file(0o644, vec![])).unwrap();
        tree.insert("a/bc", Entry::file(0o644, vec![])).unwrap();
        tree.remove("a/b");
        assert_eq!(tree.iter().map(|(path, _)| path).collect::<Vec<_>>(), ["a", "a/bc"]);
    }
}
