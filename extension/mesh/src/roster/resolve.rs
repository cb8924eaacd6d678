//! What follows from the records: who is installed, and why the others are not.

use std::collections::{BTreeMap, BTreeSet};

use super::{Roster, Settled};
use crate::record::tombstone::{End, SignedTombstone};
use crate::record::{IdentityKey, OwnerKey, RecordId};

/// What became of a member's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It is a peer.
    Installed,
    /// An owner revoked it.
    Revoked,
    /// It left.
    Left,
    /// It is ephemeral, and nobody heard of it for its lifetime.
    Expired,
    /// Another incarnation took its place, as an owner granted.
    Replaced {
        /// By whom.
        by: IdentityKey,
    },
    /// Its token was used more often than granted, and others came first. Somebody has stolen a token.
    Overused,
    /// It claims a name or address that an installed member has. An owner must decide.
    Conflict {
        /// Who has it.
        with: IdentityKey,
    },
}

/// Something that an owner should look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// Two members claim the same name or address.
    Conflict {
        /// The one that waits.
        waiting: IdentityKey,
        /// The one that is installed.
        installed: IdentityKey,
    },
    /// A token was used more often than granted.
    Overused {
        /// Whose admission fell.
        refused: IdentityKey,
        /// The token.
        grant: RecordId,
    },
}

impl Roster {
    /// What an owner should look at.
    pub fn problems(&self) -> Vec<Problem> {
        self.status
            .iter()
            .filter_map(|(identity, status)| match status {
                Status::Conflict { with } => Some(Problem::Conflict { waiting: *identity, installed: *with }),
                Status::Overused => {
                    let grant = self.settled.get(identity)?.grant.id;
                    Some(Problem::Overused { refused: *identity, grant })
                }
                Status::Installed
                | Status::Revoked
                | Status::Left
                | Status::Expired
                | Status::Replaced { .. } => None,
            })
            .collect()
    }

    /// Tombstones that count: those of an owner whose key was stolen do not.
    pub(super) fn valid_tombstones(&self) -> impl Iterator<Item = &SignedTombstone> {
        self.tombstones.values().filter(|tombstone| {
            tombstone.owner().is_none_or(|OwnerKey(key)| self.owners.may_have_revoked(&OwnerKey(key)))
        })
    }

    /// Works out the status of every record again.
    pub(super) fn resolve(&mut self) {
        self.index.barred = self.barred();
        self.index.lengths = self.lengths();
        let mut status = self.ended();
        for (identity, by) in self.replaced() {
            status.entry(identity).or_insert(Status::Replaced { by });
        }
        for identity in self.overused(&status) {
            status.entry(identity).or_insert(Status::Overused);
        }
        self.installed
            .retain(|identity| !status.contains_key(identity) && self.settled.contains_key(identity));
        self.install(&mut status);
        let known = self.status.keys().chain(status.keys());
        let differing = known.filter(|identity| self.status.get(*identity) != status.get(*identity));
        self.changed.extend(differing.copied());
        self.status = status;
    }

    /// Whether taking up `newcomer` can change nothing but its own status, so that [`resolve`](Self::resolve), which
    /// looks at every record, can be spared. Nearly every record of a large network is taken up in this way.
    pub(super) fn is_ordinary(&self, newcomer: &Settled) -> bool {
        let member = &newcomer.member.member;
        let identity = newcomer.identity();
        newcomer.grant.grant.replaces.is_none()
            && !self.index.ended.contains(&identity)
            && !self.index.replaced.contains(&newcomer.id())
            && self.renames_of(identity).next().is_none()
            // Its chain leads, and nobody waits for that of another to do so.
            && self.length(newcomer).is_some()
            && self.index.lengths.len() == self.settled.len()
            && self.uses(&newcomer.grant.id) < usize::from(newcomer.grant.grant.uses)
            && !self.index.names.contains_key(&member.name)
            && !self.index.addresses.contains_key(&member.address)
            && !self.index.claimed.iter().any(|(name, at)| *name == member.name || *at == member.address)
    }

    /// Installs a newcomer that is ordinary and was kept.
    pub(super) fn install_ordinary(&mut self, identity: IdentityKey) {
        let Some(settled) = self.settled.get(&identity) else { return };
        if let Some(length) = self.length(settled) {
            self.index.lengths.insert(identity, length);
        }
        self.index.names.insert(settled.member.member.name.clone(), identity);
        self.index.addresses.insert(settled.member.member.address, identity);
        self.installed.insert(identity);
        self.status.insert(identity, Status::Installed);
        self.changed.insert(identity);
    }

    /// Those that a tombstone bars.
    fn ended(&self) -> BTreeMap<IdentityKey, Status> {
        let mut ended = BTreeMap::new();
        for tombstone in self.valid_tombstones() {
            let (identity, status) = match tombstone.tombstone.end {
                End::Revoked { identity, .. } => (identity, Status::Revoked),
                End::Left { identity, .. } => (identity, Status::Left),
                End::Expired { identity, sequence } => {
                    if self.heard(&identity) != sequence {
                        continue;
                    }
                    (identity, Status::Expired)
                }
                End::Token(_) => continue,
            };
            if !self.settled.contains_key(&identity) {
                continue;
            }
            // The strongest reason is shown, whichever came first.
            let known = ended.entry(identity).or_insert_with(|| status.clone());
            if strength(&status) > strength(known) {
                *known = status;
            }
        }
        ended
    }

    /// Those in whose place an owner put another.
    ///
    /// For good: a replacement that ended in its turn, in whatever way, does not bring back what it replaced.
    fn replaced(&self) -> BTreeMap<IdentityKey, IdentityKey> {
        let by_id: BTreeMap<RecordId, IdentityKey> =
            self.settled.values().map(|settled| (settled.id(), settled.identity())).collect();
        self.settled
            .values()
            .filter_map(|successor| {
                let old = by_id.get(&successor.grant.grant.replaces?)?;
                (*old != successor.identity()).then_some((*old, successor.identity()))
            })
            .collect()
    }

    /// Those whose token was used up by better admissions.
    ///
    /// A member that is gone has used its token all the same, or its end would let in whoever stole the token. Only an
    /// owner who revokes it and lets the token stay good gives the use back.
    fn overused(&self, gone: &BTreeMap<IdentityKey, Status>) -> BTreeSet<IdentityKey> {
        let given_back = self.given_back();
        let mut by_grant: BTreeMap<RecordId, Vec<&Settled>> = BTreeMap::new();
        for settled in self.settled.values().filter(|settled| !given_back.contains(&settled.identity())) {
            by_grant.entry(settled.grant.id).or_default().push(settled);
        }
        let mut overused = BTreeSet::new();
        for claimants in by_grant.values_mut() {
            let uses = claimants.first().map_or(0, |settled| usize::from(settled.grant.grant.uses));
            if claimants.len() > uses {
                claimants.sort_by_key(|settled| {
                    let (identity, alone) = (settled.identity(), settled.is_self_admitted());
                    let was_installed = self.installed.contains(&identity) || gone.contains_key(&identity);
                    (self.is_by_its_like(settled), alone, alone && !was_installed, settled.rank())
                });
                overused.extend(claimants.iter().skip(uses).map(|settled| settled.identity()));
            }
        }
        overused
    }

    /// Those that an owner revoked without barring the rest of their token.
    fn given_back(&self) -> BTreeSet<IdentityKey> {
        let mut given_back = BTreeMap::new();
        for tombstone in self.valid_tombstones() {
            if let End::Revoked { identity, keep_token } = tombstone.tombstone.end {
                *given_back.entry(identity).or_insert(true) &= keep_token;
            }
        }
        given_back.into_iter().filter(|(_, kept)| *kept).map(|(identity, _)| identity).collect()
    }

    /// Whether another holder of the same token admitted it. Who holds a token can make as many identities for it as it
    /// likes: its word is worth the least when the token was used too often.
    pub(super) fn is_by_its_like(&self, settled: &Settled) -> bool {
        let admitter = self.settled.get(&settled.receipt.admitter);
        !settled.is_self_admitted() && admitter.is_some_and(|admitter| admitter.grant.id == settled.grant.id)
    }

    /// Installs whoever collides with nobody that is installed.
    fn install(&mut self, status: &mut BTreeMap<IdentityKey, Status>) {
        let mut names = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        let mut waiting = Vec::new();
        // Those that are installed first, then those that an owner puts in another's place, before anybody who waits for
        // that place; among the others the order of identities, which is as good as any.
        let newcomers =
            || self.settled.values().filter(|settled| !self.installed.contains(&settled.identity()));
        let heirs = newcomers().filter(|settled| settled.grant.grant.replaces.is_some());
        let others = newcomers().filter(|settled| settled.grant.grant.replaces.is_none());
        let newcomers = heirs.chain(others).map(Settled::identity);
        let order: Vec<IdentityKey> = self.installed.iter().copied().chain(newcomers).collect();
        for identity in order {
            if status.contains_key(&identity) {
                continue;
            }
            let Some(settled) = self.settled.get(&identity) else { continue };
            let (name, address) = (self.name(settled).clone(), settled.member.member.address);
            if names.contains_key(&name) || addresses.contains_key(&address) {
                self.installed.remove(&identity);
                waiting.push((identity, name, address));
            } else {
                names.insert(name, identity);
                addresses.insert(address, identity);
                self.installed.insert(identity);
                status.insert(identity, Status::Installed);
            }
        }
        // Only now it is known who all the rivals are.
        for (identity, name, address) in &waiting {
            if let Some(with) = names.get(name).or_else(|| addresses.get(address)).copied() {
                status.insert(*identity, Status::Conflict { with });
            }
        }
        self.index.claimed = waiting.into_iter().map(|(_, name, address)| (name, address)).collect();
        self.index.names = names;
        self.index.addresses = addresses;
    }
}

fn strength(status: &Status) -> u8 {
    match status {
        Status::Revoked => 3,
        Status::Left => 2,
        Status::Expired => 1,
        Status::Installed | Status::Replaced { .. } | Status::Overused | Status::Conflict { .. } => 0,
    }
}
