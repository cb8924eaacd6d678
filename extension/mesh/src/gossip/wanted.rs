//! What others have and this node does not: whom it asks for what, and when again.
//!
//! Of everybody a few items are on their way at a time, so that a newcomer is not sent all records of a large network in
//! one burst, and that it draws them from several members at once. Each item is asked for once; if it does not
//! come, another who has it is asked.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::record::IdentityKey;
use crate::roster::{ItemDigest, Roster};

/// How long an item that was asked for may be on its way before it is asked for again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How often an item is asked for.
const MAX_TRIES: u8 = 4;
/// How long an item that came waits for those that it depends on, before it may be asked for again.
const KEEP_ARRIVED: Duration = Duration::from_secs(10);
/// Holders of one item that are remembered.
const MAX_HOLDERS: usize = 4;
/// Items that are on their way from one member, and from all.
const WINDOW: usize = 128;
const WINDOW_OF_ALL: usize = 512;
/// Items that one member says it has and that are waited for, and those of all.
const MAX_OF_ONE: usize = 2048;
const MAX_WANTED: usize = 8192;

/// For each member what it is asked for.
pub(super) type Questions = BTreeMap<IdentityKey, Vec<ItemDigest>>;

/// The items that are wanted.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    items: BTreeMap<ItemDigest, Want>,
    /// Those of them that are to be asked for.
    to_ask: BTreeSet<ItemDigest>,
    on_the_way: BTreeMap<IdentityKey, usize>,
    /// Of whom it was heard first that there are how many.
    told_by: BTreeMap<IdentityKey, usize>,
    /// When those that are on the way are to be asked for again, and those that came and wait are forgotten.
    due: BTreeSet<(Instant, ItemDigest)>,
}

#[derive(Debug)]
struct Want {
    told_by: IdentityKey,
    /// Who has it, whoever is asked next last.
    holders: Vec<IdentityKey>,
    tries: u8,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    ToAsk,
    Asked { of: IdentityKey, at: Instant },
    Arrived { at: Instant },
}

impl Wanted {
    /// How many items have not come yet.
    pub(super) fn len(&self) -> usize {
        self.to_ask.len() + self.on_the_way.values().sum::<usize>()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Somebody has these.
    pub(super) fn told(
        &mut self,
        by: IdentityKey,
        digests: impl Iterator<Item = ItemDigest>,
        roster: &Roster,
    ) {
        for digest in digests.filter(|digest| !roster.knows(*digest)) {
            let has_room = self.items.len() < MAX_WANTED;
            match self.items.entry(digest) {
                Entry::Vacant(entry) => {
                    let told = self.told_by.entry(by).or_default();
                    if has_room && *told < MAX_OF_ONE {
                        *told += 1;
                        let state = State::ToAsk;
                        entry.insert(Want { told_by: by, holders: vec![by], tries: 0, state });
                        self.to_ask.insert(digest);
                    }
                }
                Entry::Occupied(mut entry) => {
                    let Want { holders, tries, .. } = entry.get_mut();
                    if holders.len() < MAX_HOLDERS && !holders.contains(&by) {
                        // Who was asked already comes after it, who is about to be asked before it.
                        holders.insert(if *tries > 0 { holders.len() } else { 0 }, by);
                    }
                }
            }
        }
    }

    /// What to ask for now.
    pub(super) fn ask(&mut self, now: Instant) -> Questions {
        let mut questions = Questions::new();
        let mut room = WINDOW_OF_ALL.saturating_sub(self.on_the_way.values().sum());
        let mut asked = Vec::new();
        for digest in &self.to_ask {
            if room == 0 {
                break;
            }
            let Some(want) = self.items.get_mut(digest) else { continue };
            let on_the_way = |holder: &IdentityKey| self.on_the_way.get(holder).copied().unwrap_or(0);
            let Some(at) = want.holders.iter().rposition(|holder| on_the_way(holder) < WINDOW) else {
                continue;
            };
            // Whoever was asked is asked last the next time.
            let of = want.holders.remove(at);
            want.holders.insert(0, of);
            want.tries += 1;
            want.state = State::Asked { of, at: now };
            *self.on_the_way.entry(of).or_default() += 1;
            questions.entry(of).or_default().push(*digest);
            asked.push(*digest);
            room -= 1;
        }
        for digest in asked {
            self.to_ask.remove(&digest);
            self.due.insert((now + ASK_AGAIN_AFTER, digest));
        }
        questions
    }

    /// An item came, and may have to wait for another one. Whether it was asked for.
    pub(super) fn arrived(&mut self, digest: ItemDigest, now: Instant) -> bool {
        let Some(want) = self.items.get_mut(&digest) else { return false };
        let state = std::mem::replace(&mut want.state, State::Arrived { at: now });
        let was_asked_for = want.tries > 0;
        self.settle(digest, state);
        self.due.insert((now + KEEP_ARRIVED, digest));
        was_asked_for
    }

    /// An item is known now. Whether it was asked for.
    pub(super) fn known(&mut self, digest: ItemDigest) -> bool {
        let Some(want) = self.items.remove(&digest) else { return false };
        self.forget(digest, &want);
        want.tries > 0
    }

    /// Whether so few are on their way from somebody that it may be asked for more.
    pub(super) fn may_ask(&self, of: &IdentityKey) -> bool {
        !self.to_ask.is_empty() && self.on_the_way.get(of).copied().unwrap_or(0) <= WINDOW / 2
    }

    /// What is to be asked for again.
    pub(super) fn handle_timeout(&mut self, roster: &Roster, now: Instant) -> Questions {
        while let Some((_, digest)) = self.due.first().filter(|(at, _)| *at <= now).copied() {
            let Some(want) = self.items.get_mut(&digest) else {
                self.due.pop_first();
                continue;
            };
            let is_over = matches!(want.state, State::Arrived { .. }) || want.tries >= MAX_TRIES;
            if is_over || roster.knows(digest) {
                self.known(digest);
                continue;
            }
            let state = std::mem::replace(&mut want.state, State::ToAsk);
            self.settle(digest, state);
            self.to_ask.insert(digest);
        }
        self.ask(now)
    }

    fn forget(&mut self, digest: ItemDigest, want: &Want) {
        self.settle(digest, want.state);
        if let Entry::Occupied(mut told) = self.told_by.entry(want.told_by) {
            *told.get_mut() -= 1;
            if *told.get() == 0 {
                told.remove();
            }
        }
    }

    /// An item leaves the state that it was in.
    fn settle(&mut self, digest: ItemDigest, from: State) {
        match from {
            State::ToAsk => {
                self.to_ask.remove(&digest);
            }
            State::Asked { of, at } => {
                self.landed(&of);
                self.due.remove(&(at + ASK_AGAIN_AFTER, digest));
            }
            State::Arrived { at } => {
                self.due.remove(&(at + KEEP_ARRIVED, digest));
            }
        }
    }

    fn landed(&mut self, of: &IdentityKey) {
        if let Entry::Occupied(mut count) = self.on_the_way.entry(*of) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::NetworkId;
    use crate::record::genesis::Genesis;
    use crate::testing::{epoch, ms};

    const ONE: IdentityKey = IdentityKey([1; 32]);
    const OTHER: IdentityKey = IdentityKey([2; 32]);

    fn nothing() -> Roster {
        let range = "10.0.0.0/8".parse().unwrap();
        let genesis = Genesis { name: "home".parse().unwrap(), range, owners: vec![], nonce: [0; 16] };
        Roster::new(genesis, NetworkId([0; 32]))
    }

    fn digests(range: std::ops::Range<u64>) -> impl Iterator<Item = ItemDigest> {
        range.map(ItemDigest)
    }

    #[test]
    fn what_one_does_not_send_another_is_asked_for_and_then_it_is_forgotten() {
        let (mut wanted, roster) = (Wanted::default(), nothing());
        wanted.told(ONE, digests(0..1), &roster);
        assert_eq!(wanted.ask(epoch()), Questions::from([(ONE, vec![ItemDigest(0)])]));
        wanted.told(OTHER, digests(0..1), &roster);
        assert!(wanted.ask(epoch()).is_empty(), "it is on its way");
        let mut asked = vec![];
        while let Some(due) = wanted.deadline() {
            asked.extend(wanted.handle_timeout(&roster, due).into_keys());
        }
        assert_eq!(asked, [OTHER, ONE, OTHER]);
        assert_eq!(wanted.len(), 0);
    }

    #[test]
    fn many_items_are_drawn_from_all_who_have_them_a_few_at_a_time() {
        let (mut wanted, roster) = (Wanted::default(), nothing());
        wanted.told(ONE, digests(0..1000), &roster);
        wanted.told(OTHER, digests(0..1000), &roster);
        let questions = wanted.ask(epoch());
        assert_eq!(questions.values().map(Vec::len).collect::<Vec<_>>(), [WINDOW, WINDOW]);
        assert!(!wanted.may_ask(&ONE));
        for digest in &questions[&ONE] {
            assert!(wanted.known(*digest), "it was asked for");
        }
        assert!(wanted.may_ask(&ONE));
        let more = wanted.ask(epoch());
        assert_eq!((more.len(), more[&ONE].len()), (1, WINDOW));
    }

    #[test]
    fn what_came_and_waits_for_another_record_is_not_asked_for_again_soon() {
        let (mut wanted, roster) = (Wanted::default(), nothing());
        wanted.told(ONE, digests(0..1), &roster);
        wanted.ask(epoch());
        assert!(wanted.arrived(ItemDigest(0), epoch()));
        wanted.told(OTHER, digests(0..1), &roster);
        assert!(wanted.handle_timeout(&roster, epoch() + ms(9_999)).is_empty());
        assert!(wanted.known(ItemDigest(0)), "and it is remembered that it was asked for");
    }
}
