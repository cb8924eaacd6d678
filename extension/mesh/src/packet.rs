//! Just enough of an IP packet's header to route it: version, addresses, length, ECN.
//!
//! Everything here reads bytes that a stranger may have chosen, so nothing indexes past a checked length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of an IPv4 header without options (RFC 791 section 3.1).
pub const IPV4_HEADER_LEN: usize = 20;
/// Length of the fixed IPv6 header (RFC 8200 section 3).
pub const IPV6_HEADER_LEN: usize = 40;

/// The fields of an IP header that routing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpHeader {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Length of the whole packet in bytes as its header states it; never more than the bytes parsed.
    pub total_len: usize,
    /// The congestion bits of the traffic class.
    pub ecn: Ecn,
}

/// Why bytes are not an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an IP packet")]
pub struct NotIp;

impl IpHeader {
    /// Reads the header of `packet`, which may be longer than the IP packet (padding) but not shorter.
    ///
    /// # Errors
    /// [`NotIp`] for an unknown version, a truncated header, or a stated length that does not fit.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Self, NotIp> {
        match packet.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(packet),
            Some(6) => Self::parse_v6(packet),
            _ => Err(NotIp),
        }
    }

    /// Reads the header of a super-packet, whose length field may not fit: `total_len` is that of `packet`.
    #[inline]
    pub fn peek(packet: &[u8]) -> Option<Self> {
        let (src, dst, ecn) = match packet.first()? >> 4 {
            4 => {
                let header = packet.first_chunk::<IPV4_HEADER_LEN>()?;
                (v4_address(header, 12), v4_address(header, 16), Ecn::from_bits(header[1]))
            }
            6 => {
                let header = packet.first_chunk::<IPV6_HEADER_LEN>()?;
                (v6_address(header, 8), v6_address(header, 24), Ecn::from_bits(header[1] >> 4))
            }
            _ => return None,
        };
        Some(Self { src, dst, total_len: packet.len(), ecn })
    }

    #[inline]
    fn parse_v4(packet: &[u8]) -> Result<Self, NotIp> {
        let header = packet.first_chunk::<IPV4_HEADER_LEN>().ok_or(NotIp)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < IPV4_HEADER_LEN || total_len < header_len || total_len > packet.len() {
            return Err(NotIp);
        }
        let (src, dst) = (v4_address(header, 12), v4_address(header, 16));
        Ok(Self { src, dst, total_len, ecn: Ecn::from_bits(header[1]) })
    }

    #[inline]
    fn parse_v6(packet: &[u8]) -> Result<Self, NotIp> {
        let (header, payload) = packet.split_first_chunk::<IPV6_HEADER_LEN>().ok_or(NotIp)?;
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if payload_len > payload.len() {
            return Err(NotIp);
        }
        let (src, dst) = (v6_address(header, 8), v6_address(header, 24));
        let total_len = IPV6_HEADER_LEN + payload_len;
        Ok(Self { src, dst, total_len, ecn: Ecn::from_bits(header[1] >> 4) })
    }
}

#[inline]
fn v4_address(header: &[u8; IPV4_HEADER_LEN], at: usize) -> IpAddr {
    Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into()
}

#[inline]
fn v6_address(header: &[u8; IPV6_HEADER_LEN], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    Ipv6Addr::from(octets).into()
}

/// Explicit Congestion Notification codepoint (RFC 3168 section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Ecn {
    /// `00`: the transport does not take part.
    #[default]
    NotEct,
    /// `01`: ECN-capable, ECT(1).
    Ect1,
    /// `10`: ECN-capable, ECT(0).
    Ect0,
    /// `11`: congestion was met.
    Ce,
}

impl Ecn {
    /// Takes the two low bits of `bits`, as they stand in the IPv4 TOS byte.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The two bits as they stand in the IPv4 TOS byte.
    pub const fn bits(self) -> u8 {
        match self {
            Self::NotEct => 0b00,
            Self::Ect1 => 0b01,
            Self::Ect0 => 0b10,
            Self::Ce => 0b11,
        }
    }

    /// Combines the outer codepoint of a decapsulated packet with the inner one (RFC 6040 section 4.2,
    /// figure 4). `None` means that the packet must be dropped: congestion was met by a transport that
    /// could not be told.
    pub const fn decapsulated(inner: Self, outer: Self) -> Option<Self> {
        match (inner, outer) {
            (Self::NotEct, Self::Ce) => None,
            (Self::NotEct, _) => Some(Self::NotEct),
            (Self::Ce, _) | (_, Self::Ce) => Some(Self::Ce),
            (Self::Ect0, Self::Ect1) => Some(Self::Ect1),
            (inner, _) => Some(inner),
        }
    }
}

/// Writes `ecn` into the header of `packet`, mending the IPv4 header checksum (RFC 1624 equation 3).
///
/// Bytes that are not an IP packet are left alone.
pub fn set_ecn(packet: &mut [u8], ecn: Ecn) {
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= IPV4_HEADER_LEN => {
            let old = u16::from_be_bytes([packet[0], packet[1]]);
            packet[1] = (packet[1] & !0b11) | ecn.bits();
            let new = u16::from_be_bytes([packet[0], packet[1]]);
            let checksum = u16::from_be_bytes([packet[10], packet[11]]);
            let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
            sum = (sum & 0xffff) + (sum >> 16);
            sum = (sum & 0xffff) + (sum >> 16);
            // Folding twice leaves at most 16 bits.
            packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        }
        Some(6) if packet.len() >= IPV6_HEADER_LEN => {
            packet[1] = (packet[1] & !0b0011_0000) | (ecn.bits() << 4);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ipv4(tos: u8, payload: &[u8]) -> Vec<u8> {
        let total = (IPV4_HEADER_LEN + payload.len()) as u16;
        let mut packet = vec![0x45, tos, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        let checksum = header_checksum(&packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend_from_slice(payload);
        packet
    }

    fn header_checksum(header: &[u8]) -> u16 {
        let mut sum: u32 = header
            .chunks(2)
            .enumerate()
            .filter(|(i, _)| *i != 5)
            .map(|(_, pair)| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn reads_ipv4_with_trailing_padding() {
        let mut packet = ipv4(0b10, b"hello");
        packet.extend_from_slice(&[0; 7]);
        let header = IpHeader::parse(&packet).unwrap();
        assert_eq!(header.total_len, 25);
        assert_eq!(header.src, "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(header.dst, "10.0.0.2".parse::<IpAddr>().unwrap());
        assert_eq!(header.ecn, Ecn::Ect0);
    }

    #[test]
    fn refuses_lengths_that_do_not_fit() {
        let packet = ipv4(0, b"hello");
        assert_eq!(IpHeader::parse(&packet[..24]), Err(NotIp));
        assert_eq!(IpHeader::parse(&[]), Err(NotIp));
        let mut short_header = packet.clone();
        short_header[0] = 0x44;
        assert_eq!(IpHeader::parse(&short_header), Err(NotIp));
        let mut total_below_header = packet;
        total_below_header[2..4].copy_from_slice(&19u16.to_be_bytes());
        assert_eq!(IpHeader::parse(&total_below_header), Err(NotIp));
    }

    #[test]
    fn ecn_follows_rfc_6040_figure_4() {
        use Ecn::{Ce, Ect0, Ect1, NotEct};
        let table = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect1), Some(Ect0), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NotEct, Ect1, Ect0, Ce].into_iter().zip(row) {
                assert_eq!(Ecn::decapsulated(inner, outer), expected, "{inner:?} in {outer:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn setting_ecn_keeps_the_checksum_right(tos in any::<u8>(), bits in 0u8..4) {
            let mut packet = ipv4(tos, b"payload");
            set_ecn(&mut packet, Ecn::from_bits(bits));
            prop_assert_eq!(packet[1], (tos & !0b11) | bits);
            let checksum = u16::from_be_bytes([packet[10], packet[11]]);
            prop_assert_eq!(checksum, header_checksum(&packet[..IPV4_HEADER_LEN]));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(header) = IpHeader::parse(&bytes) {
                prop_assert!(header.total_len <= bytes.len());
            }
            set_ecn(&mut bytes, Ecn::Ce);
        }
    }
}
