//! Which members this node has sessions with: who fell silent, who is to be asked, who is to be called.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ichor_mesh::key::PublicKey;

/// Silence after which a neighbour is asked whether it is there, and after which it is not.
const ASK_AFTER: Duration = Duration::from_secs(25);
const GONE_AFTER: Duration = Duration::from_secs(35);
/// Wait between two attempts at a neighbour without session.
const CONNECT_INTERVAL: Duration = Duration::from_secs(20);
/// Wait between two measurements of a round trip, and before the first one is tried again.
const MEASURE_INTERVAL: Duration = Duration::from_secs(60);
const FIRST_INTERVAL: Duration = Duration::from_secs(10);
/// Bytes between two looks that are more than our own questions and keepalives: such a session is in use, and
/// measuring it does not keep it from ending.
const IN_USE: u64 = 1024;

/// The sessions with members.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    live: BTreeMap<PublicKey, Live>,
    tried: BTreeMap<PublicKey, Instant>,
    /// Since when a member is there, or is not.
    since: BTreeMap<PublicKey, Instant>,
    nonce: u64,
}

/// A peer with a session.
#[derive(Debug)]
struct Live {
    /// When it was heard last, as far as was looked.
    at: Instant,
    rx_bytes: u64,
    /// It has been silent for so long that it is taken to be gone, though its session has not expired.
    gone: bool,
    /// The last question, and when it was asked.
    asked: Option<(u64, Instant)>,
    /// The last round trip that was measured.
    rtt: Option<Duration>,
    /// It may not know yet where we are now: it is asked until it answers.
    unsure: bool,
}

/// What a look at all sessions leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Looked {
    /// Sessions that began.
    pub(super) began: Vec<PublicKey>,
    /// Sessions from which nothing comes any more.
    pub(super) ended: Vec<PublicKey>,
    /// Members that are to be asked whether they are there, each with the nonce of the question.
    pub(super) ask: Vec<(PublicKey, u64)>,
    /// Members that a handshake is to be tried with.
    pub(super) connect: Vec<PublicKey>,
}

impl Sessions {
    /// Keys were agreed upon with a member; whether nothing came from it before.
    pub(super) fn began(&mut self, with: PublicKey, at: Instant) -> bool {
        let (rtt, asked) = (self.rtt(&with), None);
        let live = Live { at, rx_bytes: 0, gone: false, asked, rtt, unsure: false };
        let is_new = self.live.insert(with, live).is_none_or(|before| before.gone);
        if is_new {
            self.since.insert(with, at);
        }
        is_new
    }

    /// Looks at all sessions. `alive`: those of the data plane, and how many bytes came by each. `wanted`: with whom
    /// there should be one.
    pub(super) fn look(
        &mut self,
        alive: &BTreeMap<PublicKey, u64>,
        wanted: &BTreeSet<PublicKey>,
        at: Instant,
    ) -> Looked {
        let mut looked = Looked::default();
        self.live.retain(|key, live| {
            let stays = alive.contains_key(key);
            if !stays && !live.gone {
                looked.ended.push(*key);
            }
            stays
        });
        for (key, rx_bytes) in alive {
            let Some(live) = self.live.get_mut(key) else {
                looked.began.push(*key);
                continue;
            };
            let received = rx_bytes.saturating_sub(live.rx_bytes);
            let is_wanted = wanted.contains(key);
            if *rx_bytes != live.rx_bytes {
                if live.gone {
                    looked.began.push(*key);
                }
                (live.at, live.rx_bytes) = (at, *rx_bytes);
            }
            let silence = at.saturating_duration_since(live.at);
            let interval = if live.rtt.is_some() { MEASURE_INTERVAL } else { FIRST_INTERVAL };
            let was_asked = live.asked.is_some_and(|(_, asked)| at < asked + interval);
            // Between others a session without traffic is nothing unusual.
            if live.gone || !(is_wanted || live.unsure || received >= IN_USE) {
                continue;
            }
            if silence >= GONE_AFTER && is_wanted {
                live.gone = true;
                looked.ended.push(*key);
            } else if silence >= ASK_AFTER || live.unsure || !was_asked {
                self.nonce += 1;
                live.asked = Some((self.nonce, at));
                looked.ask.push((*key, self.nonce));
            }
        }
        for key in &looked.ended {
            self.since.insert(*key, at);
        }
        for key in &looked.began {
            self.began(*key, at);
            if let (Some(live), Some(rx_bytes)) = (self.live.get_mut(key), alive.get(key)) {
                live.rx_bytes = *rx_bytes;
            }
        }
        for key in wanted {
            let due = self.tried.get(key).is_none_or(|tried| at >= *tried + CONNECT_INTERVAL);
            if self.live.get(key).is_none_or(|live| live.gone) && due {
                self.tried.insert(*key, at);
                looked.connect.push(*key);
            }
        }
        looked
    }

    /// A member answered a question.
    pub(super) fn answered(&mut self, by: &PublicKey, nonce: u64, at: Instant) {
        let Some(live) = self.live.get_mut(by) else { return };
        if let Some((_, when)) = live.asked.filter(|(asked, _)| *asked == nonce) {
            live.rtt = Some(at.saturating_duration_since(when));
            live.unsure = false;
        }
    }

    /// This node is somewhere else now. What it says first from there may be lost, and then others send to where it was.
    pub(super) fn moved(&mut self) {
        for live in self.live.values_mut() {
            live.unsure = true;
        }
    }

    /// A member has another key now.
    pub(super) fn rename(&mut self, old: &PublicKey, new: PublicKey) {
        if let Some(live) = self.live.remove(old) {
            self.live.insert(new, live);
        }
        if let Some(since) = self.since.remove(old) {
            self.since.insert(new, since);
        }
        self.tried.remove(old);
    }

    /// A member may be somewhere else now: no need to wait.
    pub(super) fn try_again(&mut self, key: &PublicKey) {
        self.tried.remove(key);
    }

    /// Forgets those that `known` does not hold.
    pub(super) fn retain(&mut self, known: impl Fn(&PublicKey) -> bool) {
        self.tried.retain(|key, _| known(key));
        self.since.retain(|key, _| known(key));
    }

    /// The last round trip to a member that was measured.
    pub(super) fn rtt(&self, key: &PublicKey) -> Option<Duration> {
        self.live.get(key)?.rtt
    }

    /// Since when a member is there, or is not any more.
    pub(super) fn since(&self, key: &PublicKey) -> Option<Instant> {
        self.since.get(key).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PublicKey = PublicKey::new([7; 32]);

    fn seen(rx_bytes: u64) -> BTreeMap<PublicKey, u64> {
        BTreeMap::from([(KEY, rx_bytes)])
    }

    fn none() -> BTreeMap<PublicKey, u64> {
        BTreeMap::new()
    }

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_neighbour_is_measured_asked_when_silent_and_given_up_when_it_stays_so() {
        let start = crate::clock::now();
        let mut sessions = Sessions::default();
        let wanted = BTreeSet::from([KEY]);
        assert_eq!(sessions.look(&none(), &wanted, at(start, 0)).connect, [KEY]);
        assert_eq!(sessions.look(&none(), &wanted, at(start, 2)), Looked::default(), "it was just tried");
        assert!(sessions.began(KEY, at(start, 3)));
        let looked = sessions.look(&seen(10), &wanted, at(start, 4));
        assert_eq!(looked.ask, [(KEY, 1)], "its round trip is not known yet");
        sessions.answered(&KEY, 2, at(start, 5));
        assert_eq!(sessions.rtt(&KEY), None, "that was no answer to our question");
        sessions.answered(&KEY, 1, at(start, 5));
        assert_eq!(sessions.rtt(&KEY), Some(Duration::from_secs(1)));
        assert_eq!(sessions.look(&seen(10), &wanted, at(start, 20)), Looked::default());
        assert_eq!(sessions.look(&seen(10), &wanted, at(start, 30)).ask, [(KEY, 2)]);
        assert_eq!(sessions.look(&seen(10), &wanted, at(start, 40)).ended, [KEY]);
        assert_eq!(sessions.since(&KEY), Some(at(start, 40)));
        assert_eq!(sessions.look(&seen(11), &wanted, at(start, 42)).began, [KEY]);
        assert_eq!(sessions.since(&KEY), Some(at(start, 42)));
        assert_eq!(sessions.look(&none(), &wanted, at(start, 44)).ended, [KEY]);
    }

    #[test]
    fn after_a_move_everybody_is_asked_until_it_answers() {
        let start = crate::clock::now();
        let mut sessions = Sessions::default();
        let nobody = BTreeSet::new();
        sessions.began(KEY, at(start, 0));
        sessions.moved();
        assert_eq!(sessions.look(&seen(0), &nobody, at(start, 2)).ask, [(KEY, 1)]);
        assert_eq!(sessions.look(&seen(0), &nobody, at(start, 4)).ask, [(KEY, 2)]);
        sessions.answered(&KEY, 2, at(start, 5));
        assert_eq!(sessions.look(&seen(32), &nobody, at(start, 6)), Looked::default());
    }

    #[test]
    fn a_session_of_others_is_measured_only_while_it_is_in_use() {
        let start = crate::clock::now();
        let mut sessions = Sessions::default();
        let nobody = BTreeSet::new();
        sessions.began(KEY, at(start, 0));
        assert_eq!(sessions.look(&seen(100), &nobody, at(start, 2)), Looked::default());
        assert_eq!(sessions.look(&seen(5000), &nobody, at(start, 4)).ask, [(KEY, 1)]);
        sessions.answered(&KEY, 1, at(start, 5));
        assert_eq!(sessions.look(&seen(10_000), &nobody, at(start, 6)), Looked::default());
        assert_eq!(sessions.look(&seen(10_100), &nobody, at(start, 80)), Looked::default());
    }
}
