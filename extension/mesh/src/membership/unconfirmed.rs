//! Who may have missed news.
//!
//! News are pushed, and nobody confirms them. Whoever was told some and does not show that it knows them is asked a
//! second later, and told the sum of what is known, until it answers: it may have been cut off for a while that is too
//! short to end the session, or one datagram was lost where nobody else says the same. Among many members most show it
//! unasked, because they pass the same news on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::record::IdentityKey;
use crate::roster::ItemDigest;

/// Wait before a member is asked, and before it is asked again.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// News of which it is remembered that a member has not shown them. Of more only its answer counts.
const MAX_NEWS: usize = 32;

/// Members that were told news.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    members: BTreeMap<IdentityKey, Told>,
}

#[derive(Debug)]
struct Told {
    ask_at: Instant,
    /// What it has not shown to know; none if that is too much.
    news: Option<BTreeSet<ItemDigest>>,
    /// The question that was put to it since it was told the last of them.
    question: Option<u64>,
}

impl Unconfirmed {
    /// A member is told something new.
    pub(super) fn told(&mut self, member: IdentityKey, news: ItemDigest, now: Instant) {
        let first = || Told { ask_at: now + ASK_AFTER, news: Some(BTreeSet::new()), question: None };
        let told = self.members.entry(member).or_insert_with(first);
        told.question = None;
        let has_room = told.news.as_ref().is_some_and(|known| known.len() < MAX_NEWS);
        told.news = told.news.take().filter(|_| has_room);
        told.news.iter_mut().for_each(|known| _ = known.insert(news));
    }

    /// A member shows that it knows something.
    pub(super) fn knows(&mut self, member: &IdentityKey, item: ItemDigest) {
        let Some(told) = self.members.get_mut(member) else { return };
        told.news.iter_mut().for_each(|news| _ = news.remove(&item));
        if told.news.as_ref().is_some_and(BTreeSet::is_empty) {
            self.members.remove(member);
        }
    }

    /// A member answers a question, ours or that of somebody else here.
    pub(super) fn answered(&mut self, member: &IdentityKey, question: u64) {
        if self.members.get(member).is_some_and(|told| told.question == Some(question)) {
            self.members.remove(member);
        }
    }

    /// A member is gone, or compares notes with us.
    pub(super) fn forget(&mut self, member: &IdentityKey) {
        self.members.remove(member);
    }

    /// Who is to be asked next, and when.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.members.values().map(|told| told.ask_at).min()
    }

    /// Who is to be asked now, and what. `draw` makes another question.
    pub(super) fn ask(&mut self, now: Instant, mut draw: impl FnMut() -> u64) -> Vec<(IdentityKey, u64)> {
        let due = self.members.iter_mut().filter(|(_, told)| told.ask_at <= now);
        due.map(|(member, told)| {
            told.ask_at = now + ASK_AFTER;
            (*member, *told.question.get_or_insert_with(&mut draw))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{epoch, secs};

    const ONE: IdentityKey = IdentityKey([1; 32]);

    fn told(news: std::ops::Range<u64>) -> Unconfirmed {
        let mut unconfirmed = Unconfirmed::default();
        news.for_each(|n| unconfirmed.told(ONE, ItemDigest(n), epoch()));
        unconfirmed
    }

    #[test]
    fn who_shows_all_that_it_was_told_is_not_asked() {
        let mut unconfirmed = told(0..2);
        unconfirmed.knows(&ONE, ItemDigest(0));
        assert_eq!(unconfirmed.deadline(), Some(epoch() + secs(1)));
        unconfirmed.knows(&ONE, ItemDigest(1));
        assert_eq!(unconfirmed.deadline(), None);
    }

    #[test]
    fn who_is_silent_is_asked_the_same_until_it_answers_that() {
        let mut unconfirmed = told(0..1);
        assert!(unconfirmed.ask(epoch(), || 7).is_empty(), "not at once");
        for seconds in 1..4 {
            assert_eq!(unconfirmed.ask(epoch() + secs(seconds), || 7 + seconds), [(ONE, 8)]);
        }
        unconfirmed.answered(&ONE, 9);
        assert!(unconfirmed.deadline().is_some(), "that was a question of somebody else");
        unconfirmed.answered(&ONE, 8);
        assert_eq!(unconfirmed.deadline(), None);
    }

    #[test]
    fn an_answer_to_an_earlier_question_says_nothing_about_later_news() {
        let mut unconfirmed = told(0..1);
        unconfirmed.ask(epoch() + secs(1), || 7);
        unconfirmed.told(ONE, ItemDigest(5), epoch() + secs(1));
        unconfirmed.answered(&ONE, 7);
        assert_eq!(unconfirmed.ask(epoch() + secs(2), || 8), [(ONE, 8)]);
    }

    #[test]
    fn of_very_much_news_only_an_answer_counts() {
        let mut unconfirmed = told(0..MAX_NEWS as u64 + 1);
        (0..100).for_each(|n| unconfirmed.knows(&ONE, ItemDigest(n)));
        assert_eq!(unconfirmed.ask(epoch() + secs(1), || 7), [(ONE, 7)]);
        unconfirmed.answered(&ONE, 7);
        assert_eq!(unconfirmed.deadline(), None);
    }
}
