//! Cuts a super-packet into packets, in place.

use super::{
    GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, PROTO_TCP, PROTO_UDP, TCP_CSUM_OFFSET, TCP_CWR,
    TCP_FIN, TCP_PSH, UDP_CSUM_OFFSET, VnetHeader, be16, be32,
};
use crate::io::checksum::{fold, pseudo_header, sum};

/// Longest header that a segment can have: IPv6, extension headers as far as the kernel segments them, TCP
/// with all options.
const MAX_HEADER: usize = 256;

/// Why a packet from the device cannot be used. The kernel does not make such packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadOffload;

/// The packets of one read from the device: a lending iterator, because each packet is made where the last one
/// was.
///
/// Each segment needs the header right before its payload. What stands there is the end of the payload before,
/// which has been sealed by then, so the header is written over it and no payload byte is moved.
pub(crate) struct Segments<'a> {
    packet: &'a mut [u8],
    state: State,
    cut: Cut,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// One packet, as it is.
    Whole,
    Cutting,
    Done,
}

struct Cut {
    header: [u8; MAX_HEADER],
    header_len: usize,
    transport: usize,
    gso_size: usize,
    /// Payload bytes cut so far.
    at: usize,
    index: u16,
    is_v6: bool,
    is_tcp: bool,
}

impl<'a> Segments<'a> {
    /// Takes a packet as read from the device, without its header `vnet`.
    pub(crate) fn new(vnet: VnetHeader, packet: &'a mut [u8]) -> Result<Self, BadOffload> {
        let kind = vnet.gso_type & !GSO_ECN;
        if kind == GSO_NONE {
            if vnet.flags & super::FLAG_NEEDS_CSUM != 0 {
                complete_checksum(vnet, packet)?;
            }
            return Ok(Self { packet, state: State::Whole, cut: Cut::EMPTY });
        }

        let is_v6 = packet.first().ok_or(BadOffload)? >> 4 == 6;
        let is_tcp = match kind {
            GSO_TCPV4 if !is_v6 => true,
            GSO_TCPV6 if is_v6 => true,
            GSO_UDP_L4 => false,
            _ => return Err(BadOffload),
        };
        // `hdr_len` is only a hint: for forwarded packets it can be the length of the whole first segment. The
        // transport header says its own length.
        let transport = usize::from(vnet.csum_start);
        let minimum = if is_v6 { 40 } else { 20 };
        let transport_len =
            if is_tcp { usize::from(*packet.get(transport + 12).ok_or(BadOffload)? >> 4) * 4 } else { 8 };
        let header_len = transport + transport_len;
        let gso_size = usize::from(vnet.gso_size);
        if transport < minimum
            || transport_len < if is_tcp { 20 } else { 8 }
            || header_len > MAX_HEADER
            || header_len > packet.len()
            || gso_size == 0
        {
            return Err(BadOffload);
        }
        let mut header = [0; MAX_HEADER];
        header[..header_len].copy_from_slice(&packet[..header_len]);
        let cut = Cut { header, header_len, transport, gso_size, at: 0, index: 0, is_v6, is_tcp };
        Ok(Self { packet, state: State::Cutting, cut })
    }

    /// The next packet, complete with checksums.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<&mut [u8]> {
        match self.state {
            State::Done => None,
            State::Whole => {
                self.state = State::Done;
                Some(self.packet)
            }
            State::Cutting => {
                let start = self.cut.at;
                let payload = self.packet.len() - self.cut.header_len - start;
                let is_last = payload <= self.cut.gso_size;
                let len = self.cut.header_len + payload.min(self.cut.gso_size);
                let segment = self.packet.get_mut(start..start + len)?;
                self.cut.write(segment, is_last);
                self.cut.at += self.cut.gso_size;
                self.cut.index = self.cut.index.wrapping_add(1);
                if is_last {
                    self.state = State::Done;
                }
                Some(segment)
            }
        }
    }
}

impl Cut {
    const EMPTY: Self = Self {
        header: [0; MAX_HEADER],
        header_len: 0,
        transport: 0,
        gso_size: 0,
        at: 0,
        index: 0,
        is_v6: false,
        is_tcp: false,
    };

    #[inline]
    fn write(&self, segment: &mut [u8], is_last: bool) {
        let total = segment.len();
        let (header, payload) = segment.split_at_mut(self.header_len);
        header.copy_from_slice(&self.header[..self.header_len]);
        let transport_len = total - self.transport;
        let addresses = if self.is_v6 {
            header[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
            8..40
        } else {
            header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            let id = be16(&self.header, 4).wrapping_add(self.index);
            header[4..6].copy_from_slice(&id.to_be_bytes());
            let ip_header = &mut header[..self.transport];
            super::write_ipv4_checksum(ip_header);
            12..20
        };
        let protocol = if self.is_tcp { PROTO_TCP } else { PROTO_UDP };
        let pseudo = pseudo_header(&header[addresses], protocol, transport_len);
        let transport = &mut header[self.transport..];
        let checksum_at = if self.is_tcp {
            let sequence = be32(&self.header, self.transport + 4).wrapping_add(self.at as u32);
            transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            if !is_last {
                transport[13] &= !(TCP_FIN | TCP_PSH);
            }
            if self.index > 0 {
                transport[13] &= !TCP_CWR;
            }
            TCP_CSUM_OFFSET
        } else {
            transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
            UDP_CSUM_OFFSET
        };
        transport[checksum_at..checksum_at + 2].fill(0);
        // Both transport headers have an even length, so the sums chain.
        let checksum = !fold(sum(payload, sum(transport, pseudo)));
        // A UDP checksum of zero would mean "none" (RFC 768).
        let checksum = if checksum == 0 && !self.is_tcp { 0xffff } else { checksum };
        transport[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The kernel left the transport checksum to us; the field holds the sum of the pseudo header.
fn complete_checksum(vnet: VnetHeader, packet: &mut [u8]) -> Result<(), BadOffload> {
    let start = usize::from(vnet.csum_start);
    let at = start + usize::from(vnet.csum_offset);
    if at + 2 > packet.len() {
        return Err(BadOffload);
    }
    let checksum = !fold(sum(&packet[start..], 0));
    let is_udp = vnet.csum_offset as usize == UDP_CSUM_OFFSET;
    let checksum = if checksum == 0 && is_udp { 0xffff } else { checksum };
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}
