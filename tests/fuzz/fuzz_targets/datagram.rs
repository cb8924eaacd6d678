//! Any datagrams from anywhere, at a node with a peer. Nothing may panic, and who does not know our public key
//! gets no answer. Who knows it may get a cookie, and nothing else.
#![no_main]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ichor_mesh::gate;
use ichor_mesh::key::{PublicKey, SecretKey};
use ichor_mesh::node::{Arrival, Inbound, Node};
use ichor_mesh::packet::Ecn;
use ichor_mesh::transmit::{CandidatePair, Collected};
use ichord::noise::BoringNoise;
use libfuzzer_sys::fuzz_target;

struct Target {
    node: Node<BoringNoise>,
    public: PublicKey,
    now: Instant,
}

thread_local! {
    static TARGET: RefCell<Target> = RefCell::new(Target::new());
}

impl Target {
    fn new() -> Self {
        let now = Instant::now();
        let mut node = Node::new([7; 32]);
        node.set_identity(Some(BoringNoise::new(&SecretKey::from_random([1; 32]))), now);
        let peer = node.add_peer(SecretKey::from_random([2; 32]).public(), now).expect("not ourselves");
        node.set_endpoint(peer, SocketAddr::from(([192, 0, 2, 1], 1)), now);
        let public = SecretKey::from_random([1; 32]).public();
        Self { node, public, now }
    }
}

fuzz_target!(|data: &[u8]| {
    TARGET.with_borrow_mut(|target| {
        target.now += Duration::from_millis(1);
        let (now, mut sink) = (target.now, Collected::default());
        let mut rest = data;
        let mut knows_key = false;
        // Each datagram is preceded by its length, and by where it seems to come from.
        while let Some((head, tail)) = rest.split_first_chunk::<3>() {
            let len = usize::from(u16::from_le_bytes([head[0], head[1]])).min(tail.len());
            let (datagram, next) = tail.split_at(len);
            rest = next;
            let mut datagram = datagram.to_vec();
            if head[2] & 0x80 != 0 && matches!(datagram.len(), 92 | 148) {
                gate::append_macs(&target.public, None, &mut datagram);
                knows_key = true;
            }
            let remote = SocketAddr::from(([192, 0, 2, head[2]], 1));
            let arrival =
                Arrival { pair: CandidatePair { local: None, remote }, ecn: Ecn::from_bits(head[2]) };
            let mut out = vec![0; datagram.len()];
            let inbound = target.node.handle_datagram(&arrival, &datagram, now, &mut out, &mut sink);
            // Nobody here knows a key.
            assert_eq!(inbound, Inbound::Nothing);
        }
        let harmless = |bytes: &[u8]| knows_key && bytes.len() == 64 && bytes[0] == 3;
        assert!(sink.0.iter().all(|transmit| harmless(&transmit.bytes)), "a stranger was answered");
        target.node.handle_timeout(now, &mut Collected::default());
    });
});
