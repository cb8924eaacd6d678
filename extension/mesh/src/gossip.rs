//! How members pass records on: a push when something is new, and a comparison now and then that finds whatever a
//! push missed.
//!
//! Each member talks to a few others, its *neighbours*: those at distances 1, 2, 4, ... in both directions on the ring
//! of all identities. So both ends of a pair agree that they are one, every member is reached in few steps, and a
//! member that is gone leaves no hole that the distances do not span.
//!
//! A new item goes at once to some neighbours, and its digest a moment later to the others, who ask if they did not
//! get it otherwise. Every [`SUMMARY_INTERVAL`] a member compares all that it knows with one neighbour. The same happens
//! at once when a session with anybody begins, which is how a healed partition converges:
//!
//! ```text
//! A, who knows more          B, who knows less
//!       summary  ----->
//!                <-----  sums of 64 buckets
//!         parts  ----->                          digests where the buckets differ
//!                <-----  wants, and what A lacks
//!         items  ----->
//!                <-----  wants, while there are any, then a summary
//! ```
//!
//! Who knows less leads, because it knows what it has asked others for. Whoever has the fewer items knows less; if it
//! gets the summary of such a one, a member just answers with its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha12Rng;
use rand_core::RngCore as _;

use crate::record::IdentityKey;
use crate::roster::{BUCKETS, ItemDigest, Roster};

mod message;
mod wanted;

use self::wanted::{Questions, Wanted};

pub use self::message::{BadMessage, MAX_HELLO_KEYS, MAX_PAYLOAD, Message};

/// Neighbours that get a new item at once.
const EAGER: usize = 4;
/// How long digests for the others are gathered.
const LAZY_DELAY: Duration = Duration::from_millis(100);
/// How often a member compares notes with one neighbour.
pub const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);
/// Wait before notes are compared again with somebody with whom they differed.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How often notes are compared again with one that never agrees.
const MAX_AGAIN: u8 = 16;
/// How long a comparison may stay without an answer before it is begun again: some message of it was lost.
const LOST_AFTER: Duration = Duration::from_millis(400);
/// How long a comparison that was asked for may take before it is asked for again.
const COMPARING: Duration = Duration::from_millis(200);
/// Who waits for more items than these does not look for others at the same time.
const MANY: usize = 256;
/// How often a comparison is put off because of items that are still on their way.
const MAX_PUT_OFF: u8 = 8;
/// Wait for stragglers after the last item that was on its way came.
const SETTLE: Duration = Duration::from_millis(20);
/// Messages with digests that a comparison causes at most: in a large network another part each time.
const PARTS_AT_ONCE: usize = 32;
/// Items sent in answer to one message.
const ITEMS_AT_ONCE: usize = 128;
/// Bytes that one member may draw from this one in a second, and at once: all that a network of 1,000 members knows takes
/// some two seconds.
const BUDGET: usize = 512 * 1024;

/// Messages to send, each to one member.
pub type Outbox = Vec<(IdentityKey, Vec<u8>)>;

/// What gossip remembers between messages.
#[derive(Debug)]
pub struct Gossip {
    lazy: BTreeMap<IdentityKey, Vec<ItemDigest>>,
    lazy_at: Option<Instant>,
    summary_at: Instant,
    again: BTreeMap<IdentityKey, Again>,
    wanted: Wanted,
    /// Who was sent our buckets a moment ago.
    comparing: BTreeMap<IdentityKey, Instant>,
    /// What members may still draw, and since when.
    budgets: BTreeMap<IdentityKey, (Instant, usize)>,
    agreed: bool,
    /// Where the next comparison begins.
    turn: usize,
}

/// Notes are to be compared again with a member.
#[derive(Debug, Clone, Copy)]
struct Again {
    at: Instant,
    /// How often that led to nothing.
    count: u8,
    /// How often it was put off.
    put_off: u8,
}

impl Gossip {
    /// Starts at `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            lazy: BTreeMap::new(),
            lazy_at: None,
            summary_at: now + SUMMARY_INTERVAL,
            again: BTreeMap::new(),
            wanted: Wanted::default(),
            comparing: BTreeMap::new(),
            budgets: BTreeMap::new(),
            agreed: false,
            turn: 0,
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
        let was_asked_for = self.known(digest, now);
        // While a comparison leads to something, it goes on.
        if let Some(again) = from.and_then(|from| self.again.get_mut(&from)) {
            again.count = 0;
        }
        // Who catches up is told what others know long since. If somebody does not, comparing notes with it will show.
        if was_asked_for && !self.agreed {
            return Vec::new();
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

    /// Tells a member some items.
    pub fn tell(member: IdentityKey, items: &[Arc<[u8]>]) -> Outbox {
        message::items(items).into_iter().map(|message| (member, message)).collect()
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
            Message::Summary { count, sum } => self.compare(from, (*count, *sum), roster, now),
            Message::Buckets(theirs) => self.compare_buckets(from, theirs, roster),
            Message::Bucket { index, digests } => {
                let index = usize::from(*index);
                self.compare_part(from, ItemDigest::of_buckets(index, index), digests, roster, now)
            }
            Message::Part { first, last, digests } => {
                self.compare_part(from, *first..=*last, digests, roster, now)
            }
            Message::Have(digests) => {
                self.wanted.told(from, digests.iter().copied(), roster);
                questions(self.wanted.ask(now))
            }
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

    fn compare(&mut self, from: IdentityKey, theirs: (u32, u64), roster: &Roster, now: Instant) -> Outbox {
        let summary = Message::summary(roster);
        let Message::Summary { count, sum } = summary else { return Vec::new() };
        if theirs == (count, sum) {
            self.again.remove(&from);
            // Who was let in a moment ago knows that little, too.
            self.agreed |= roster.members().nth(1).is_some();
            return Vec::new();
        }
        if theirs < (count, sum) {
            return vec![(from, summary.encode())];
        }
        let is_under_way = self.comparing.get(&from).is_some_and(|at| now < *at + COMPARING);
        if is_under_way || self.puts_off(&from, MANY) {
            self.compare_again(from, now);
            return Vec::new();
        }
        self.comparing.insert(from, now);
        self.compare_again(from, now);
        vec![(from, Message::buckets(roster).encode())]
    }

    /// Whether a comparison waits for more than `few` items that are still on their way.
    fn puts_off(&self, member: &IdentityKey, few: usize) -> bool {
        let put_off = self.again.get(member).map_or(0, |again| again.put_off);
        self.wanted.len() > few && put_off < MAX_PUT_OFF
    }

    fn compare_buckets(&mut self, from: IdentityKey, theirs: &[u64; BUCKETS], roster: &Roster) -> Outbox {
        let parts = message::differing(roster, theirs);
        // From another one each time: what is in the first ones may have to wait for what is in the last.
        let skip = if parts.len() > PARTS_AT_ONCE { self.turn % parts.len() } else { 0 };
        self.turn = self.turn.wrapping_add(PARTS_AT_ONCE);
        let around = parts.iter().cycle().skip(skip).take(parts.len().min(PARTS_AT_ONCE));
        around.map(|message| (from, message.clone())).collect()
    }

    /// They told what they have between two digests: send what they lack, ask for what we lack.
    fn compare_part(
        &mut self,
        from: IdentityKey,
        range: RangeInclusive<ItemDigest>,
        theirs: &[ItemDigest],
        roster: &Roster,
        now: Instant,
    ) -> Outbox {
        let has: BTreeSet<_> = theirs.iter().copied().collect();
        let lacking: Vec<_> = roster.digests_in(range).filter(|digest| !has.contains(digest)).collect();
        let mut outbox = answer(from, &lacking, roster);
        self.wanted.told(from, theirs.iter().copied(), roster);
        outbox.extend(questions(self.wanted.ask(now)));
        self.compare_again(from, now);
        outbox
    }

    /// An item came, and was not taken up yet.
    pub fn arrived(&mut self, digest: ItemDigest, now: Instant) {
        self.wanted.arrived(digest, now);
        self.hurry(now);
    }

    /// What to ask for now that items came from a member.
    pub fn ask_more(&mut self, of: &IdentityKey, now: Instant) -> Outbox {
        if self.wanted.may_ask(of) { questions(self.wanted.ask(now)) } else { Vec::new() }
    }

    fn known(&mut self, digest: ItemDigest, now: Instant) -> bool {
        let was_asked_for = self.wanted.known(digest);
        if was_asked_for {
            self.hurry(now);
        }
        was_asked_for
    }

    /// When all that was asked for has come, it is time to see what is still missing.
    fn hurry(&mut self, now: Instant) {
        if self.wanted.len() == 0 {
            for again in self.again.values_mut().filter(|again| again.at <= now + AGAIN_AFTER) {
                again.at = again.at.min(now + SETTLE);
            }
        }
    }

    fn compare_again(&mut self, member: IdentityKey, now: Instant) {
        // One exchange compares in many parts, and counts once.
        let later = Again { at: now + SUMMARY_INTERVAL, count: 0, put_off: 0 };
        let again = self.again.get(&member).copied().unwrap_or(later);
        let is_due_soon = again.at <= now + AGAIN_AFTER;
        if !is_due_soon && again.count < MAX_AGAIN {
            self.again.insert(member, Again { at: now + AGAIN_AFTER, count: again.count + 1, ..again });
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
        self.comparing.retain(|_, at| now < *at + COMPARING);
        let mut outbox = questions(self.wanted.handle_timeout(roster, now));
        outbox.retain(|(to, _)| reachable.contains(to));
        if self.lazy_at.is_some_and(|at| at <= now) {
            self.lazy_at = None;
            for (member, digests) in std::mem::take(&mut self.lazy) {
                outbox.extend(message::have(&digests).into_iter().map(|message| (member, message)));
            }
        }
        let due: Vec<_> =
            self.again.iter().filter(|(_, again)| again.at <= now).map(|(member, _)| *member).collect();
        for member in due {
            if !reachable.contains(&member) {
                self.again.remove(&member);
                continue;
            }
            let puts_off = self.puts_off(&member, 0);
            if let Some(again) = self.again.get_mut(&member) {
                again.put_off = if puts_off { again.put_off + 1 } else { 0 };
                // The count stays until they agree.
                again.at = now
                    + match again.count {
                        _ if puts_off => AGAIN_AFTER,
                        MAX_AGAIN.. => SUMMARY_INTERVAL,
                        _ => LOST_AFTER,
                    };
                again.count = again.count.saturating_add(u8::from(!puts_off));
            }
            if !puts_off {
                outbox.push((member, Message::summary(roster).encode()));
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
        let again = self.again.values().map(|again| again.at).min();
        let others = [self.lazy_at, again, self.wanted.deadline()];
        others.into_iter().flatten().fold(self.summary_at, Instant::min)
    }
}

fn questions(questions: Questions) -> Outbox {
    let each = questions.into_iter();
    each.flat_map(|(of, digests)| message::want(&digests).into_iter().map(move |message| (of, message)))
        .collect()
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
    Gossip::tell(to, &items)
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
