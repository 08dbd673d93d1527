//! IPv4 (RFC 791): view of the header, and the writes that forwarding does.

use super::{be16, be32, checksum};
use std::net::Ipv4Addr;

/// Length of the header without options, in bytes.
pub const MIN_HEADER_LEN: usize = 20;
/// "Don't fragment" in [`View::flags_fragment`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments" in [`View::flags_fragment`].
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// Mask of the fragment offset, in units of 8 bytes.
pub const OFFSET_MASK: u16 = 0x1fff;

/// View of a packet from the first byte of its IPv4 header.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    fixed: &'a [u8; MIN_HEADER_LEN],
    bytes: &'a [u8],
}

impl<'a> View<'a> {
    /// `None` when `bytes` is shorter than the fixed header.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(|fixed| View { fixed, bytes })
    }

    /// Version, 4 in a good packet.
    #[inline]
    pub fn version(&self) -> u8 {
        self.fixed[0] >> 4
    }

    /// Header length with options, in bytes: 0 to 60, at least 20 in a good packet.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.fixed[0] & 0xf) * 4
    }

    /// The byte of DSCP and ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        self.fixed[1]
    }

    /// Length of header and payload, in bytes.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(be16(self.fixed, 2))
    }

    /// Identification.
    #[inline]
    pub fn id(&self) -> u16 {
        be16(self.fixed, 4)
    }

    /// Flags and fragment offset, as they stand.
    #[inline]
    pub fn flags_fragment(&self) -> u16 {
        be16(self.fixed, 6)
    }

    /// True when the sender forbids fragmentation.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.flags_fragment() & DONT_FRAGMENT != 0
    }

    /// Offset of this fragment's payload, in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> usize {
        usize::from(self.flags_fragment() & OFFSET_MASK) * 8
    }

    /// True for every fragment of a packet, the first one too.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.flags_fragment() & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Time to live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.fixed[8]
    }

    /// Protocol of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.fixed[9]
    }

    /// Header checksum field.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.fixed, 10)
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        Ipv4Addr::from(be32(self.fixed, 12))
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::from(be32(self.fixed, 16))
    }

    /// True for version 4, no options, and a right checksum.
    #[inline]
    pub fn has_plain_header(&self) -> bool {
        self.fixed[0] == 0x45 && checksum_ok_20(self.fixed)
    }

    /// True when the header's checksum is right; false also when the header does not fit.
    #[inline]
    pub fn checksum_ok(&self) -> bool {
        let length = self.header_len();
        if length == MIN_HEADER_LEN {
            return checksum_ok_20(self.fixed);
        }
        self.bytes
            .get(..length)
            .is_some_and(|header| checksum::fold(checksum::sum(header)) == 0xffff)
    }
}

#[inline]
fn checksum_ok_20(header: &[u8; MIN_HEADER_LEN]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    // Folding is arithmetic modulo 0xffff, and no header is all zeros: its version is 4. Times the
    // inverse of an odd number its multiples, and no other numbers, give their quotients.
    const INVERSE: u64 = (u64::MAX / 0xffff).wrapping_neg();
    sum != 0 && sum.wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

/// Takes one from the TTL and mends the checksum (RFC 1812 5.3.1, RFC 1624). False, with nothing
/// written, when that would leave 0.
#[inline]
#[must_use]
pub fn decrement_ttl(header: &mut [u8]) -> bool {
    let Some(header) = header.first_chunk_mut::<MIN_HEADER_LEN>() else { return false };
    // TTL, protocol and checksum: one word, from the last byte of which on the sum is carried.
    let [_, _, _, _, _, _, _, _, word @ .., _, _, _, _, _, _, _, _] = header;
    let old = u32::from_le_bytes(*word);
    if old & 0xff <= 1 {
        return false;
    }
    // TTL is the first byte of its 16-bit word: the word falls by 0x100, so the one's complement
    // sum in the field rises by as much. Such sums are the same in either order of bytes.
    let (new, carry) = (old - 1).overflowing_add(1 << 16);
    *word = (new + (u32::from(carry) << 16)).to_le_bytes();
    true
}

/// Writes total length (bytes), identification, flags and fragment offset, and a new checksum.
pub fn set_fragment(header: &mut [u8], total_len: u16, id: u16, flags_fragment: u16) {
    header[2..4].copy_from_slice(&total_len.to_be_bytes());
    header[4..6].copy_from_slice(&id.to_be_bytes());
    header[6..8].copy_from_slice(&flags_fragment.to_be_bytes());
    fill_checksum(header);
}

/// Computes the header checksum anew over the length that the header names.
pub fn fill_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let length = usize::from(header[0] & 0xf) * 4;
    let field = checksum::finish(checksum::sum(&header[..length]));
    header[10..12].copy_from_slice(&field.to_be_bytes());
}

/// A header of 20 bytes without options, DF clear, checksum right. `payload_len` in bytes.
pub fn header(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: u8,
    ttl: u8,
    payload_len: u16,
) -> [u8; MIN_HEADER_LEN] {
    let mut bytes = [0; MIN_HEADER_LEN];
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&(payload_len + MIN_HEADER_LEN as u16).to_be_bytes());
    bytes[8] = ttl;
    bytes[9] = protocol;
    bytes[12..16].copy_from_slice(&src.octets());
    bytes[16..20].copy_from_slice(&dst.octets());
    fill_checksum(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_built_header_reads_back(
            src in any::<u32>(), dst in any::<u32>(), protocol in any::<u8>(),
            ttl in any::<u8>(), payload_len in 0u16..65_515,
        ) {
            let bytes = header(src.into(), dst.into(), protocol, ttl, payload_len);
            let theirs = etherparse::Ipv4HeaderSlice::from_slice(&bytes).unwrap();
            prop_assert_eq!(theirs.header_checksum(), theirs.to_header().calc_header_checksum());
            let view = View::new(&bytes).unwrap();
            prop_assert_eq!(theirs.source_addr(), view.src());
            prop_assert_eq!(theirs.destination_addr(), view.dst());
            prop_assert_eq!(usize::from(theirs.total_len()), view.total_len());
            prop_assert_eq!((theirs.ttl(), theirs.protocol().0), (view.ttl(), view.protocol()));
            prop_assert!(view.checksum_ok());
        }

        #[test]
        fn a_smaller_ttl_keeps_the_checksum_right(
            src in any::<u32>(), dst in any::<u32>(), ttl in 2u8..
        ) {
            let mut bytes = header(src.into(), dst.into(), 6, ttl, 100);
            prop_assert!(decrement_ttl(&mut bytes));
            let view = View::new(&bytes).unwrap();
            prop_assert!(view.checksum_ok());
            prop_assert_eq!(view.ttl(), ttl - 1);
        }

        #[test]
        fn a_ttl_that_ends_here_stays(ttl in 0u8..2) {
            let mut bytes = header([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 6, ttl, 100);
            let before = bytes;
            prop_assert!(!decrement_ttl(&mut bytes));
            prop_assert_eq!(bytes, before);
        }

        #[test]
        fn a_flipped_bit_is_seen(bit in 0usize..160) {
            let mut bytes = header([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 17, 64, 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!View::new(&bytes).unwrap().checksum_ok());
        }
    }
}
