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
//!    another member that was not barred when the member became known, or by itself for a grant of an exact name.
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

mod bounds;
mod chain;
mod digests;
mod item;
pub mod owners;
mod resolve;
mod rules;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use crate::crypto::KEY_LEN;
use crate::record::announcement::SignedAnnouncement;
use crate::record::genesis::{Genesis, UlaPlan};
use crate::record::grant::SignedGrant;
use crate::record::name::Name;
use crate::record::owner::{SignedOwnerChange, SignedRename};
use crate::record::tombstone::{End, SignedTombstone};
use crate::record::{IdentityKey, NetworkId, OwnerKey, RecordId};

use self::digests::Digests;
use self::owners::Owners;

pub use self::digests::BUCKETS;
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
    pending: BTreeMap<IdentityKey, Waiting>,
    trusting: bool,
    /// Members that were taken up on trust only: we cannot answer for them.
    on_trust: BTreeSet<IdentityKey>,
    installed: BTreeSet<IdentityKey>,
    status: BTreeMap<IdentityKey, Status>,
    digests: Digests,
    index: Index,
    changed: BTreeSet<IdentityKey>,
    revived: Vec<ItemDigest>,
}

/// A member whose admitter is not known yet.
#[derive(Debug, Clone)]
struct Waiting {
    settled: Settled,
    /// It was told by one that is believed, see [`Roster::trust`].
    on_trust: bool,
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
    /// Those of them that are gone for good, by tombstones that count.
    barred: BTreeSet<IdentityKey>,
    /// The lengths of the chains of admitters that lead.
    lengths: BTreeMap<IdentityKey, u64>,
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
            trusting: false,
            on_trust: BTreeSet::new(),
            installed: BTreeSet::new(),
            status: BTreeMap::new(),
            digests: Digests::default(),
            index: Index::default(),
            changed: BTreeSet::new(),
            revived: Vec::new(),
        }
    }

    /// Makes those of `installed` that may be the ones that are installed, as they were before a restart.
    pub fn restore_installed(&mut self, installed: impl IntoIterator<Item = IdentityKey>) {
        self.installed = installed.into_iter().collect();
        // What was on disk was known before.
        self.on_trust.clear();
        self.resolve();
    }

    /// Takes an item whose signatures were checked.
    pub fn apply(&mut self, item: Item) -> Applied {
        let digest = item.digest();
        if self.knows(digest) {
            return Applied::Known;
        }
        let may_end_something = matches!(item, Item::Settled(_) | Item::Tombstone(_));
        let applied = match item {
            Item::Settled(settled) => self.apply_settled(*settled),
            Item::Announcement(item) => self.apply_announcement(item),
            Item::Tombstone(item) => self.apply_tombstone(item),
            Item::OwnerChange(item) => self.apply_owner_change(item),
            Item::Rename(item) => self.apply_rename(item),
        };
        if applied == Applied::New {
            self.retry_pending();
            if may_end_something {
                self.forget_ended();
            }
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
        self.tombstone_sum_until(u64::MAX)
    }

    /// The same of those whose signers say that they are not from after `time`.
    pub fn tombstone_sum_until(&self, time: u64) -> u64 {
        let until = self.tombstones.values().filter(|item| item.tombstone.time <= time);
        until.fold(0, |sum, item| sum ^ item.id.0.first_chunk().map_or(0, |start| u64::from_le_bytes(*start)))
    }

    /// Members whose admitter is not known yet.
    pub fn waiting(&self) -> impl Iterator<Item = &Settled> {
        self.pending.values().map(|waiting| &waiting.settled)
    }

    /// The record with this identity, installed or not.
    pub fn incarnation(&self, id: &RecordId) -> Option<&Settled> {
        self.settled.values().find(|settled| settled.id() == *id)
    }

    /// The items, to save them or to pass them on.
    pub fn items(&self) -> impl Iterator<Item = Item> {
        self.digests.keys().filter_map(|key| self.item(key))
    }

    /// How many items there are.
    pub fn item_count(&self) -> usize {
        self.digests.len()
    }

    /// The sums of the digests of all items, by bucket.
    pub fn digest_sums(&self) -> &[u64; BUCKETS] {
        self.digests.sums()
    }

    /// The digests of all items, in order.
    pub fn digests(&self) -> impl Iterator<Item = ItemDigest> {
        self.digests_in(ItemDigest(0)..=ItemDigest(u64::MAX))
    }

    /// Those in `range`.
    pub fn digests_in(&self, range: RangeInclusive<ItemDigest>) -> impl Iterator<Item = ItemDigest> {
        self.digests.range(range)
    }

    /// The item with this digest.
    pub fn find(&self, digest: ItemDigest) -> Option<Item> {
        self.digests.get(digest).and_then(|key| self.item(key))
    }

    /// Whether the item with this digest is known.
    pub fn knows(&self, digest: ItemDigest) -> bool {
        self.digests.get(digest).is_some()
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
            self.digests.remove(old.digest());
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
