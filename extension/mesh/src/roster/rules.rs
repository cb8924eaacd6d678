//! What each kind of item is checked for, and what it changes.

use std::cmp::Ordering;

use super::owners::Owners;
use super::{Applied, Item, MAX_PENDING, Refusal, Roster, Settled, Waiting};
use crate::record::announcement::SignedAnnouncement;
use crate::record::grant::SignedGrant;
use crate::record::member::SignedMember;
use crate::record::owner::{SignedOwnerChange, SignedRename};
use crate::record::tombstone::{End, SignedTombstone};
use crate::record::{IdentityKey, OwnerKey, RecordId};

impl Roster {
    pub(super) fn apply_settled(&mut self, settled: Settled) -> Applied {
        if let Err(refusal) = self.judge(&settled) {
            return Applied::Refused(refusal);
        }
        if !self.is_led(&settled, self.trusting) {
            self.wait(settled);
            return Applied::Pending;
        }
        if settled.is_self_admitted() || self.settled.contains_key(&settled.receipt.admitter) {
            if !self.is_led(&settled, false) && !self.settled.contains_key(&settled.identity()) {
                self.on_trust.insert(settled.identity());
            }
            return self.settle(settled);
        }
        // It comes with those that waited for it.
        self.wait(settled);
        self.retry_pending();
        Applied::Pending
    }

    /// Keeps a member until its admitter is known. Of two admissions, the word of a barred member does not displace
    /// that of another.
    fn wait(&mut self, settled: Settled) {
        let identity = settled.identity();
        let is_barred = self.is_barred(&settled.receipt.admitter);
        let has_room = self.pending.len() < MAX_PENDING || self.pending.contains_key(&identity);
        let is_first = !(self.pending.contains_key(&identity) || self.settled.contains_key(&identity));
        let is_of_use = self.trusting || !is_barred || is_first;
        if has_room && is_of_use {
            self.pending.insert(identity, Waiting { settled, on_trust: self.trusting });
        }
    }

    /// Takes a member whose admitter is known.
    fn settle(&mut self, settled: Settled) -> Applied {
        let identity = settled.identity();
        match self.settled.get(&identity) {
            Some(known) if !self.supersedes(&settled, known) => Applied::Known,
            known => {
                let is_ordinary = known.is_none() && self.is_ordinary(&settled);
                self.keep(Item::Settled(Box::new(settled)));
                if is_ordinary {
                    self.install_ordinary(identity);
                    return Applied::New;
                }
                let were_too_many = self.forget_claimants(&identity);
                self.resolve();
                let is_forgotten = were_too_many && !self.settled.contains_key(&identity);
                if is_forgotten { Applied::Known } else { Applied::New }
            }
        }
    }

    /// Whether the parts of a member belong together and come from those with the authority.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn judge(&self, settled: &Settled) -> Result<(), Refusal> {
        let Settled { grant, member, receipt } = settled;
        if receipt.receipt.member != member.id {
            return Err(Refusal::Mismatch);
        }
        self.judge_claim(grant, member)?;
        if settled.is_self_admitted() && !settled.may_admit_itself() {
            return Err(Refusal::SelfAdmitted);
        }
        Ok(())
    }

    /// The same for one that nobody admitted yet.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn judge_claim(&self, grant: &SignedGrant, member: &SignedMember) -> Result<(), Refusal> {
        if member.member.grant != grant.id || member.token != grant.grant.token {
            return Err(Refusal::Mismatch);
        }
        if !self.owners.may_have_granted(&grant.owner, &grant.grant.addresses) {
            return Err(Refusal::NoOwner);
        }
        if !grant.grant.covers(&member.member.name, member.member.address, &member.member.routes) {
            return Err(Refusal::NotCovered);
        }
        Ok(())
    }

    pub(super) fn apply_announcement(&mut self, item: SignedAnnouncement) -> Applied {
        if !self.settled.contains_key(&item.identity) {
            // Who is not known has nothing to announce. Gossip brings it again when it is.
            return Applied::Pending;
        }
        let newer = |known: &SignedAnnouncement| {
            let key = |item: &SignedAnnouncement| (item.announcement.sequence, item.envelope.id());
            key(&item) > key(known)
        };
        if self.announcements.get(&item.identity).is_some_and(|known| !newer(known)) {
            return Applied::Known;
        }
        let identity = item.identity;
        let end = End::Expired { identity, sequence: self.heard(&identity) };
        let is_later = item.announcement.sequence > self.heard(&identity);
        self.keep(Item::Announcement(item));
        self.changed.insert(identity);
        if self.index.ended.contains(&identity) {
            if let Some(known) = self.same_end(&end).map(|known| known.id).filter(|_| is_later) {
                self.forget_tombstone(&known);
            }
            self.resolve();
        }
        Applied::New
    }

    pub(super) fn apply_tombstone(&mut self, item: SignedTombstone) -> Applied {
        let entitled = match item.tombstone.end {
            // An owner who is not known yet may be added by a record that comes later; gossip brings this one again.
            End::Revoked { .. } | End::Token(_) => self.owners.was_one(&OwnerKey(item.signer)),
            End::Left { identity, .. } if !self.settled.contains_key(&identity) => return Applied::Pending,
            End::Left { .. } => true,
            End::Expired { identity, sequence } => {
                let Some(settled) = self.settled.get(&identity) else { return Applied::Pending };
                if !self.settled.contains_key(&IdentityKey(item.signer)) {
                    return Applied::Pending;
                }
                if settled.grant.grant.ephemeral.is_none() {
                    return Applied::Refused(Refusal::NotEntitled);
                }
                // Nobody has heard more than the member said: else one could be let go for good.
                match sequence.cmp(&self.heard(&identity)) {
                    Ordering::Greater => return Applied::Pending,
                    Ordering::Less => return Applied::Known,
                    Ordering::Equal => {}
                }
                true
            }
        };
        if !entitled {
            return Applied::Refused(Refusal::NotEntitled);
        }
        // Members say each end once, so that none can fill the memory of all.
        match self.same_end(&item.tombstone.end).map(|known| known.id) {
            Some(known) if known < item.id => return Applied::Known,
            Some(known) => self.forget_tombstone(&known),
            None => {}
        }
        self.keep(Item::Tombstone(item));
        self.resolve();
        Applied::New
    }

    /// The sequence of the last announcement of `identity` that was heard.
    pub(super) fn heard(&self, identity: &IdentityKey) -> u64 {
        self.announcements.get(identity).map_or(0, |known| known.announcement.sequence)
    }

    /// A tombstone by a member that says the same.
    fn same_end(&self, end: &End) -> Option<&SignedTombstone> {
        self.tombstones.values().find(|known| match (&known.tombstone.end, end) {
            (End::Left { identity: known, .. }, End::Left { identity, .. })
            | (End::Expired { identity: known, .. }, End::Expired { identity, .. }) => known == identity,
            _ => false,
        })
    }

    pub(super) fn forget_tombstone(&mut self, id: &RecordId) {
        if let Some(item) = self.tombstones.remove(id) {
            self.digests.remove(Item::Tombstone(item).digest());
        }
    }

    pub(super) fn apply_owner_change(&mut self, item: SignedOwnerChange) -> Applied {
        // What no owner signed would never mean anything, and must not take room.
        if !item.owners.iter().any(|owner| self.owners.was_one(owner)) {
            return Applied::Refused(Refusal::NoOwner);
        }
        self.keep(Item::OwnerChange(item));
        self.owners = Owners::of(&self.genesis, &self.owner_changes);
        self.resolve();
        Applied::New
    }

    pub(super) fn apply_rename(&mut self, item: SignedRename) -> Applied {
        if !self.owners.was_one(&item.owner) {
            return Applied::Refused(Refusal::NoOwner);
        }
        if !self.settled.contains_key(&item.rename.member) {
            return Applied::Pending;
        }
        let newer = |known: &SignedRename| (item.rename.serial, item.id) > (known.rename.serial, known.id);
        if self.renames.get(&(item.rename.member, item.owner)).is_some_and(|known| !newer(known)) {
            return Applied::Known;
        }
        self.changed.insert(item.rename.member);
        self.keep(Item::Rename(item));
        self.resolve();
        Applied::New
    }

    /// Which of two records of one identity stands: that of the later grant, else the admission by itself, which began a
    /// network and depends on nobody else's, else that by a member that is not barred, else the one with the shorter
    /// chain, else the better admission. That by another holder of the same token counts for less, so that none can
    /// talk its like down.
    pub(super) fn supersedes(&self, new: &Settled, known: &Settled) -> bool {
        let order = |settled: &Settled| {
            let serial = std::cmp::Reverse(settled.grant.grant.serial);
            let is_barred = self.is_barred(&settled.receipt.admitter);
            let length = self.length(settled).unwrap_or(u64::MAX);
            (
                serial,
                !settled.is_self_admitted(),
                is_barred,
                length,
                self.is_by_its_like(settled),
                settled.rank(),
            )
        };
        order(new) < order(known)
    }

    /// Takes up members that waited for their admitter.
    pub(super) fn retry_pending(&mut self) {
        let next = |roster: &Self| {
            let mut waiting = roster.pending.iter();
            waiting
                .find(|(_, next)| roster.is_led(&next.settled, next.on_trust))
                .map(|(identity, _)| *identity)
        };
        while let Some(Waiting { settled, .. }) =
            next(self).and_then(|identity| self.pending.remove(&identity))
        {
            let digest = Item::Settled(Box::new(settled.clone())).digest();
            if !self.is_led(&settled, false) && !self.settled.contains_key(&settled.identity()) {
                self.on_trust.insert(settled.identity());
            }
            if self.judge(&settled).is_ok() && self.settle(settled) == Applied::New {
                self.revived.push(digest);
            }
        }
    }
}
