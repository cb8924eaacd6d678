//! Where peers were heard last: after a restart they are found there before anything else works.
//!
//! The parent keeps it in memory for the next worker, up to date at any moment and whatever the disk is like; the
//! file is for the next start of the whole service.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use ichor_mesh::key::PublicKey;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::keeper::Keeper;
use crate::store::{Loaded, Store};

const FILE: &str = "endpoints";
/// What the parent calls them.
const KEPT: &str = "endpoints";
/// Longest text that is read back from the parent: far more than any number of peers that one node has.
const MAX_KEPT_LEN: u64 = 16 << 20;

/// The last endpoint of each peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Endpoints(BTreeMap<PublicKey, SocketAddr>);

impl Endpoints {
    /// Reads what was saved. What cannot be read is not worth a failure: the peers are found again.
    pub(super) fn load(store: &Store) -> Self {
        match store.load(FILE) {
            Ok(Loaded::Found(bytes)) => Self::parse(&bytes),
            Ok(Loaded::Missing) => Self::default(),
            Ok(Loaded::Damaged(aside)) => {
                tracing::warn!(file = %aside.display(), "the saved endpoints were damaged and set aside");
                Self::default()
            }
            Err(error) => {
                tracing::warn!(%error, "the saved endpoints cannot be read");
                Self::default()
            }
        }
    }

    /// Saves them.
    pub(super) fn save(&self, store: &Store) -> io::Result<()> {
        store.save(FILE, self.to_text().as_bytes())
    }

    /// Leaves them with the parent.
    pub(super) fn leave(&self, keeper: &Keeper) -> io::Result<()> {
        keeper.keep(KEPT, self.to_memory()?.as_fd())
    }

    /// Adds what the worker before left with the parent, which is newer than any file; whether that is news.
    pub(super) fn adopt(&mut self, kept: &mut BTreeMap<String, OwnedFd>) -> bool {
        let Some(memory) = kept.remove(KEPT) else { return false };
        match Self::from_memory(memory) {
            Ok(left) => left.0.into_iter().fold(false, |news, (peer, at)| self.note(peer, at) || news),
            Err(error) => {
                tracing::warn!(%error, "the endpoints that were left with the parent cannot be read");
                false
            }
        }
    }

    fn to_memory(&self) -> io::Result<File> {
        let mut memory = File::from(memfd_create("ichor-endpoints", MemfdFlags::CLOEXEC)?);
        memory.write_all(self.to_text().as_bytes())?;
        Ok(memory)
    }

    fn from_memory(memory: OwnedFd) -> io::Result<Self> {
        let mut memory = File::from(memory);
        // Every copy of a descriptor shares one position.
        memory.rewind()?;
        let mut bytes = Vec::new();
        memory.take(MAX_KEPT_LEN).read_to_end(&mut bytes)?;
        Ok(Self::parse(&bytes))
    }

    fn to_text(&self) -> String {
        self.0.iter().map(|(key, endpoint)| format!("{key} {endpoint}\n")).collect()
    }

    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let entries = text.lines().filter_map(|line| {
            let (key, endpoint) = line.split_once(' ')?;
            Some((key.parse().ok()?, endpoint.parse().ok()?))
        });
        Self(entries.collect())
    }

    /// Notes where a peer is; whether that is news.
    pub(super) fn note(&mut self, peer: PublicKey, endpoint: SocketAddr) -> bool {
        self.0.insert(peer, endpoint) != Some(endpoint)
    }

    /// A peer has another key now; whether it had a place.
    pub(super) fn rename(&mut self, old: &PublicKey, new: PublicKey) -> bool {
        let place = self.0.remove(old);
        if let Some(place) = place {
            self.0.insert(new, place);
        }
        place.is_some()
    }

    /// Forgets all but `peers`.
    pub(super) fn retain(&mut self, peers: &super::peers::Peers) {
        self.0.retain(|key, _| peers.contains_key(key));
    }

    /// Where `peer` was heard last.
    pub(super) fn get(&self, peer: &PublicKey) -> Option<SocketAddr> {
        self.0.get(peer).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().to_owned());
        let mut endpoints = Endpoints::default();
        assert!(endpoints.note(PublicKey::new([1; 32]), "192.0.2.1:1".parse().unwrap()));
        assert!(endpoints.note(PublicKey::new([2; 32]), "[2001:db8::1]:2".parse().unwrap()));
        assert!(!endpoints.note(PublicKey::new([2; 32]), "[2001:db8::1]:2".parse().unwrap()));
        endpoints.save(&store).unwrap();
        assert_eq!(Endpoints::load(&store), endpoints);
    }

    #[test]
    fn what_was_left_with_the_parent_is_newer_than_the_file() {
        let [one, two] = [1, 2].map(|byte| PublicKey::new([byte; 32]));
        let [old, new] = ["192.0.2.1:1", "192.0.2.2:2"].map(|text| text.parse().unwrap());
        let mut left = Endpoints::default();
        left.note(one, new);
        let memory = OwnedFd::from(left.to_memory().unwrap());
        let mut endpoints = Endpoints::default();
        endpoints.note(one, old);
        endpoints.note(two, old);
        assert!(endpoints.adopt(&mut BTreeMap::from([(KEPT.to_owned(), memory)])));
        assert_eq!((endpoints.get(&one), endpoints.get(&two)), (Some(new), Some(old)));
    }

    #[test]
    fn lines_that_make_no_sense_are_skipped() {
        assert_eq!(Endpoints::parse(b"x y\n\xff\n\n"), Endpoints::default());
    }
}
