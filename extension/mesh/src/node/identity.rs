//! Which keys are ours: the identity of the node, and for a while the one before.
//!
//! A change of keys costs no packet. Sessions go on; the next handshake with a peer is under the new key, or under the
//! old one for as long as the peer calls that: it has not heard of the change yet. A peer that has proven to know the new
//! key is not answered under the old one any more.

use std::time::Instant;

use super::{Node, PeerId};
use crate::gate::Gate;
use crate::key::PublicKey;
use crate::tunnel::Noise;

/// One of our keys, and the gate before its handshakes.
pub(super) struct Identity<N> {
    pub(super) noise: N,
    pub(super) gate: Gate,
}

/// Under which of our keys something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Present,
    Previous,
}

impl<N: Noise> Node<N> {
    /// Sets, changes or removes the identity. All sessions end; a peer with the same public key is removed,
    /// as a node is no peer of itself.
    pub fn set_identity(&mut self, noise: Option<N>, now: Instant) {
        self.previous = None;
        self.identity = noise.map(|noise| self.with_gate(noise, now));
        self.remove_ourselves(now);
        for id in self.peer_ids() {
            self.begin_anew(id);
            self.rebuild(id, false, now);
        }
    }

    /// Puts another identity in place of ours and keeps all sessions. Peers may call the old one until
    /// [`set_previous_identity`](Self::set_previous_identity) ends it.
    pub fn rotate_identity(&mut self, noise: N, now: Instant) {
        let new = self.with_gate(noise, now);
        self.previous = self.identity.replace(new);
        self.remove_ourselves(now);
        for id in self.peer_ids() {
            self.begin_anew(id);
            self.rebuild(id, true, now);
        }
    }

    /// Sets the identity that was ours before, after a restart; `None` ends it.
    pub fn set_previous_identity(&mut self, noise: Option<N>, now: Instant) {
        self.previous = noise.map(|noise| self.with_gate(noise, now));
        self.remove_ourselves(now);
        for id in self.peer_ids() {
            let by_previous = self.peer_mut(id).is_some_and(|peer| std::mem::take(&mut peer.by_previous));
            if by_previous {
                self.rebuild(id, true, now);
            }
        }
    }

    /// The peer has another key from now on. Its sessions and its place stay. False if the key is that of another
    /// peer, or ours.
    pub fn set_peer_key(&mut self, id: PeerId, key: PublicKey, now: Instant) -> bool {
        if self.by_key.contains_key(&key) || self.is_ours(&key) {
            return false;
        }
        let Some(peer) = self.peer_mut(id) else { return false };
        let old = std::mem::replace(&mut peer.key, key);
        self.by_key.remove(&old);
        self.by_key.insert(key, id);
        self.rebuild(id, true, now);
        true
    }

    /// Takes up the key that a peer calls us by; whether it is answered.
    pub(super) fn is_called(&mut self, id: PeerId, which: Which, now: Instant) -> bool {
        let Some(peer) = self.peer_mut(id) else { return false };
        let by_previous = which == Which::Previous;
        if by_previous && peer.knows_our_key {
            return false;
        }
        if peer.by_previous != by_previous {
            peer.by_previous = by_previous;
            self.rebuild(id, true, now);
        }
        true
    }

    pub(super) fn identity_of(&self, which: Which) -> Option<&Identity<N>> {
        match which {
            Which::Present => self.identity.as_ref(),
            Which::Previous => self.previous.as_ref(),
        }
    }

    pub(super) fn is_ours(&self, key: &PublicKey) -> bool {
        [&self.identity, &self.previous]
            .into_iter()
            .flatten()
            .any(|identity| identity.noise.public_key() == *key)
    }

    pub(super) fn rebuild(&mut self, id: PeerId, keep: bool, now: Instant) {
        let Some(peer) = self.peers.get(id.index()).and_then(Option::as_ref) else { return };
        let which = if peer.by_previous { Which::Previous } else { Which::Present };
        let tunnel = self
            .identity_of(which)
            .map(|identity| identity.noise.tunnel(&peer.key, peer.preshared.as_ref(), now));
        self.with_peer(id, now, |peer, cx| peer.replace_tunnel(tunnel, keep, cx));
    }

    fn begin_anew(&mut self, id: PeerId) {
        if let Some(peer) = self.peer_mut(id) {
            (peer.by_previous, peer.knows_our_key) = (false, false);
        }
    }

    fn with_gate(&mut self, noise: N, now: Instant) -> Identity<N> {
        let gate = Gate::new(&noise.public_key(), now, &mut self.rng);
        Identity { noise, gate }
    }

    fn remove_ourselves(&mut self, now: Instant) {
        let ours = [&self.identity, &self.previous].into_iter().flatten();
        let ours: Vec<PeerId> =
            ours.filter_map(|identity| self.by_key.get(&identity.noise.public_key()).copied()).collect();
        for us in ours {
            self.remove_peer(us, now);
        }
    }
}
