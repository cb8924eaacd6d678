//! What crosses the TUN device with `IFF_VNET_HDR`: packets much larger than the MTU, with a header that says
//! how to cut them. Pure functions on bytes.
//!
//! - [`segment`]: the kernel hands us a TCP or UDP super-packet; the tunnel needs packets of at most the MTU.
//! - [`coalesce`]: the tunnel hands us packets; the kernel wants super-packets.
//!
//! Source: `struct virtio_net_hdr` of the Virtio specification 1.2, section 5.1.6, in native byte order and
//! without `num_buffers`, as `linux/if_tun.h` and `linux/virtio_net.h` have it.

pub(crate) mod coalesce;
pub(crate) mod segment;
#[cfg(test)]
mod tests;

/// Length of the header before every packet that is read from or written to the device.
pub(crate) const VNET_HDR_LEN: usize = 10;

/// The checksum from `csum_start` on is still to be computed (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
pub(crate) const FLAG_NEEDS_CSUM: u8 = 1;

/// Values of `gso_type`.
pub(crate) const GSO_NONE: u8 = 0;
pub(crate) const GSO_TCPV4: u8 = 1;
pub(crate) const GSO_TCPV6: u8 = 4;
pub(crate) const GSO_UDP_L4: u8 = 5;
/// Bit of `gso_type`: the TCP segments carry ECN's CWR, which belongs on the first only.
pub(crate) const GSO_ECN: u8 = 0x80;

pub(crate) const PROTO_ICMP: u8 = 1;
pub(crate) const PROTO_TCP: u8 = 6;
pub(crate) const PROTO_UDP: u8 = 17;
pub(crate) const PROTO_ICMPV6: u8 = 58;

pub(crate) const TCP_FIN: u8 = 0x01;
pub(crate) const TCP_PSH: u8 = 0x08;
pub(crate) const TCP_ACK: u8 = 0x10;
pub(crate) const TCP_CWR: u8 = 0x80;

/// Offset of the checksum in a TCP and in a UDP header.
pub(crate) const TCP_CSUM_OFFSET: usize = 16;
pub(crate) const UDP_CSUM_OFFSET: usize = 6;

/// `struct virtio_net_hdr`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VnetHeader {
    pub(crate) flags: u8,
    pub(crate) gso_type: u8,
    pub(crate) hdr_len: u16,
    pub(crate) gso_size: u16,
    pub(crate) csum_start: u16,
    pub(crate) csum_offset: u16,
}

impl VnetHeader {
    pub(crate) fn read(bytes: &[u8; VNET_HDR_LEN]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    pub(crate) fn write(&self) -> [u8; VNET_HDR_LEN] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, word) in [(2, self.hdr_len), (4, self.gso_size), (6, self.csum_start), (8, self.csum_offset)]
        {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Puts the checksum of an IPv4 header without options in place.
pub(crate) fn write_ipv4_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = !super::checksum::fold(super::checksum::sum(header, 0));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}
