//! How members pass records on: a push when something is new, and a comparison now and then that finds whatever a
//! push missed.
//!
//! Each member talks to a few others, its *neighbours*: those at distances 1, 2, 4, ... in both directions on the ring
//! of all identities. So both ends of a pair agree that they are one, every member is reached in few steps, and a
//! member that is gone leaves no hole that the distances do not span.
//!
//! A new item goes at once to some neighbours, and its digest a moment later to the others, who ask if they did not
//! get it otherwise. Every [`SUMMARY_INTERVAL`] a member compares all that it knows with one neighbour: a sum over
//! everything, then sums over 64 buckets, then the digests of the buckets that differ. The same happens at once when a
//! session with anybody begins, which is how a healed partition converges.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha12Rng;
use rand_core::RngCore as _;

use crate::record::IdentityKey;
use crate::roster::{ItemDigest, Roster};

mod message;

pub use self::message::{BUCKETS, BadMessage, MAX_HELLO_KEYS, MAX_PAYLOAD, Message};

/// Neighbours that get a new item at once.
const EAGER: usize = 4;
/// How long digests for the others are gathered.
const LAZY_DELAY: Duration = Duration::from_millis(100);
/// How often a member compares notes with one neighbour.
pub const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);
/// Wait before notes are compared again with somebody with whom they differed.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How often notes are compared again with one that never agrees.
const MAX_AGAIN: u8 = 8;
/// Buckets whose digests are exchanged at once: bounds the burst that a comparison causes.
const BUCKETS_AT_ONCE: usize = 8;
/// Messages with digests that a comparison causes at most: in a large network another part each time.
const PARTS_AT_ONCE: usize = 32;
/// Items sent in answer to one message.
const ITEMS_AT_ONCE: usize = 128;
/// How long an item that was asked for may be on its way before another is asked.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(300);
/// Others who are remembered to have an item that was asked for.
const MAX_OTHERS: usize = 3;

/// Bytes that one member may draw from this one in a second, and at once: all that a network of 1,000 members knows takes
/// some two seconds.
const BUDGET: usize = 512 * 1024;
/// Items that are on their way from one member, and from all.
const MAX_ASKED_OF_ONE: usize = 1024;
const MAX_ASKED: usize = 8192;

/// Messages to send, each to one member.
pub type Outbox = Vec<(IdentityKey, Vec<u8>)>;

/// What gossip remembers between messages.
#[derive(Debug)]
pub struct Gossip {
    lazy: BTreeMap<IdentityKey, Vec<ItemDigest>>,
    lazy_at: Option<Instant>,
    summary_at: Instant,
    again: BTreeMap<IdentityKey, (Instant, u8)>,
    asked: BTreeMap<ItemDigest, Asked>,
    /// What members may still draw, and since when.
    budgets: BTreeMap<IdentityKey, (Instant, usize)>,
    agreed: bool,
    /// Where the next comparison of buckets begins.
    turn: usize,
    /// Where the next one of parts of buckets begins.
    part_turn: usize,
}

/// An item that was asked for.
#[derive(Debug)]
struct Asked {
    at: Instant,
    /// Who was asked.
    of: IdentityKey,
    /// Who else has it.
    others: Vec<IdentityKey>,
}

impl Gossip {
    /// Starts at `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            lazy: BTreeMap::new(),
            lazy_at: None,
            summary_at: now + SUMMARY_INTERVAL,
            again: BTreeMap::new(),
            asked: BTreeMap::new(),
            budgets: BTreeMap::new(),
            agreed: false,
            turn: 0,
            part_turn: 0,
        }
    }

    /// Whether this node knew all that some other one knew, at least once since it started.
    pub fn has_agreed(&self) -> bool {
        self.agreed
    }

    /// Passes a new item on to `reachable` members, but not back to `from`.
    pub fn push(
        &mut self,
        bytes: &Arc<[u8]>,
        digest: ItemDigest,
        from: Option<IdentityKey>,
        reachable: &[IdentityKey],
        now: Instant,
        rng: &mut ChaCha12Rng,
    ) -> Outbox {
        self.asked.remove(&digest);
        // While a comparison leads to something, it goes on.
        if let Some((_, count)) = from.and_then(|from| self.again.get_mut(&from)) {
            *count = 0;
        }
        let mut others: Vec<_> = reachable.iter().filter(|member| Some(**member) != from).copied().collect();
        let eager = EAGER.min(others.len());
        for n in 0..eager {
            let pick = n + rng.next_u32() as usize % (others.len() - n);
            others.swap(n, pick);
        }
        for member in others.iter().skip(eager) {
            self.lazy.entry(*member).or_default().push(digest);
            self.lazy_at.get_or_insert(now + LAZY_DELAY);
        }
        let message = message::items(std::slice::from_ref(bytes));
        others
            .into_iter()
            .take(eager)
            .flat_map(|member| message.iter().map(move |m| (member, m.clone())))
            .collect()
    }

    /// Compares notes with a member with whom a session began.
    pub fn met(&mut self, member: IdentityKey, roster: &Roster) -> Outbox {
        self.again.remove(&member);
        vec![(member, Message::summary(roster).encode())]
    }

    /// Takes a message about what its sender knows. Items themselves are the caller's.
    pub fn handle(
        &mut self,
        from: IdentityKey,
        message: &Message<'_>,
        roster: &Roster,
        now: Instant,
    ) -> Outbox {
        let outbox = self.answer_to(from, message, roster, now);
        self.within_budget(from, outbox, now)
    }

    fn answer_to(
        &mut self,
        from: IdentityKey,
        message: &Message<'_>,
        roster: &Roster,
        now: Instant,
    ) -> Outbox {
        match message {
            Message::Summary { .. } if *message == Message::summary(roster) => {
                self.again.remove(&from);
                // Who was let in a moment ago knows that little, too.
                self.agreed |= roster.members().count() > 1;
                Vec::new()
            }
            Message::Summary { .. } => vec![(from, Message::buckets(roster).encode())],
            Message::Buckets(theirs) => self.compare_buckets(from, theirs, roster, now),
            Message::Bucket { index, digests } => {
                let is_in = |digest: ItemDigest| message::bucket(digest) == usize::from(*index);
                self.compare_part(from, is_in, digests, roster, now)
            }
            Message::Part { first, last, digests } => {
                self.compare_part(from, |digest| (*first..=*last).contains(&digest), digests, roster, now)
            }
            Message::Have(digests) => self.ask(from, digests.iter().copied(), roster, now),
            Message::Want(digests) => answer(from, digests, roster),
            Message::Items(_)
            | Message::Ping(_)
            | Message::Pong(_)
            | Message::HelloKeys(_)
            | Message::Observed(_) => Vec::new(),
        }
    }

    /// Leaves out what is more than `to` may draw. It finds out what it lacks, and asks again.
    fn within_budget(&mut self, to: IdentityKey, mut outbox: Outbox, now: Instant) -> Outbox {
        let (since, left) = self.budgets.get(&to).copied().unwrap_or((now, BUDGET));
        let passed = now.saturating_duration_since(since).as_millis().min(1_000) as usize;
        let mut left = (left + BUDGET / 1_000 * passed).min(BUDGET);
        outbox.retain(|(_, message)| {
            let is_within = message.len() <= left;
            left -= if is_within { message.len() } else { left };
            is_within
        });
        self.budgets.insert(to, (if passed == 0 { since } else { now }, left));
        outbox
    }

    fn compare_buckets(
        &mut self,
        from: IdentityKey,
        theirs: &[u64; BUCKETS],
        roster: &Roster,
        now: Instant,
    ) -> Outbox {
        let Message::Buckets(ours) = Message::buckets(roster) else { return Vec::new() };
        // From another bucket each time: what is in the first ones may have to wait for what is in the last.
        self.turn = (self.turn + BUCKETS_AT_ONCE) % BUCKETS;
        let around = (0..BUCKETS).map(|n| (n + self.turn) % BUCKETS);
        let differing = around.filter(|n| ours[*n] != theirs[*n]).take(BUCKETS_AT_ONCE);
        let buckets: Vec<u8> = differing.map(|n| n as u8).collect();
        if !buckets.is_empty() {
            self.compare_again(from, now);
        }
        let parts: Vec<_> = buckets
            .into_iter()
            .flat_map(|index| {
                let digests: Vec<_> = roster
                    .digests()
                    .filter(|digest| message::bucket(*digest) == usize::from(index))
                    .collect();
                message::bucket_digests(index, &digests)
            })
            .collect();
        let skip = if parts.len() > PARTS_AT_ONCE { self.part_turn % parts.len() } else { 0 };
        self.part_turn = self.part_turn.wrapping_add(PARTS_AT_ONCE);
        let around = parts.iter().cycle().skip(skip).take(parts.len().min(PARTS_AT_ONCE));
        around.map(|message| (from, message.clone())).collect()
    }

    /// They told what they have in one bucket, or a part of it: send what they lack, ask for what we lack.
    fn compare_part(
        &mut self,
        from: IdentityKey,
        is_in: impl Fn(ItemDigest) -> bool,
        theirs: &[ItemDigest],
        roster: &Roster,
        now: Instant,
    ) -> Outbox {
        let has: BTreeSet<_> = theirs.iter().copied().collect();
        let lacking: Vec<_> =
            roster.digests().filter(|digest| is_in(*digest) && !has.contains(digest)).collect();
        let mut outbox = answer(from, &lacking, roster);
        outbox.extend(self.ask(from, theirs.iter().copied(), roster, now));
        self.compare_again(from, now);
        outbox
    }

    fn ask(
        &mut self,
        from: IdentityKey,
        digests: impl Iterator<Item = ItemDigest>,
        roster: &Roster,
        now: Instant,
    ) -> Outbox {
        let mut unknown = Vec::new();
        let of_one = self.asked.values().filter(|asked| asked.of == from).count();
        let mut room =
            MAX_ASKED_OF_ONE.saturating_sub(of_one).min(MAX_ASKED.saturating_sub(self.asked.len()));
        for digest in digests.filter(|digest| !roster.knows(*digest)) {
            match self.asked.entry(digest) {
                Entry::Vacant(_) if room == 0 => {}
                Entry::Vacant(entry) => {
                    entry.insert(Asked { at: now, of: from, others: Vec::new() });
                    unknown.push(digest);
                    room -= 1;
                }
                // It is on its way already; if it gets lost, this one has it, too.
                Entry::Occupied(mut entry) => {
                    let others = &mut entry.get_mut().others;
                    if others.len() < MAX_OTHERS && !others.contains(&from) {
                        others.push(from);
                    }
                }
            }
        }
        message::want(&unknown).into_iter().map(|message| (from, message)).collect()
    }

    /// Asks others for what was asked for and did not come.
    fn ask_others(&mut self, roster: &Roster, now: Instant) -> Outbox {
        let mut wanted: BTreeMap<IdentityKey, Vec<ItemDigest>> = BTreeMap::new();
        self.asked.retain(|digest, asked| {
            if now.saturating_duration_since(asked.at) < ASK_AGAIN_AFTER {
                return true;
            }
            let other = asked.others.pop().filter(|_| !roster.knows(*digest));
            asked.at = now;
            asked.of = other.unwrap_or(asked.of);
            other.map(|other| wanted.entry(other).or_default().push(*digest)).is_some()
        });
        let messages = wanted.into_iter();
        messages
            .flat_map(|(to, digests)| message::want(&digests).into_iter().map(move |message| (to, message)))
            .collect()
    }

    fn compare_again(&mut self, member: IdentityKey, now: Instant) {
        // One exchange compares many buckets, and counts once.
        let (at, count) = self.again.get(&member).copied().unwrap_or((now + SUMMARY_INTERVAL, 0));
        let is_due_soon = at <= now + AGAIN_AFTER;
        if !is_due_soon && count < MAX_AGAIN {
            self.again.insert(member, (now + AGAIN_AFTER, count + 1));
        }
    }

    /// What is due.
    pub fn handle_timeout(
        &mut self,
        reachable: &[IdentityKey],
        roster: &Roster,
        now: Instant,
        rng: &mut ChaCha12Rng,
    ) -> Outbox {
        // Who drew nothing for a second may draw all again.
        self.budgets.retain(|_, (since, _)| now.saturating_duration_since(*since) < Duration::from_secs(1));
        let mut outbox = self.ask_others(roster, now);
        if self.lazy_at.is_some_and(|at| at <= now) {
            self.lazy_at = None;
            for (member, digests) in std::mem::take(&mut self.lazy) {
                outbox.extend(message::have(&digests).into_iter().map(|message| (member, message)));
            }
        }
        let due: Vec<_> =
            self.again.iter().filter(|(_, (at, _))| *at <= now).map(|(member, _)| *member).collect();
        for member in due {
            // The count stays until they agree.
            if let Some((at, _)) = self.again.get_mut(&member) {
                *at = now + SUMMARY_INTERVAL;
            }
            if reachable.contains(&member) {
                outbox.push((member, Message::summary(roster).encode()));
            } else {
                self.again.remove(&member);
            }
        }
        if self.summary_at <= now {
            // Spread, so that members do not fall into step.
            let jitter = Duration::from_millis(u64::from(rng.next_u32() % 2_000));
            self.summary_at = now + SUMMARY_INTERVAL - Duration::from_secs(1) + jitter;
            if !reachable.is_empty() {
                let pick = reachable[rng.next_u32() as usize % reachable.len()];
                self.again.remove(&pick);
                outbox.push((pick, Message::summary(roster).encode()));
            }
        }
        outbox
    }

    /// When something is due.
    pub fn deadline(&self) -> Instant {
        let again = self.again.values().map(|(at, _)| *at).min();
        let asked = self.asked.values().map(|asked| asked.at + ASK_AGAIN_AFTER).min();
        [self.lazy_at, again, asked].into_iter().flatten().fold(self.summary_at, Instant::min)
    }
}

fn answer(to: IdentityKey, digests: &[ItemDigest], roster: &Roster) -> Outbox {
    // Each once, however often it is named.
    let digests: BTreeSet<_> = digests.iter().collect();
    let items: Vec<_> = digests
        .into_iter()
        .take(ITEMS_AT_ONCE)
        .filter_map(|digest| roster.find(*digest))
        .map(|item| item.to_bytes())
        .collect();
    message::items(&items).into_iter().map(|message| (to, message)).collect()
}

/// The neighbours of `us` among `members`, which are sorted and include `us`.
pub fn neighbours(members: &[IdentityKey], us: &IdentityKey) -> BTreeSet<IdentityKey> {
    let Ok(at) = members.binary_search(us) else { return BTreeSet::new() };
    let count = members.len();
    let mut found = BTreeSet::new();
    let mut distance = 1;
    while distance < count {
        found.insert(members[(at + distance) % count]);
        found.insert(members[(at + count - distance) % count]);
        distance *= 2;
    }
    found.remove(us);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(count: usize) -> Vec<IdentityKey> {
        let mut members: Vec<_> =
            (0..count).map(|n| IdentityKey(crate::crypto::hash(&[&n.to_le_bytes()]))).collect();
        members.sort_unstable();
        members
    }

    #[test]
    fn both_ends_agree_on_being_neighbours() {
        for count in [1, 2, 3, 5, 17, 100] {
            let members = ring(count);
            for a in &members {
                for b in neighbours(&members, a) {
                    assert!(neighbours(&members, &b).contains(a), "of {count}");
                }
            }
        }
    }

    #[test]
    fn neighbours_are_few_and_reach_everybody_in_few_steps() {
        let members = ring(1000);
        let mut steps = 0;
        let mut reached = BTreeSet::from([members[0]]);
        while reached.len() < members.len() {
            reached = reached
                .iter()
                .flat_map(|member| {
                    let next = neighbours(&members, member);
                    assert!(next.len() <= 20);
                    next
                })
                .chain(reached.iter().copied())
                .collect();
            steps += 1;
        }
        assert!(steps <= 6, "{steps} steps");
    }
}
