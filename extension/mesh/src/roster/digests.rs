//! The digests of all that is known, with the sums by which nodes compare it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::{ItemDigest, ItemKey};

/// Parts that digests are summed up in, by their upper six bits.
pub const BUCKETS: usize = 64;

/// Where each item is kept. A sum is the exclusive or of digests: it costs nothing to keep up to date.
#[derive(Debug, Clone)]
pub(super) struct Digests {
    items: BTreeMap<ItemDigest, ItemKey>,
    sums: [u64; BUCKETS],
}

impl Default for Digests {
    fn default() -> Self {
        Self { items: BTreeMap::new(), sums: [0; BUCKETS] }
    }
}

impl Digests {
    pub(super) fn insert(&mut self, digest: ItemDigest, key: ItemKey) {
        if self.items.insert(digest, key).is_none() {
            self.sums[digest.bucket()] ^= digest.0;
        }
    }

    pub(super) fn remove(&mut self, digest: ItemDigest) {
        if self.items.remove(&digest).is_some() {
            self.sums[digest.bucket()] ^= digest.0;
        }
    }

    pub(super) fn get(&self, digest: ItemDigest) -> Option<ItemKey> {
        self.items.get(&digest).copied()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = ItemKey> {
        self.items.values().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn sums(&self) -> &[u64; BUCKETS] {
        &self.sums
    }

    pub(super) fn range(&self, range: RangeInclusive<ItemDigest>) -> impl Iterator<Item = ItemDigest> {
        let range = (!range.is_empty()).then_some(range);
        range.into_iter().flat_map(|range| self.items.range(range)).map(|(digest, _)| *digest)
    }
}

impl ItemDigest {
    /// The bucket that it is in.
    pub fn bucket(self) -> usize {
        (self.0 >> 58) as usize
    }

    /// The digests of the buckets from `first` to `last`.
    pub fn of_buckets(first: usize, last: usize) -> RangeInclusive<Self> {
        Self((first as u64) << 58)..=Self((last as u64) << 58 | ((1 << 58) - 1))
    }
}
