//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are kept as unfolded `u64`s of 16-bit big-endian words, so that parts can be added in any
//! order; `finish` folds and complements. A part of odd length must be the last one added.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The sum of the 16-bit big-endian words of `bytes`, an odd last byte padded with zero.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    // Two lanes of native-order 32-bit words: the sum is byte-order independent (RFC 1071 2.B),
    // so the swap is done once, at the end.
    let (words, tail) = bytes.as_chunks::<8>();
    let (mut even, mut odd) = (0u64, 0u64);
    for word in words {
        let value = u64::from_ne_bytes(*word);
        even += value & 0xffff_ffff;
        odd += value >> 32;
    }
    let mut total = even + odd;
    let mut last = [0u8; 8];
    last[..tail.len()].copy_from_slice(tail);
    let value = u64::from_ne_bytes(last);
    total += (value & 0xffff_ffff) + (value >> 32);
    u64::from(u16::from_be(fold(total)))
}

/// Folds a sum to 16 bits with end-around carry.
#[inline]
pub fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum field for a sum: folded and complemented.
#[inline]
pub fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// The pseudo-header sum of TCP and UDP over IPv4 (RFC 9293 3.1). `length` is that of the
/// transport header and payload, in bytes.
#[inline]
pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, length: usize) -> u64 {
    let (src, dst) = (u32::from(src), u32::from(dst));
    u64::from(src >> 16)
        + u64::from(src & 0xffff)
        + u64::from(dst >> 16)
        + u64::from(dst & 0xffff)
        + u64::from(protocol)
        + length as u64
}

/// The pseudo-header sum over IPv6 (RFC 8200 8.1). `length` in bytes, as for [`pseudo_v4`].
#[inline]
pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, length: usize) -> u64 {
    sum(&src.octets()) + sum(&dst.octets()) + u64::from(protocol) + length as u64
}

/// A checksum field after one 16-bit word it covers has changed (RFC 1624 equation 3).
#[inline]
pub fn update16(field: u16, old: u16, new: u16) -> u16 {
    finish(u64::from(!field) + u64::from(!old) + u64::from(new))
}

/// A checksum field after one 32-bit word it covers has changed.
#[inline]
pub fn update32(field: u16, old: u32, new: u32) -> u16 {
    let halves = |word: u32| u64::from(word >> 16) + u64::from(word & 0xffff);
    finish(u64::from(!field) + halves(!old) + halves(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 2, word by word.
    fn oracle(bytes: &[u8]) -> u16 {
        let mut total = 0u64;
        for pair in bytes.chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
        while total >> 16 != 0 {
            total = (total & 0xffff) + (total >> 16);
        }
        !(total as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)), 0xddf2);
    }

    proptest! {
        #[test]
        fn sum_equals_the_word_by_word_one(
            bytes in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            prop_assert_eq!(finish(sum(&bytes)), oracle(&bytes));
        }

        #[test]
        fn update_equals_a_new_sum(mut bytes in proptest::collection::vec(any::<u8>(), 40),
                                   at in 0usize..9, new in any::<u32>()) {
            // A non-zero word elsewhere keeps the sum off the all-zero case, where the two zeros
            // of one's complement differ.
            bytes[38] = 1;
            let field = finish(sum(&bytes));
            let old = u32::from_be_bytes(bytes[at * 4..at * 4 + 4].try_into().unwrap());
            bytes[at * 4..at * 4 + 4].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update32(field, old, new), finish(sum(&bytes)));
            let half = update16(update16(field, (old >> 16) as u16, (new >> 16) as u16),
                                old as u16, new as u16);
            prop_assert_eq!(half, finish(sum(&bytes)));
        }
    }
}
