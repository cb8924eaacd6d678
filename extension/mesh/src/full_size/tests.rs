use proptest::prelude::*;
use rand_chacha::ChaCha12Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use super::*;
use crate::testing::{epoch, ms, secs};

const A: PublicKey = PublicKey::new([1; 32]);
const B: PublicKey = PublicKey::new([2; 32]);
const MTU: usize = 1420;
/// How often the driver looks.
const LOOK: Duration = Duration::from_secs(2);

/// The path between two peers.
#[derive(Debug, Clone, Copy)]
struct Path {
    /// Longest payload that passes there, and back.
    there: usize,
    back: usize,
    /// Of 1,000 datagrams.
    loss: u32,
    /// One way, in milliseconds.
    delay: u64,
}

const WHOLE: Path = Path { there: MTU, back: MTU, loss: 0, delay: 10 };
const NARROW: Path = Path { there: 1000, ..WHOLE };

/// `a` asks, over a path, `b`.
struct World {
    now: Instant,
    a: Proofs,
    /// Nobody who speaks this, if it is none.
    b: Option<Proofs>,
    path: Path,
    live: Live,
    /// What is on its way: when it arrives, whether at `b`, and what.
    flying: Vec<(Instant, bool, Vec<u8>)>,
    chance: ChaCha12Rng,
    /// Questions, by length, and when each was asked.
    asked: Vec<(Instant, usize)>,
}

impl World {
    fn new(path: Path) -> Self {
        let (mut a, mut b) = (Proofs::default(), Proofs::default());
        a.set_mtu(MTU, epoch());
        b.set_mtu(MTU, epoch());
        Self {
            now: epoch(),
            a,
            b: Some(b),
            path,
            live: Live { rx_bytes: 0, kept: true },
            flying: Vec::new(),
            chance: ChaCha12Rng::seed_from_u64(0),
            asked: Vec::new(),
        }
    }

    fn send(&mut self, to_b: bool, payload: Vec<u8>) {
        let longest = if to_b { self.path.there } else { self.path.back };
        if payload.len() <= longest && self.chance.next_u32() % 1000 >= self.path.loss {
            self.flying.push((self.now + ms(self.path.delay), to_b, payload));
        }
    }

    /// One look of `a`, and what comes of it until the next one.
    fn look(&mut self) {
        for (peer, payload) in self.a.poll(&BTreeMap::from([(B, self.live)]), self.now) {
            assert_eq!(peer, B);
            self.asked.push((self.now, payload.len()));
            self.send(true, payload);
        }
        let end = self.now + LOOK;
        while let Some(at) =
            (0..self.flying.len()).min_by_key(|at| self.flying[*at].0).filter(|at| self.flying[*at].0 < end)
        {
            let (arrived, at_b, payload) = self.flying.remove(at);
            self.now = arrived;
            let message = Message::decode(&payload).unwrap();
            if !at_b {
                assert_eq!(self.a.take(&B, message, arrived), None);
            } else if let Some(answer) = self.b.as_mut().and_then(|b| b.take(&A, message, arrived)) {
                assert!(answer.len() <= payload.len(), "an answer is never longer than its question");
                self.send(false, answer);
            }
        }
        self.now = end;
    }

    fn look_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.look();
        }
    }

    fn verdict(&self) -> Option<bool> {
        self.a.verdict(&B)
    }
}

#[test]
fn one_answer_is_enough_for_a_yes() {
    let mut world = World::new(WHOLE);
    world.look();
    assert_eq!(world.verdict(), Some(true));
    assert!(world.a.take_changed() && !world.a.take_changed());
    assert_eq!(world.asked, [(epoch(), MTU - IPV6_HEADER_LEN)]);
}

#[test]
fn a_proven_pair_is_asked_once_in_ten_minutes() {
    let mut world = World::new(WHOLE);
    world.look();
    world.asked.clear();
    world.look_for(secs(3600));
    assert!((5..=6).contains(&world.asked.len()), "{:?}", world.asked);
    assert!(world.asked.iter().all(|(_, len)| *len == MTU - IPV6_HEADER_LEN));
}

#[test]
fn only_short_answers_make_a_no_and_a_mended_path_a_yes() {
    for path in [NARROW, Path { back: 1000, ..WHOLE }] {
        let mut world = World::new(path);
        world.look_for(LOOK * TRIES);
        assert_eq!(world.verdict(), None, "it may have been chance");
        world.look();
        assert_eq!(world.verdict(), Some(false));
        assert_eq!(world.a.failed().collect::<Vec<_>>(), [&B]);
        world.look_for(secs(600));
        assert_eq!(world.verdict(), Some(false));
        world.path = WHOLE;
        world.look_for(MAX_RETRY + LOOK * REPEATED_TRIES + LOOK);
        assert_eq!(world.verdict(), Some(true));
        // It breaks again, without a sign of it.
        world.path = path;
        world.look_for(CHECK_INTERVAL + LOOK * (TRIES + 1));
        assert_eq!(world.verdict(), Some(false));
    }
}

#[test]
fn of_an_older_version_nothing_is_told_and_it_is_asked_more_and_more_seldom() {
    let mut world = World::new(WHOLE);
    world.b = None;
    world.look_for(secs(3600));
    assert_eq!(world.verdict(), None);
    assert!(!world.a.take_changed());
    let rounds = world.asked.iter().filter(|(_, len)| *len > MIN_LEN).count() / TRIES as usize;
    assert!((8..=11).contains(&rounds), "{rounds}");
    // It is replaced by this version.
    world.b = World::new(WHOLE).b;
    world.a.restart(&B, world.now);
    world.look();
    assert_eq!(world.verdict(), Some(true));
}

#[test]
fn a_new_session_or_path_has_to_be_proven_anew() {
    let mut world = World::new(WHOLE);
    world.look();
    world.a.take_changed();
    world.a.restart(&B, world.now);
    assert_eq!(world.verdict(), None);
    assert!(world.a.take_changed());
    world.look();
    assert_eq!(world.verdict(), Some(true));
    world.a.set_mtu(MTU, world.now);
    assert_eq!(world.verdict(), Some(true), "it has not changed");
    world.a.set_mtu(9000, world.now);
    assert_eq!(world.verdict(), None);
    world.a.take_changed();
    assert_eq!(world.a.poll(&BTreeMap::new(), world.now), []);
    assert_eq!(world.verdict(), None);
    assert!(!world.a.take_changed(), "nothing had been known");
}

#[test]
fn an_answer_from_before_the_path_changed_proves_nothing() {
    let mut world = World::new(Path { delay: 1000, ..WHOLE });
    let live = BTreeMap::from([(B, world.live)]);
    let (_, question) = world.a.poll(&live, world.now).remove(0);
    let answer = world.b.as_mut().and_then(|b| b.take(&A, Message::decode(&question).unwrap(), world.now));
    world.a.restart(&B, world.now);
    world.a.take(&B, Message::decode(&answer.unwrap()).unwrap(), world.now);
    assert_eq!(world.verdict(), None);
}

#[test]
fn answers_to_questions_that_nobody_asked_prove_nothing() {
    let mut world = World::new(NARROW);
    world.look();
    for number in [2, 1000, u64::MAX] {
        world.a.take(&B, Message::Answer { number, len: MTU }, world.now);
        world.a.take(&A, Message::Answer { number: 0, len: MTU }, world.now);
    }
    assert_eq!(world.verdict(), None);
}

#[test]
fn a_session_that_nobody_uses_is_not_kept_from_ending() {
    let mut world = World::new(NARROW);
    world.live.kept = false;
    world.look_for(secs(60));
    assert_eq!(world.verdict(), Some(false));
    world.asked.clear();
    world.look_for(secs(600));
    assert_eq!(world.asked, []);
    world.live.rx_bytes += IN_USE;
    world.look_for(secs(60));
    assert!(!world.asked.is_empty());
}

#[test]
fn news_of_a_peer_lead_to_one_question_and_cost_no_verdict() {
    let mut world = World::new(WHOLE);
    world.look_for(NEWS_INTERVAL);
    world.asked.clear();
    for _ in 0..30 {
        world.a.look_again(&B, world.now);
        assert_eq!(world.verdict(), Some(true));
        world.look();
    }
    assert_eq!(world.asked.len(), 1);
}

#[test]
fn who_asks_without_end_is_answered_as_fast_as_an_honest_peer_needs() {
    let mut proofs = Proofs::default();
    proofs.set_mtu(MTU, epoch());
    let question = Message::Question { number: 0, len: 65_535 };
    let answers: Vec<_> = (0..60_000).filter_map(|n| proofs.take(&B, question, epoch() + ms(n))).collect();
    assert!(answers.len() <= ANSWERS as usize + 60 * 2, "{}", answers.len());
    assert!(answers.iter().all(|answer| answer.len() == MTU - IPV6_HEADER_LEN));
    assert!(proofs.take(&A, question, epoch() + secs(60)).is_some(), "each peer has its own");
}

#[test]
fn messages_are_read_back_and_are_none_of_gossip() {
    for len in [MIN_LEN, 100, 1380] {
        for message in [Message::Question { number: 7, len }, Message::Answer { number: u64::MAX, len }] {
            let bytes = message.encode();
            assert_eq!(bytes.len(), len);
            assert_eq!(Message::decode(&bytes), Some(message));
            assert!(crate::gossip::Message::decode(&bytes).is_err());
        }
    }
    assert_eq!(Message::decode(&[QUESTION; 8]), None);
    assert_eq!(Message::decode(&crate::gossip::Message::Ping(1).encode()), None);
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        if let Some(message) = Message::decode(&bytes) {
            prop_assert_eq!(message.encode().len(), bytes.len());
        }
    }

    #[test]
    fn what_does_not_pass_is_never_taken_to_pass(
        seed: u64,
        (loss, delay) in (0u32..500, 0u64..3000),
        narrow in 100usize..MTU - IPV6_HEADER_LEN,
        is_back: bool,
        triggers in proptest::collection::vec(0u8..8, 100),
    ) {
        let path = Path { loss, delay, ..WHOLE };
        let path = if is_back { Path { back: narrow, ..path } } else { Path { there: narrow, ..path } };
        let mut world = World::new(path);
        world.chance = ChaCha12Rng::seed_from_u64(seed);
        for trigger in triggers {
            match trigger {
                0 => world.a.restart(&B, world.now),
                1 => world.a.look_again(&B, world.now),
                _ => {}
            }
            world.look();
            prop_assert_ne!(world.verdict(), Some(true));
        }
        let long: Vec<_> = world.asked.iter().filter(|(_, len)| *len > MIN_LEN).collect();
        prop_assert!(long.windows(2).all(|two| two[1].0 >= two[0].0 + SPACING));
    }

    #[test]
    fn in_spite_of_loss_the_verdict_is_found(
        seed: u64,
        (loss, delay) in (0u32..100, 0u64..3000),
        is_narrow: bool,
    ) {
        let mut world = World::new(Path { loss, delay, ..if is_narrow { NARROW } else { WHOLE } });
        world.chance = ChaCha12Rng::seed_from_u64(seed);
        let end = world.now + CHECK_INTERVAL;
        while world.verdict() != Some(!is_narrow) && world.now < end {
            world.look();
        }
        prop_assert_eq!(world.verdict(), Some(!is_narrow));
    }
}
