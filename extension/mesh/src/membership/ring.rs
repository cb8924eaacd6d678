//! The ring of all members, and who is next to this one.

use std::collections::BTreeSet;

use crate::gossip::neighbours;
use crate::record::IdentityKey;

/// All members in order, kept up to date as they come and go: where many announce themselves, nothing is sorted anew.
#[derive(Debug)]
pub(super) struct Ring {
    us: IdentityKey,
    members: Vec<IdentityKey>,
    neighbours: BTreeSet<IdentityKey>,
}

impl Ring {
    /// The ring of `members`, and of `us`.
    pub(super) fn new(us: IdentityKey, members: impl IntoIterator<Item = IdentityKey>) -> Self {
        let members: BTreeSet<_> = members.into_iter().chain([us]).collect();
        let members: Vec<_> = members.into_iter().collect();
        let neighbours = neighbours(&members, &us);
        Self { us, members, neighbours }
    }

    pub(super) fn neighbours(&self) -> &BTreeSet<IdentityKey> {
        &self.neighbours
    }

    /// Notes whether `identity` is a member. We are one, also while our own roster lacks what proves it.
    pub(super) fn set(&mut self, identity: IdentityKey, is_member: bool) {
        match self.members.binary_search(&identity) {
            Err(at) if is_member => self.members.insert(at, identity),
            Ok(at) if !is_member && identity != self.us => {
                self.members.remove(at);
            }
            Ok(_) | Err(_) => return,
        }
        self.neighbours = neighbours(&self.members, &self.us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_ring_that_members_joined_and_left_is_that_of_those_who_stayed(
            steps in proptest::collection::vec((0u8..40, any::<bool>()), 0..100),
        ) {
            let us = IdentityKey([20; 32]);
            let mut ring = Ring::new(us, []);
            let mut members = BTreeSet::new();
            for (n, is_member) in steps {
                let identity = IdentityKey([n; 32]);
                ring.set(identity, is_member);
                if is_member {
                    members.insert(identity);
                } else {
                    members.remove(&identity);
                }
            }
            let fresh = Ring::new(us, members);
            prop_assert_eq!(ring.neighbours(), fresh.neighbours());
        }
    }
}
