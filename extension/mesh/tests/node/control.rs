//! Control packets: between members only, and of full size where that is asked.

use super::*;

fn plane(n: u8) -> ControlPlane {
    ControlPlane {
        prefix: "fd00:0:0:ffff::/64".parse().unwrap(),
        address: format!("fd00:0:0:ffff::{n}").parse().unwrap(),
    }
}

/// Lets both send control packets.
fn with_control(mut pair: Pair) -> Pair {
    for n in [ALICE, BOB] {
        let other = ALICE + BOB - n;
        let id = peer(pair.node(n));
        pair.node(n).set_control_plane(Some(plane(n)));
        pair.node(n).routes_mut().insert(format!("fd00:0:0:ffff::{other}/128").parse().unwrap(), id);
    }
    pair
}

#[test]
fn a_probe_of_full_size_is_as_long_as_the_longest_packet_and_waits_for_no_session() {
    let mut pair = with_control(Pair::new());
    let (now, alices_bob, mut sink) = (pair.now, peer(&pair.alice), Collected::default());
    pair.alice.set_mtu(1420);
    let mut probe = |pair: &mut Pair, len| {
        let sent = pair.alice.send_probe(alices_bob, plane(BOB).address, &vec![7; len], now, &mut sink);
        (sent, std::mem::take(&mut sink.0))
    };
    assert_eq!(probe(&mut pair, 1380), (false, vec![]));
    let mut pair = with_control(Pair::connected());
    let (sent, datagrams) = probe(&mut pair, 1380);
    assert!(sent);
    let mut data = Collected::default();
    pair.alice.send(alices_bob, &packet(ALICE, BOB, 1420), Ecn::NotEct, now, &mut data);
    assert_eq!(datagrams[0].bytes.len(), data.0[0].bytes.len());
    let (inbound, _) = pair.give(BOB, endpoint(ALICE), &datagrams[0].bytes);
    assert!(matches!(inbound, Inbound::Control { len: 1420, .. }));
    assert_eq!(probe(&mut pair, 1381), (false, vec![]), "no packet is that long");
}

#[test]
fn control_packets_stay_between_members() {
    let mut pair = with_control(Pair::connected());
    let (now, alices_bob, mut sink) = (pair.now, peer(&pair.alice), Collected::default());
    assert!(pair.alice.send_control(alices_bob, plane(BOB).address, b"probe", now, &mut sink));
    let (inbound, _) = pair.give(BOB, endpoint(ALICE), &sink.0[0].bytes);
    assert!(matches!(inbound, Inbound::Control { len: 45, .. }));

    // The host cannot send to control addresses, nor receive from them.
    let mut forged = vec![0; 48];
    forged[0] = 0x60;
    forged[5] = 8;
    forged[6] = 17;
    forged[8..24].copy_from_slice(&plane(ALICE).address.octets());
    forged[24..40].copy_from_slice(&plane(BOB).address.octets());
    let mut sink = Collected::default();
    pair.alice.send_packet(&forged, now, &mut sink);
    assert!(sink.0.is_empty());
    assert_eq!(pair.alice.counters().get(Drop::ControlAddress), 1);
    pair.alice.send(alices_bob, &forged, Ecn::NotEct, now, &mut sink);
    assert_eq!(pair.give(BOB, endpoint(ALICE), &sink.0[0].bytes).0, Inbound::Nothing);
    assert_eq!(pair.bob.counters().get(Drop::ControlAddress), 1);
}
