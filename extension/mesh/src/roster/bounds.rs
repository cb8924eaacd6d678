//! What the roster forgets, so that it does not grow for ever.
//!
//! Both rules look at nothing but the records, never at a clock or at what came first, so that all nodes that know the
//! same forget the same. Whoever let somebody in that stays is kept: newcomers need its record to follow the chain.
//!
//! - *Claimants.* Who has a token that is used up can make as many identities for it as it likes. Beyond its uses, the
//!   [`MAX_BEYOND`] best claimants of a token are kept; they show well enough that it was stolen.
//! - *Ephemeral members that ended.* Their records show that their token was used, which matters until it expires. They
//!   go when some member's token was minted [`FORGET_AFTER`] later than that. Who is forgotten and comes back, because a
//!   part of the network missed its end, is ephemeral still, and ends once more.

use std::collections::BTreeSet;

use super::{Entry, Item, Roster, Settled};
use crate::record::IdentityKey;
use crate::record::tombstone::End;

/// Claimants of a token that are kept beyond those that it was good for.
pub(super) const MAX_BEYOND: usize = 16;
/// Seconds for which an ephemeral member that ended is kept after its token expired: a week.
pub(super) const FORGET_AFTER: u64 = 7 * 24 * 3600;

impl Roster {
    /// Forgets the claimants of the token of `newcomer` that are too many; whether any were.
    pub(super) fn forget_claimants(&mut self, newcomer: &IdentityKey) -> bool {
        let Some(grant) = self.settled.get(newcomer).map(|settled| &settled.grant) else { return false };
        let most = usize::from(grant.grant.uses) + MAX_BEYOND;
        if self.uses(&grant.id) <= most {
            return false;
        }
        let mut claimants: Vec<_> =
            self.settled.values().filter(|settled| settled.grant.id == grant.id).collect();
        // As where it is decided whose use counts. What is installed is kept, too, and is no more than the uses.
        claimants.sort_by_key(|settled| {
            (self.is_by_its_like(settled), settled.is_self_admitted(), settled.rank())
        });
        let beyond = claimants.iter().skip(most).map(|settled| settled.identity());
        let beyond = beyond.filter(|identity| !self.installed.contains(identity)).collect();
        self.forget(beyond)
    }

    /// Forgets the ephemeral members that ended long ago.
    pub(super) fn forget_ended(&mut self) {
        let is_over = |settled: &&Settled, latest: u64| {
            let grant = &settled.grant.grant;
            grant.ephemeral.is_some()
                // What it replaced must not come back.
                && grant.replaces.is_none()
                && self.is_ended(&settled.identity())
                && grant.not_after.saturating_add(FORGET_AFTER) < latest
        };
        if self.index.ended.is_empty() {
            return;
        }
        let latest = self.settled.values().map(|settled| settled.grant.grant.minted).max();
        let Some(latest) = latest else { return };
        let over = self.settled.values().filter(|settled| is_over(settled, latest));
        let over = over.map(Settled::identity).collect();
        if self.forget(over) {
            self.resolve();
        }
    }

    /// Whether a member said that it leaves, or another that it is gone.
    fn is_ended(&self, identity: &IdentityKey) -> bool {
        matches!(self.status.get(identity), Some(super::Status::Left | super::Status::Expired))
    }

    /// Forgets `candidates` and what they said, but those that others depend on, and those of which an owner spoke: that
    /// may bar their token. Whether any were.
    fn forget(&mut self, mut candidates: BTreeSet<IdentityKey>) -> bool {
        let revoked = self.tombstones.values().filter(|item| item.owner().is_some());
        let mut needed: Vec<_> = revoked.filter_map(|item| item.tombstone.end.identity()).collect();
        let others = self.settled.values().filter(|settled| !candidates.contains(&settled.identity()));
        needed.extend(others.map(|settled| settled.receipt.admitter));
        while let Some(identity) = needed.pop() {
            if candidates.remove(&identity) {
                needed.extend(self.settled.get(&identity).map(|settled| settled.receipt.admitter));
            }
        }
        for identity in &candidates {
            self.forget_member(identity);
        }
        !candidates.is_empty()
    }

    fn forget_member(&mut self, identity: &IdentityKey) {
        if let Some(settled) = self.settled.remove(identity) {
            self.index.forget_use(&settled.grant.id);
            self.digests.remove(Item::Settled(Box::new(settled)).digest());
        }
        if let Some(announcement) = self.announcements.remove(identity) {
            self.digests.remove(Item::Announcement(announcement).digest());
        }
        let renames: Vec<_> =
            self.renames_of(*identity).map(|item| (item.rename.member, item.owner)).collect();
        for key in renames {
            if let Entry::Occupied(rename) = self.renames.entry(key) {
                self.digests.remove(Item::Rename(rename.remove()).digest());
            }
        }
        let is_own = |end: &End| matches!(end, End::Left { .. } | End::Expired { .. });
        let ends = self.tombstones.values().filter(|item| is_own(&item.tombstone.end));
        let ends = ends.filter(|item| item.tombstone.end.identity() == Some(*identity));
        for id in ends.map(|item| item.id).collect::<Vec<_>>() {
            self.forget_tombstone(&id);
        }
        self.installed.remove(identity);
        self.on_trust.remove(identity);
        self.index.ended.remove(identity);
    }
}
