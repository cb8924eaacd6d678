//! Who owns the network, as it follows from the genesis and all changes, in whatever order they came.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::record::OwnerKey;
use crate::record::RecordId;
use crate::record::genesis::{Genesis, Owner, overlap};
use crate::record::owner::{OwnerChange, SignedOwnerChange};

/// The owners of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owners {
    /// Everybody who ever was one, most senior first.
    all: Vec<OwnerState>,
    /// Every key that an owner ever named as another's or its own, with what it named it for. A key may lose its
    /// place to another when an earlier change comes to be known; this here only grows, so that all keep the same records
    /// whatever they heard first.
    named: BTreeMap<OwnerKey, BTreeSet<Ipv4Net>>,
}

/// What became of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerState {
    /// Key and range.
    pub owner: Owner,
    /// Who added it, if it was not there from the beginning.
    pub added_by: Option<OwnerKey>,
    /// Whether that one retired in its favour.
    pub succeeds: bool,
    /// Whether it may still act.
    pub standing: Standing,
}

/// Whether an owner may act, and what its acts are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may act.
    Active,
    /// It may not act any more; what it did stays.
    Retired,
    /// Its key was stolen, or that of who added it: what it revoked is void.
    Void,
}

impl Owners {
    /// Works out the owners. The result depends on the set of changes, not on their order.
    pub fn of(genesis: &Genesis, changes: &BTreeMap<RecordId, SignedOwnerChange>) -> Self {
        let active = |owner: &Owner| OwnerState {
            owner: *owner,
            added_by: None,
            succeeds: false,
            standing: Standing::Active,
        };
        let mut owners =
            Self { all: genesis.owners.iter().map(active).collect(), named: named(genesis, changes) };
        owners.add_all(changes);
        owners.remove_all(changes);
        owners
    }

    /// Adds owners until no change adds another. Within one round the order is that of the records' identities.
    fn add_all(&mut self, changes: &BTreeMap<RecordId, SignedOwnerChange>) {
        loop {
            let known = self.all.len();
            for change in changes.values() {
                let owner = match change.change {
                    OwnerChange::Add(owner) => owner,
                    OwnerChange::Rotate(key) => {
                        self.rotate(change, key);
                        continue;
                    }
                    OwnerChange::Remove { .. } => continue,
                };
                let Some(signer) = change.owners.first().and_then(|key| self.find(key)) else { continue };
                let is_new = self.find(&owner.key).is_none();
                let is_part = signer.owner.range.contains(&owner.range) && signer.owner.range != owner.range;
                // The signer must not have given the same part to another.
                let is_free =
                    self.all.iter().filter(|other| other.owner.key != signer.owner.key).all(|other| {
                        !overlap(&other.owner.range, &owner.range)
                            || other.owner.range.contains(&signer.owner.range)
                    });
                if is_new && is_part && is_free {
                    let added_by = Some(signer.owner.key);
                    self.all.push(OwnerState {
                        owner,
                        added_by,
                        succeeds: false,
                        standing: Standing::Active,
                    });
                }
            }
            if self.all.len() == known {
                return;
            }
        }
    }

    /// Puts `key` in the place of the one who signed, if nobody was put there before.
    fn rotate(&mut self, change: &SignedOwnerChange, key: OwnerKey) {
        let Some(rank) =
            change.owners.iter().filter(|owner| **owner != key).find_map(|owner| self.rank(owner))
        else {
            return;
        };
        let Some(old) = self.all.get(rank).copied() else { return };
        let has_successor =
            self.all.iter().any(|other| other.succeeds && other.added_by == Some(old.owner.key));
        if has_successor || self.find(&key).is_some() {
            return;
        }
        let owner = Owner { key, range: old.owner.range };
        let new =
            OwnerState { owner, added_by: Some(old.owner.key), succeeds: true, standing: Standing::Active };
        self.all.insert(rank + 1, new);
        if let Some(old) = self.all.get_mut(rank) {
            old.standing = Standing::Retired;
        }
    }

    /// Removes owners, the acts of the most senior first: a thief who holds a junior key cannot remove those above.
    fn remove_all(&mut self, changes: &BTreeMap<RecordId, SignedOwnerChange>) {
        let mut removals: Vec<(usize, &SignedOwnerChange, OwnerKey, bool)> = changes
            .values()
            .filter_map(|change| match change.change {
                OwnerChange::Remove { owner, void } => {
                    let rank = change.owners.iter().filter_map(|key| self.rank(key)).min()?;
                    Some((rank, change, owner, void))
                }
                OwnerChange::Add(_) | OwnerChange::Rotate(_) => None,
            })
            .collect();
        // Who says that its own key was stolen says so of all that it signed.
        removals.sort_by_key(|(rank, change, target, void)| {
            (*rank, !(*void && self.rank(target) == Some(*rank)), change.id)
        });
        // Majorities are counted against what the single acts leave.
        for by_majority in [false, true] {
            for (_, change, target, void) in &removals {
                self.remove(change, *target, *void, by_majority);
            }
        }
    }

    fn remove(&mut self, change: &SignedOwnerChange, target: OwnerKey, void: bool, by_majority: bool) {
        let Some(target_rank) = self.rank(&target) else { return };
        // Who retired later, or before, cannot be told: what it signed counts, or its end would undo its acts.
        // Who retired in favour of another has no say about that one: the old key may lie about, for which it was replaced.
        let signed = |owner: &OwnerState| {
            owner.standing != Standing::Void
                && change.owners.contains(&owner.owner.key)
                && !self.succeeded(&owner.owner.key, &target)
        };
        let entitled = if by_majority {
            // Those that the target added have no say, or it could add as many as it needs.
            let voters = self.all.iter().filter(|owner| !self.descends(&owner.owner.key, &target));
            let voters = voters.filter(|owner| owner.standing == Standing::Active || signed(owner));
            let (votes, all) =
                voters.fold((0, 0), |(votes, all), owner| (votes + usize::from(signed(owner)), all + 1));
            2 * votes > all
        } else {
            self.all.iter().take(target_rank + 1).any(signed)
        };
        // A key that was replaced may turn up with somebody: who took its place can end what it does, and stays.
        let by_successor =
            self.all.iter().any(|owner| signed(owner) && self.succeeded(&target, &owner.owner.key));
        if !entitled && !by_successor {
            return;
        }
        // Whoever has stolen a key may have added any number of owners with it.
        let is_heir =
            |key: &OwnerKey| self.descends(key, &target) && (entitled || !self.succeeded(&target, key));
        let heirs: Vec<bool> = self.all.iter().map(|owner| void && is_heir(&owner.owner.key)).collect();
        for ((rank, state), is_heir) in self.all.iter_mut().enumerate().zip(heirs) {
            if is_heir || (rank == target_rank && void) {
                state.standing = Standing::Void;
            } else if rank == target_rank && state.standing != Standing::Void {
                state.standing = Standing::Retired;
            }
        }
    }

    /// Whether `key` took the place of `old`, at once or after others.
    fn succeeded(&self, old: &OwnerKey, key: &OwnerKey) -> bool {
        let mut next = self.find(key);
        while let Some(owner) = next.filter(|owner| owner.succeeds) {
            if owner.added_by == Some(*old) {
                return true;
            }
            next = owner.added_by.and_then(|key| self.find(&key));
        }
        false
    }

    /// Whether `key` was added by `ancestor`, or by somebody whom it added, and so on.
    fn descends(&self, key: &OwnerKey, ancestor: &OwnerKey) -> bool {
        let mut next = self.find(key).and_then(|owner| owner.added_by);
        while let Some(added_by) = next {
            if added_by == *ancestor {
                return true;
            }
            // Seniors add juniors, so this comes to an end.
            next = self.find(&added_by).and_then(|owner| owner.added_by);
        }
        false
    }

    /// Everybody who ever was an owner, most senior first.
    pub fn iter(&self) -> impl Iterator<Item = &OwnerState> {
        self.all.iter()
    }

    /// Whether `key` may act now.
    pub fn is_active(&self, key: &OwnerKey) -> bool {
        self.find(key).is_some_and(|owner| owner.standing == Standing::Active)
    }

    /// Whether what `key` revoked counts.
    pub fn may_have_revoked(&self, key: &OwnerKey) -> bool {
        self.find(key).is_some_and(|owner| owner.standing != Standing::Void)
    }

    /// What became of `key`, if it was ever an owner.
    pub fn get(&self, key: &OwnerKey) -> Option<&OwnerState> {
        self.find(key)
    }

    /// Whether `key` was once an owner, as far as anybody could have known.
    pub fn was_one(&self, key: &OwnerKey) -> bool {
        self.named.contains_key(key)
    }

    /// Whether `key` may have granted `addresses` at some time. A part that it passed on later does not undo what it
    /// granted before, and which came first cannot be told.
    pub fn may_have_granted(&self, key: &OwnerKey, addresses: &Ipv4Net) -> bool {
        self.named.get(key).is_some_and(|ranges| ranges.iter().any(|range| range.contains(addresses)))
    }

    /// Whether `key` may grant `addresses` now: it is active, and did not pass them on.
    pub fn may_grant(&self, key: &OwnerKey, addresses: &Ipv4Net) -> bool {
        self.find(key).is_some_and(|granter| {
            granter.standing == Standing::Active
                && granter.owner.range.contains(addresses)
                && self.all.iter().all(|other| {
                    !overlap(&other.owner.range, addresses)
                        || other.owner.range.contains(&granter.owner.range)
                })
        })
    }

    /// The owner who gives out `address`: the one with the smallest range that holds it.
    pub fn of_address(&self, address: Ipv4Addr) -> Option<OwnerKey> {
        let holders = self.all.iter().filter(|owner| owner.owner.range.contains(&address));
        holders.max_by_key(|owner| owner.owner.range.prefix_len()).map(|owner| owner.owner.key)
    }

    fn find(&self, key: &OwnerKey) -> Option<&OwnerState> {
        self.all.iter().find(|owner| owner.owner.key == *key)
    }

    fn rank(&self, key: &OwnerKey) -> Option<usize> {
        self.all.iter().position(|owner| owner.owner.key == *key)
    }
}

/// The keys that owners named, and what for, in whatever order that was.
fn named(
    genesis: &Genesis,
    changes: &BTreeMap<RecordId, SignedOwnerChange>,
) -> BTreeMap<OwnerKey, BTreeSet<Ipv4Net>> {
    let mut named: BTreeMap<OwnerKey, BTreeSet<Ipv4Net>> = BTreeMap::new();
    for owner in &genesis.owners {
        named.entry(owner.key).or_default().insert(owner.range);
    }
    loop {
        let mut new = Vec::new();
        for change in changes.values() {
            let signers = || change.owners.iter().filter_map(|signer| named.get(signer));
            match change.change {
                OwnerChange::Add(owner) => {
                    let is_part =
                        |ranges: &BTreeSet<Ipv4Net>| ranges.iter().any(|r| r.contains(&owner.range));
                    new.extend(signers().any(is_part).then_some((owner.key, owner.range)));
                }
                OwnerChange::Rotate(key) => {
                    new.extend(signers().flatten().map(|range| (key, *range)));
                }
                OwnerChange::Remove { .. } => {}
            }
        }
        let mut has_grown = false;
        for (key, range) in new {
            has_grown |= named.entry(key).or_default().insert(range);
        }
        if !has_grown {
            return named;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Crypto as _, ModelCrypto, Secret};
    use crate::record::NetworkId;
    use proptest::prelude::*;

    const NETWORK: NetworkId = NetworkId([1; 32]);

    fn secret(n: u8) -> Secret {
        Secret::new([n; 32])
    }

    fn key(n: u8) -> OwnerKey {
        OwnerKey(ModelCrypto.signing_public(&secret(n)))
    }

    fn owner(n: u8, range: &str) -> Owner {
        Owner { key: key(n), range: range.parse().unwrap() }
    }

    fn genesis() -> Genesis {
        Genesis {
            name: "home".parse().unwrap(),
            range: "10.0.0.0/16".parse().unwrap(),
            owners: vec![owner(1, "10.0.0.0/17"), owner(2, "10.0.128.0/17")],
            nonce: [0; 16],
        }
    }

    fn change(change: OwnerChange, signers: &[u8]) -> SignedOwnerChange {
        let secrets: Vec<_> = signers.iter().map(|n| secret(*n)).collect();
        let secrets: Vec<_> = secrets.iter().collect();
        change.seal(&NETWORK, [7; 8], &secrets, &ModelCrypto).unwrap()
    }

    fn owners(changes: &[SignedOwnerChange]) -> Owners {
        Owners::of(&genesis(), &changes.iter().map(|change| (change.id, change.clone())).collect())
    }

    fn standing(owners: &Owners, n: u8) -> Option<Standing> {
        owners.find(&key(n)).map(|owner| owner.standing)
    }

    fn remove(n: u8, void: bool) -> OwnerChange {
        OwnerChange::Remove { owner: key(n), void }
    }

    #[test]
    fn an_owner_adds_another_within_its_own_range() {
        let added = change(OwnerChange::Add(owner(3, "10.0.128.0/18")), &[2]);
        let owners = owners(&[added]);
        assert_eq!(standing(&owners, 3), Some(Standing::Active));
        assert!(owners.may_grant(&key(3), &"10.0.130.0/24".parse().unwrap()));
        assert!(!owners.may_grant(&key(2), &"10.0.130.0/24".parse().unwrap()), "it was passed on");
        assert!(owners.may_grant(&key(2), &"10.0.192.0/24".parse().unwrap()));
        assert!(!owners.may_grant(&key(1), &"10.0.192.0/24".parse().unwrap()));
        assert_eq!(owners.of_address("10.0.130.1".parse().unwrap()), Some(key(3)));
    }

    #[test]
    fn ranges_of_others_cannot_be_given_away() {
        let stolen = change(OwnerChange::Add(owner(3, "10.0.0.0/18")), &[2]);
        let whole = change(OwnerChange::Add(owner(4, "10.0.128.0/17")), &[2]);
        let stranger = change(OwnerChange::Add(owner(5, "10.0.128.0/18")), &[9]);
        let owners = owners(&[stolen, whole, stranger]);
        assert_eq!(owners.iter().count(), 2);
    }

    #[test]
    fn seniors_remove_juniors_and_everybody_himself() {
        assert_eq!(standing(&owners(&[change(remove(2, false), &[1])]), 2), Some(Standing::Retired));
        assert_eq!(standing(&owners(&[change(remove(1, false), &[2])]), 1), Some(Standing::Active));
        assert_eq!(standing(&owners(&[change(remove(1, false), &[1])]), 1), Some(Standing::Retired));
    }

    #[test]
    fn a_stolen_junior_key_cannot_save_itself() {
        let owners = owners(&[change(remove(1, true), &[2]), change(remove(2, true), &[1])]);
        assert_eq!(standing(&owners, 1), Some(Standing::Active));
        assert_eq!(standing(&owners, 2), Some(Standing::Void));
        assert!(!owners.may_have_revoked(&key(2)));
    }

    #[test]
    fn a_majority_removes_even_the_first_owner() {
        let third = change(OwnerChange::Add(owner(3, "10.0.128.0/18")), &[2]);
        let by_one = change(remove(1, true), &[3]);
        assert_eq!(standing(&owners(&[third.clone(), by_one]), 1), Some(Standing::Active));
        let by_two = change(remove(1, true), &[2, 3]);
        assert_eq!(standing(&owners(&[third, by_two]), 1), Some(Standing::Void));
    }

    #[test]
    fn who_was_removed_stays_removed_when_its_remover_retires() {
        for serial in 0..8 {
            let third = change(OwnerChange::Add(owner(3, "10.0.128.0/18")), &[2]);
            let stolen = change(remove(3, true), &[2]);
            let retired =
                |by: u8| remove(2, false).seal(&NETWORK, [serial; 8], &[&secret(by)], &ModelCrypto).unwrap();
            for by in [1, 2] {
                let owners = owners(&[third.clone(), stolen.clone(), retired(by)]);
                assert_eq!(standing(&owners, 2), Some(Standing::Retired));
                assert_eq!(standing(&owners, 3), Some(Standing::Void));
            }
        }
    }

    #[test]
    fn a_stolen_key_does_not_live_on_in_owners_that_it_adds() {
        let puppet = change(OwnerChange::Add(owner(3, "10.0.128.0/18")), &[2]);
        let its_puppet = change(OwnerChange::Add(owner(4, "10.0.128.0/19")), &[3]);
        let owners = owners(&[puppet, its_puppet, change(remove(2, true), &[1])]);
        for n in [2, 3, 4] {
            assert_eq!(standing(&owners, n), Some(Standing::Void));
        }
        // What they granted stays, as what the stolen key granted itself does.
        assert!(owners.may_have_granted(&key(3), &"10.0.130.0/24".parse().unwrap()));
    }

    fn rotation(old: u8, new: u8) -> SignedOwnerChange {
        change(OwnerChange::Rotate(key(new)), &[old, new])
    }

    #[test]
    fn a_new_key_takes_the_rank_and_the_range_of_the_old_one() {
        let owners = owners(&[rotation(1, 3), rotation(3, 4), change(remove(4, true), &[2])]);
        let ranks: Vec<_> = owners.iter().map(|owner| owner.owner.key).collect();
        assert_eq!(ranks, [key(1), key(3), key(4), key(2)]);
        assert_eq!([1, 3, 4, 2].map(|n| standing(&owners, n)), {
            use Standing::{Active, Retired};
            [Retired, Retired, Active, Active].map(Some)
        });
        let net: Ipv4Net = "10.0.3.0/24".parse().unwrap();
        assert!(owners.may_grant(&key(4), &net) && !owners.may_grant(&key(1), &net));
        assert!(owners.may_have_granted(&key(1), &net), "what it granted before stays");
    }

    #[test]
    fn only_one_takes_a_place_and_nobody_a_place_that_it_has_not_signed_for() {
        let owners = owners(&[rotation(1, 3), rotation(1, 4)]);
        assert_eq!(owners.iter().filter(|owner| owner.standing == Standing::Active).count(), 2);
        let secrets = [secret(1), secret(5)];
        let [old, other] = &secrets;
        let forged = OwnerChange::Rotate(key(4)).seal(&NETWORK, [7; 8], &[old, other], &ModelCrypto);
        assert!(forged.is_err());
        assert!(OwnerChange::Rotate(key(4)).seal(&NETWORK, [7; 8], &[old], &ModelCrypto).is_err());
    }

    #[test]
    fn an_old_key_has_no_say_about_the_one_that_took_its_place() {
        let taken = owners(&[rotation(1, 3), change(remove(3, true), &[1])]);
        assert_eq!(standing(&taken, 3), Some(Standing::Active));
        // But what it adds ends when the one in its place says so.
        let puppet = change(OwnerChange::Add(owner(4, "10.0.8.0/24")), &[1]);
        let taken = owners(&[rotation(1, 3), puppet, change(remove(1, true), &[3])]);
        assert_eq!([1, 3, 4].map(|n| standing(&taken, n)), {
            use Standing::{Active, Void};
            [Void, Active, Void].map(Some)
        });
        // Whom the thief of an old key put in its place is no owner once that key is void.
        let stolen = owners(&[rotation(2, 3), change(remove(2, true), &[1])]);
        assert_eq!(
            (standing(&stolen, 2), standing(&stolen, 3)),
            (Some(Standing::Void), Some(Standing::Void))
        );
    }

    #[test]
    fn a_majority_is_not_undone_by_a_retirement_or_by_owners_that_the_target_adds() {
        let third = change(OwnerChange::Add(owner(3, "10.0.128.0/18")), &[2]);
        let by_two = change(remove(1, true), &[2, 3]);
        let retired = change(remove(2, false), &[2]);
        assert_eq!(standing(&owners(&[third.clone(), by_two.clone(), retired]), 1), Some(Standing::Void));
        let puppets = (4..8).map(|n| change(OwnerChange::Add(owner(n, &format!("10.0.{n}.0/24"))), &[1]));
        let changes: Vec<_> = puppets.chain([third, by_two]).collect();
        assert_eq!(standing(&owners(&changes), 1), Some(Standing::Void));
    }

    #[test]
    fn what_a_key_signed_that_lost_its_place_is_kept_by_those_who_never_saw_it_there() {
        let part = "10.0.130.0/24".parse().unwrap();
        let owners = owners(&[rotation(2, 3), rotation(2, 4)]);
        for n in [3, 4] {
            assert!(owners.was_one(&key(n)) && owners.may_have_granted(&key(n), &part));
        }
        let placed: Vec<_> = [3, 4].into_iter().filter(|n| owners.may_grant(&key(*n), &part)).collect();
        assert_eq!(placed.len(), 1);
        assert_eq!([3, 4].into_iter().filter(|n| owners.may_have_revoked(&key(*n))).count(), 1);
        // Nobody is named for what is not the signer's.
        let stranger = change(OwnerChange::Add(owner(5, "10.0.0.0/18")), &[2]);
        assert!(!tests::owners(&[stranger]).was_one(&key(5)));
    }

    proptest! {
        /// The same changes, however many and in whatever order they are known, give the same owners; more known
        /// changes never make a void owner good.
        #[test]
        fn the_order_does_not_matter(
            picks in proptest::collection::vec((0u8..3, 1u8..6, 1u8..6, any::<bool>()), 0..8),
        ) {
            let changes: Vec<_> = picks
                .iter()
                .map(|(kind, target, signer, void)| {
                    let part = format!("10.0.{}.0/{}", 128 + target * 8, 21 + kind);
                    match kind {
                        0 => change(OwnerChange::Add(owner(*target, &part)), &[*signer]),
                        1 if target != signer => rotation(*signer, *target),
                        _ => change(remove(*target, *void), &[*signer]),
                    }
                })
                .collect();
            let mut reversed = changes.clone();
            reversed.reverse();
            prop_assert_eq!(owners(&changes), owners(&reversed));
        }
    }
}
