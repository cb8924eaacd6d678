//! What every tunnel must do, whatever its cryptography: one suite, run against boringtun as the daemon uses it
//! and against the model that the simulator uses.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use ichor_mesh::gate::{Gate, Verdict};
use ichor_mesh::key::{PresharedKey, SecretKey};
use ichor_mesh::tunnel::model::{ModelNoise, WallClock};
use ichor_mesh::tunnel::{Handshake, IndexBase, Noise, SessionIndex, Tunnel, TunnelError};
use ichor_mesh::wire::{DATA_OVERHEAD, HANDSHAKE_ROOM, INITIATION_LEN, RESPONSE_LEN};
use ichord::noise::BoringNoise;
use rand_core::SeedableRng as _;

/// Makes identities of one implementation.
trait Factory {
    type Noise: Noise;
    fn noise(secret: u8) -> Self::Noise;
}

struct Boring;

impl Factory for Boring {
    type Noise = BoringNoise;

    fn noise(secret: u8) -> BoringNoise {
        BoringNoise::new(&secret_key(secret))
    }
}

struct Model;

impl Factory for Model {
    type Noise = ModelNoise;

    fn noise(secret: u8) -> ModelNoise {
        let clock = WallClock { at: epoch(), shows: Duration::from_secs(1_800_000_000) };
        ModelNoise::new(secret_key(secret), clock, u64::from(secret))
    }
}

fn secret_key(n: u8) -> SecretKey {
    SecretKey::from_random([n; 32])
}

fn epoch() -> Instant {
    use std::sync::OnceLock;
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// Two peers that know each other.
struct Pair<F: Factory> {
    alice: <F::Noise as Noise>::Tunnel,
    bob: <F::Noise as Noise>::Tunnel,
    now: Instant,
    next_base: u32,
}

impl<F: Factory> Pair<F> {
    fn new() -> Self {
        Self::with_keys(None, None)
    }

    fn with_keys(alice_psk: Option<u8>, bob_psk: Option<u8>) -> Self {
        let (a, b) = (F::noise(1), F::noise(2));
        let psk = |n: Option<u8>| n.map(|n| PresharedKey::new([n; 32]));
        let now = epoch();
        Self {
            alice: a.tunnel(&b.public_key(), psk(alice_psk).as_ref(), now),
            bob: b.tunnel(&a.public_key(), psk(bob_psk).as_ref(), now),
            now,
            next_base: 0x0100_0000,
        }
    }

    fn base(&mut self) -> IndexBase {
        self.next_base += 0x100;
        IndexBase::from_random(self.next_base)
    }

    /// Time moves on, for handshake stamps to differ.
    fn tick(&mut self) {
        self.now += Duration::from_millis(1);
    }

    fn initiation(&mut self, base: IndexBase) -> Vec<u8> {
        self.tick();
        let mut out = vec![0; HANDSHAKE_ROOM];
        let len = self.alice.initiate(base, self.now, &mut out).unwrap();
        assert_eq!(len, INITIATION_LEN);
        out
    }

    /// Bob's session and response.
    fn respond(&mut self, initiation: &[u8]) -> Result<(SessionIndex, Vec<u8>), TunnelError> {
        let base = self.base();
        receive_as_responder(&mut self.bob, initiation, base, self.now)
    }

    /// A whole handshake: Alice's and Bob's session.
    fn shake_hands(&mut self) -> (SessionIndex, SessionIndex) {
        let base = self.base();
        let initiation = self.initiation(base);
        let (bobs, response) = self.respond(&initiation).unwrap();
        let (alices, confirmation) = complete(&mut self.alice, &response, self.now).unwrap();
        assert_eq!(open(&mut self.bob, &confirmation), Ok(vec![]), "the confirmation is empty");
        (alices, bobs)
    }
}

fn receive_as_responder<T: Tunnel>(
    tunnel: &mut T,
    initiation: &[u8],
    base: IndexBase,
    now: Instant,
) -> Result<(SessionIndex, Vec<u8>), TunnelError> {
    let mut out = vec![0; HANDSHAKE_ROOM];
    match tunnel.receive(initiation, base, now, &mut out)? {
        Handshake::Responded { session, reply } => {
            assert_eq!(IndexBase::of(session), base);
            assert_eq!(reply, RESPONSE_LEN);
            out.truncate(reply);
            Ok((session, out))
        }
        other => panic!("an initiation is responded to, not {other:?}"),
    }
}

fn complete<T: Tunnel>(
    tunnel: &mut T,
    response: &[u8],
    now: Instant,
) -> Result<(SessionIndex, Vec<u8>), TunnelError> {
    let mut out = vec![0; HANDSHAKE_ROOM];
    match tunnel.receive(response, IndexBase::from_random(0), now, &mut out)? {
        Handshake::Completed { session, reply } => {
            out.truncate(reply);
            Ok((session, out))
        }
        other => panic!("a response completes, not {other:?}"),
    }
}

/// An IPv4 packet whose payload is `n`, `len` bytes long.
fn packet(n: u32, len: usize) -> Vec<u8> {
    assert!(len >= 24);
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[8] = 64;
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet[20..24].copy_from_slice(&n.to_be_bytes());
    packet
}

fn seal<T: Tunnel>(tunnel: &mut T, session: SessionIndex, plaintext: &[u8]) -> Vec<u8> {
    let mut out = vec![0; plaintext.len() + DATA_OVERHEAD];
    let len = tunnel.seal(session, plaintext, &mut out).unwrap();
    assert_eq!(len, out.len());
    out
}

fn open<T: Tunnel>(tunnel: &mut T, datagram: &[u8]) -> Result<Vec<u8>, TunnelError> {
    let mut out = vec![0; datagram.len()];
    let len = tunnel.open(datagram, &mut out)?;
    out.truncate(len);
    Ok(out)
}

/// Runs every rule against both implementations.
macro_rules! contract {
    ($($rule:ident)*) => {
        mod boringtun { $( #[test] fn $rule() { super::$rule::<super::Boring>(); } )* }
        mod model { $( #[test] fn $rule() { super::$rule::<super::Model>(); } )* }
    };
}

contract! {
    a_handshake_makes_a_session_that_carries_data_both_ways
    the_initiator_is_recognised_by_its_key
    a_responder_does_not_send_before_it_was_heard
    packets_lose_their_padding
    a_keepalive_opens_to_nothing
    a_replayed_packet_is_refused
    packets_may_overtake_each_other_within_the_window
    a_packet_behind_the_window_is_refused
    every_flipped_bit_is_noticed
    any_truncation_is_refused
    a_replayed_initiation_is_refused
    an_older_initiation_is_refused
    a_replayed_response_makes_no_second_session
    the_old_session_goes_on_beside_the_new_one
    both_may_initiate_at_once
    a_lost_initiation_is_retried
    a_late_response_to_the_try_before_is_accepted
    many_unanswered_initiations_do_not_disturb_a_session
    a_forgotten_session_is_gone
    different_preshared_keys_do_not_shake_hands
    equal_preshared_keys_do
    a_cookie_is_carried_by_the_next_initiation
    buffers_that_are_too_small_are_refused
    any_bytes_are_survived
}

fn a_handshake_makes_a_session_that_carries_data_both_ways<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let (alices, bobs) = pair.shake_hands();
    for n in 0..100 {
        let there = packet(n, 24 + n as usize * 13);
        let sealed = seal(&mut pair.alice, alices, &there);
        assert_eq!(open(&mut pair.bob, &sealed), Ok(there));
        let back = packet(1000 + n, 1420);
        let sealed = seal(&mut pair.bob, bobs, &back);
        assert_eq!(open(&mut pair.alice, &sealed), Ok(back));
    }
}

fn the_initiator_is_recognised_by_its_key<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let base = pair.base();
    let initiation = pair.initiation(base);
    assert_eq!(F::noise(2).identify(&initiation), Ok(F::noise(1).public_key()));
    assert!(F::noise(3).identify(&initiation).is_err(), "it was not made for others");
}

fn a_responder_does_not_send_before_it_was_heard<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let base = pair.base();
    let initiation = pair.initiation(base);
    let (bobs, response) = pair.respond(&initiation).unwrap();
    let mut out = vec![0; 200];
    assert_eq!(pair.bob.seal(bobs, &packet(1, 60), &mut out), Err(TunnelError::NoSession));
    let (_, confirmation) = complete(&mut pair.alice, &response, pair.now).unwrap();
    open(&mut pair.bob, &confirmation).unwrap();
    assert!(pair.bob.seal(bobs, &packet(1, 60), &mut out).is_ok());
}

fn packets_lose_their_padding<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let (alices, _) = pair.shake_hands();
    let plain = packet(7, 90);
    let mut padded = plain.clone();
    padded.resize(96, 0);
    let sealed = seal(&mut pair.alice, alices, &padded);
    assert_eq!(open(&mut pair.bob, &sealed), Ok(plain));
}

fn a_keepalive_opens_to_nothing<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let (alices, _) = pair.shake_hands();
    let sealed = seal(&mut pair.alice, alices, &[]);
    assert_eq!(sealed.len(), DATA_OVERHEAD);
    assert_eq!(open(&mut pair.bob, &sealed), Ok(vec![]));
}

fn a_replayed_packet_is_refused<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let (alices, _) = pair.shake_hands();
    let first = seal(&mut pair.alice, alices, &packet(1, 100));
    let second = seal(&mut pair.alice, alices, &packet(2, 100));
    assert!(open(&mut pair.bob, &second).is_ok());
    assert!(open(&mut pair.bob, &first).is_ok());
    assert_eq!(open(&mut pair.bob, &first), Err(TunnelError::Replay));
    assert_eq!(open(&mut pair.bob, &second), Err(TunnelError::Replay));
}

fn packets_may_overtake_each_other_within_the_window<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let (alices, _) = pair.shake_hands();
    let sealed: Vec<_> = (0..1000).map(|n| seal(&mut pair.alice, alices, &packet(n, 60))).collect();
    for n in (0..1000).rev() {
        assert_eq!(open(&mut pair.bob, &sealed[n as usize]), Ok(packet(n, 60)));
    }
}

fn a_packet_behind_the_window_is_refused<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let (alices, _) = pair.shake_hands();
    let late = seal(&mut pair.alice, alices, &packet(0, 60));
    for n in 0..1100 {
        let sealed = seal(&mut pair.alice, alices, &packet(n, 60));
        assert!(open(&mut pair.bob, &sealed).is_ok());
    }
    assert_eq!(open(&mut pair.bob, &late), Err(TunnelError::Replay));
}

fn every_flipped_bit_is_noticed<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let (alices, _) = pair.shake_hands();
    let sealed = seal(&mut pair.alice, alices, &packet(5, 64));
    for bit in 0..sealed.len() * 8 {
        let mut damaged = sealed.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&mut pair.bob, &damaged).is_err(), "bit {bit}");
    }
    assert!(open(&mut pair.bob, &sealed).is_ok(), "damaged copies do not use up the counter");

    let base = pair.base();
    let initiation = pair.initiation(base);
    // The last 32 bytes are mac1 and mac2, which the gate looks at.
    for bit in (0..(INITIATION_LEN - 32) * 8).step_by(3) {
        let mut damaged = initiation.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        // So is the sender index (bytes 4 to 8), which only mac1 covers.
        assert!(pair.respond(&damaged).is_err() || (32..64).contains(&bit), "bit {bit}");
    }
    let (_, response) = pair.respond(&initiation).unwrap();
    for bit in (0..(RESPONSE_LEN - 32) * 8).step_by(3) {
        let mut damaged = response.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(
            complete(&mut pair.alice, &damaged, pair.now).is_err() || (32..64).contains(&bit),
            "bit {bit}"
        );
    }
}

fn any_truncation_is_refused<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let (alices, _) = pair.shake_hands();
    let sealed = seal(&mut pair.alice, alices, &packet(5, 64));
    for len in 0..sealed.len() {
        assert!(open(&mut pair.bob, &sealed[..len]).is_err(), "{len} bytes");
    }
    let base = pair.base();
    let initiation = pair.initiation(base);
    for len in 0..initiation.len() {
        assert!(pair.respond(&initiation[..len]).is_err(), "{len} bytes");
    }
}

fn a_replayed_initiation_is_refused<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let base = pair.base();
    let initiation = pair.initiation(base);
    assert!(pair.respond(&initiation).is_ok());
    assert_eq!(pair.respond(&initiation), Err(TunnelError::Replay));
}

fn an_older_initiation_is_refused<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let base = pair.base();
    let older = pair.initiation(base);
    let newer = pair.initiation(base);
    assert!(pair.respond(&newer).is_ok());
    assert_eq!(pair.respond(&older), Err(TunnelError::Replay));
}

fn a_replayed_response_makes_no_second_session<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let base = pair.base();
    let initiation = pair.initiation(base);
    let (_, response) = pair.respond(&initiation).unwrap();
    assert!(complete(&mut pair.alice, &response, pair.now).is_ok());
    assert!(complete(&mut pair.alice, &response, pair.now).is_err());
}

fn the_old_session_goes_on_beside_the_new_one<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let (old_alice, old_bob) = pair.shake_hands();
    let in_flight = seal(&mut pair.alice, old_alice, &packet(1, 80));
    let (new_alice, new_bob) = pair.shake_hands();
    assert_ne!((old_alice, old_bob), (new_alice, new_bob));
    assert_eq!(open(&mut pair.bob, &in_flight), Ok(packet(1, 80)));
    for (n, (from_alice, from_bob)) in [(old_alice, old_bob), (new_alice, new_bob)].into_iter().enumerate() {
        let there = seal(&mut pair.alice, from_alice, &packet(n as u32, 80));
        assert_eq!(open(&mut pair.bob, &there), Ok(packet(n as u32, 80)));
        let back = seal(&mut pair.bob, from_bob, &packet(n as u32, 80));
        assert_eq!(open(&mut pair.alice, &back), Ok(packet(n as u32, 80)));
    }
}

fn both_may_initiate_at_once<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let (alices_base, bobs_base) = (pair.base(), pair.base());
    let from_alice = pair.initiation(alices_base);
    let mut from_bob = vec![0; HANDSHAKE_ROOM];
    pair.tick();
    pair.bob.initiate(bobs_base, pair.now, &mut from_bob).unwrap();

    let (bob_responds, response_to_alice) = pair.respond(&from_alice).unwrap();
    let base = pair.base();
    let (alice_responds, response_to_bob) =
        receive_as_responder(&mut pair.alice, &from_bob, base, pair.now).unwrap();
    let (alice_initiated, _) = complete(&mut pair.alice, &response_to_alice, pair.now).unwrap();
    let (bob_initiated, _) = complete(&mut pair.bob, &response_to_bob, pair.now).unwrap();

    let there = seal(&mut pair.alice, alice_initiated, &packet(1, 60));
    assert_eq!(open(&mut pair.bob, &there), Ok(packet(1, 60)));
    let back = seal(&mut pair.bob, bob_responds, &packet(2, 60));
    assert_eq!(open(&mut pair.alice, &back), Ok(packet(2, 60)));
    let there = seal(&mut pair.bob, bob_initiated, &packet(3, 60));
    assert_eq!(open(&mut pair.alice, &there), Ok(packet(3, 60)));
    let back = seal(&mut pair.alice, alice_responds, &packet(4, 60));
    assert_eq!(open(&mut pair.bob, &back), Ok(packet(4, 60)));
}

fn a_lost_initiation_is_retried<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let base = pair.base();
    for _ in 0..20 {
        pair.initiation(base);
    }
    let last = pair.initiation(base);
    let (_, response) = pair.respond(&last).unwrap();
    let (session, _) = complete(&mut pair.alice, &response, pair.now).unwrap();
    assert_eq!(IndexBase::of(session), base);
}

fn a_late_response_to_the_try_before_is_accepted<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let base = pair.base();
    let first = pair.initiation(base);
    let (bobs_first, late) = pair.respond(&first).unwrap();
    let second = pair.initiation(base);
    let (bobs_second, response) = pair.respond(&second).unwrap();
    let (from_late, _) = complete(&mut pair.alice, &late, pair.now).unwrap();
    let there = seal(&mut pair.alice, from_late, &packet(1, 60));
    assert_eq!(open(&mut pair.bob, &there), Ok(packet(1, 60)));
    let back = seal(&mut pair.bob, bobs_first, &packet(2, 60));
    assert_eq!(open(&mut pair.alice, &back), Ok(packet(2, 60)));

    // The answer to the second try makes a session too, and the newest is the one that sends.
    let (from_second, _) = complete(&mut pair.alice, &response, pair.now).unwrap();
    let there = seal(&mut pair.alice, from_second, &packet(3, 60));
    assert_eq!(open(&mut pair.bob, &there), Ok(packet(3, 60)));
    let back = seal(&mut pair.bob, bobs_second, &packet(4, 60));
    assert_eq!(open(&mut pair.alice, &back), Ok(packet(4, 60)));
}

/// boringtun alone keeps sessions in a ring of eight by index, and an unanswered handshake moves the index
/// (cloudflare/boringtun#258, #363): the session that works must not be pushed out.
fn many_unanswered_initiations_do_not_disturb_a_session<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let (alices, bobs) = pair.shake_hands();
    for _ in 0..40 {
        let base = pair.base();
        let initiation = pair.initiation(base);
        let (unconfirmed, _lost) = pair.respond(&initiation).unwrap();
        let there = seal(&mut pair.alice, alices, &packet(1, 60));
        assert_eq!(open(&mut pair.bob, &there), Ok(packet(1, 60)));
        let back = seal(&mut pair.bob, bobs, &packet(2, 60));
        assert_eq!(open(&mut pair.alice, &back), Ok(packet(2, 60)));
        pair.bob.forget(unconfirmed);
    }
}

fn a_forgotten_session_is_gone<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let (alices, bobs) = pair.shake_hands();
    let sealed = seal(&mut pair.alice, alices, &packet(1, 60));
    pair.alice.forget(alices);
    pair.bob.forget(bobs);
    let mut out = vec![0; 200];
    assert_eq!(pair.alice.seal(alices, &packet(2, 60), &mut out), Err(TunnelError::NoSession));
    assert_eq!(open(&mut pair.bob, &sealed), Err(TunnelError::NoSession));
}

fn different_preshared_keys_do_not_shake_hands<F: Factory>() {
    for (alices, bobs) in [(Some(1), None), (None, Some(1)), (Some(1), Some(2))] {
        let mut pair = Pair::<F>::with_keys(alices, bobs);
        let base = pair.base();
        let initiation = pair.initiation(base);
        // The key is mixed in with the response, so it is the initiator who notices.
        let (_, response) = pair.respond(&initiation).unwrap();
        let completed = complete(&mut pair.alice, &response, pair.now);
        assert_eq!(completed.map(|_| ()), Err(TunnelError::Authentication), "{alices:?} and {bobs:?}");
    }
}

fn equal_preshared_keys_do<F: Factory>() {
    let mut pair = Pair::<F>::with_keys(Some(9), Some(9));
    let (alices, _) = pair.shake_hands();
    let sealed = seal(&mut pair.alice, alices, &packet(1, 60));
    assert_eq!(open(&mut pair.bob, &sealed), Ok(packet(1, 60)));
}

fn a_cookie_is_carried_by_the_next_initiation<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let mut rng = rand_chacha::ChaCha12Rng::from_seed([3; 32]);
    let mut gate = Gate::new(&F::noise(2).public_key(), pair.now, &mut rng);
    let source = "192.0.2.1:51820".parse().unwrap();
    let mut reply = [0; HANDSHAKE_ROOM];

    let base = pair.base();
    let initiation = pair.initiation(base);
    let cookie = loop {
        match gate.check(source, &initiation, pair.now, &mut rng, &mut reply) {
            Verdict::Process => {}
            Verdict::Cookie => break reply[..64].to_vec(),
            other => panic!("a flood is answered with a cookie, not {other:?}"),
        }
    };
    let mut out = vec![0; HANDSHAKE_ROOM];
    let stored = pair.alice.receive(&cookie, IndexBase::from_random(0), pair.now, &mut out);
    assert_eq!(stored, Ok(Handshake::CookieStored));
    let again = pair.initiation(base);
    assert_eq!(gate.check(source, &again, pair.now, &mut rng, &mut reply), Verdict::Process);
    let (_, response) = pair.respond(&again).unwrap();
    assert!(complete(&mut pair.alice, &response, pair.now).is_ok());
}

fn buffers_that_are_too_small_are_refused<F: Factory>() {
    let mut pair = Pair::<F>::new();
    let (alices, _) = pair.shake_hands();
    let plain = packet(1, 100);
    for len in [0, 16, 100, 131] {
        assert_eq!(pair.alice.seal(alices, &plain, &mut vec![0; len]), Err(TunnelError::Malformed), "{len}");
    }
    let base = pair.base();
    let now = pair.now;
    assert_eq!(pair.alice.initiate(base, now, &mut [0; 100]), Err(TunnelError::Malformed));
}

fn any_bytes_are_survived<F: Factory>() {
    use rand_core::RngCore as _;
    let mut pair = Pair::<F>::new();
    let (alices, bobs) = pair.shake_hands();
    let mut rng = rand_chacha::ChaCha12Rng::from_seed([5; 32]);
    let mut out = vec![0; 2048];
    for round in 0..20_000u32 {
        let len = [0, 1, 4, 16, 31, 32, 33, 64, 92, 148, 200, 1452][round as usize % 12];
        let mut bytes = vec![0; len];
        rng.fill_bytes(&mut bytes);
        if len >= 8 {
            // A valid type and a session that exists, so that more than the first check is reached.
            bytes[..4].copy_from_slice(&(round % 5).to_le_bytes());
            bytes[4..8].copy_from_slice(&alices.0.to_le_bytes());
        }
        let base = pair.base();
        assert!(pair.alice.receive(&bytes, base, pair.now, &mut out).is_err());
        assert!(pair.alice.open(&bytes, &mut out).is_err());
    }
    let sealed = seal(&mut pair.bob, bobs, &packet(1, 60));
    assert_eq!(open(&mut pair.alice, &sealed), Ok(packet(1, 60)), "the session still works");
}
