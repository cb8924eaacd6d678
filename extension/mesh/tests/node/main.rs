//! Rules of a node, one by one, over a model tunnel: among them each defect of other implementations that must
//! not come back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod control;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ichor_mesh::control::ControlPlane;
use ichor_mesh::key::{PresharedKey, SecretKey};
use ichor_mesh::node::{Arrival, Event, Inbound, Node, PeerId};
use ichor_mesh::packet::Ecn;
use ichor_mesh::status::Drop;
use ichor_mesh::transmit::{CandidatePair, Collected, Transmit};
use ichor_mesh::tunnel::model::{ModelNoise, WallClock};
use ichor_mesh::wire::{Datagram, INITIATION_LEN};

type ModelNode = Node<ModelNoise>;

/// Two nodes that know each other, and the time.
struct Pair {
    alice: ModelNode,
    bob: ModelNode,
    now: Instant,
}

const ALICE: u8 = 1;
const BOB: u8 = 2;

fn endpoint(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 51840))
}

fn pair_from(remote: SocketAddr) -> CandidatePair {
    CandidatePair { local: None, remote }
}

fn node(us: u8, other: u8, now: Instant) -> ModelNode {
    let clock = WallClock { at: now, shows: Duration::from_secs(1_800_000_000) };
    let mut node = Node::new([us; 32]);
    node.set_identity(Some(ModelNoise::new(SecretKey::from_random([us; 32]), clock, us.into())), now);
    let peer = node.add_peer(SecretKey::from_random([other; 32]).public(), now).unwrap();
    node.set_endpoint(peer, endpoint(other), now);
    node.routes_mut().insert(format!("10.0.0.{other}/32").parse().unwrap(), peer);
    node
}

fn peer(node: &ModelNode) -> PeerId {
    node.peer_ids()[0]
}

/// An IPv4 packet from 10.0.0.`from` to 10.0.0.`to`.
fn packet(from: u8, to: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[12..20].copy_from_slice(&[10, 0, 0, from, 10, 0, 0, to]);
    packet
}

impl Pair {
    #[expect(clippy::disallowed_methods, reason = "an origin to count from")]
    fn new() -> Self {
        let now = Instant::now();
        Self { alice: node(ALICE, BOB, now), bob: node(BOB, ALICE, now), now }
    }

    /// A pair with a session that Alice initiated.
    fn connected() -> Self {
        let mut pair = Self::new();
        assert_eq!(pair.send(ALICE, 100), 1);
        pair
    }

    fn node(&mut self, n: u8) -> &mut ModelNode {
        if n == ALICE { &mut self.alice } else { &mut self.bob }
    }

    /// Gives a datagram to node `to`, as if it came from `remote`.
    fn give(&mut self, to: u8, remote: SocketAddr, bytes: &[u8]) -> (Inbound, Vec<Transmit>) {
        let now = self.now;
        let mut sink = Collected::default();
        let arrival = Arrival { pair: pair_from(remote), ecn: Ecn::NotEct };
        let mut out = vec![0; bytes.len()];
        let inbound = self.node(to).handle_datagram(&arrival, bytes, now, &mut out, &mut sink);
        (inbound, sink.0)
    }

    /// Carries datagrams from `from` and all that follows; how many packets reached a host.
    fn exchange(&mut self, from: u8, transmits: Vec<Transmit>) -> usize {
        let mut queue: Vec<_> = transmits.into_iter().map(|transmit| (from, transmit)).collect();
        let mut packets = 0;
        while !queue.is_empty() {
            let (from, transmit) = queue.remove(0);
            let to = ALICE + BOB - from;
            let (inbound, replies) = self.give(to, endpoint(from), &transmit.bytes);
            packets += usize::from(matches!(inbound, Inbound::Packet { .. }));
            queue.extend(replies.into_iter().map(|transmit| (to, transmit)));
        }
        packets
    }

    /// What leaves when the host of `from` sends a packet.
    fn transmits(&mut self, from: u8, len: usize) -> Vec<Transmit> {
        let (now, mut sink) = (self.now, Collected::default());
        let packet = packet(from, ALICE + BOB - from, len);
        self.node(from).send_packet(&packet, now, &mut sink);
        sink.0
    }

    /// The host of `from` sends a packet; how many packets reached a host because of it.
    fn send(&mut self, from: u8, len: usize) -> usize {
        let transmits = self.transmits(from, len);
        self.exchange(from, transmits)
    }

    /// Lets time pass in steps; the datagrams that timers caused.
    fn wait(&mut self, duration: Duration) -> usize {
        let (end, mut caused) = (self.now + duration, 0);
        while self.now < end {
            self.now += Duration::from_millis(100);
            for n in [ALICE, BOB] {
                let (now, mut sink) = (self.now, Collected::default());
                self.node(n).handle_timeout(now, &mut sink);
                caused += sink.0.len();
                self.exchange(n, sink.0);
            }
        }
        caused
    }

    fn events(&mut self, n: u8) -> Vec<Event> {
        std::iter::from_fn(|| self.node(n).poll_event()).collect()
    }
}

fn is_initiation(transmit: &Transmit) -> bool {
    transmit.bytes.len() == INITIATION_LEN
}

#[test]
fn a_packet_waits_for_the_handshake_that_it_starts() {
    let mut pair = Pair::new();
    let transmits = pair.transmits(ALICE, 100);
    assert!(matches!(&transmits[..], [initiation] if is_initiation(initiation)));
    assert_eq!(pair.exchange(ALICE, transmits), 1);
    assert_eq!(pair.send(BOB, 100), 1);
}

#[test]
fn packets_are_padded_to_sixteen_bytes_but_not_beyond_the_mtu() {
    let mut pair = Pair::connected();
    for (len, sealed) in
        [(20, 32), (32, 32), (33, 48), (1408, 1408), (1409, 1420), (1420, 1420), (1500, 1500)]
    {
        let transmits = pair.transmits(ALICE, len);
        assert_eq!(transmits[0].bytes.len(), sealed + 32, "a packet of {len} bytes");
    }
}

#[test]
fn a_peer_cannot_speak_for_a_narrower_prefix_of_another() {
    let mut pair = Pair::connected();
    let now = pair.now;
    let bobs_alice = peer(&pair.bob);
    pair.bob.routes_mut().insert("10.0.0.0/8".parse().unwrap(), bobs_alice);
    let other = pair.bob.add_peer(SecretKey::from_random([9; 32]).public(), now).unwrap();
    pair.bob.routes_mut().insert("10.0.0.7/32".parse().unwrap(), other);

    for (source, expected) in [(ALICE, 1), (99, 1), (7, 0)] {
        let mut sink = Collected::default();
        let alices_bob = peer(&pair.alice);
        pair.alice.send(alices_bob, &packet(source, BOB, 60), Ecn::NotEct, now, &mut sink);
        assert_eq!(pair.exchange(ALICE, sink.0), expected, "source 10.0.0.{source}");
    }
    assert_eq!(pair.bob.counters().get(Drop::Source), 1);
}

#[test]
fn traffic_follows_a_peer_that_moves() {
    let mut pair = Pair::connected();
    pair.events(BOB);
    let moved = SocketAddr::from(([198, 51, 100, 1], 7));
    let transmits = pair.transmits(ALICE, 60);
    pair.give(BOB, moved, &transmits[0].bytes);
    assert_eq!(pair.transmits(BOB, 60)[0].pair.remote, moved);
    let key = pair.alice.public_key().unwrap();
    assert_eq!(pair.events(BOB), [Event::PathChanged { peer: key, pair: pair_from(moved) }]);
}

#[test]
fn a_straggler_from_the_old_place_moves_nothing() {
    let mut pair = Pair::connected();
    let moved = SocketAddr::from(([198, 51, 100, 1], 7));
    let straggler = pair.transmits(ALICE, 60);
    let newer = pair.transmits(ALICE, 60);
    pair.give(BOB, moved, &newer[0].bytes);
    let (inbound, _) = pair.give(BOB, endpoint(ALICE), &straggler[0].bytes);
    assert!(matches!(inbound, Inbound::Packet { .. }), "late is not lost");
    assert_eq!(pair.transmits(BOB, 60)[0].pair.remote, moved);
}

#[test]
fn initiations_and_cookie_replies_move_nothing() {
    let mut pair = Pair::connected();
    let now = pair.now + Duration::from_secs(1);
    pair.now = now;
    let elsewhere = SocketAddr::from(([198, 51, 100, 1], 7));

    // An initiation from elsewhere is answered there, but traffic stays.
    let mut sink = Collected::default();
    let alices_bob = peer(&pair.alice);
    pair.alice.connect(alices_bob, now, &mut sink);
    let (_, replies) = pair.give(BOB, elsewhere, &sink.0[0].bytes);
    assert_eq!(replies[0].pair.remote, elsewhere);
    assert_eq!(pair.transmits(BOB, 60)[0].pair.remote, endpoint(ALICE));

    // Alice's initiation is flooded away; the cookie reply that comes back from elsewhere moves nothing.
    let cookie = loop {
        let (_, replies) = pair.give(BOB, endpoint(ALICE), &sink.0[0].bytes);
        if let [reply] = &replies[..]
            && matches!(Datagram::classify(&reply.bytes), Datagram::CookieReply { .. })
        {
            break reply.bytes.clone();
        }
    };
    pair.give(ALICE, elsewhere, &cookie);
    assert_eq!(pair.transmits(ALICE, 60)[0].pair.remote, endpoint(BOB));
}

#[test]
fn a_changed_preshared_key_takes_effect_without_ending_the_session() {
    let mut pair = Pair::connected();
    let now = pair.now;
    let key = || Some(PresharedKey::new([5; 32]));
    let (alices_bob, bobs_alice) = (peer(&pair.alice), peer(&pair.bob));
    pair.alice.set_preshared(alices_bob, key(), now);
    assert_eq!((pair.send(ALICE, 60), pair.send(BOB, 60)), (1, 1), "the old session goes on");

    // Only one end has the new key: new sessions cannot be made, the old one ends when it is too old.
    pair.wait(Duration::from_secs(125));
    assert_eq!(pair.send(ALICE, 60), 1);
    pair.bob.set_preshared(bobs_alice, key(), pair.now);
    pair.wait(Duration::from_secs(10));
    pair.events(ALICE);
    assert_eq!((pair.send(ALICE, 60), pair.send(BOB, 60)), (1, 1));
    pair.wait(Duration::from_secs(125));
    assert_eq!((pair.send(ALICE, 60), pair.send(BOB, 60)), (1, 1));
    assert!(pair.events(ALICE).iter().any(|event| matches!(event, Event::HandshakeCompleted { .. })));
}

#[test]
fn the_same_preshared_key_again_changes_nothing() {
    let mut pair = Pair::connected();
    let alices_bob = peer(&pair.alice);
    let before = pair.alice.peer_status(alices_bob, pair.now).unwrap().sessions;
    pair.alice.set_preshared(alices_bob, Some(PresharedKey::new([0; 32])), pair.now);
    assert_eq!(pair.alice.peer_status(alices_bob, pair.now).unwrap().sessions, before);
}

#[test]
fn two_idle_peers_fall_silent() {
    let mut pair = Pair::connected();
    // Bob owes an answer to Alice's packet: one keepalive after ten seconds, which is not answered.
    assert_eq!(pair.wait(Duration::from_secs(30)), 1);
    assert_eq!(pair.wait(Duration::from_secs(3 * 3600)), 0);
}

#[test]
fn keys_are_erased_when_they_are_too_old() {
    let mut pair = Pair::connected();
    let alices_bob = peer(&pair.alice);
    assert_eq!(pair.alice.peer_status(alices_bob, pair.now).unwrap().sessions, 1);
    pair.wait(Duration::from_secs(181));
    assert_eq!(pair.alice.peer_status(alices_bob, pair.now).unwrap().sessions, 0);
    assert_eq!(pair.bob.peer_status(peer(&pair.bob), pair.now).unwrap().sessions, 0);
}

#[test]
fn a_peer_that_was_given_up_is_tried_again_when_there_is_traffic() {
    let mut pair = Pair::new();
    let initiations = |transmits: &[Transmit]| transmits.iter().filter(|t| is_initiation(t)).count();
    let mut sent = initiations(&pair.transmits(ALICE, 60));
    for _ in 0..1200 {
        pair.now += Duration::from_millis(100);
        let (now, mut sink) = (pair.now, Collected::default());
        pair.alice.handle_timeout(now, &mut sink);
        sent += initiations(&sink.0);
    }
    assert!((15..=22).contains(&sent), "{sent} initiations in 90 seconds, then none");
    assert_eq!(pair.alice.counters().get(Drop::Staged), 1, "what waited was let go");
    assert_eq!(pair.alice.deadline(), None, "nothing more to do");
    assert_eq!(pair.send(ALICE, 60), 1);
}

#[test]
fn a_member_that_comes_back_is_found_within_two_seconds() {
    // An attempt ends after a minute and a half.
    for offline in [20, 21, 22, 23, 24, 80, 89, 90, 91, 92, 93, 94, 95, 600] {
        let mut pair = Pair::new();
        let (id, now) = (peer(&pair.alice), pair.now);
        pair.alice.set_candidates(id, vec![endpoint(BOB)], now);
        pair.alice.set_keepalive(id, Some(Duration::from_secs(20)), now);
        let mut lost = pair.transmits(ALICE, 100);
        let gone_until = pair.now + Duration::from_secs(offline);
        while pair.now < gone_until {
            pair.now += Duration::from_millis(100);
            let (now, mut sink) = (pair.now, Collected::default());
            pair.alice.handle_timeout(now, &mut sink);
            lost.extend(sink.0);
        }
        let distinct: BTreeSet<_> = lost.iter().map(|transmit| transmit.bytes.clone()).collect();
        assert!(distinct.len() < lost.len() && lost.iter().all(is_initiation));
        pair.wait(Duration::from_millis(2_100));
        assert!(pair.alice.peer_status(id, pair.now).unwrap().has_session, "after {offline} s");
    }
}

#[test]
fn an_initiation_that_is_repeated_makes_one_session() {
    let mut pair = Pair::new();
    let first = pair.transmits(ALICE, 100);
    pair.exchange(ALICE, first.clone());
    let sessions = |pair: &Pair| {
        let bob = &pair.bob;
        bob.peer_status(peer(bob), pair.now).unwrap().sessions
    };
    assert_eq!(sessions(&pair), 1);
    pair.now += Duration::from_secs(2);
    assert_eq!(pair.give(BOB, endpoint(ALICE), &first[0].bytes).1, []);
    assert_eq!(sessions(&pair), 1);
}

#[test]
fn silence_after_data_starts_a_handshake() {
    let mut pair = Pair::connected();
    // Bob is gone: Alice's packets are not answered.
    pair.transmits(ALICE, 60);
    let mut started_after = None;
    for step in 0..300 {
        pair.now += Duration::from_millis(100);
        let (now, mut sink) = (pair.now, Collected::default());
        pair.alice.handle_timeout(now, &mut sink);
        if sink.0.iter().any(is_initiation) {
            started_after = Some(Duration::from_millis(100 * (step + 1)));
            break;
        }
    }
    let after = started_after.unwrap();
    assert!(after >= Duration::from_secs(15) && after <= Duration::from_millis(15_500), "{after:?}");
}

#[test]
fn both_starting_at_once_settles_on_few_handshakes() {
    let mut pair = Pair::new();
    let (from_alice, from_bob) = (pair.transmits(ALICE, 60), pair.transmits(BOB, 60));
    pair.exchange(ALICE, from_alice);
    pair.exchange(BOB, from_bob);
    pair.events(ALICE);
    let mut lost = 0;
    for _ in 0..7200 {
        lost += 2 - pair.send(ALICE, 60) - pair.send(BOB, 60);
        pair.wait(Duration::from_millis(500));
    }
    assert_eq!(lost, 0);
    // Once every two minutes for an hour; both may happen to initiate now and then.
    let handshakes =
        pair.events(ALICE).iter().filter(|event| matches!(event, Event::HandshakeCompleted { .. })).count();
    assert!((28..=62).contains(&handshakes), "{handshakes} handshakes");
}

#[test]
fn session_indices_say_nothing() {
    let mut pair = Pair::new();
    let mut indices = BTreeSet::new();
    for n in 0..200u8 {
        let other = SecretKey::from_random([n.wrapping_add(50); 32]).public();
        let (now, mut sink) = (pair.now, Collected::default());
        let Some(id) = pair.alice.add_peer(other, now) else { continue };
        pair.alice.set_endpoint(id, endpoint(n), now);
        pair.alice.connect(id, now, &mut sink);
        let Datagram::Initiation { sender } = Datagram::classify(&sink.0[0].bytes) else {
            panic!("an initiation")
        };
        indices.insert(sender >> 8);
    }
    assert!(indices.len() > 190, "indices are not repeated");
    let close = indices.iter().zip(indices.iter().skip(1)).filter(|(a, b)| *b - *a < 16).count();
    assert!(close < 5, "indices are not in a row");
}

#[test]
fn persistent_keepalive_opens_a_session_and_keeps_it_warm() {
    let mut pair = Pair::new();
    let (now, alices_bob) = (pair.now, peer(&pair.alice));
    pair.alice.set_keepalive(alices_bob, Some(Duration::from_secs(25)), now);
    pair.wait(Duration::from_millis(100));
    assert!(pair.alice.peer_status(alices_bob, pair.now).unwrap().has_session);
    for minute in 0..60 {
        let caused = pair.wait(Duration::from_secs(60));
        assert!((2..=8).contains(&caused), "{caused} datagrams in minute {minute}");
        assert!(pair.alice.peer_status(alices_bob, pair.now).unwrap().has_session, "minute {minute}");
    }
}

#[test]
fn a_node_is_no_peer_of_itself() {
    let mut pair = Pair::new();
    let us = pair.alice.public_key().unwrap();
    assert_eq!(pair.alice.add_peer(us, pair.now), None);

    let becoming = SecretKey::from_random([BOB; 32]);
    let clock = WallClock { at: pair.now, shows: Duration::from_secs(1_800_000_000) };
    pair.alice.set_identity(Some(ModelNoise::new(becoming, clock, 1)), pair.now);
    assert_eq!(pair.alice.peer_ids(), []);
    assert_eq!(pair.alice.routes().owner("10.0.0.2".parse::<IpAddr>().unwrap()), None);
}

#[test]
fn a_new_identity_ends_all_sessions() {
    let mut pair = Pair::connected();
    let clock = WallClock { at: pair.now, shows: Duration::from_secs(1_800_000_000) };
    let other = SecretKey::from_random([77; 32]);
    pair.alice.set_identity(Some(ModelNoise::new(other, clock, 1)), pair.now);
    assert_eq!(pair.alice.peer_status(peer(&pair.alice), pair.now).unwrap().sessions, 0);
    assert_eq!(pair.send(BOB, 60), 0, "the old session is gone");
    assert_eq!(pair.alice.counters().get(Drop::UnknownSession), 1);
}

#[test]
fn a_removed_peer_leaves_nothing_behind() {
    let mut pair = Pair::connected();
    let in_flight = pair.transmits(BOB, 60);
    let alices_bob = peer(&pair.alice);
    pair.alice.remove_peer(alices_bob, pair.now);
    assert_eq!(pair.exchange(BOB, in_flight), 0);
    assert_eq!(pair.alice.deadline(), None);
    assert_eq!(pair.alice.routes().iter().count(), 0);
}

#[test]
fn congestion_marks_go_through_the_tunnel() {
    let mut pair = Pair::connected();
    let mut marked = packet(ALICE, BOB, 60);
    marked[1] = Ecn::Ect0.bits();
    let (now, mut sink) = (pair.now, Collected::default());
    pair.alice.send_packet(&marked, now, &mut sink);
    assert_eq!(sink.0[0].ecn, Ecn::Ect0, "the outer header copies the mark");

    let arrival = Arrival { pair: pair_from(endpoint(ALICE)), ecn: Ecn::Ce };
    let mut out = vec![0; sink.0[0].bytes.len()];
    let inbound =
        pair.bob.handle_datagram(&arrival, &sink.0[0].bytes, now, &mut out, &mut Collected::default());
    assert!(matches!(inbound, Inbound::Packet { len: 60, .. }));
    assert_eq!(Ecn::from_bits(out[1]), Ecn::Ce, "congestion on the way is told");
}

#[test]
fn strangers_get_no_answer() {
    let mut pair = Pair::new();
    let now = pair.now;
    // Eve knows Bob's public key, but Bob does not know her.
    let mut eve = node(66, BOB, now);
    let (mut sink, eves_bob) = (Collected::default(), peer(&eve));
    eve.connect(eves_bob, now, &mut sink);
    let (inbound, replies) = pair.give(BOB, endpoint(66), &sink.0[0].bytes);
    assert_eq!((inbound, replies), (Inbound::Nothing, vec![]));
    assert_eq!(pair.bob.counters().get(Drop::UnknownPeer), 1);

    let mut wrong_mac = sink.0[0].bytes.clone();
    wrong_mac[10] ^= 1;
    assert_eq!(pair.give(BOB, endpoint(66), &wrong_mac).1, vec![]);
    assert_eq!(pair.bob.counters().get(Drop::Stranger), 1);
}

const NEW_ALICE: u8 = 3;

fn noise(n: u8, now: Instant) -> ModelNoise {
    let clock = WallClock { at: now, shows: Duration::from_secs(1_800_000_000) };
    ModelNoise::new(SecretKey::from_random([n; 32]), clock, n.into())
}

fn key(n: u8) -> ichor_mesh::key::PublicKey {
    SecretKey::from_random([n; 32]).public()
}

fn knows(node: &ModelNode, now: Instant) -> bool {
    node.status(now)[0].knows_our_key
}

#[test]
fn a_new_key_costs_no_packet_whoever_speaks_and_whenever_the_peer_hears_of_it() {
    for heard_after in [0, 30, 150] {
        let mut pair = Pair::connected();
        let now = pair.now;
        pair.alice.rotate_identity(noise(NEW_ALICE, now), now);
        for second in 0..400 {
            if second == heard_after {
                let (alice, now) = (peer(&pair.bob), pair.now);
                assert!(pair.bob.set_peer_key(alice, key(NEW_ALICE), now));
            }
            assert_eq!(pair.send(ALICE, 100), 1, "at {second}, heard after {heard_after}");
            assert_eq!(pair.send(BOB, 100), 1, "at {second}, heard after {heard_after}");
            pair.wait(Duration::from_secs(1));
        }
        assert!(knows(&pair.alice, pair.now));
        // Now nobody needs the old key.
        let now = pair.now;
        pair.alice.set_previous_identity(None, now);
        for _ in 0..200 {
            assert_eq!((pair.send(ALICE, 100), pair.send(BOB, 100)), (1, 1));
            pair.wait(Duration::from_secs(1));
        }
    }
}

#[test]
fn who_was_away_for_a_month_calls_the_old_key_and_is_answered() {
    let mut pair = Pair::connected();
    let now = pair.now;
    pair.alice.rotate_identity(noise(NEW_ALICE, now), now);
    pair.now += Duration::from_secs(30 * 24 * 3600);
    // What we send waits, as it does for a peer that is not there.
    assert_eq!(pair.send(ALICE, 100), 0);
    assert!(pair.send(BOB, 100) >= 1);
    assert_eq!((pair.send(ALICE, 100), pair.send(BOB, 100)), (1, 1));
    assert!(!knows(&pair.alice, pair.now));
    let (alice, now) = (peer(&pair.bob), pair.now);
    assert!(pair.bob.set_peer_key(alice, key(NEW_ALICE), now));
    for _ in 0..200 {
        assert_eq!((pair.send(ALICE, 100), pair.send(BOB, 100)), (1, 1));
        pair.wait(Duration::from_secs(1));
    }
    assert!(knows(&pair.alice, pair.now));
}

#[test]
fn who_knows_the_new_key_is_not_answered_under_the_old_one() {
    let mut pair = Pair::new();
    let old = pair.transmits(BOB, 100);
    let now = pair.now;
    pair.alice.rotate_identity(noise(NEW_ALICE, now), now);
    let alice = peer(&pair.bob);
    assert!(pair.bob.set_peer_key(alice, key(NEW_ALICE), now));
    // Alice's, and Bob's that waited.
    assert_eq!(pair.send(ALICE, 100), 2);
    assert_eq!((pair.send(BOB, 100), pair.send(ALICE, 100)), (1, 1));
    assert!(knows(&pair.alice, pair.now));
    pair.now += Duration::from_secs(1);
    let (_, replies) = pair.give(ALICE, endpoint(BOB), &old[0].bytes);
    assert!(replies.is_empty());
    assert_eq!(pair.alice.counters().get(Drop::Stranger), 1);
}

#[test]
fn a_peer_does_not_take_the_key_of_another_nor_ours() {
    let mut pair = Pair::connected();
    let (now, alice) = (pair.now, peer(&pair.bob));
    pair.bob.add_peer(key(9), now).unwrap();
    assert!(!pair.bob.set_peer_key(alice, key(9), now));
    assert!(!pair.bob.set_peer_key(alice, key(BOB), now));
    assert_eq!(pair.send(ALICE, 100), 1);
}
