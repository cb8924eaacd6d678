//! What a UDP datagram on our port can be, told from its first bytes.
//!
//! One port carries everything (spec position 1). WireGuard messages are the four types of the WireGuard
//! paper section 5.4, each a little-endian `u32`, so the first byte is 1 to 4 and the next three are zero.
//! Every other first byte belongs to Ichor. A plain WireGuard peer never sees those.
//!
//! ```text
//!  type 1, initiation: 148 bytes          type 2, response: 92 bytes
//!  0  type | 000                          0  type | 000
//!  4  sender index                        4  sender index
//!  8  ephemeral             (32)          8  receiver index
//!  40 static, sealed        (48)          12 ephemeral           (32)
//!  88 timestamp, sealed     (28)          44 nothing, sealed     (16)
//!  116 mac1                 (16)          60 mac1                (16)
//!  132 mac2                 (16)          76 mac2                (16)
//!
//!  type 3, cookie reply: 64 bytes         type 4, transport data: 32 bytes and more
//!  0  type | 000                          0  type | 000
//!  4  receiver index                      4  receiver index
//!  8  nonce                 (24)          8  counter             (8)
//!  32 cookie, sealed        (32)          16 packet, sealed      (n + 16)
//! ```

/// Length of a handshake initiation in bytes.
pub const INITIATION_LEN: usize = 148;
/// Length of a handshake response in bytes.
pub const RESPONSE_LEN: usize = 92;
/// Length of a cookie reply in bytes.
pub const COOKIE_REPLY_LEN: usize = 64;
/// What a transport message adds to the packet that it carries: header (16) and authentication tag (16).
pub const DATA_OVERHEAD: usize = 32;
/// Offset of the sealed packet in a transport message.
pub const DATA_HEADER_LEN: usize = 16;
/// Length of the longest message that is not transport data: room that every reply fits in.
pub const HANDSHAKE_ROOM: usize = INITIATION_LEN;

/// A datagram, sorted by who it is for. Nothing in it has been authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datagram {
    /// WireGuard type 1.
    Initiation {
        /// Session index that the sender chose for itself.
        sender: u32,
    },
    /// WireGuard type 2.
    Response {
        /// Session index that the sender chose for itself.
        sender: u32,
        /// Our session index, out of our initiation.
        receiver: u32,
    },
    /// WireGuard type 3.
    CookieReply {
        /// Our session index, out of the message that is answered.
        receiver: u32,
    },
    /// WireGuard type 4.
    Data {
        /// Our session index.
        receiver: u32,
        /// Nonce counter of the sender.
        counter: u64,
    },
    /// A first byte that WireGuard does not use: Ichor's own packets outside sessions (the hello).
    Ichor,
    /// Neither: to be dropped without an answer.
    Unknown,
}

impl Datagram {
    /// Sorts one datagram.
    #[inline]
    pub fn classify(bytes: &[u8]) -> Self {
        let Some(kind) = bytes.first_chunk::<4>() else { return Self::Unknown };
        match (u32::from_le_bytes(*kind), bytes.len()) {
            (4, DATA_OVERHEAD..) => Self::Data { receiver: read_u32(bytes, 4), counter: read_u64(bytes, 8) },
            (1, INITIATION_LEN) => Self::Initiation { sender: read_u32(bytes, 4) },
            (2, RESPONSE_LEN) => Self::Response { sender: read_u32(bytes, 4), receiver: read_u32(bytes, 8) },
            (3, COOKIE_REPLY_LEN) => Self::CookieReply { receiver: read_u32(bytes, 4) },
            _ if matches!(kind[0], 1..=4) => Self::Unknown,
            _ => Self::Ichor,
        }
    }
}

/// Reads a little-endian `u32` at `at`; 0 where the bytes end before.
#[inline]
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// Reads a little-endian `u64` at `at`; 0 where the bytes end before.
#[inline]
pub(crate) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(kind: u8, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
        bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        bytes
    }

    #[test]
    fn wireguard_messages_are_told_by_type_and_length() {
        assert_eq!(Datagram::classify(&message(1, 148)), Datagram::Initiation { sender: 0x0706_0504 });
        assert_eq!(
            Datagram::classify(&message(2, 92)),
            Datagram::Response { sender: 0x0706_0504, receiver: 0x0b0a_0908 }
        );
        assert_eq!(Datagram::classify(&message(3, 64)), Datagram::CookieReply { receiver: 0x0706_0504 });
        assert_eq!(
            Datagram::classify(&message(4, 32)),
            Datagram::Data { receiver: 0x0706_0504, counter: 0x0f0e_0d0c_0b0a_0908 }
        );
    }

    #[test]
    fn wrong_lengths_and_reserved_bytes_are_unknown() {
        for (kind, len) in [(1, 147), (1, 149), (2, 91), (3, 65), (4, 31)] {
            assert_eq!(
                Datagram::classify(&message(kind, len)),
                Datagram::Unknown,
                "type {kind}, {len} bytes"
            );
        }
        let mut reserved = message(4, 64);
        reserved[2] = 1;
        assert_eq!(Datagram::classify(&reserved), Datagram::Unknown);
    }

    #[test]
    fn other_first_bytes_are_ours() {
        for first in (5..=255).chain([0]) {
            assert_eq!(Datagram::classify(&message(first, 40)), Datagram::Ichor);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_sorted_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Datagram::classify(&bytes);
        }
    }
}
