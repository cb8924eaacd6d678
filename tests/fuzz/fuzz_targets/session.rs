//! Two nodes with a live session of the model tunnel, whose plaintext the fuzzer chooses: IP packets, control
//! packets, and every kind of nonsense that an authenticated peer could send.
#![no_main]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ichor_mesh::control::ControlPlane;
use ichor_mesh::key::{PublicKey, SecretKey};
use ichor_mesh::node::{Arrival, Inbound, Node};
use ichor_mesh::packet::{Ecn, IpHeader};
use ichor_mesh::transmit::{CandidatePair, Collected};
use ichor_mesh::tunnel::model::{ModelNoise, WallClock};
use libfuzzer_sys::fuzz_target;

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 51840))
}

/// The keys of both, computed once: they are most of the work otherwise.
fn keys(n: u8) -> (SecretKey, PublicKey) {
    thread_local! {
        static KEYS: [(SecretKey, PublicKey); 2] = [1, 2].map(|n| {
            let secret = SecretKey::from_random([n; 32]);
            (secret.clone(), secret.public())
        });
    }
    KEYS.with(|keys| keys[usize::from(n) - 1].clone())
}

fn node(us: u8, other: u8, now: Instant) -> Node<ModelNoise> {
    let clock = WallClock { at: now, shows: Duration::from_secs(1_800_000_000) };
    let mut node = Node::new([us; 32]);
    let (secret, public) = keys(us);
    node.set_identity(Some(ModelNoise::with_public(secret, public, clock, us.into())), now);
    node.set_control_plane(Some(ControlPlane {
        prefix: "fd00:0:0:ffff::/64".parse().expect("a prefix"),
        address: format!("fd00:0:0:ffff::{us}").parse().expect("an address"),
    }));
    let peer = node.add_peer(keys(other).1, now).expect("not ourselves");
    node.set_endpoint(peer, address(other), now);
    for net in ["10.0.0.0/8", "fd00::/16"] {
        node.routes_mut().insert(net.parse().expect("a prefix"), peer);
    }
    node
}

/// Carries what `sink` holds to `to`, and what that answers back, until nothing is left.
fn exchange(nodes: &mut [Node<ModelNoise>; 2], from: usize, sink: Collected, now: Instant) {
    let mut queue: Vec<_> = sink.0.into_iter().map(|transmit| (from, transmit)).collect();
    while let Some((from, transmit)) = queue.pop() {
        let to = 1 - from;
        let arrival = Arrival {
            pair: CandidatePair { local: None, remote: address(from as u8 + 1) },
            ecn: transmit.ecn,
        };
        let (mut out, mut replies) = (vec![0; transmit.bytes.len()], Collected::default());
        match nodes[to].handle_datagram(&arrival, &transmit.bytes, now, &mut out, &mut replies) {
            Inbound::Packet { len, .. } | Inbound::Control { len, .. } => {
                let header = IpHeader::parse(&out[..len]).expect("only IP packets come out");
                assert_eq!(header.total_len, len);
            }
            Inbound::Hello | Inbound::Nothing => {}
        }
        queue.extend(replies.0.into_iter().map(|transmit| (to, transmit)));
    }
}

fuzz_target!(|data: &[u8]| {
    let mut now = Instant::now();
    let mut nodes = [node(1, 2, now), node(2, 1, now)];
    let mut sink = Collected::default();
    let peer = nodes[0].peer_ids()[0];
    nodes[0].connect(peer, now, &mut sink);
    exchange(&mut nodes, 0, sink, now);

    let mut rest = data;
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let len = usize::from(u16::from_le_bytes([head[0], head[1]]) % 2048).min(tail.len());
        let (packet, next) = tail.split_at(len);
        rest = next;
        now += Duration::from_millis(u64::from(head[2]) * 500);
        let from = usize::from(head[3] & 1);
        let mut sink = Collected::default();
        let peer = nodes[from].peer_ids()[0];
        if head[3] & 2 == 0 {
            nodes[from].send(peer, packet, Ecn::from_bits(head[3] >> 2), now, &mut sink);
        } else {
            nodes[from].send_packet(packet, now, &mut sink);
        }
        exchange(&mut nodes, from, sink, now);
        for n in 0..2 {
            let mut sink = Collected::default();
            nodes[n].handle_timeout(now, &mut sink);
            exchange(&mut nodes, n, sink, now);
        }
    }
});
