//! Whether packets as long as the MTU pass between this node and its peers.
//!
//! A handshake proves little of a path: its messages have 148 bytes, and a path that swallows all beyond 1,300 looks
//! well until the first long packet hangs. So members ask each other questions that are as long as the longest packet
//! of the interface, inside the session and on the path that data takes, and answer each in its own length. The driver
//! has to send both in one piece (the "don't fragment" bit of IPv4), or not at all.
//!
//! One answer is enough for a yes. A no needs short questions that were answered where long ones were not: the peer is
//! there and speaks this. Who answers neither is of an older version, or gone, and nothing is told of it.
//!
//! [`Proofs`] decides whom to ask and what an answer means; [`Message`] is what is said, as the payload of a control
//! packet. Its first byte is a number that [`gossip::Message`](crate::gossip::Message) does not use.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::key::PublicKey;
use crate::packet::IPV6_HEADER_LEN;

/// Least wait between two questions of one peer, whatever happens. An answer that comes later counts all the same.
pub const SPACING: Duration = Duration::from_millis(1500);
/// Questions before a verdict, and before one that was negative is repeated.
const TRIES: u32 = 5;
const REPEATED_TRIES: u32 = 2;
/// How often a peer is asked again whose answer came. A path that is in use changes without a sign of it.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(600);
/// Wait before a peer with news is asked again.
const NEWS_INTERVAL: Duration = Duration::from_secs(120);
/// Wait before a peer is asked again to which packets of full size do not pass: doubled up to the maximum.
const FIRST_RETRY: Duration = Duration::from_secs(10);
const MAX_RETRY: Duration = Duration::from_secs(60);
/// The same for one that answers nothing.
const FIRST_SILENT_RETRY: Duration = Duration::from_secs(20);
/// Bytes from a peer, since it was asked last, that are more than answers and keepalives: such a session is in use.
/// Others are not asked again, so as not to keep them from ending.
const IN_USE: u64 = 32 * 1024;
/// Answers that a peer may have at once, and after which time one more. It asks two questions per [`SPACING`].
const ANSWERS: u32 = 8;
const ANSWER_INTERVAL: Duration = Duration::from_millis(500);

const QUESTION: u8 = 12;
const ANSWER: u8 = 13;
/// Shortest message: kind and number.
const MIN_LEN: usize = 9;

/// A question or an answer, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Does this arrive?
    Question {
        /// Comes back in the answer.
        number: u64,
        /// Bytes of the payload.
        len: usize,
    },
    /// It did.
    Answer {
        /// Of the question.
        number: u64,
        /// Bytes of the payload.
        len: usize,
    },
}

impl Message {
    /// Reads the payload of a control packet; `None` if it is something else.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (kind, body) = payload.split_first()?;
        let (number, _padding) = body.split_first_chunk::<8>()?;
        let (number, len) = (u64::from_le_bytes(*number), payload.len());
        match *kind {
            QUESTION => Some(Self::Question { number, len }),
            ANSWER => Some(Self::Answer { number, len }),
            _ => None,
        }
    }

    /// Writes the message, padded with zeros to its length.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, number, len) = match self {
            Self::Question { number, len } => (QUESTION, number, len),
            Self::Answer { number, len } => (ANSWER, number, len),
        };
        let mut bytes = [&[kind][..], &number.to_le_bytes()].concat();
        bytes.resize((*len).max(MIN_LEN), 0);
        bytes
    }
}

/// A peer with a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// Bytes that came from it so far.
    pub rx_bytes: u64,
    /// The session is kept up, whether anybody uses it or not.
    pub kept: bool,
}

/// What is known of all peers, and who is to be asked.
#[derive(Debug, Default)]
pub struct Proofs {
    /// Bytes of the payload of a control packet of full size; nothing is asked before it is known.
    full: Option<usize>,
    peers: BTreeMap<PublicKey, Proof>,
    answers: BTreeMap<PublicKey, Allowance>,
    /// Of the next question. Those of full size have even numbers.
    next: u64,
    changed: bool,
}

/// What is known of one peer.
#[derive(Debug)]
struct Proof {
    verdict: Option<bool>,
    /// When it was asked last.
    asked_at: Option<Instant>,
    /// When the next question, or the verdict, is due.
    due: Instant,
    /// Questions of full size in this round, and short ones.
    tries: u32,
    short_tries: u32,
    short_answers: u32,
    /// The number of the first question that counts.
    first: u64,
    /// Rounds that ended, and those in a row without an answer to a question of full size.
    rounds: u32,
    failures: u32,
    /// Bytes that had come when the last round ended.
    rx_bytes: u64,
}

impl Proofs {
    /// The MTU of the interface in bytes. When it changes, all is asked anew.
    pub fn set_mtu(&mut self, mtu: usize, now: Instant) {
        let full = mtu.saturating_sub(IPV6_HEADER_LEN).max(MIN_LEN);
        if self.full.replace(full) != Some(full) {
            self.restart_all(now);
        }
    }

    /// Whether packets of full size pass to `peer` and back; `None` while that is not known.
    pub fn verdict(&self, peer: &PublicKey) -> Option<bool> {
        self.peers.get(peer)?.verdict
    }

    /// The peers to which they do not pass.
    pub fn failed(&self) -> impl Iterator<Item = &PublicKey> {
        self.peers.iter().filter(|(_, proof)| proof.verdict == Some(false)).map(|(peer, _)| peer)
    }

    /// Whether a verdict changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The questions that are due, each a payload for a control packet to its peer. `live`: all peers with sessions.
    /// To be called every few seconds; each call asks each peer at most once in each size.
    pub fn poll(&mut self, live: &BTreeMap<PublicKey, Live>, now: Instant) -> Vec<(PublicKey, Vec<u8>)> {
        let mut changed = false;
        self.peers.retain(|peer, proof| {
            let stays = live.contains_key(peer);
            changed |= !stays && proof.verdict.is_some();
            stays
        });
        self.answers.retain(|peer, _| live.contains_key(peer));
        let mut questions = Vec::new();
        if let Some(full) = self.full {
            for (peer, live) in live {
                let proof = self.peers.entry(*peer).or_insert_with(|| Proof::new(self.next, now));
                if proof.ends_round(live, now) {
                    changed |= proof.judge(live, now);
                } else if proof.is_due(live, now) {
                    let payloads = proof.ask(&mut self.next, full, now);
                    questions.extend(payloads.into_iter().map(|payload| (*peer, payload)));
                }
            }
        }
        self.changed |= changed;
        questions
    }

    /// Takes what `peer` said; what to answer, if anything.
    pub fn take(&mut self, peer: &PublicKey, message: Message, now: Instant) -> Option<Vec<u8>> {
        match message {
            Message::Question { number, len } => {
                let allowance = self.answers.entry(*peer).or_insert_with(|| Allowance::new(now));
                // Never longer than the question, nor than what we would send by ourselves.
                let len = len.min(self.full?);
                allowance.take(now).then(|| Message::Answer { number, len }.encode())
            }
            Message::Answer { number, .. } => {
                let next = self.next;
                let proof = self.peers.get_mut(peer).filter(|proof| (proof.first..next).contains(&number))?;
                self.changed |= proof.answered(number, now);
                None
            }
        }
    }

    /// The session with `peer` is a new one, or its path: what was known does not hold any more.
    pub fn restart(&mut self, peer: &PublicKey, now: Instant) {
        if let Some(proof) = self.peers.get_mut(peer) {
            self.changed |= proof.restart(self.next, now);
        }
    }

    /// The same for all peers: this node is somewhere else.
    pub fn restart_all(&mut self, now: Instant) {
        for proof in self.peers.values_mut() {
            self.changed |= proof.restart(self.next, now);
        }
    }

    /// A peer has another key now.
    pub fn rename(&mut self, old: &PublicKey, new: PublicKey) {
        if let Some(proof) = self.peers.remove(old) {
            self.peers.insert(new, proof);
        }
    }

    /// There is news of `peer`, which may have moved or started anew. What is known holds until it is asked.
    pub fn look_again(&mut self, peer: &PublicKey, now: Instant) {
        if let Some(proof) = self.peers.get_mut(peer).filter(|proof| proof.tries == 0) {
            let soon = proof.asked_at.map_or(now, |asked| (asked + NEWS_INTERVAL).max(now));
            proof.due = proof.due.min(soon);
        }
    }
}

impl Proof {
    fn new(first: u64, now: Instant) -> Self {
        Self {
            verdict: None,
            asked_at: None,
            due: now,
            tries: 0,
            short_tries: 0,
            short_answers: 0,
            first,
            rounds: 0,
            failures: 0,
            rx_bytes: 0,
        }
    }

    /// Whether a verdict was lost by it.
    fn restart(&mut self, first: u64, now: Instant) -> bool {
        let due = self.asked_at.map_or(now, |asked| (asked + SPACING).max(now));
        let fresh = Self { asked_at: self.asked_at, due, ..Self::new(first, now) };
        std::mem::replace(self, fresh).verdict.is_some()
    }

    fn is_due(&self, live: &Live, now: Instant) -> bool {
        // The first round is held with everybody.
        let is_worthwhile = self.tries > 0
            || self.rounds == 0
            || live.kept
            || live.rx_bytes.saturating_sub(self.rx_bytes) >= IN_USE;
        now >= self.due && is_worthwhile
    }

    fn ends_round(&self, live: &Live, now: Instant) -> bool {
        let tries = if self.verdict == Some(false) { REPEATED_TRIES } else { TRIES };
        self.tries >= tries && self.is_due(live, now)
    }

    fn ask(&mut self, next: &mut u64, full: usize, now: Instant) -> Vec<Vec<u8>> {
        if self.tries == 0 {
            (self.first, self.short_tries, self.short_answers) = (*next, 0, 0);
        }
        // A first question that is answered needs no other.
        let is_doubted = self.tries > 0 || self.verdict == Some(false);
        let long = Message::Question { number: *next, len: full };
        let short = Message::Question { number: *next + 1, len: MIN_LEN };
        *next += 2;
        self.tries += 1;
        self.short_tries += u32::from(is_doubted);
        (self.asked_at, self.due) = (Some(now), now + SPACING);
        [Some(long), is_doubted.then_some(short)].iter().flatten().map(Message::encode).collect()
    }

    /// Takes the answer to a question that counts; whether the verdict is another one now.
    fn answered(&mut self, number: u64, now: Instant) -> bool {
        if number % 2 == 1 {
            self.short_answers += 1;
            return false;
        }
        (self.tries, self.failures, self.due) = (0, 0, now + CHECK_INTERVAL);
        self.rounds = self.rounds.saturating_add(1);
        self.verdict.replace(true) != Some(true)
    }

    /// Ends a round without an answer to a question of full size; whether the verdict is another one now.
    fn judge(&mut self, live: &Live, now: Instant) -> bool {
        // Where much gets lost, a few lost questions are no verdict.
        let is_there = self.short_answers > 0 && self.short_answers * 2 >= self.short_tries;
        let verdict = is_there.then_some(false);
        let (first, most) =
            if is_there { (FIRST_RETRY, MAX_RETRY) } else { (FIRST_SILENT_RETRY, CHECK_INTERVAL) };
        self.failures = if self.verdict == verdict { self.failures.saturating_add(1) } else { 1 };
        self.due = now + (first * (1 << (self.failures - 1).min(6))).min(most);
        (self.tries, self.rx_bytes) = (0, live.rx_bytes);
        self.rounds = self.rounds.saturating_add(1);
        std::mem::replace(&mut self.verdict, verdict) != verdict
    }
}

/// Answers that one peer may still have.
#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { left: ANSWERS, since: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.since).as_millis() / ANSWER_INTERVAL.as_millis();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if self.left.saturating_add(earned) >= ANSWERS {
            (self.left, self.since) = (ANSWERS, now);
        } else {
            self.left += earned;
            self.since += ANSWER_INTERVAL * earned;
        }
        let has_one = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has_one
    }
}

#[cfg(test)]
mod tests;
