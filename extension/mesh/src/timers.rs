//! When a peer must do something although nothing happens: WireGuard paper section 6.
//!
//! The hot path only stores instants here. Deadlines follow from them when the driver asks, so a packet never
//! moves a timer in a queue, and a timer that fires too early is harmless.

use std::time::{Duration, Instant};

/// How long an unanswered initiation waits before the next, once the quick retries are used up.
pub(crate) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long initiations go on without an answer before the peer is given up until there is traffic again.
pub(crate) const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long a received packet may go without an answer before an empty one is sent.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Random delay added to every retry, so that two peers that start together do not stay in step.
pub(crate) const MAX_JITTER: Duration = Duration::from_millis(333);

/// Waits of the first retries. A single lost datagram should not cost a cold pair five seconds, nor one second, in
/// which everybody else has heard of a newcomer. Where an answer takes longer than the first wait, one comes to the
/// second or third initiation. From then on the paper's interval holds.
const FIRST_RETRIES: [Duration; 3] =
    [Duration::from_millis(300), Duration::from_millis(700), Duration::from_secs(2)];

/// Wait before an initiation is sent once more as it is, to a peer that [is insisted on](Timers::insist). A part of a network
/// that was cut off is found this fast when it is there again. A repetition costs no curve arithmetic at either end: who
/// got the first one drops it as a replay.
pub(crate) const REPEAT_INTERVAL: Duration = Duration::from_secs(2);
/// Initiations of an attempt until repetitions take the place of most.
const OFTEN: u32 = 4;
/// How long an initiation that is repeated waits for an answer before the next.
const REPEATED_TIMEOUT: Duration = Duration::from_secs(15);

/// What to do about a handshake that was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// It is not time yet, or there is none.
    Wait,
    /// Send the last initiation as it is.
    Repeat,
    /// Send the next initiation.
    Again,
    /// Stop: [`REKEY_ATTEMPT_TIME`] is over.
    GiveUp,
}

/// A handshake of ours that was not answered yet.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    started: Instant,
    tries: u32,
    /// Initiations with their repetitions.
    sends: u32,
    next: Instant,
    /// When the last initiation is to be repeated.
    repeat: Option<Instant>,
}

/// The instants from which one peer's deadlines follow.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    attempt: Option<Attempt>,
    /// Since when data was received and nothing sent.
    owed_since: Option<Instant>,
    /// Since when data was sent and nothing received.
    unanswered_since: Option<Instant>,
    /// The last authentic packet in either direction, or the last keepalive that was tried.
    last_traffic: Option<Instant>,
    keepalive: Option<Duration>,
    jitter: Duration,
    insists: bool,
    /// Whether a deadline may have come closer since [`Timers::take_changed`].
    changed: bool,
}

impl Timers {
    /// An authentic packet left; `data` if it carried something.
    #[inline]
    pub(crate) fn sent(&mut self, data: bool, now: Instant) {
        self.owed_since = None;
        self.last_traffic = Some(now);
        if data && self.unanswered_since.is_none() {
            self.unanswered_since = Some(now);
            self.changed = true;
        }
    }

    /// An authentic packet came; `data` if it carried something.
    #[inline]
    pub(crate) fn received(&mut self, data: bool, now: Instant) {
        self.unanswered_since = None;
        self.last_traffic = Some(now);
        if data && self.owed_since.is_none() {
            self.owed_since = Some(now);
            self.changed = true;
        }
    }

    /// An initiation left. `jitter` is at most [`MAX_JITTER`], and less counts for short waits.
    pub(crate) fn initiated(&mut self, now: Instant, jitter: Duration) {
        let first = Attempt { started: now, tries: 0, sends: 0, next: now, repeat: None };
        let attempt = self.attempt.get_or_insert(first);
        let later = if self.insists && attempt.tries >= OFTEN { REPEATED_TIMEOUT } else { REKEY_TIMEOUT };
        let wait = FIRST_RETRIES.get(attempt.tries as usize).copied().unwrap_or(later);
        attempt.tries += 1;
        attempt.sends += 1;
        attempt.next = now + wait + jitter.min(wait / 4);
        attempt.repeat = Some(now + REPEAT_INTERVAL).filter(|at| self.insists && *at < attempt.next);
        self.jitter = jitter;
        self.changed = true;
        self.unanswered_since = None;
        self.last_traffic = Some(now);
    }

    /// The last initiation left once more.
    pub(crate) fn repeated(&mut self, now: Instant) {
        if let Some(attempt) = &mut self.attempt {
            attempt.sends += 1;
            attempt.repeat = Some(now + REPEAT_INTERVAL).filter(|at| *at < attempt.next);
            self.changed = true;
        }
    }

    /// The peer is under load and wants the cookie that it sent: in the next initiation, soon, and no repetition.
    pub(crate) fn cookie_came(&mut self, now: Instant) {
        if let Some(attempt) = &mut self.attempt {
            attempt.next = attempt.next.min(now + REKEY_TIMEOUT);
            attempt.repeat = None;
            self.changed = true;
        }
    }

    /// Initiations are repeated while they wait for an answer.
    pub(crate) fn insist(&mut self) {
        self.insists = true;
    }

    /// Whether there is always to be a session: the next attempt follows at once on one that was in vain.
    pub(crate) fn never_gives_up(&self) -> bool {
        self.insists && self.keepalive.is_some()
    }

    /// The handshake is over, either way.
    pub(crate) fn attempt_over(&mut self) {
        self.attempt = None;
        self.changed = true;
    }

    /// Initiations sent in the running attempt, with their repetitions; 0 without one.
    pub(crate) fn sends(&self) -> u32 {
        self.attempt.map_or(0, |attempt| attempt.sends)
    }

    pub(crate) fn is_initiating(&self) -> bool {
        self.attempt.is_some()
    }

    /// What to do about an unanswered handshake.
    pub(crate) fn retry(&self, now: Instant) -> Retry {
        match self.attempt {
            Some(Attempt { repeat: Some(at), .. }) if at <= now => Retry::Repeat,
            Some(attempt) if now < attempt.next => Retry::Wait,
            Some(attempt) if now.saturating_duration_since(attempt.started) >= REKEY_ATTEMPT_TIME => {
                Retry::GiveUp
            }
            Some(_) => Retry::Again,
            None => Retry::Wait,
        }
    }

    /// Whether data went unanswered for so long that the peer may have lost our session.
    pub(crate) fn is_unanswered(&self, now: Instant) -> bool {
        self.unanswered_deadline().is_some_and(|at| at <= now)
    }

    /// Whether an empty packet is due: because one is owed, or to keep a NAT binding.
    pub(crate) fn wants_keepalive(&self, now: Instant) -> bool {
        self.owed_deadline().is_some_and(|at| at <= now)
            || self.persistent_deadline(now).is_some_and(|at| at <= now)
    }

    /// A keepalive could not be sent; the next is due one interval later.
    pub(crate) fn keepalive_tried(&mut self, now: Instant) {
        self.owed_since = None;
        self.last_traffic = Some(now);
    }

    /// Sets or removes the persistent keepalive.
    pub(crate) fn set_keepalive(&mut self, interval: Option<Duration>) {
        self.keepalive = interval.filter(|interval| !interval.is_zero());
        self.changed = true;
    }

    pub(crate) fn keepalive(&self) -> Option<Duration> {
        self.keepalive
    }

    /// A deadline outside these timers came closer: that of a new session.
    pub(crate) fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// Whether a deadline may have come closer since the last call.
    #[inline]
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Forgets that anything is owed or awaited: the sessions that it was about are gone.
    pub(crate) fn reset_traffic(&mut self) {
        self.owed_since = None;
        self.unanswered_since = None;
    }

    /// The earliest instant at which something is due. `reachable` is whether there is a path to send on:
    /// without one only the end of a running attempt matters.
    pub(crate) fn deadline(&self, now: Instant, reachable: bool) -> Option<Instant> {
        let attempt = self.attempt.map(|attempt| attempt.repeat.unwrap_or(attempt.next));
        if !reachable {
            return attempt;
        }
        [attempt, self.owed_deadline(), self.unanswered_deadline(), self.persistent_deadline(now)]
            .into_iter()
            .flatten()
            .min()
    }

    fn owed_deadline(&self) -> Option<Instant> {
        Some(self.owed_since? + KEEPALIVE_TIMEOUT)
    }

    fn unanswered_deadline(&self) -> Option<Instant> {
        if self.is_initiating() {
            return None;
        }
        Some(self.unanswered_since? + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + self.jitter)
    }

    /// While a handshake runs, its retries keep the binding open.
    fn persistent_deadline(&self, now: Instant) -> Option<Instant> {
        if self.is_initiating() {
            return None;
        }
        Some(self.last_traffic.map_or(now, |last| last + self.keepalive.unwrap_or_default()))
            .filter(|_| self.keepalive.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{epoch, ms, secs};

    #[test]
    fn an_answer_is_owed_for_ten_seconds_from_the_first_unanswered_packet() {
        let mut timers = Timers::default();
        timers.sent(true, epoch());
        timers.received(true, epoch() + secs(8));
        timers.received(true, epoch() + secs(12));
        assert!(!timers.wants_keepalive(epoch() + secs(17)));
        assert!(timers.wants_keepalive(epoch() + secs(18)));
        timers.sent(false, epoch() + secs(18));
        assert!(!timers.wants_keepalive(epoch() + secs(100)));
    }

    #[test]
    fn a_keepalive_is_not_answered_with_a_keepalive() {
        let mut timers = Timers::default();
        timers.received(false, epoch());
        assert_eq!(timers.deadline(epoch(), true), None);
    }

    #[test]
    fn silence_is_measured_from_the_first_packet_without_an_answer() {
        let mut timers = Timers::default();
        timers.received(true, epoch());
        timers.sent(true, epoch() + secs(100));
        timers.sent(true, epoch() + secs(110));
        assert!(!timers.is_unanswered(epoch() + ms(114_999)));
        assert!(timers.is_unanswered(epoch() + secs(115)));
    }

    #[test]
    fn retries_are_quick_at_first_then_every_five_seconds_and_end_after_ninety() {
        let mut timers = Timers::default();
        let mut now = epoch();
        let mut waits = vec![];
        loop {
            timers.initiated(now, ms(0));
            let next = timers.deadline(now, true).unwrap();
            assert_eq!(timers.retry(next - ms(1)), Retry::Wait);
            waits.push(next - now);
            now = next;
            match timers.retry(now) {
                Retry::Again => {}
                Retry::GiveUp => break,
                Retry::Wait | Retry::Repeat => panic!("a retry is due"),
            }
        }
        assert_eq!(waits[..5], [ms(300), ms(700), secs(2), secs(5), secs(5)]);
        assert!(now - epoch() >= REKEY_ATTEMPT_TIME && now - epoch() < REKEY_ATTEMPT_TIME + secs(5));
    }

    #[test]
    fn a_peer_that_is_insisted_on_is_called_every_two_seconds_mostly_by_repetition() {
        let mut timers = Timers::default();
        timers.insist();
        let (mut now, mut sent) = (epoch(), vec![]);
        while now < epoch() + secs(50) {
            let is_repeated = match timers.retry(now) {
                Retry::Repeat => true,
                Retry::Again | Retry::Wait => false,
                Retry::GiveUp => panic!("not yet"),
            };
            sent.push(((now - epoch()).as_millis(), is_repeated));
            if is_repeated {
                timers.repeated(now)
            } else {
                timers.initiated(now, ms(300))
            }
            now = timers.deadline(now, true).unwrap();
        }
        let gaps = sent.windows(2).map(|pair| pair[1].0 - pair[0].0);
        assert!(gaps.max() <= Some(2_000), "{sent:?}");
        let initiations: Vec<_> = sent.iter().filter(|(_, repeated)| !repeated).map(|(at, _)| *at).collect();
        assert_eq!(initiations, [0, 375, 1_250, 3_550, 8_850, 24_150, 39_450]);
        assert_eq!(timers.sends(), sent.len() as u32);
        timers.initiated(now, ms(0));
        timers.cookie_came(now);
        assert_eq!(timers.deadline(now, true), Some(now + secs(5)), "a repetition would have no cookie");
        assert_eq!(timers.retry(now + secs(5)), Retry::Again);
    }

    #[test]
    fn jitter_delays_every_retry() {
        let mut timers = Timers::default();
        timers.initiated(epoch(), ms(300));
        assert_eq!(timers.deadline(epoch(), true), Some(epoch() + ms(375)), "a short one by a quarter");
        timers.initiated(epoch(), ms(300));
        timers.initiated(epoch(), ms(300));
        assert_eq!(timers.deadline(epoch(), true), Some(epoch() + ms(2300)));
    }

    #[test]
    fn persistent_keepalive_counts_from_the_last_traffic_in_either_direction() {
        let mut timers = Timers::default();
        timers.set_keepalive(Some(secs(25)));
        assert!(timers.wants_keepalive(epoch()), "at once when there was no traffic yet");
        timers.sent(false, epoch());
        timers.received(false, epoch() + secs(20));
        assert!(!timers.wants_keepalive(epoch() + secs(44)));
        assert!(timers.wants_keepalive(epoch() + secs(45)));
    }

    #[test]
    fn nothing_is_due_without_a_path() {
        let mut timers = Timers::default();
        timers.set_keepalive(Some(secs(25)));
        timers.sent(true, epoch());
        assert_eq!(timers.deadline(epoch(), false), None);
    }
}
