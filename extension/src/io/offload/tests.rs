//! Cutting and joining are inverse to each other, and never harm what they do not understand.

use std::collections::BTreeMap;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::coalesce::{Coalescer, Transport};
use super::segment::Segments;
use super::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHeader};

/// A flow: which addresses and ports, and of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct FlowKind {
    v6: bool,
    tcp: bool,
    port: u16,
}

/// One packet of a flow with right checksums. `n` varies what may vary.
fn packet(flow: FlowKind, sequence: u32, payload: &[u8], psh: bool, ttl: u8) -> Vec<u8> {
    let builder = if flow.v6 {
        PacketBuilder::ipv6([1; 16], [2; 16], ttl)
    } else {
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], ttl)
    };
    let mut bytes = Vec::new();
    if flow.tcp {
        let mut step = builder.tcp(flow.port, 443, sequence, 1000).ack(77);
        if psh {
            step = step.psh();
        }
        step.write(&mut bytes, payload).unwrap();
    } else {
        builder.udp(flow.port, 443).write(&mut bytes, payload).unwrap();
    }
    bytes
}

/// Whether every checksum of the packet is right, by etherparse's reckoning.
fn assert_valid(packet: &[u8]) {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let checksum_right = match (&sliced.net, &sliced.transport) {
        (Some(etherparse::NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) => {
            assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()) == Ok(tcp.checksum())
        }
        (Some(etherparse::NetSlice::Ipv6(ip)), Some(TransportSlice::Tcp(tcp))) => {
            tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()) == Ok(tcp.checksum())
        }
        (Some(etherparse::NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) => {
            assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
            let expected = udp.to_header().calc_checksum_ipv4_raw(
                ip.header().source(),
                ip.header().destination(),
                udp.payload(),
            );
            expected == Ok(udp.checksum())
        }
        (Some(etherparse::NetSlice::Ipv6(ip)), Some(TransportSlice::Udp(udp))) => {
            let expected = udp.to_header().calc_checksum_ipv6_raw(
                ip.header().source(),
                ip.header().destination(),
                udp.payload(),
            );
            expected == Ok(udp.checksum())
        }
        other => panic!("neither TCP nor UDP: {other:?}"),
    };
    assert!(checksum_right, "transport checksum");
}

fn cut(vnet: VnetHeader, packet: &mut [u8]) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(vnet, packet).unwrap();
    let mut packets = Vec::new();
    while let Some(segment) = segments.next() {
        packets.push(segment.to_vec());
    }
    packets
}

/// Joins `packets` and returns what would be written, each with its header.
fn join(packets: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>, Option<Transport>)> {
    let mut arena = Vec::new();
    let mut coalescer = Coalescer::new(true);
    let ranges: Vec<_> = packets
        .iter()
        .map(|packet| {
            let start = arena.len();
            arena.extend_from_slice(packet);
            start..arena.len()
        })
        .collect();
    for range in ranges {
        coalescer.add(&arena, range);
    }
    coalescer
        .finish(&mut arena)
        .iter()
        .map(|write| {
            let mut bytes = Vec::new();
            for (n, range) in write.packets.iter().enumerate() {
                let skip = if n == 0 { 0 } else { write.header_len };
                bytes.extend_from_slice(&arena[range.start + skip..range.end]);
            }
            (write.vnet, bytes, write.joined())
        })
        .collect()
}

/// With DF the identification means nothing (RFC 6864), so joining need not keep it.
fn without_idle_id(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet.len() >= 20 && packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

fn flow_of(packet: &[u8]) -> Vec<u8> {
    match packet[0] >> 4 {
        _ if packet.len() < 28 => packet.to_vec(),
        4 => [&packet[9..10], &packet[12..20], packet.get(20..24).unwrap_or(&[])].concat(),
        6 => [&packet[6..7], &packet[8..40], packet.get(40..44).unwrap_or(&[])].concat(),
        _ => packet.to_vec(),
    }
}

fn super_packet(flow: FlowKind, payload: &[u8], size: u16) -> (VnetHeader, Vec<u8>) {
    let bytes = packet(flow, 5, payload, true, 64);
    let transport = if flow.v6 { 40 } else { 20 };
    let header_len = transport + if flow.tcp { 20 } else { 8 };
    let gso_type = match (flow.tcp, flow.v6) {
        (true, false) => GSO_TCPV4,
        (true, true) => GSO_TCPV6,
        (false, _) => GSO_UDP_L4,
    };
    let csum_offset = if flow.tcp { 16 } else { 6 };
    // A hint that is wrong, as for forwarded packets.
    let hdr_len = (header_len + 100) as u16;
    (
        VnetHeader { flags: 1, gso_type, hdr_len, gso_size: size, csum_start: transport as u16, csum_offset },
        bytes,
    )
}

#[test]
fn an_untouched_packet_passes_as_it_is() {
    let mut bytes = packet(FlowKind { v6: false, tcp: true, port: 1 }, 1, b"hello", false, 64);
    let expected = bytes.clone();
    assert_eq!(cut(VnetHeader::default(), &mut bytes), [expected]);
}

#[test]
fn a_checksum_left_to_us_is_completed() {
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let flow = FlowKind { v6, tcp, port: 9 };
        let expected = packet(flow, 1, b"some payload of odd length.", true, 64);
        let mut bytes = expected.clone();
        let transport = if v6 { 40 } else { 20 };
        let offset = if tcp { 16 } else { 6 };
        // The kernel leaves the sum of the pseudo header in the field.
        let len = bytes.len() - transport;
        let addresses = if v6 { bytes[8..40].to_vec() } else { bytes[12..20].to_vec() };
        let protocol = if tcp { 6 } else { 17 };
        let sum = crate::io::checksum::pseudo_header(&addresses, protocol, len);
        let partial = crate::io::checksum::fold(sum).to_be_bytes();
        bytes[transport + offset..transport + offset + 2].copy_from_slice(&partial);
        let vnet = VnetHeader {
            flags: 1,
            csum_start: transport as u16,
            csum_offset: offset as u16,
            ..VnetHeader::default()
        };
        assert_eq!(cut(vnet, &mut bytes), [expected]);
    }
}

#[test]
fn headers_that_do_not_fit_are_refused() {
    let flow = FlowKind { v6: false, tcp: true, port: 1 };
    let (good, bytes) = super_packet(flow, &[0; 3000], 1000);
    let bad = [
        VnetHeader { gso_size: 0, ..good },
        VnetHeader { csum_start: 10, ..good },
        VnetHeader { csum_start: 60_000, ..good },
        VnetHeader { gso_type: GSO_TCPV6, ..good },
        VnetHeader { gso_type: 3, ..good },
        VnetHeader { gso_type: 77, ..good },
    ];
    for vnet in bad {
        assert!(Segments::new(vnet, &mut bytes.clone()).is_err(), "{vnet:?}");
    }
    let unfinished = VnetHeader { flags: 1, csum_start: 3019, csum_offset: 30, ..VnetHeader::default() };
    assert!(Segments::new(unfinished, &mut bytes.clone()).is_err());
}

#[test]
fn a_damaged_packet_is_never_joined() {
    let flow = FlowKind { v6: false, tcp: true, port: 1 };
    for damaged in 0..3 {
        let mut packets: Vec<_> =
            (0..3).map(|n| packet(flow, 1000 + n * 500, &[n as u8; 500], false, 64)).collect();
        let last = packets[damaged].len() - 1;
        packets[damaged][last] ^= 1;
        let expected = packets[damaged].clone();
        let written = join(&packets);
        let alone = written.iter().find(|(_, bytes, joined)| *bytes == expected && joined.is_none());
        assert!(alone.is_some(), "packet {damaged} leaves damaged and alone");
    }
}

#[test]
fn what_differs_in_more_than_place_is_not_joined() {
    let flow = FlowKind { v6: false, tcp: true, port: 1 };
    let first = packet(flow, 1000, &[1; 500], false, 64);
    let next = packet(flow, 1500, &[2; 500], false, 64);
    assert_eq!(join(&[first.clone(), next.clone()]).len(), 1);

    let gap = packet(flow, 1501, &[2; 500], false, 64);
    let other_ttl = packet(flow, 1500, &[2; 500], false, 63);
    let longer = packet(flow, 1500, &[2; 501], false, 64);
    for other in [gap, other_ttl, longer] {
        assert_eq!(join(&[first.clone(), other]).len(), 2);
    }
    let after_push = packet(flow, 1000, &[1; 500], true, 64);
    assert_eq!(join(&[after_push, next.clone()]).len(), 2);
    let shorter = packet(flow, 1000, &[1; 499], false, 64);
    let after_shorter = packet(flow, 1499, &[2; 500], false, 64);
    assert_eq!(join(&[shorter, after_shorter]).len(), 2);
}

#[test]
fn no_super_packet_is_longer_than_an_ip_packet() {
    let flow = FlowKind { v6: false, tcp: true, port: 1 };
    let packets: Vec<_> = (0..100u32).map(|n| packet(flow, n * 1400, &[n as u8; 1400], false, 64)).collect();
    let written = join(&packets);
    assert!(written.iter().all(|(_, bytes, _)| bytes.len() <= 65_535));
    assert_eq!(written.len(), 3);
}

proptest! {
    #[test]
    fn cutting_gives_valid_packets_that_make_up_the_whole(
        v6 in any::<bool>(),
        tcp in any::<bool>(),
        payload in proptest::collection::vec(any::<u8>(), 1..9000),
        size in 1u16..3000,
    ) {
        let flow = FlowKind { v6, tcp, port: 77 };
        let (vnet, mut bytes) = super_packet(flow, &payload, size);
        let header_len = bytes.len() - payload.len();
        let packets = cut(vnet, &mut bytes);
        prop_assert_eq!(packets.len(), payload.len().div_ceil(size as usize));
        let mut whole = Vec::new();
        for (n, packet) in packets.iter().enumerate() {
            assert_valid(packet);
            if tcp {
                let transport = if v6 { 40 } else { 20 };
                let sequence = u32::from_be_bytes(packet[transport + 4..transport + 8].try_into().unwrap());
                prop_assert_eq!(sequence, 5 + whole.len() as u32);
                let is_last = n + 1 == packets.len();
                prop_assert_eq!(packet[transport + 13] & 8 != 0, is_last, "PSH is on the last only");
            }
            whole.extend_from_slice(&packet[header_len..]);
        }
        prop_assert_eq!(whole, payload);
    }

    /// Whatever comes, in whatever order: what the kernel would cut from our writes is what came, and every flow
    /// keeps its order.
    #[test]
    fn joining_loses_changes_and_reorders_nothing(
        steps in proptest::collection::vec(
            (0usize..5, 1usize..1400, any::<bool>(), 0u8..12, any::<u8>()),
            1..80,
        ),
    ) {
        let flows = [
            FlowKind { v6: false, tcp: true, port: 1 },
            FlowKind { v6: false, tcp: true, port: 2 },
            FlowKind { v6: true, tcp: true, port: 1 },
            FlowKind { v6: false, tcp: false, port: 1 },
            FlowKind { v6: true, tcp: false, port: 1 },
        ];
        let mut sequences = [1000u32; 5];
        let mut packets = Vec::new();
        for (at, len, psh, oddity, fill) in steps {
            // Mostly equal lengths, so that joining happens.
            let len = if fill < 200 { 700 } else { len };
            let mut bytes = packet(flows[at], sequences[at], &vec![fill; len], psh && fill > 128, 64);
            sequences[at] = sequences[at].wrapping_add(len as u32);
            match oddity {
                0 => bytes[1] ^= 0x10,
                1 => { let last = bytes.len() - 1; bytes[last] ^= 0xff; }
                2 => bytes[6] ^= 0x20,
                3 => sequences[at] = sequences[at].wrapping_add(7),
                4 => bytes.truncate(10),
                _ => {}
            }
            packets.push(bytes);
        }

        let mut came_out = Vec::new();
        for (vnet, mut bytes, joined) in join(&packets) {
            if joined.is_some() {
                came_out.extend(cut(vnet, &mut bytes));
            } else {
                prop_assert_eq!(vnet, VnetHeader::default());
                came_out.push(bytes);
            }
        }
        let by_flow = |packets: &[Vec<u8>]| {
            let mut flows: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
            for packet in packets {
                flows.entry(flow_of(packet)).or_default().push(without_idle_id(packet));
            }
            flows
        };
        let (before, after) = (by_flow(&packets), by_flow(&came_out));
        prop_assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        for (flow, packets) in before {
            for (n, (before, after)) in packets.iter().zip(&after[&flow]).enumerate() {
                let differs = before.iter().zip(after).position(|(a, b)| a != b);
                prop_assert!(before == after, "packet {} differs at byte {:?}", n, differs);
            }
            prop_assert_eq!(packets.len(), after[&flow].len());
        }
    }

    #[test]
    fn any_bytes_are_cut_and_joined_without_a_panic(
        header in any::<[u8; 10]>(),
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        version in prop_oneof![Just(0x45u8), Just(0x60u8), any::<u8>()],
    ) {
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        join(&[bytes.clone(), bytes.clone()]);
        let vnet = VnetHeader::read(&header);
        prop_assert_eq!(vnet.write(), header);
        if let Ok(mut segments) = Segments::new(vnet, &mut bytes) {
            while let Some(segment) = segments.next() {
                let _ = segment.len();
            }
        }
    }
}
