//! What one packet costs in the core, without the kernel: `cargo bench -p ichor-tests`.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ichor_mesh::gate::{Gate, append_macs};
use ichor_mesh::key::SecretKey;
use ichor_mesh::node::{Arrival, Node};
use ichor_mesh::packet::Ecn;
use ichor_mesh::transmit::{CandidatePair, Collected, DatagramSink};
use ichor_mesh::tunnel::Noise;
use ichor_mesh::wire::INITIATION_LEN;
use ichord::noise::BoringNoise;
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng as _;

fn endpoint(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 51840))
}

fn node(us: u8, other: u8, now: Instant) -> Node<BoringNoise> {
    let mut node = Node::new([us; 32]);
    node.set_identity(Some(BoringNoise::new(&SecretKey::from_random([us; 32]))), now);
    let peer = node.add_peer(SecretKey::from_random([other; 32]).public(), now).expect("not ourselves");
    node.set_endpoint(peer, endpoint(other), now);
    node.routes_mut().insert(format!("10.0.0.{other}/32").parse().expect("a prefix"), peer);
    node
}

fn packet(from: u8, to: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[12..20].copy_from_slice(&[10, 0, 0, from, 10, 0, 0, to]);
    packet
}

/// Two nodes with a session.
fn connected(now: Instant) -> (Node<BoringNoise>, Node<BoringNoise>) {
    let mut nodes = [node(1, 2, now), node(2, 1, now)];
    let mut sink = Collected::default();
    nodes[0].send_packet(&packet(1, 2, 100), now, &mut sink);
    let mut from = 0;
    while !sink.0.is_empty() {
        let to = 1 - from;
        let mut replies = Collected::default();
        for transmit in &sink.0 {
            let arrival = Arrival {
                pair: CandidatePair { local: None, remote: endpoint(from as u8 + 1) },
                ecn: transmit.ecn,
            };
            let mut out = vec![0; transmit.bytes.len()];
            nodes[to].handle_datagram(&arrival, &transmit.bytes, now, &mut out, &mut replies);
        }
        (sink, from) = (replies, to);
    }
    let [a, b] = nodes;
    (a, b)
}

/// A sink that lends the same buffer again and again, as the send queue does.
struct Lent(Vec<u8>);

impl DatagramSink for Lent {
    fn push(
        &mut self,
        _pair: &CandidatePair,
        _ecn: Ecn,
        room: usize,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) {
        black_box(fill(&mut self.0[..room]));
    }
}

fn seal(c: &mut Criterion) {
    let now = Instant::now();
    let (mut alice, _) = connected(now);
    let mut group = c.benchmark_group("send");
    for len in [100, 1420] {
        let (bytes, mut sink) = (packet(1, 2, len), Lent(vec![0; 2048]));
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len} bytes"), |b| {
            b.iter(|| alice.send_packet(black_box(&bytes), now, &mut sink));
        });
    }
    group.finish();
}

fn open(c: &mut Criterion) {
    let now = Instant::now();
    let (mut alice, mut bob) = connected(now);
    let arrival = Arrival { pair: CandidatePair { local: None, remote: endpoint(1) }, ecn: Ecn::NotEct };
    let mut group = c.benchmark_group("receive");
    for len in [100, 1420] {
        let (bytes, mut out) = (packet(1, 2, len), vec![0; 2048]);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len} bytes"), |b| {
            b.iter_batched_ref(
                || {
                    let mut sink = Collected::default();
                    alice.send_packet(&bytes, now, &mut sink);
                    sink.0.remove(0).bytes
                },
                |datagram| bob.handle_datagram(&arrival, datagram, now, &mut out, &mut Lent(Vec::new())),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn routes(c: &mut Criterion) {
    let now = Instant::now();
    let mut node: Node<BoringNoise> = Node::new([1; 32]);
    for n in 0..1000u16 {
        let mut secret = [0; 32];
        secret[..2].copy_from_slice(&n.to_le_bytes());
        let peer = node.add_peer(SecretKey::from_random(secret).public(), now).expect("not ourselves");
        let [high, low] = n.to_be_bytes();
        node.routes_mut().insert(format!("10.213.{high}.{low}/32").parse().expect("a prefix"), peer);
        node.routes_mut().insert(format!("172.{}.{low}.0/24", 16 + high).parse().expect("a prefix"), peer);
    }
    let [host, net] = ["10.213.3.7", "172.18.7.99"].map(|text| text.parse().expect("an address"));
    c.bench_function("route/address among 1000", |b| b.iter(|| node.route(black_box(host))));
    c.bench_function("route/prefix among 1000", |b| b.iter(|| node.route(black_box(net))));
}

fn gate(c: &mut Criterion) {
    let mut now = Instant::now();
    let public = BoringNoise::new(&SecretKey::from_random([1; 32])).public_key();
    let mut rng = ChaCha12Rng::from_seed([1; 32]);
    let mut gate = Gate::new(&public, now, &mut rng);
    let mut message = vec![7; INITIATION_LEN];
    append_macs(&public, None, &mut message);
    let mut reply = [0; INITIATION_LEN];
    let mut n = 0u32;
    // The cost that a spoofed flood can cause per datagram.
    c.bench_function("gate/spoofed initiation", |b| {
        b.iter(|| {
            n = n.wrapping_add(1);
            now += Duration::from_micros(20);
            let source = SocketAddr::from(((0x0a00_0000 + n % 100_000).to_be_bytes(), 1));
            gate.check(source, &message, now, &mut rng, &mut reply)
        });
    });
}

criterion_group!(benches, seal, open, routes, gate);
criterion_main!(benches);
