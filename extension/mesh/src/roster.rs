//! Who is a member: the records that are known, and what follows from them.
//!
//! The roster is a set of signed records that only grows (until what they say has no meaning any more), plus one
//! thing that depends on history: which of several members that claim the same name or address is *installed*.
//! From the same records, two nodes come to the same conclusions, in whatever order the records came, except that
//! each keeps the member that it had installed first when two honest claims collide. Such a conflict is shown until
//! an owner decides; nobody is ever evicted by somebody who merely comes along.
//!
//! What decides, in this order:
//!
//! 1. *Authority.* A member's grant is signed by an owner (once an owner is enough: retiring one does not undo what
//!    it did), for an address in that owner's range; the member is what the grant says; its admission is signed by
//!    another member, or by itself for a grant of an exact name.
//! 2. *Tombstones.* A revoked member, or one that left, is barred for good. An expired one is barred until a newer
//!    announcement of it is heard. What an owner revoked counts no more once that owner's key was stolen.
//! 3. *Replacement.* A grant may name one incarnation that it replaces; that one is barred as soon as the new one is
//!    known.
//! 4. *Uses.* When a token turns out to have been used too often, which is the mark of theft, the admissions that
//!    most members could have seen stand, and the others fall, also where they were installed. Who admitted itself
//!    stands behind everybody whom another admitted, and behind those of its like that are installed: what it says of
//!    its own reach is worth nothing. Behind all of them stand those whom another holder of the same token admitted, who
//!    could make as many as it likes. Members that are gone have used their token all the same.
//! 5. *Names and addresses.* Whoever is installed stays; the other waits.

mod item;
pub mod owners;
mod resolve;

use std::cmp::Ordering;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::crypto::KEY_LEN;
use crate::record::announcement::SignedAnnouncement;
use crate::record::genesis::{Genesis, UlaPlan};
use crate::record::grant::SignedGrant;
use crate::record::member::SignedMember;
use crate::record::name::{Name, NamePattern};
use crate::record::owner::{SignedOwnerChange, SignedRename};
use crate::record::tombstone::{End, SignedTombstone};
use crate::record::{IdentityKey, NetworkId, OwnerKey, RecordId};

use self::owners::Owners;

pub use self::item::{Item, ItemDigest, Settled};
pub use self::resolve::{Problem, Status};

/// Records that wait for one they depend on. More are let go; gossip brings them again.
const MAX_PENDING: usize = 1024;

/// What applying an item led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is new: pass it on.
    New,
    /// It was known, or something newer was.
    Known,
    /// It depends on a record that is not known yet; it is kept for a while.
    Pending,
    /// It is refused: nobody with the authority said so.
    Refused(Refusal),
}

/// Why an item is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The parts of a member do not belong together.
    Mismatch,
    /// The grant does not cover what the member says it is.
    NotCovered,
    /// Who signed the grant, the tombstone or the renaming was no owner who may.
    NoOwner,
    /// A member admitted itself without the grant of an exact name.
    SelfAdmitted,
    /// The tombstone is by somebody who may not say so.
    NotEntitled,
}

/// The records of one network.
#[derive(Debug, Clone)]
pub struct Roster {
    network: NetworkId,
    genesis: Genesis,
    ula: UlaPlan,
    owner_changes: BTreeMap<RecordId, SignedOwnerChange>,
    owners: Owners,
    settled: BTreeMap<IdentityKey, Settled>,
    announcements: BTreeMap<IdentityKey, SignedAnnouncement>,
    tombstones: BTreeMap<RecordId, SignedTombstone>,
    /// One of each owner, so that none displaces what another said.
    renames: BTreeMap<(IdentityKey, OwnerKey), SignedRename>,
    pending: BTreeMap<IdentityKey, Settled>,
    installed: BTreeSet<IdentityKey>,
    status: BTreeMap<IdentityKey, Status>,
    digests: BTreeMap<ItemDigest, ItemKey>,
    index: Index,
    changed: BTreeSet<IdentityKey>,
    revived: Vec<ItemDigest>,
}

/// What follows from the records, kept at hand so that an ordinary newcomer does not cost a look at everybody.
#[derive(Debug, Clone, Default)]
struct Index {
    /// Installed members by name and by address.
    names: BTreeMap<Name, IdentityKey>,
    addresses: BTreeMap<Ipv4Addr, IdentityKey>,
    /// What those in a conflict claim.
    claimed: BTreeSet<(Name, Ipv4Addr)>,
    /// Records by grant.
    uses: BTreeMap<RecordId, usize>,
    /// Incarnations that some grant replaces.
    replaced: BTreeSet<RecordId>,
    /// Identities that some tombstone is about.
    ended: BTreeSet<IdentityKey>,
}

impl Index {
    fn forget_use(&mut self, grant: &RecordId) {
        if let Entry::Occupied(mut uses) = self.uses.entry(*grant) {
            *uses.get_mut() -= 1;
            if *uses.get() == 0 {
                uses.remove();
            }
        }
    }
}

/// Where an item is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ItemKey {
    Settled(IdentityKey),
    Announcement(IdentityKey),
    Tombstone(RecordId),
    OwnerChange(RecordId),
    Rename(IdentityKey, OwnerKey),
}

impl Roster {
    /// Makes the roster of the network that `genesis` begins, without members.
    pub fn new(genesis: Genesis, network: NetworkId) -> Self {
        let owners = Owners::of(&genesis, &BTreeMap::new());
        Self {
            network,
            genesis,
            ula: UlaPlan::of(&network),
            owner_changes: BTreeMap::new(),
            owners,
            settled: BTreeMap::new(),
            announcements: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            renames: BTreeMap::new(),
            pending: BTreeMap::new(),
            installed: BTreeSet::new(),
            status: BTreeMap::new(),
            digests: BTreeMap::new(),
            index: Index::default(),
            changed: BTreeSet::new(),
            revived: Vec::new(),
        }
    }

    /// Makes those of `installed` that may be the ones that are installed, as they were before a restart.
    pub fn restore_installed(&mut self, installed: impl IntoIterator<Item = IdentityKey>) {
        self.installed = installed.into_iter().collect();
        self.resolve();
    }

    /// Takes an item whose signatures were checked.
    pub fn apply(&mut self, item: Item) -> Applied {
        let digest = item.digest();
        if self.digests.contains_key(&digest) {
            return Applied::Known;
        }
        let applied = match item {
            Item::Settled(settled) => self.apply_settled(*settled),
            Item::Announcement(item) => self.apply_announcement(item),
            Item::Tombstone(item) => self.apply_tombstone(item),
            Item::OwnerChange(item) => self.apply_owner_change(item),
            Item::Rename(item) => self.apply_rename(item),
        };
        if applied == Applied::New {
            self.retry_pending();
        }
        applied
    }

    /// Identities about which something changed since the last call: status, announcement or name.
    pub fn take_changed(&mut self) -> BTreeSet<IdentityKey> {
        std::mem::take(&mut self.changed)
    }

    /// Members that waited for another record and were taken up since the last call: they are to be passed on, too.
    pub fn take_revived(&mut self) -> Vec<ItemDigest> {
        std::mem::take(&mut self.revived)
    }

    // What is known

    /// The network.
    pub fn network(&self) -> &NetworkId {
        &self.network
    }

    /// How the network began.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The IPv6 addresses of the network.
    pub fn ula(&self) -> &UlaPlan {
        &self.ula
    }

    /// The owners.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// The members that are installed, by identity.
    pub fn members(&self) -> impl Iterator<Item = &Settled> {
        self.installed.iter().filter_map(|identity| self.settled.get(identity))
    }

    /// Whether `identity` is an installed member.
    pub fn is_member(&self, identity: &IdentityKey) -> bool {
        self.installed.contains(identity)
    }

    /// The record of `identity`, installed or not.
    pub fn settled(&self, identity: &IdentityKey) -> Option<&Settled> {
        self.settled.get(identity)
    }

    /// Every identity with a record, and what became of it.
    pub fn statuses(&self) -> impl Iterator<Item = (&IdentityKey, &Status)> {
        self.status.iter()
    }

    /// What became of `identity`.
    pub fn status(&self, identity: &IdentityKey) -> Option<&Status> {
        self.status.get(identity)
    }

    /// The last announcement of `identity`.
    pub fn announcement(&self, identity: &IdentityKey) -> Option<&SignedAnnouncement> {
        self.announcements.get(identity)
    }

    /// The name of a member, which an owner may have changed.
    pub fn name<'r>(&'r self, settled: &'r Settled) -> &'r Name {
        let renamed = self.renames_of(settled.identity());
        // What a thief said with an owner's key does not count.
        let renamed = renamed.filter(|item| self.owners.may_have_revoked(&item.owner));
        let renamed = renamed.max_by_key(|item| (item.rename.serial, item.id));
        renamed.map_or(&settled.member.member.name, |item| &item.rename.name)
    }

    fn renames_of(&self, member: IdentityKey) -> impl Iterator<Item = &SignedRename> {
        let (first, last) = (OwnerKey([0; KEY_LEN]), OwnerKey([0xff; KEY_LEN]));
        self.renames.range((member, first)..=(member, last)).map(|(_, item)| item)
    }

    /// The addresses of a member.
    pub fn addresses(&self, settled: &Settled) -> (Ipv4Addr, Ipv6Addr) {
        (settled.member.member.address, self.ula.member_address(self.name(settled)))
    }

    /// All tombstones.
    pub fn tombstones(&self) -> impl Iterator<Item = &SignedTombstone> {
        self.tombstones.values()
    }

    /// A sum of all tombstones that does not depend on their order: two nodes with the same one know the same.
    pub fn tombstone_sum(&self) -> u64 {
        self.tombstones
            .values()
            .fold(0, |sum, item| sum ^ item.id.0.first_chunk().map_or(0, |start| u64::from_le_bytes(*start)))
    }

    /// Members whose admitter is not known yet.
    pub fn waiting(&self) -> impl Iterator<Item = &Settled> {
        self.pending.values()
    }

    /// The record with this identity, installed or not.
    pub fn incarnation(&self, id: &RecordId) -> Option<&Settled> {
        self.settled.values().find(|settled| settled.id() == *id)
    }

    /// The items, to save them or to pass them on.
    pub fn items(&self) -> impl Iterator<Item = Item> {
        self.digests.values().filter_map(|key| self.item(*key))
    }

    /// The digests of all items, in order.
    pub fn digests(&self) -> impl Iterator<Item = ItemDigest> {
        self.digests.keys().copied()
    }

    /// The item with this digest.
    pub fn find(&self, digest: ItemDigest) -> Option<Item> {
        self.digests.get(&digest).and_then(|key| self.item(*key))
    }

    /// Whether the item with this digest is known.
    pub fn knows(&self, digest: ItemDigest) -> bool {
        self.digests.contains_key(&digest)
    }

    /// How often a grant was used, by all that is known: also by members that are gone.
    pub fn uses(&self, grant: &RecordId) -> usize {
        self.index.uses.get(grant).copied().unwrap_or(0)
    }

    /// Whether the unused rest of a grant is revoked.
    pub fn is_token_revoked(&self, grant: &SignedGrant) -> bool {
        self.valid_tombstones().any(|tombstone| match tombstone.tombstone.end {
            End::Token(token) => token == grant.id,
            End::Revoked { identity, keep_token: false } => {
                self.settled.get(&identity).is_some_and(|settled| settled.grant.id == grant.id)
            }
            End::Revoked { .. } | End::Left { .. } | End::Expired { .. } => false,
        })
    }

    /// Whether something else is known under this name or address, installed or not gone for good.
    pub fn is_taken(&self, name: &Name, address: Ipv4Addr, except: Option<RecordId>) -> bool {
        self.settled
            .values()
            .filter(|settled| Some(settled.id()) != except && self.is_installed_or_waiting(settled))
            .any(|settled| self.name(settled) == name || settled.member.member.address == address)
    }

    fn is_installed_or_waiting(&self, settled: &Settled) -> bool {
        matches!(self.status.get(&settled.identity()), Some(Status::Installed | Status::Conflict { .. }))
    }

    // Rules by kind

    fn apply_settled(&mut self, settled: Settled) -> Applied {
        if let Err(refusal) = self.judge(&settled) {
            return Applied::Refused(refusal);
        }
        let (identity, admitter) = (settled.identity(), settled.receipt.admitter);
        if admitter != identity && !self.settled.contains_key(&admitter) {
            if self.pending.len() < MAX_PENDING {
                self.pending.insert(identity, settled);
                self.retry_pending();
            }
            return Applied::Pending;
        }
        self.settle(settled)
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
                } else {
                    self.resolve();
                }
                Applied::New
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
        let is_exact = matches!(grant.grant.names, NamePattern::Exact(_));
        if receipt.admitter == member.identity && !is_exact {
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

    fn apply_announcement(&mut self, item: SignedAnnouncement) -> Applied {
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

    fn apply_tombstone(&mut self, item: SignedTombstone) -> Applied {
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
    fn heard(&self, identity: &IdentityKey) -> u64 {
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

    fn forget_tombstone(&mut self, id: &RecordId) {
        if let Some(item) = self.tombstones.remove(id) {
            self.digests.remove(&Item::Tombstone(item).digest());
        }
    }

    fn apply_owner_change(&mut self, item: SignedOwnerChange) -> Applied {
        // What no owner signed would never mean anything, and must not take room.
        if !item.owners.iter().any(|owner| self.owners.was_one(owner)) {
            return Applied::Refused(Refusal::NoOwner);
        }
        self.keep(Item::OwnerChange(item));
        self.owners = Owners::of(&self.genesis, &self.owner_changes);
        self.resolve();
        Applied::New
    }

    fn apply_rename(&mut self, item: SignedRename) -> Applied {
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
    /// network and depends on nobody else's, else the better admission. That by another holder of the same token counts
    /// for less, so that none can talk its like down.
    fn supersedes(&self, new: &Settled, known: &Settled) -> bool {
        let order = |settled: &Settled| {
            let serial = std::cmp::Reverse(settled.grant.grant.serial);
            (serial, !settled.is_self_admitted(), self.is_by_its_like(settled), settled.rank())
        };
        order(new) < order(known)
    }

    /// Takes up members that waited for their admitter.
    ///
    /// Two that admitted each other (one asked again while the network was split, and of its two admissions only one
    /// is kept) wait for each other: it is enough that the records of all admitters are at hand.
    fn retry_pending(&mut self) {
        while let Some(identity) = self.pending.keys().find(|identity| self.is_complete(identity)).copied() {
            let Some(settled) = self.pending.remove(&identity) else { return };
            let digest = Item::Settled(Box::new(settled.clone())).digest();
            if self.judge(&settled).is_ok() && self.settle(settled) == Applied::New {
                self.revived.push(digest);
            }
        }
    }

    /// Whether the records of the admitter of `waiting`, of its admitter, and so on, are known or waiting, too.
    fn is_complete(&self, waiting: &IdentityKey) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = *waiting;
        while !self.settled.contains_key(&next) {
            let Some(settled) = self.pending.get(&next) else { return false };
            if !seen.insert(next) {
                return true;
            }
            next = settled.receipt.admitter;
        }
        true
    }

    // Keeping

    /// Keeps an item in place of what it supersedes.
    fn keep(&mut self, item: Item) {
        let digest = item.digest();
        let (key, old) = match item {
            Item::Settled(settled) => {
                let key = settled.identity();
                *self.index.uses.entry(settled.grant.id).or_default() += 1;
                self.index.replaced.extend(settled.grant.grant.replaces);
                let old = self.settled.insert(key, *settled);
                if let Some(old) = &old {
                    self.index.forget_use(&old.grant.id);
                }
                (ItemKey::Settled(key), old.map(|old| Item::Settled(Box::new(old))))
            }
            Item::Announcement(item) => {
                let key = item.identity;
                (ItemKey::Announcement(key), self.announcements.insert(key, item).map(Item::Announcement))
            }
            Item::Tombstone(item) => {
                let key = item.id;
                self.index.ended.extend(item.tombstone.end.identity());
                (ItemKey::Tombstone(key), self.tombstones.insert(key, item).map(Item::Tombstone))
            }
            Item::OwnerChange(item) => {
                let key = item.id;
                (ItemKey::OwnerChange(key), self.owner_changes.insert(key, item).map(Item::OwnerChange))
            }
            Item::Rename(item) => {
                let (member, owner) = (item.rename.member, item.owner);
                let old = self.renames.insert((member, owner), item);
                (ItemKey::Rename(member, owner), old.map(Item::Rename))
            }
        };
        if let Some(old) = old {
            self.digests.remove(&old.digest());
        }
        self.digests.insert(digest, key);
    }

    fn item(&self, key: ItemKey) -> Option<Item> {
        Some(match key {
            ItemKey::Settled(key) => Item::Settled(Box::new(self.settled.get(&key)?.clone())),
            ItemKey::Announcement(key) => Item::Announcement(self.announcements.get(&key)?.clone()),
            ItemKey::Tombstone(key) => Item::Tombstone(self.tombstones.get(&key)?.clone()),
            ItemKey::OwnerChange(key) => Item::OwnerChange(self.owner_changes.get(&key)?.clone()),
            ItemKey::Rename(member, owner) => Item::Rename(self.renames.get(&(member, owner))?.clone()),
        })
    }
}

#[cfg(test)]
mod tests;
