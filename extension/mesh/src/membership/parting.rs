//! Who became a peer, and a last word to who is none any more.

use super::{Event, Membership, Output};
use crate::gossip::Gossip;
use crate::record::IdentityKey;
use crate::roster::{Item, Settled, Status};

/// Records that a parting word holds at most.
const MAX_RECORDS: usize = 4;

impl Membership {
    /// Tells the driver that `identity` may have become a peer, be none any more, or be somewhere else.
    pub(super) fn tell_changed(&mut self, identity: IdentityKey) {
        if !self.is_peer(&identity) {
            if self.reachable.remove(&identity) {
                self.tell_why(&identity);
            }
            self.upkeep.forget(&identity);
        }
        self.output.push_back(Output::Event(Event::Changed(identity)));
    }

    /// Tells who was a peer until now why it is none. Afterwards nobody talks to it, and it would go on taking itself for a
    /// member: what is new is pushed to some peers only, and to none by who is catching up itself.
    fn tell_why(&mut self, parted: &IdentityKey) {
        let reasons: Vec<_> = self.reasons(parted).iter().map(Item::to_bytes).collect();
        self.send(Gossip::tell(*parted, &reasons));
    }

    /// What ended a member.
    fn reasons(&self, parted: &IdentityKey) -> Vec<Item> {
        let item = |record: &Settled| Item::Settled(Box::new(record.clone()));
        match self.roster.status(parted) {
            Some(Status::Overused) => {
                let token = self.roster.settled(parted).map(|settled| settled.grant.id);
                let others = self.roster.members().filter(|other| Some(other.grant.id) == token);
                let others: Vec<_> = others.take(MAX_RECORDS / 2).collect();
                // Records of members wait until that of their admitter is known.
                let admitters =
                    others.iter().filter_map(|other| self.roster.settled(&other.receipt.admitter));
                admitters.chain(others.iter().copied()).map(item).collect()
            }
            Some(Status::Replaced { by }) => self.roster.settled(by).map(item).into_iter().collect(),
            Some(Status::Revoked | Status::Left | Status::Expired) => {
                let tombstones = self.roster.tombstones();
                let of_it = tombstones.filter(|item| item.tombstone.end.identity() == Some(*parted));
                of_it.take(MAX_RECORDS).cloned().map(Item::Tombstone).collect()
            }
            None | Some(Status::Installed | Status::Conflict { .. }) => Vec::new(),
        }
    }
}
