//! Who answers for whom: the chains of admitters, and where they lead.
//!
//! Every admission is signed by another member, whose own admission is signed by another, and so on to one that began
//! the network. A chain *leads* when none of its admitters is barred: who was revoked or has left can still sign.
//!
//! - Whoever is new is taken up only by the word of a known member that is not barred. Who was taken up before its
//!   admitter was barred stays: its end does not take those along whom it let in.
//! - Nodes that have such a member sign another admission of it, which displaces the first. So those that heard of the
//!   end of the admitter first come to know the member, too, and of whoever the barred one lets in afterwards nobody
//!   hears, because nobody else signs.
//! - Of several admissions of one member the shortest chain that leads is kept. As that is the shortest way in a graph,
//!   all nodes end with the same ones in whatever order they came, and no two members end with nothing but each other's
//!   word. Where no chain leads any more, because whoever began the network was revoked, one admission by a member that
//!   is not barred stands for as much as another.
//! - A node that begins knows nothing, or not yet what happened while it was away. Until it has caught up, it believes the
//!   members that it talks to, see [`Roster::trust`]; but it is the last to answer for those whom it
//!   took up in this way.

use std::collections::{BTreeMap, BTreeSet};

use super::{Roster, Settled};
use crate::record::IdentityKey;
use crate::record::tombstone::End;

/// The step from one holder of a token to another, which could make as many of them as it likes: longer than any
/// honest chain.
const STEP_AMONG_LIKE: u64 = 1 << 20;

impl Roster {
    /// Whether members are taken up without a chain that leads: while the node catches up, from those that it believes.
    pub fn trust(&mut self, trusting: bool) {
        self.trusting = trusting;
    }

    /// Whether an owner revoked `identity`, or it left: for good, and what it signs from now on counts for nothing.
    pub fn is_barred(&self, identity: &IdentityKey) -> bool {
        self.index.barred.contains(identity)
    }

    /// Whether the chain of admitters of `identity` leads to one that began the network.
    pub fn is_proven(&self, identity: &IdentityKey) -> bool {
        self.index.lengths.contains_key(identity)
    }

    /// Members that somebody else should admit once more: their admitter is barred, or depends on them.
    ///
    /// Whoever was admitted by one of them is helped with it.
    pub fn unproven(&self) -> impl Iterator<Item = &Settled> {
        let is_complete = self.index.lengths.len() == self.settled.len();
        let unproven =
            self.settled.values().filter(move |settled| !is_complete && !self.is_proven(&settled.identity()));
        unproven.filter(|settled| self.is_barred(&settled.receipt.admitter) || self.is_in_loop(settled))
    }

    /// Whether this node took `identity` up by a chain, or before it started, and not on trust.
    pub fn is_known_for_certain(&self, identity: &IdentityKey) -> bool {
        self.settled.contains_key(identity) && !self.on_trust.contains(identity)
    }

    /// Whether another admission of a known member gives it what it lacks: the word of one that is not barred, or a chain
    /// that leads.
    pub fn helps(&self, admission: &Settled) -> bool {
        let Some(known) = self.settled.get(&admission.identity()) else { return false };
        let lacks_word =
            self.is_barred(&known.receipt.admitter) && !self.is_barred(&admission.receipt.admitter);
        let leads = || !self.is_proven(&known.identity()) && self.length(admission).is_some();
        (lacks_word || leads()) && self.supersedes(admission, known)
    }

    /// Those that a tombstone bars for good.
    pub(super) fn barred(&self) -> BTreeSet<IdentityKey> {
        self.valid_tombstones()
            .filter_map(|tombstone| match tombstone.tombstone.end {
                End::Revoked { identity, .. } | End::Left { identity, .. } => Some(identity),
                End::Token(_) | End::Expired { .. } => None,
            })
            .collect()
    }

    /// How long the chain of each member is, if it leads.
    pub(super) fn lengths(&self) -> BTreeMap<IdentityKey, u64> {
        let mut admitted: BTreeMap<IdentityKey, Vec<&Settled>> = BTreeMap::new();
        let mut next = Vec::new();
        for settled in self.settled.values() {
            if settled.is_self_admitted() {
                next.push((settled.identity(), 0));
            } else if !self.is_barred(&settled.receipt.admitter) {
                admitted.entry(settled.receipt.admitter).or_default().push(settled);
            }
        }
        let mut lengths = BTreeMap::new();
        while let Some((identity, length)) = next.pop() {
            lengths.insert(identity, length);
            let admitted = admitted.get(&identity).into_iter().flatten();
            next.extend(admitted.map(|settled| (settled.identity(), length + self.step(settled))));
        }
        lengths
    }

    /// How long the chain of an admission is, if it leads and does not come by the member itself.
    pub(super) fn length(&self, settled: &Settled) -> Option<u64> {
        if settled.is_self_admitted() {
            return Some(0);
        }
        let admitter = settled.receipt.admitter;
        let length = *self.index.lengths.get(&admitter)?;
        let comes_by_itself = self.above(&admitter).any(|above| above == settled.identity());
        (!self.is_barred(&admitter) && !comes_by_itself).then(|| length + self.step(settled))
    }

    fn step(&self, settled: &Settled) -> u64 {
        if self.is_by_its_like(settled) { STEP_AMONG_LIKE } else { 1 }
    }

    /// `identity`, its admitter, its admitter's admitter, as far as they are known. Without end where they go in a circle.
    fn above(&self, identity: &IdentityKey) -> impl Iterator<Item = IdentityKey> {
        std::iter::successors(Some(*identity), |identity| {
            let settled = self.settled.get(identity)?;
            (!settled.is_self_admitted()).then_some(settled.receipt.admitter)
        })
    }

    fn is_in_loop(&self, settled: &Settled) -> bool {
        let mut seen = BTreeSet::new();
        let mut above = self.above(&settled.receipt.admitter).take_while(|identity| seen.insert(*identity));
        above.any(|identity| identity == settled.identity())
    }

    /// Whether `settled` may be taken up: its admitter is known and not barred, or waits for one that is, and so on.
    ///
    /// They may also have admitted each other in a circle: members do so where those that a chain could lead to are gone,
    /// and who was away must take what the others have. It counts if one of them could have admitted itself, so that
    /// nobody gets further by a circle than without; or if no chain leads any more. A chain that leads displaces it.
    /// Where all of them were told on trust it is enough that their records are at hand.
    pub(super) fn is_led(&self, settled: &Settled, on_trust: bool) -> bool {
        let (mut path, mut seen) = (vec![settled], BTreeSet::from([settled.identity()]));
        let (mut next, mut on_trust) = (settled, on_trust);
        while !next.is_self_admitted() {
            let admitter = next.receipt.admitter;
            if self.is_barred(&admitter) && !on_trust {
                return false;
            }
            if self.settled.contains_key(&admitter) {
                return true;
            }
            if !seen.insert(admitter) {
                let circle = path.iter().skip_while(|settled| settled.identity() != admitter);
                let is_rooted = circle.into_iter().any(|settled| settled.may_admit_itself());
                return on_trust || is_rooted || self.is_without_founder();
            }
            let Some(waiting) = self.pending.get(&admitter) else { return false };
            next = &waiting.settled;
            path.push(next);
            on_trust &= waiting.on_trust;
        }
        true
    }

    fn is_without_founder(&self) -> bool {
        !self.settled.is_empty() && self.index.lengths.keys().all(|identity| self.is_barred(identity))
    }
}
