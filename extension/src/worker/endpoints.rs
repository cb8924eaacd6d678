//! Where peers were heard last, on disk: after a restart they are found there before anything else works.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ichor_mesh::key::PublicKey;

use crate::store::{Loaded, Store};

const FILE: &str = "endpoints";

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
    pub(super) fn save(&self, store: &Store) -> std::io::Result<()> {
        let lines: String = self.0.iter().map(|(key, endpoint)| format!("{key} {endpoint}\n")).collect();
        store.save(FILE, lines.as_bytes())
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
    fn lines_that_make_no_sense_are_skipped() {
        assert_eq!(Endpoints::parse(b"x y\n\xff\n\n"), Endpoints::default());
    }
}
