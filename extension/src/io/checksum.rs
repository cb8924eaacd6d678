//! The Internet checksum (RFC 1071), on whole payloads: the hot path computes it once per packet and
//! direction, next to the cipher the largest cost per byte.

/// Ones-complement sum of `bytes` as big-endian 16-bit words, added to `initial`; not folded, not inverted.
///
/// The sum of several parts may be chained through `initial` if every part but the last has an even length.
#[inline]
pub(crate) fn sum(bytes: &[u8], initial: u64) -> u64 {
    // The sum is independent of byte order up to a final swap (RFC 1071 section 2B), and of word size as long
    // as carries are kept: so add native 32-bit words into 64-bit lanes, which cannot overflow for any packet,
    // and let the compiler use vectors.
    let mut lanes = [0u64; 8];
    let mut chunks = bytes.chunks_exact(32);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(4)) {
            let word: [u8; 4] = [word[0], word[1], word[2], word[3]];
            *lane += u64::from(u32::from_ne_bytes(word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let mut words = chunks.remainder().chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    initial + u64::from(u16::from_be(fold(total)))
}

/// Folds a sum to 16 bits with end-around carry.
#[inline]
pub(crate) fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Sum of a pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1): `addresses` are source and destination
/// as they stand in the IP header.
#[inline]
pub(crate) fn pseudo_header(addresses: &[u8], protocol: u8, len: usize) -> u64 {
    sum(addresses, u64::from(protocol) + len as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    /// RFC 1071 section 3, the worked example.
    #[test]
    fn follows_the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes, 0)), 0xddf2);
    }

    #[test]
    fn the_longest_packet_of_ones_does_not_overflow() {
        assert_eq!(fold(sum(&[0xff; 65_536], 0)), 0xffff);
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let (fast, slow) = (fold(sum(&bytes, 0)), reference(&bytes));
            // Zero has two representations in ones-complement.
            prop_assert!(fast == slow || fast.wrapping_add(slow) == 0xffff && (fast == 0 || slow == 0));
        }

        #[test]
        fn parts_of_even_length_chain(bytes in proptest::collection::vec(any::<u8>(), 0..500), at in 0usize..250) {
            let at = (at * 2).min(bytes.len() & !1);
            let chained = sum(&bytes[at..], sum(&bytes[..at], 0));
            prop_assert_eq!(fold(chained), fold(sum(&bytes, 0)));
        }
    }
}
