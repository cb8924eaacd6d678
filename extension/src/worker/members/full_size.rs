//! Whether packets of full size pass to the members that this node has sessions with.

use std::collections::{BTreeMap, BTreeSet};

use ichor_mesh::full_size::{Live, Message};
use ichor_mesh::key::PublicKey;
use ichor_mesh::status::PeerStatus;

use super::{Members, Send};
use crate::clock;

impl Members {
    /// Traffic to a peer takes another way now.
    pub(in crate::worker) fn path_changed(&mut self, to: &PublicKey) {
        self.proofs.restart(to, clock::now());
    }

    /// The interface has this MTU now.
    pub(in crate::worker) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
        self.proofs.set_mtu(mtu.into(), clock::now());
    }

    /// Whether packets of full size pass to the peer with this key; nothing while that is not known.
    pub(in crate::worker) fn full_size(&self, key: &PublicKey) -> Option<bool> {
        self.proofs.verdict(key)
    }

    /// Whether what is known of that has changed since the last call.
    pub(in crate::worker) fn take_proofs_changed(&mut self) -> bool {
        self.proofs.take_changed()
    }

    /// To whom packets of full size do not pass, and what to do about it.
    pub(in crate::worker) fn narrow_paths(&self) -> Option<String> {
        let names: BTreeSet<_> =
            self.proofs.failed().filter_map(|key| Some(self.name_of(self.identity_of(key)?))).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| {
            format!(
                "packets of full size do not pass in one piece to {names} (MTU {}), so connections may hang: lower the \
                 mtu, or mend the path",
                self.mtu
            )
        })
    }

    /// Asks who has a session whether packets of full size pass. What comes from an `ended` one is to be proven anew.
    pub(super) fn prove(
        &mut self,
        sessions: &[PeerStatus],
        ended: &[PublicKey],
        wanted: &BTreeSet<PublicKey>,
    ) -> Vec<Send> {
        for key in ended {
            self.proofs.restart(key, clock::now());
        }
        let live = |peer: &PeerStatus| Live { rx_bytes: peer.rx_bytes, kept: wanted.contains(&peer.key) };
        let live: BTreeMap<_, _> = sessions
            .iter()
            .filter(|peer| peer.has_session && self.by_key.contains_key(&peer.key))
            .map(|peer| (peer.key, live(peer)))
            .collect();
        let questions = self.proofs.poll(&live, clock::now());
        questions.into_iter().filter_map(|(to, payload)| self.whole(to, payload)).collect()
    }

    /// Takes a question or an answer, if `payload` is one.
    pub(super) fn take_probe(&mut self, from: &PublicKey, payload: &[u8]) {
        if let Some(message) = Message::decode(payload)
            && let Some(answer) = self.proofs.take(from, message, clock::now())
        {
            self.answers.extend(self.whole(*from, answer));
        }
    }

    fn whole(&self, to: PublicKey, payload: Vec<u8>) -> Option<Send> {
        let address = self.membership.roster().ula().control_address(self.by_key.get(&to)?);
        Some(Send::Whole { to, address, payload })
    }
}
