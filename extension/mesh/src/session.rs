//! Which sessions a peer has, which of them sends, and when each is too old.
//!
//! The rules are those of the WireGuard paper sections 5.4.6 and 6.2. Keys are made before they are needed and
//! kept after: a session that is replaced still receives until it expires, so a re-key loses nothing, in
//! flight or reordered.

use std::time::{Duration, Instant};

use crate::tunnel::SessionIndex;

/// Age at which the initiator of a session starts to replace it, when it sends.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// Age at which its initiator replaces a session even if it only receives (paper section 6.2: reject-after-time
/// less keepalive-timeout and rekey-timeout).
pub const REKEY_LATEST: Duration = Duration::from_secs(165);
/// Age at which a session neither sends nor receives any more.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// Messages after which the initiator starts to replace a session.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Messages after which a session does not send any more: 2^64 - 2^13 - 1.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// Sessions kept at once. Two are in use around a re-key; the rest is room for handshakes whose answers got
/// lost. What they hold are keys, so the number is small.
const MAX_SESSIONS: usize = 6;

/// How long after the newest session was heard something in an older one may still be a straggler from an old path:
/// longer than networks hold packets back. Where two handshakes crossed, each end goes on sending in its own, and the
/// older one is then all that is heard.
const STRAGGLER_TIME: Duration = Duration::from_secs(1);

/// Which end started the handshake. Only the initiator of a session replaces it, so the two ends do not both
/// try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Initiator,
    Responder,
}

/// The life of one session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) index: SessionIndex,
    pub(crate) born: Instant,
    pub(crate) role: Role,
    /// Whether the peer has proven to hold the keys. A responder must hear from the peer first.
    confirmed: bool,
    sealed: u64,
    /// One more than the highest counter heard.
    next_counter: u64,
    /// When it was made, or last heard in.
    heard_at: Instant,
}

impl Session {
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }
}

/// What an authentic message said about its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// It is the first in it: the keys are confirmed, and the session sends from now on.
    pub(crate) confirmed: bool,
    /// No later message was heard before: where it came from is where the peer is. A straggler from an old
    /// path says nothing.
    pub(crate) newest: bool,
}

/// The sessions of one peer, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    sessions: Vec<Session>,
    current: Option<SessionIndex>,
}

impl Ledger {
    /// Notes a new session and returns the one that had to go for it, whose keys are to be erased.
    #[must_use]
    pub(crate) fn add(&mut self, index: SessionIndex, role: Role, now: Instant) -> Option<SessionIndex> {
        let confirmed = role == Role::Initiator;
        let evicted = (self.sessions.len() >= MAX_SESSIONS).then(|| self.evict()).flatten();
        self.sessions.push(Session {
            index,
            born: now,
            role,
            confirmed,
            sealed: 0,
            next_counter: 0,
            heard_at: now,
        });
        if confirmed {
            self.current = Some(index);
        }
        evicted
    }

    /// Removes the oldest session that was never confirmed, so that lost responses cannot push out the
    /// session that works; the oldest of all if each was confirmed.
    fn evict(&mut self) -> Option<SessionIndex> {
        let current = self.current;
        let at = self
            .sessions
            .iter()
            .position(|session| !session.confirmed)
            .or_else(|| self.sessions.iter().position(|session| Some(session.index) != current))?;
        Some(self.sessions.remove(at).index)
    }

    /// The session that sends now, if there is one: fresh enough and with messages left. Counts the message.
    #[inline]
    pub(crate) fn for_sending(&mut self, now: Instant) -> Option<Session> {
        let current = self.current?;
        // The current session is nearly always the newest.
        let session = self.sessions.iter_mut().rev().find(|session| session.index == current)?;
        if session.age(now) >= REJECT_AFTER_TIME || session.sealed >= REJECT_AFTER_MESSAGES {
            return None;
        }
        session.sealed += 1;
        Some(*session)
    }

    /// Whether something could be sent now.
    pub(crate) fn can_send(&self, now: Instant) -> bool {
        self.current().is_some_and(|session| {
            session.age(now) < REJECT_AFTER_TIME && session.sealed < REJECT_AFTER_MESSAGES
        })
    }

    /// Whether the session that sends is due to be replaced by us, its initiator.
    #[inline]
    pub(crate) fn wants_rekey(session: &Session, now: Instant) -> bool {
        session.role == Role::Initiator
            && (session.age(now) >= REKEY_AFTER_TIME || session.sealed >= REKEY_AFTER_MESSAGES)
    }

    /// Whether a message of session `index` may be opened.
    #[inline]
    pub(crate) fn may_receive(&self, index: SessionIndex, now: Instant) -> bool {
        self.sessions
            .iter()
            .rev()
            .any(|session| session.index == index && session.age(now) < REJECT_AFTER_TIME)
    }

    /// Notes an authentic message of session `index`; `None` if the session is unknown or too old, and what
    /// it carried must be dropped.
    #[inline]
    pub(crate) fn heard(&mut self, index: SessionIndex, counter: u64, now: Instant) -> Option<Heard> {
        let current = self.current().copied();
        let session = self.sessions.iter_mut().rev().find(|session| session.index == index)?;
        if session.age(now) >= REJECT_AFTER_TIME {
            return None;
        }
        // An answer to an old handshake may be confirmed late; it must not replace a newer session.
        let is_newest_session = current.is_none_or(|current| session.born >= current.born);
        let is_straggler = !is_newest_session
            && current
                .is_some_and(|current| now.saturating_duration_since(current.heard_at) < STRAGGLER_TIME);
        let heard =
            Heard { confirmed: !session.confirmed, newest: !is_straggler && counter >= session.next_counter };
        session.confirmed = true;
        session.heard_at = now;
        session.next_counter = session.next_counter.max(counter.saturating_add(1));
        if heard.confirmed && is_newest_session {
            self.current = Some(index);
        }
        Some(heard)
    }

    /// The session that sends, whatever its age.
    #[inline]
    pub(crate) fn current(&self) -> Option<&Session> {
        let current = self.current?;
        self.sessions.iter().rev().find(|session| session.index == current)
    }

    /// Takes the sessions out that expired, for their keys to be erased.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<SessionIndex> {
        let expired: Vec<_> = self
            .sessions
            .iter()
            .filter(|session| session.age(now) >= REJECT_AFTER_TIME)
            .map(|session| session.index)
            .collect();
        self.sessions.retain(|session| session.age(now) < REJECT_AFTER_TIME);
        if self.current.is_some_and(|current| expired.contains(&current)) {
            self.current = None;
        }
        expired
    }

    /// When the next session expires.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.sessions.iter().map(|session| session.born + REJECT_AFTER_TIME).min()
    }

    /// All sessions.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{epoch, secs};

    const A: SessionIndex = SessionIndex(0x100);
    const B: SessionIndex = SessionIndex(0x200);

    #[test]
    fn an_initiators_session_sends_at_once() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.add(A, Role::Initiator, epoch()), None);
        assert_eq!(ledger.for_sending(epoch()).unwrap().index, A);
    }

    #[test]
    fn a_responders_session_sends_once_the_peer_was_heard_in_it() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.add(A, Role::Responder, epoch()), None);
        assert!(ledger.for_sending(epoch()).is_none());
        assert!(ledger.heard(A, 0, epoch()).unwrap().confirmed);
        assert!(!ledger.heard(A, 1, epoch()).unwrap().confirmed);
        assert_eq!(ledger.for_sending(epoch()).unwrap().index, A);
    }

    #[test]
    fn the_old_session_sends_until_the_new_one_is_confirmed_and_receives_until_it_expires() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.add(A, Role::Initiator, epoch()), None);
        let rekey = epoch() + REKEY_AFTER_TIME;
        assert_eq!(ledger.add(B, Role::Responder, rekey), None);
        assert_eq!(ledger.for_sending(rekey).unwrap().index, A);
        assert!(ledger.heard(B, 0, rekey).unwrap().confirmed);
        assert_eq!(ledger.for_sending(rekey).unwrap().index, B);
        assert!(ledger.heard(A, 7, rekey + secs(59)).is_some());
        assert_eq!(ledger.for_sending(rekey + secs(59)).unwrap().index, B);
        assert_eq!(ledger.heard(A, 8, rekey + secs(60)), None);
    }

    #[test]
    fn a_late_confirmation_of_an_older_session_does_not_take_over() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.add(A, Role::Responder, epoch()), None);
        assert_eq!(ledger.add(B, Role::Initiator, epoch() + secs(1)), None);
        assert!(ledger.heard(A, 0, epoch() + secs(2)).unwrap().confirmed);
        assert_eq!(ledger.for_sending(epoch() + secs(2)).unwrap().index, B);
    }

    #[test]
    fn stragglers_say_nothing_about_where_the_peer_is() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.add(A, Role::Initiator, epoch()), None);
        assert!(ledger.heard(A, 5, epoch()).unwrap().newest);
        assert!(!ledger.heard(A, 4, epoch()).unwrap().newest);
        assert!(ledger.heard(A, 6, epoch()).unwrap().newest);
        assert_eq!(ledger.add(B, Role::Initiator, epoch() + secs(120)), None);
        assert!(!ledger.heard(A, 7, epoch() + secs(120)).unwrap().newest);
        assert!(ledger.heard(B, 0, epoch() + secs(120)).unwrap().newest);
    }

    #[test]
    fn a_peer_that_only_sends_in_the_older_of_two_crossed_sessions_is_followed() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.add(A, Role::Responder, epoch()), None);
        assert_eq!(ledger.add(B, Role::Initiator, epoch() + secs(1)), None);
        assert!(!ledger.heard(A, 0, epoch() + secs(1)).unwrap().newest);
        assert!(ledger.heard(A, 1, epoch() + secs(2)).unwrap().newest);
        assert!(!ledger.heard(A, 1, epoch() + secs(2)).unwrap().newest);
        // While the newer one is heard, the older one says nothing.
        assert!(ledger.heard(B, 0, epoch() + secs(3)).unwrap().newest);
        assert!(!ledger.heard(A, 2, epoch() + secs(3)).unwrap().newest);
        assert_eq!(ledger.for_sending(epoch() + secs(3)).unwrap().index, B);
    }

    #[test]
    fn lost_responses_never_push_out_the_session_that_works() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.add(A, Role::Initiator, epoch()), None);
        for n in 0..100 {
            let _ = ledger.add(SessionIndex(0x1000 + (n << 8)), Role::Responder, epoch() + secs(1));
        }
        assert_eq!(ledger.for_sending(epoch() + secs(1)).unwrap().index, A);
        assert!(ledger.may_receive(A, epoch() + secs(1)));
        assert!(ledger.iter().count() <= MAX_SESSIONS);
    }

    #[test]
    fn a_session_stops_sending_after_too_many_messages() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.add(A, Role::Initiator, epoch()), None);
        ledger.sessions[0].sealed = REKEY_AFTER_MESSAGES - 1;
        let session = ledger.for_sending(epoch()).unwrap();
        assert!(Ledger::wants_rekey(&session, epoch()));
        ledger.sessions[0].sealed = REJECT_AFTER_MESSAGES - 1;
        assert!(ledger.for_sending(epoch()).is_some());
        assert!(ledger.for_sending(epoch()).is_none());
        assert!(!ledger.can_send(epoch()));
    }

    #[test]
    fn only_the_initiator_replaces_a_session() {
        let mut ledger = Ledger::default();
        let _ = ledger.add(A, Role::Responder, epoch());
        ledger.heard(A, 0, epoch());
        let later = epoch() + secs(150);
        let session = ledger.for_sending(later).unwrap();
        assert!(!Ledger::wants_rekey(&session, later));
    }

    #[test]
    fn expired_sessions_are_handed_out_once() {
        let mut ledger = Ledger::default();
        let _ = ledger.add(A, Role::Initiator, epoch());
        assert_eq!(ledger.next_expiry(), Some(epoch() + REJECT_AFTER_TIME));
        assert_eq!(ledger.expire(epoch() + secs(179)), vec![]);
        assert_eq!(ledger.expire(epoch() + secs(180)), vec![A]);
        assert!(ledger.is_empty());
        assert!(ledger.for_sending(epoch() + secs(180)).is_none());
    }
}
