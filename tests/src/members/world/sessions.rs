//! The sessions between machines: when they begin, which end, and how long handshakes take.

use std::time::Duration;

use ichor_mesh::membership::Membership;

use super::{Happening, NodeId, Session, World};

/// How long a peer is silent before its session counts as over.
const SILENCE: Duration = Duration::from_secs(15);
/// How long after a change of links those that want sessions notice.
const HANDSHAKE: Duration = Duration::from_millis(60);
/// Waits between handshakes that stay unanswered, where these can be lost: those of the daemon.
const RETRIES: [Duration; 3] =
    [Duration::from_millis(350), Duration::from_millis(800), Duration::from_millis(2_000)];

impl World {
    pub(super) fn begin(&mut self, node: NodeId, with: NodeId) {
        let Some(identity) = self.identity(with) else { return };
        let session = Session { with: identity, silent: None };
        let before = self.machines[node.0].sessions.insert(with, session);
        // Another one runs there now.
        if let Some(before) = before.filter(|before| before.with != identity) {
            self.with(node, |membership, _| membership.session_ended(&before.with));
        }
        self.with(node, |membership, now| membership.session_began(identity, now));
    }

    /// Tries to have the sessions that are wanted.
    pub(super) fn connect(&mut self, node: NodeId) {
        let wanted = self.machines[node.0].membership.as_mut().map(Membership::wanted).unwrap_or_default();
        let missing: Vec<_> = wanted
            .iter()
            .filter_map(|identity| self.by_identity.get(identity))
            .flatten()
            .copied()
            .filter(|peer| !self.machines[node.0].sessions.contains_key(peer))
            .collect();
        for peer in missing {
            self.shake_hands(node, peer);
        }
    }

    /// The same, and ends those that are dead.
    pub(super) fn tick(&mut self, node: NodeId) {
        self.connect(node);
        let now = self.now;
        let sessions: Vec<_> = self.machines[node.0].sessions.keys().copied().collect();
        for peer in sessions {
            // Keepalives come in a live session; the other end has it, too.
            let is_alive = self.mutual(node, peer) && self.have_session(node, peer);
            let Some(session) = self.machines[node.0].sessions.get_mut(&peer) else { continue };
            let (with, since) = (session.with, *session.silent.get_or_insert(now));
            if is_alive {
                session.silent = None;
            } else if now - since >= SILENCE {
                self.machines[node.0].sessions.remove(&peer);
                self.with(node, |membership, _| membership.session_ended(&with));
            } else if self.mutual(node, peer) {
                // The other end was restarted.
                self.shake_hands(node, peer);
            }
        }
    }

    /// Whether each of two takes the other for who it is.
    pub(super) fn have_session(&self, a: NodeId, b: NodeId) -> bool {
        let has = |node: NodeId, peer: NodeId| {
            let session = self.machines[node.0].sessions.get(&peer);
            session.is_some_and(|session| Some(session.with) == self.identity(peer))
        };
        has(a, b) && has(b, a)
    }

    pub(super) fn shake_hands(&mut self, node: NodeId, peer: NodeId) {
        if self.is_distant && !self.is_handshake_answered(node, peer) {
            return;
        }
        if self.mutual(node, peer) {
            let (one, two) = (self.machines[node.0].incarnation, self.machines[peer.0].incarnation);
            self.at(self.now + HANDSHAKE, Happening::Session(node, one, peer, two));
        }
    }

    /// Whether a handshake is due, and neither it nor the answer is lost. A peer that is down does not answer.
    pub(super) fn is_handshake_answered(&mut self, node: NodeId, peer: NodeId) -> bool {
        let (count, at) = self.tried.get(&(node, peer)).copied().unwrap_or((0, self.now));
        if self.now < at {
            return false;
        }
        if self.mutual(node, peer) && !self.is_lost() && !self.is_lost() {
            self.tried.remove(&(node, peer));
            self.tried.remove(&(peer, node));
            return true;
        }
        let wait = RETRIES[count.min(RETRIES.len() - 1)];
        self.tried.insert((node, peer), (count + 1, self.now + wait));
        let incarnation = self.machines[node.0].incarnation;
        self.at(self.now + wait, Happening::Retry(node, incarnation, peer));
        false
    }
}
