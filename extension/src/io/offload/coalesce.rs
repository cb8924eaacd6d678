//! Joins packets of one flow into super-packets, without moving them.
//!
//! The packets of a batch lie wherever they were decrypted; a super-packet is the header of its first packet
//! followed by the payloads of all, gathered by one `writev`. The rules are those of the kernel's GRO: only
//! what the kernel could cut again into the very same packets is joined, and order within a flow never
//! changes. Every checksum is verified before it is replaced by the promise that it was: a packet that came in
//! damaged leaves damaged.

use std::ops::Range;

use super::{
    FLAG_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP,
    PROTO_UDP, TCP_ACK, TCP_CSUM_OFFSET, TCP_PSH, UDP_CSUM_OFFSET, VnetHeader, be16, be32,
};
use crate::io::checksum::{fold, pseudo_header, sum};

/// Longest IP packet.
const MAX_LEN: usize = 65_535;
/// Open flows that are searched for each packet; with more the oldest is closed.
const MAX_OPEN: usize = 16;
/// Segments of a UDP super-packet (`UDP_MAX_SEGMENTS` in `linux/udp.h`, its smaller, older value).
const MAX_UDP_SEGMENTS: usize = 64;
/// Longest header of a packet that is joined: IPv6 (40) and TCP with all options (60).
const MAX_HEADER: usize = 100;
/// Packets of one super-packet: bounds the parts of one `writev`.
pub(crate) const MAX_JOINED: usize = 128;

/// What goes to the device in one write.
#[derive(Debug)]
pub(crate) struct Write {
    /// The header before the packet.
    pub(crate) vnet: VnetHeader,
    /// Where the packets lie in the arena. The first is written whole, of the others only the payload.
    pub(crate) packets: Vec<Range<usize>>,
    /// Length of the headers of each packet.
    pub(crate) header_len: usize,
    flow: Option<Flow>,
    /// The header of the first packet as it came, to undo the joining.
    original: [u8; MAX_HEADER],
}

/// What must be equal, or follow, for a packet to join a super-packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    is_v6: bool,
    is_tcp: bool,
    transport: usize,
    header_len: usize,
    /// Payload of every packet but the last.
    size: usize,
    total: usize,
    /// TCP: the sequence number that continues the flow.
    next_sequence: u32,
    /// IPv4 without DF: the identification that continues the flow.
    next_id: Option<u16>,
    verified: bool,
    /// Whether more may follow.
    open: bool,
    /// Whether it may follow another. Where not, it still belongs to a flow whose order it keeps.
    joinable: bool,
}

/// What a packet means for joining.
enum Kind {
    /// A packet of a TCP or UDP flow.
    Flow(Flow),
    /// Unrelated to any TCP or UDP flow, like ICMP.
    Unrelated,
    /// It may belong to any flow, and which cannot be told: a fragment, or something with options.
    Opaque,
}

/// Joins the packets of batches. Keeps its allocations between batches.
#[derive(Debug, Default)]
pub(crate) struct Coalescer {
    writes: Vec<Write>,
    used: usize,
    /// Writes before this are closed.
    barrier: usize,
    /// Joining UDP needs a kernel that takes `GSO_UDP_L4` (6.2).
    pub(crate) udp: bool,
    /// Joining TCP can be turned off where a kernel refuses it.
    pub(crate) tcp: bool,
}

impl Coalescer {
    /// Makes a coalescer for a device that takes TCP super-packets, and UDP ones if `udp`.
    pub(crate) fn new(udp: bool) -> Self {
        Self { writes: Vec::new(), used: 0, barrier: 0, udp, tcp: true }
    }

    /// Adds the next packet: `range` of `arena`.
    #[inline]
    pub(crate) fn add(&mut self, arena: &[u8], range: Range<usize>) {
        let flow = match Kind::of(&arena[range.clone()]) {
            Kind::Flow(mut flow) => {
                flow.joinable &= if flow.is_tcp { self.tcp } else { self.udp };
                flow.open &= flow.joinable;
                flow
            }
            Kind::Unrelated => return self.start(arena, range, None),
            Kind::Opaque => {
                self.start(arena, range, None);
                self.barrier = self.used;
                return;
            }
        };
        let oldest_open = self.used.saturating_sub(MAX_OPEN).max(self.barrier);
        for write in self.writes[oldest_open..self.used].iter_mut().rev() {
            match write.join(arena, range.clone(), &flow) {
                Joined::Yes => return,
                // Order: a later packet of the flow must not overtake this one.
                Joined::SameFlow => break,
                Joined::OtherFlow => {}
            }
        }
        self.start(arena, range, Some(flow));
    }

    fn start(&mut self, arena: &[u8], range: Range<usize>, flow: Option<Flow>) {
        if self.used == self.writes.len() {
            self.writes.push(Write {
                vnet: VnetHeader::default(),
                packets: Vec::with_capacity(64),
                header_len: 0,
                flow: None,
                original: [0; MAX_HEADER],
            });
        }
        let write = &mut self.writes[self.used];
        self.used += 1;
        write.vnet = VnetHeader { gso_type: GSO_NONE, ..VnetHeader::default() };
        write.header_len = flow.map_or(0, |flow| flow.header_len);
        if let Some(flow) = &flow {
            let header = &arena[range.start..range.start + flow.header_len];
            write.original[..flow.header_len].copy_from_slice(header);
        }
        write.packets.clear();
        write.packets.push(range);
        write.flow = flow;
    }

    /// Ends the batch: puts the headers of joined packets right and returns what to write, in order.
    pub(crate) fn finish(&mut self, arena: &mut [u8]) -> &[Write] {
        for write in &mut self.writes[..self.used] {
            write.seal(arena);
        }
        &self.writes[..self.used]
    }

    /// Forgets the batch.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
        self.barrier = 0;
    }
}

/// What came of trying to join.
enum Joined {
    Yes,
    SameFlow,
    OtherFlow,
}

impl Write {
    #[inline]
    fn join(&mut self, arena: &[u8], range: Range<usize>, next: &Flow) -> Joined {
        let first = self.packets[0].clone();
        let Some(flow) = &mut self.flow else { return Joined::OtherFlow };
        let (head, packet) = (&arena[first.clone()], &arena[range.clone()]);
        if !flow.is_same(head, next, packet) {
            return Joined::OtherFlow;
        }
        if !flow.open || !next.joinable || !flow.continues(head, next, packet, self.packets.len()) {
            flow.open = false;
            return Joined::SameFlow;
        }
        // The first packet's checksum matters only now.
        if !flow.verified && !verify(&arena[first], flow) || !verify(packet, next) {
            flow.open = false;
            return Joined::SameFlow;
        }
        flow.verified = true;
        flow.total += next.size;
        flow.next_sequence = next.next_sequence;
        flow.next_id = next.next_id;
        flow.open = next.open && next.size == flow.size;
        self.packets.push(range);
        Joined::Yes
    }

    /// Turns the first packet's header into that of the whole.
    fn seal(&mut self, arena: &mut [u8]) {
        let (Some(flow), Some(first)) = (self.flow, self.packets.first()) else { return };
        if self.packets.len() < 2 {
            return;
        }
        // Of all flags only PSH may differ, and only on the last packet: the kernel puts it there again.
        let last = self.packets.last().map_or(0, |range| range.start);
        let last_flags = if flow.is_tcp { arena[last + flow.transport + 13] } else { 0 };

        let header = &mut arena[first.start..first.start + flow.header_len];
        let transport_len = flow.total - flow.transport;
        let addresses = if flow.is_v6 {
            header[4..6].copy_from_slice(&((flow.total - 40) as u16).to_be_bytes());
            8..40
        } else {
            header[2..4].copy_from_slice(&(flow.total as u16).to_be_bytes());
            super::write_ipv4_checksum(&mut header[..flow.transport]);
            12..20
        };
        let protocol = if flow.is_tcp { PROTO_TCP } else { PROTO_UDP };
        let pseudo = fold(pseudo_header(&header[addresses], protocol, transport_len));
        let transport = &mut header[flow.transport..];
        let csum_offset = if flow.is_tcp {
            transport[13] |= last_flags & TCP_PSH;
            TCP_CSUM_OFFSET
        } else {
            transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
            UDP_CSUM_OFFSET
        };
        transport[csum_offset..csum_offset + 2].copy_from_slice(&pseudo.to_be_bytes());
        self.vnet = VnetHeader {
            flags: FLAG_NEEDS_CSUM,
            gso_type: match (flow.is_tcp, flow.is_v6) {
                (true, false) => GSO_TCPV4,
                (true, true) => GSO_TCPV6,
                (false, _) => GSO_UDP_L4,
            },
            hdr_len: flow.header_len as u16,
            gso_size: flow.size as u16,
            csum_start: flow.transport as u16,
            csum_offset: csum_offset as u16,
        };
    }

    /// Whether this is a super-packet, and of which transport.
    pub(crate) fn joined(&self) -> Option<Transport> {
        let flow = self.flow.filter(|_| self.packets.len() > 1)?;
        Some(if flow.is_tcp { Transport::Tcp } else { Transport::Udp })
    }

    /// The first packet's header as it came, where the kernel refused the super-packet.
    pub(crate) fn original_header(&self) -> &[u8] {
        &self.original[..self.header_len]
    }
}

/// Transport of a super-packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Kind {
    #[inline]
    fn of(packet: &[u8]) -> Self {
        let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        let (transport, protocol) = if is_v6 {
            if packet.len() < 40 || usize::from(be16(packet, 4)) + 40 != packet.len() {
                return Self::Opaque;
            }
            (40, packet[6])
        } else {
            // No options, not a fragment.
            if packet.len() < 20
                || packet[0] != 0x45
                || usize::from(be16(packet, 2)) != packet.len()
                || be16(packet, 6) & 0x3fff != 0
            {
                return Self::Opaque;
            }
            (20, packet[9])
        };
        match protocol {
            PROTO_TCP | PROTO_UDP => {
                Flow::of(packet, is_v6, protocol == PROTO_TCP, transport).map_or(Self::Opaque, Self::Flow)
            }
            PROTO_ICMP | PROTO_ICMPV6 => Self::Unrelated,
            _ => Self::Opaque,
        }
    }
}

impl Flow {
    /// Reads a packet whose IP header is plain; `None` if its transport header makes no sense.
    #[inline]
    fn of(packet: &[u8], is_v6: bool, is_tcp: bool, transport: usize) -> Option<Self> {
        let segment = &packet[transport..];
        let transport_len = if is_tcp { usize::from(*segment.get(12)? >> 4) * 4 } else { 8 };
        let header_len = transport + transport_len;
        let size = packet.len().checked_sub(header_len)?;
        if transport_len < if is_tcp { 20 } else { 8 } || header_len > MAX_HEADER {
            return None;
        }
        let (joinable, open, next_sequence) = if is_tcp {
            let flags = segment[13];
            (flags & !TCP_PSH == TCP_ACK, flags & TCP_PSH == 0, be32(segment, 4).wrapping_add(size as u32))
        } else {
            (usize::from(be16(segment, 4)) == segment.len() && be16(segment, UDP_CSUM_OFFSET) != 0, true, 0)
        };
        // With DF the identification means nothing (RFC 6864 section 4.1).
        let dont_fragment = is_v6 || packet[6] & 0x40 != 0;
        let next_id = (!dont_fragment).then(|| be16(packet, 4).wrapping_add(1));
        Some(Self {
            is_v6,
            is_tcp,
            transport,
            header_len,
            size,
            total: packet.len(),
            next_sequence,
            next_id,
            verified: false,
            open,
            joinable: joinable && size > 0,
        })
    }

    /// Whether both packets belong to one flow: addresses and ports.
    #[inline]
    fn is_same(&self, head: &[u8], next: &Self, packet: &[u8]) -> bool {
        let addresses = if self.is_v6 { 8..40 } else { 12..20 };
        let ports = self.transport..self.transport + 4;
        self.is_v6 == next.is_v6
            && self.is_tcp == next.is_tcp
            && self.transport == next.transport
            && head[ports.clone()] == packet[ports]
            && head[addresses.clone()] == packet[addresses]
    }

    /// Whether `packet` is what the kernel would cut off after the packets so far.
    #[inline]
    fn continues(&self, head: &[u8], next: &Self, packet: &[u8], count: usize) -> bool {
        let same_ip = if self.is_v6 {
            head[..4] == packet[..4] && head[7] == packet[7]
        } else {
            // Traffic class, DF, time to live; the identification goes up by one unless it means nothing.
            head[1] == packet[1]
                && head[6] == packet[6]
                && head[8] == packet[8]
                && self.next_id.is_none_or(|id| id == be16(packet, 4))
        };
        let same_transport = if self.is_tcp {
            let at = self.transport;
            let (ack, window, options) = (at + 8..at + 12, at + 14..at + 16, at + 20..self.header_len);
            self.next_sequence == be32(packet, at + 4)
                && head[at + 12] == packet[at + 12]
                && head[ack.clone()] == packet[ack]
                && head[window.clone()] == packet[window]
                && head[options.clone()] == packet[options]
        } else {
            count < MAX_UDP_SEGMENTS
        };
        same_ip
            && same_transport
            && next.size <= self.size
            && self.total + next.size <= MAX_LEN
            && count < MAX_JOINED
    }
}

/// Whether the checksums are right.
#[inline]
fn verify(packet: &[u8], flow: &Flow) -> bool {
    let (header_right, addresses) = if flow.is_v6 {
        (true, &packet[8..40])
    } else {
        (fold(sum(&packet[..20], 0)) == 0xffff, &packet[12..20])
    };
    let protocol = if flow.is_tcp { PROTO_TCP } else { PROTO_UDP };
    let segment = &packet[flow.transport..];
    header_right && fold(sum(segment, pseudo_header(addresses, protocol, segment.len()))) == 0xffff
}
