//! Which hello keys a member takes, and when it makes one.
//!
//! Every revocation makes a new key necessary, because the revoked knows the old ones: the epoch of a key counts the
//! revocations that its maker knew. A key of a later epoch than its taker knows revocations waits until these have
//! come, or is forgotten: nobody can end rotation with an epoch out of reach. It must not be dropped at once, for keys
//! travel faster than records, and two parts of a network would keep different ones.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand_core::RngCore as _;
use zeroize::Zeroizing;

use super::{Membership, Now};
use crate::crypto::Secret;
use crate::gossip::{MAX_HELLO_KEYS, Message};
use crate::hello::{HelloKey, HelloPublic};
use crate::key::PublicKey;
use crate::record::IdentityKey;
use crate::record::tombstone::End;

/// Epochs of which a key waits. The nearest ones do.
const MAX_EARLY: usize = 16;
/// How long revocations may be behind the key that they made necessary.
const WAIT: Duration = Duration::from_secs(600);

/// Keys that came before the revocations that they are for: the best of each epoch.
#[derive(Debug, Default)]
pub(super) struct EarlyKeys {
    waiting: BTreeMap<u64, (HelloKey, Instant)>,
}

impl EarlyKeys {
    fn wait(&mut self, key: HelloKey, now: Instant) {
        if self.waiting.get(&key.epoch).is_none_or(|(known, _)| key.rank() > known.rank()) {
            self.waiting.insert(key.epoch, (key, now));
        }
        if self.waiting.len() > MAX_EARLY {
            self.waiting.pop_last();
        }
    }

    /// Those of epochs up to `epoch`. Those that wait for too long are forgotten.
    fn due(&mut self, epoch: u64, now: Instant) -> Vec<HelloKey> {
        self.waiting.retain(|_, (_, since)| now.saturating_duration_since(*since) < WAIT);
        let later = epoch.checked_add(1).map(|next| self.waiting.split_off(&next)).unwrap_or_default();
        std::mem::replace(&mut self.waiting, later).into_values().map(|(key, _)| key).collect()
    }
}

impl Membership {
    /// This node, which is a member, is reached by another WireGuard key now.
    pub fn set_wireguard(&mut self, key: PublicKey, now: Now) {
        self.us.announcement.wireguard = key;
        self.announce(now);
        self.after_change(now);
    }

    /// How many revocations are known.
    fn owed_epoch(&self) -> u64 {
        let is_revocation = |end: &End| matches!(end, End::Revoked { .. });
        self.roster.tombstones().filter(|item| is_revocation(&item.tombstone.end)).count() as u64
    }

    pub(super) fn owes_rotation(&self) -> bool {
        let owed = self.owed_epoch();
        self.keys.current().map_or(owed > 0, |(key, _)| key.epoch < owed)
    }

    pub(super) fn rotate(&mut self, now: Now) {
        // A key that nobody gets to know is worse than none.
        if !self.owes_rotation() || self.reachable.is_empty() || !self.roster.is_member(&self.us.identity) {
            return;
        }
        let mut secret = Zeroizing::new([0; 32]);
        self.rng.fill_bytes(&mut *secret);
        let key = HelloKey { epoch: self.owed_epoch(), secret: Secret::new(*secret) };
        self.take_keys(vec![key], None, now);
    }

    /// Takes keys from a member, and tells the others if one is better than ours.
    pub(super) fn take_keys(&mut self, keys: Vec<HelloKey>, from: Option<IdentityKey>, now: Now) {
        let before = self.current_hello();
        let owed = self.owed_epoch();
        for key in keys {
            if key.epoch > owed {
                self.early.wait(key, now.instant);
            } else {
                self.keys.add(key, self.crypto);
            }
        }
        self.pass_on_key(before, from);
    }

    /// Takes the keys that waited for revocations that are known by now. Once we know what the others know, it shows
    /// whether the key that we were let in with was too early, too.
    pub(super) fn look_at_early_keys(&mut self, now: Now) {
        let before = self.current_hello();
        let owed = self.owed_epoch();
        if self.gossip.has_agreed() {
            for key in self.keys.take_after(owed) {
                self.early.wait(key, now.instant);
            }
        }
        for key in self.early.due(owed, now.instant) {
            self.keys.add(key, self.crypto);
        }
        self.pass_on_key(before, None);
    }

    /// Tells a member which keys we have: with an old one it can call those who have missed the newer ones.
    pub(super) fn tell_keys(&mut self, to: &IdentityKey) {
        let keys: Vec<_> = self.keys.iter().take(MAX_HELLO_KEYS).cloned().collect();
        self.send(vec![(*to, Message::HelloKeys(keys).encode())]);
    }

    fn current_hello(&self) -> Option<HelloPublic> {
        self.keys.current().map(|(_, public)| *public)
    }

    fn pass_on_key(&mut self, before: Option<HelloPublic>, from: Option<IdentityKey>) {
        let Some((key, public)) = self.keys.current() else { return };
        if Some(*public) == before {
            return;
        }
        let payload = Zeroizing::new(Message::HelloKeys(vec![key.clone()]).encode());
        let mut targets = self.targets();
        targets.retain(|to| Some(*to) != from);
        targets.iter().for_each(|to| self.upkeep.tell_keys_again(*to));
        self.send(targets.into_iter().map(|to| (to, payload.to_vec())).collect());
    }
}
