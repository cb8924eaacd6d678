//! Control packets: Ichor's own traffic between two members, inside their WireGuard session.
//!
//! They travel as IPv6 packets between control addresses, a reserved /64 of the mesh's ULA range that no
//! interface has, and are taken out before the TUN device. So they need no keys and no port of their own, a
//! probe proves exactly the path that data takes, and a plain WireGuard peer, whose allowed IPs never hold a
//! control address, does not see them.
//!
//! ```text
//!  0  version 6, traffic class 0, flow label 0     (4)
//!  4  payload length | next header 253 | hops 1    (4)
//!  8  source: control address of the sender        (16)
//!  24 destination: control address of the receiver (16)
//!  40 payload
//! ```
//!
//! Next header 253 is for experimentation (RFC 3692); the packets never leave a session, so nobody else can
//! meet them.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use crate::packet::{IPV6_HEADER_LEN, IpHeader};

/// Next-header value of a control packet.
const NEXT_HEADER: u8 = 253;

/// Where this member's control packets live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlPlane {
    /// The reserved /64.
    pub prefix: Ipv6Net,
    /// Our address in it.
    pub address: Ipv6Addr,
}

impl ControlPlane {
    /// Whether `address` is reserved for control packets.
    pub fn reserves(&self, address: std::net::IpAddr) -> bool {
        matches!(address, std::net::IpAddr::V6(address) if self.prefix.contains(&address))
    }

    /// Writes a control packet to the member at `to` into `out`; returns its length, or `None` if it does not
    /// fit.
    pub fn write(&self, to: Ipv6Addr, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        let len = IPV6_HEADER_LEN + payload.len();
        let payload_len = u16::try_from(payload.len()).ok()?;
        let (header, body) = out.get_mut(..len)?.split_at_mut(IPV6_HEADER_LEN);
        header.fill(0);
        header[0] = 0x60;
        header[4..6].copy_from_slice(&payload_len.to_be_bytes());
        header[6] = NEXT_HEADER;
        header[7] = 1;
        header[8..24].copy_from_slice(&self.address.octets());
        header[24..40].copy_from_slice(&to.octets());
        body.copy_from_slice(payload);
        Some(len)
    }

    /// The payload of `packet` if it is a control packet for us. `header` is its parsed header.
    pub fn payload<'p>(&self, header: &IpHeader, packet: &'p [u8]) -> Option<&'p [u8]> {
        if header.dst != self.address || !self.reserves(header.src) || *packet.get(6)? != NEXT_HEADER {
            return None;
        }
        packet.get(IPV6_HEADER_LEN..header.total_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plane(last: u16) -> ControlPlane {
        ControlPlane {
            prefix: "fd12:3456:789a:ffff::/64".parse().unwrap(),
            address: Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 0xffff, 0, 0, 0, last),
        }
    }

    #[test]
    fn a_control_packet_is_read_back_by_its_receiver_only() {
        let mut bytes = [0xaa; 100];
        let len = plane(1).write(plane(2).address, b"probe", &mut bytes).unwrap();
        let header = IpHeader::parse(&bytes[..len]).unwrap();
        assert_eq!(plane(2).payload(&header, &bytes[..len]), Some(&b"probe"[..]));
        assert_eq!(plane(3).payload(&header, &bytes[..len]), None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(plane(1).write(plane(2).address, b"probe", &mut [0; 44]), None);
    }

    #[test]
    fn data_between_control_addresses_is_not_control() {
        let mut bytes = [0; 100];
        let len = plane(1).write(plane(2).address, b"probe", &mut bytes).unwrap();
        bytes[6] = 17;
        let header = IpHeader::parse(&bytes[..len]).unwrap();
        assert_eq!(plane(2).payload(&header, &bytes[..len]), None);
    }
}
