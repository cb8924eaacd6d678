//! Who may have the lock: what a lease says and how long it has said so in, what to do out.
//!
//! The rules are those of client-go's leader election. Clocks of two machines are never compared: a holder is taken
//! for dead when its lease stayed as it was for a whole term of our own clock. Times are durations since the boot of
//! this machine, sleep included.

use std::time::Duration;

/// Bounds for the term that a lease asks for.
const MIN_TERM: Duration = Duration::from_secs(1);
const MAX_TERM: Duration = Duration::from_secs(5 * 60);

/// A lease, as far as it decides anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its resource version.
    pub(super) version: String,
    /// Who has it. None: nobody.
    pub(super) holder: Option<String>,
    /// What it says about its renewal, as it is written: only whether it changes matters.
    pub(super) renewed: String,
    /// How long it holds without a renewal.
    pub(super) term: Duration,
}

impl Seen {
    /// The term within reasonable bounds: a lease of a year would lock everybody out for a year.
    pub(super) fn term(&self) -> Duration {
        self.term.clamp(MIN_TERM, MAX_TERM)
    }
}

/// Somebody who wants the lock.
#[derive(Debug)]
pub(super) struct Candidate {
    me: String,
    /// The lease of somebody else, and since when it has been as it is.
    watched: Option<(Seen, Duration)>,
}

/// What a candidate does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is no lease: make one.
    Create,
    /// Nobody has it any more: overwrite this version of it.
    Take(String),
    /// Its holder may be dead: look again until then.
    Watch(Duration),
    /// Its holder is alive.
    GiveUp,
}

impl Candidate {
    pub(super) const fn new(me: String) -> Self {
        Self { me, watched: None }
    }

    /// Decides by the lease as it is now.
    pub(super) fn look(&mut self, lease: Option<&Seen>, now: Duration) -> Step {
        let Some(lease) = lease else { return Step::Create };
        // Our own name in it: a request of ours arrived whose answer did not.
        if lease.holder.as_ref().is_none_or(|holder| *holder == self.me) {
            return Step::Take(lease.version.clone());
        }
        let since = match &self.watched {
            None => now,
            Some((before, since)) if before.is_same_term(lease) => *since,
            Some(_) => return Step::GiveUp,
        };
        self.watched = Some((lease.clone(), since));
        let end = since + lease.term();
        if now >= end { Step::Take(lease.version.clone()) } else { Step::Watch(end) }
    }
}

impl Seen {
    /// Whether nothing happened in between. An edit by somebody else is no renewal.
    fn is_same_term(&self, later: &Self) -> bool {
        (&self.holder, &self.renewed) == (&later.holder, &later.renewed)
    }
}

/// Whether the lock is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockState {
    /// It is.
    Held,
    /// It was not renewed for so long that somebody else may take it at any moment. It may become ours again, if
    /// nobody did.
    Doubtful,
    /// Somebody else has it, or it was deleted.
    Lost {
        /// Who has it. None: nobody.
        by: Option<String>,
    },
}

/// Somebody who has the lock.
#[derive(Debug)]
pub(super) struct Holding {
    me: String,
    version: String,
    /// How long after a renewal was sent it is sure that nobody else has the lock.
    safe: Duration,
    sure_until: Duration,
    lost: Option<Option<String>>,
}

impl Holding {
    /// Has the lock since a request that was sent at `sent` and left this version.
    pub(super) fn new(me: String, version: String, safe: Duration, sent: Duration) -> Self {
        Self { me, version, safe, sure_until: sent + safe, lost: None }
    }

    /// The version that a renewal overwrites. None: there is nothing to renew any more.
    pub(super) fn version(&self) -> Option<&str> {
        self.lost.is_none().then_some(&self.version)
    }

    /// The renewal that was sent at `sent` arrived. What counts is when it was sent: others saw it later.
    pub(super) fn renewed(&mut self, version: String, sent: Duration) {
        if self.lost.is_none() {
            self.version = version;
            self.sure_until = self.sure_until.max(sent + self.safe);
        }
    }

    /// The lease is not what was to be overwritten; this is what it is. With our name in it, a renewal arrived
    /// without an answer or somebody edited it, and the next renewal goes on from there.
    pub(super) fn found(&mut self, lease: Option<&Seen>) {
        match lease {
            Some(lease) if lease.holder.as_ref() == Some(&self.me) => self.version.clone_from(&lease.version),
            Some(lease) => self.lost = Some(lease.holder.clone()),
            None => self.lost = Some(None),
        }
    }

    pub(super) const fn sure_until(&self) -> Duration {
        self.sure_until
    }

    pub(super) fn state(&self, now: Duration) -> LockState {
        match &self.lost {
            Some(by) => LockState::Lost { by: by.clone() },
            None if now < self.sure_until => LockState::Held,
            None => LockState::Doubtful,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lease(holder: Option<&str>, renewed: &str, version: &str) -> Seen {
        Seen {
            version: version.to_owned(),
            holder: holder.map(str::to_owned),
            renewed: renewed.to_owned(),
            term: at(60),
        }
    }

    fn candidate() -> Candidate {
        Candidate::new("me".to_owned())
    }

    #[test]
    fn a_lock_that_nobody_has_is_taken_at_once() {
        assert_eq!(candidate().look(None, at(5)), Step::Create);
        assert_eq!(candidate().look(Some(&lease(None, "a", "7")), at(5)), Step::Take("7".into()));
        assert_eq!(candidate().look(Some(&lease(Some("me"), "a", "7")), at(5)), Step::Take("7".into()));
    }

    #[test]
    fn a_holder_that_renews_is_alive_whatever_its_clock_says() {
        let mut candidate = candidate();
        assert_eq!(candidate.look(Some(&lease(Some("other"), "1970", "1")), at(5)), Step::Watch(at(65)));
        assert_eq!(candidate.look(Some(&lease(Some("other"), "1971", "2")), at(7)), Step::GiveUp);
    }

    #[test]
    fn a_holder_that_stays_silent_for_a_whole_term_of_our_clock_is_dead() {
        let mut candidate = candidate();
        let silent = lease(Some("other"), "2999", "1");
        assert_eq!(candidate.look(Some(&silent), at(5)), Step::Watch(at(65)));
        assert_eq!(candidate.look(Some(&silent), at(64)), Step::Watch(at(65)));
        // Somebody put a label on it: the version to overwrite is the new one, and the term goes on.
        let edited = lease(Some("other"), "2999", "2");
        assert_eq!(candidate.look(Some(&edited), at(65)), Step::Take("2".into()));
    }

    #[test]
    fn somebody_who_takes_over_first_is_respected() {
        let mut candidate = candidate();
        candidate.look(Some(&lease(Some("dead"), "a", "1")), at(0));
        assert_eq!(candidate.look(Some(&lease(Some("faster"), "b", "2")), at(60)), Step::GiveUp);
        // Also one whose clock says the same time.
        let mut other = Candidate::new("me".into());
        other.look(Some(&lease(Some("dead"), "a", "1")), at(0));
        assert_eq!(other.look(Some(&lease(Some("faster"), "a", "2")), at(60)), Step::GiveUp);
    }

    #[test]
    fn nobody_is_locked_out_by_an_endless_term() {
        let mut endless = lease(Some("other"), "a", "1");
        endless.term = Duration::MAX;
        assert_eq!(candidate().look(Some(&endless), at(5)), Step::Watch(at(5) + MAX_TERM));
    }

    #[test]
    fn the_lock_is_ours_for_the_safe_time_after_a_renewal_was_sent() {
        let mut holding = Holding::new("me".into(), "1".into(), at(40), at(100));
        assert_eq!(holding.state(at(139)), LockState::Held);
        assert_eq!(holding.state(at(140)), LockState::Doubtful);
        holding.renewed("2".into(), at(120));
        assert_eq!((holding.state(at(159)), holding.version()), (LockState::Held, Some("2")));
        // Answers may overtake each other.
        holding.renewed("3".into(), at(110));
        assert_eq!(holding.state(at(159)), LockState::Held);
    }

    #[test]
    fn doubt_ends_when_a_renewal_arrives_after_all() {
        let mut holding = Holding::new("me".into(), "1".into(), at(40), at(100));
        assert_eq!(holding.state(at(300)), LockState::Doubtful);
        holding.renewed("2".into(), at(300));
        assert_eq!(holding.state(at(301)), LockState::Held);
    }

    #[test]
    fn a_conflict_with_our_own_lost_answer_loses_nothing() {
        let mut holding = Holding::new("me".into(), "1".into(), at(40), at(100));
        holding.found(Some(&lease(Some("me"), "b", "2")));
        assert_eq!((holding.state(at(101)), holding.version()), (LockState::Held, Some("2")));
    }

    #[test]
    fn another_holder_or_no_lease_is_a_loss_for_good() {
        let mut taken = Holding::new("me".into(), "1".into(), at(40), at(100));
        taken.found(Some(&lease(Some("other"), "b", "2")));
        taken.renewed("3".into(), at(101));
        assert_eq!(taken.state(at(101)), LockState::Lost { by: Some("other".into()) });
        assert_eq!(taken.version(), None);
        let mut deleted = Holding::new("me".into(), "1".into(), at(40), at(100));
        deleted.found(None);
        assert_eq!(deleted.state(at(101)), LockState::Lost { by: None });
    }

    /// Two candidates and every order of their requests: never both.
    #[test]
    fn of_two_that_race_one_wins() {
        for first in 0..2 {
            // The server takes the request whose version is current, and refuses the other.
            let mut version = "1".to_owned();
            let mut winners = Vec::new();
            let mut both = [Candidate::new("a".into()), Candidate::new("b".into())];
            let free = lease(None, "x", &version);
            let steps: Vec<Step> = both.iter_mut().map(|it| it.look(Some(&free), at(0))).collect();
            for index in [first, 1 - first] {
                if steps[index] == Step::Take(version.clone()) {
                    winners.push(index);
                    version = "2".to_owned();
                }
            }
            assert_eq!(winners, [first]);
            let name = ["a", "b"][first];
            let taken = lease(Some(name), "y", &version);
            assert!(matches!(both[1 - first].look(Some(&taken), at(1)), Step::Watch(_)));
            assert_eq!(both[first].look(Some(&taken), at(1)), Step::Take("2".into()));
        }
    }
}
