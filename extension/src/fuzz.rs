//! Entry points for fuzzing what is private.

use crate::io::offload::coalesce::Coalescer;
use crate::io::offload::segment::Segments;
use crate::io::offload::{VNET_HDR_LEN, VnetHeader};

/// Cuts `data` as a read from the device, and joins packets made from it.
pub fn offload(data: &[u8]) {
    let Some((head, packet)) = data.split_first_chunk::<VNET_HDR_LEN>() else { return };
    if let Ok(mut segments) = Segments::new(VnetHeader::read(head), &mut packet.to_vec()) {
        while let Some(segment) = segments.next() {
            assert!(segment.len() <= packet.len());
        }
    }

    let mut arena = packet.to_vec();
    let mut coalescer = Coalescer::new(true);
    let (mut start, mut count) = (0, 0);
    // The first byte of each packet's place says how long it is.
    while let Some(len) = arena.get(start).map(|len| usize::from(*len) * 4 + 1) {
        let end = (start + len).min(arena.len());
        coalescer.add(&arena, start..end);
        (start, count) = (end, count + 1);
    }
    let writes = coalescer.finish(&mut arena);
    assert_eq!(writes.iter().map(|write| write.packets.len()).sum::<usize>(), count);
}

/// Reads `data` as a request of a UAPI client.
pub fn uapi(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        // Refusing is as good as understanding.
        let _ = crate::uapi::Request::parse(text);
    }
}

/// Reads `data` as a configuration file.
pub fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = crate::config::Config::parse(text);
    }
}

/// Reads `data` as a DNS request, and what is answered as an answer that claims nothing beside what was asked.
pub fn dns(data: &[u8]) {
    use std::net::{IpAddr, Ipv4Addr};
    let address = IpAddr::from(Ipv4Addr::new(10, 213, 0, 1));
    let Ok(zone) = "home.internal".parse() else { return };
    let hosts = [("a".to_owned(), vec![address])].into();
    let zone = crate::dns::Zone::new(&zone, hosts, vec![address.into()]);
    if let Some(answer) = zone.answer(data) {
        // No more than the question, two records and the authority: nothing to flood others with.
        assert!(answer.len() <= data.len() + 512, "{} for {}", answer.len(), data.len());
        assert!(zone.answer(&answer).is_none(), "an answer was answered");
    }
}
