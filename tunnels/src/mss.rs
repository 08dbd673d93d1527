//! Clamping the maximum segment size that TCP's ends tell each other (RFC 9293 3.7.1, RFC 6691).
//!
//! Where errors about packets that are too big get lost, connections over a tunnel would hang. So
//! a router may lower the option in SYN segments to what the tunnel carries.

use crate::wire::{checksum, ipv4, ipv6, tcp};

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// The largest segment that fits packets of `mtu` bytes without options (RFC 6691 2).
pub const fn fitting(mtu: u16, is_v6: bool) -> u16 {
    let ip = if is_v6 { ipv6::HEADER_LEN } else { ipv4::MIN_HEADER_LEN };
    mtu.saturating_sub((ip + tcp::MIN_HEADER_LEN) as u16)
}

/// Lowers the option in a segment with SYN, which begins with its TCP header, to `most` bytes.
/// The checksum follows unless it is `unfinished`, and so does not cover the option yet. True when
/// something was written. A segment without the option stays as it is: 536 bytes, or 1220 over
/// IPv6, which it stands for, go through any tunnel.
pub fn clamp(segment: &mut [u8], most: u16, unfinished: bool) -> bool {
    let Some(at) = find(segment) else { return false };
    let old = u16::from_be_bytes([segment[at], segment[at + 1]]);
    if old <= most {
        return false;
    }
    segment[at..at + 2].copy_from_slice(&most.to_be_bytes());
    if !unfinished {
        let field = tcp::CHECKSUM_OFFSET;
        let sum = u16::from_be_bytes([segment[field], segment[field + 1]]);
        // Options may stand at odd places, where their bytes are in two words.
        let swap = |word: u16| if at % 2 == 0 { word } else { word.swap_bytes() };
        let sum = checksum::update16(sum, swap(old), swap(most));
        segment[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
    true
}

/// Where the option's value is, in a segment with SYN.
fn find(segment: &[u8]) -> Option<usize> {
    let view = tcp::View::new(segment)?;
    if view.flags() & tcp::SYN == 0 {
        return None;
    }
    let end = view.header_len();
    let mut at = tcp::MIN_HEADER_LEN;
    while at < end {
        match *segment.get(at)? {
            END => return None,
            NO_OPERATION => at += 1,
            kind => {
                let length = usize::from(*segment.get(at + 1)?);
                let inside = at + length <= end.min(segment.len());
                if kind == MAXIMUM_SEGMENT_SIZE && length == 4 && inside {
                    return Some(at + 2);
                }
                if length < 2 {
                    return None;
                }
                at += length;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(flags: u8, options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 20];
        bytes.extend(options);
        bytes[12] = (bytes.len().div_ceil(4) as u8) << 4;
        bytes[13] = flags;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend([1, 2, 3, 4]);
        let field = checksum::finish(checksum::sum(&bytes));
        bytes[16..18].copy_from_slice(&field.to_be_bytes());
        bytes
    }

    fn is_right(segment: &[u8]) -> bool {
        checksum::fold(checksum::sum(segment)) == 0xffff
    }

    #[test]
    fn the_option_is_lowered_wherever_it_stands() {
        for before in [&[][..], &[1], &[1, 1, 1], &[4, 2], &[8, 10, 0, 0, 0, 0, 0, 0, 0, 0]] {
            let options = [before, &[2, 4, 0x05, 0xb4]].concat();
            let mut bytes = segment(tcp::SYN | tcp::ACK, &options);
            assert!(clamp(&mut bytes, 1410, false), "{before:?}");
            let at = 20 + before.len() + 2;
            assert_eq!(bytes[at..at + 2], 1410u16.to_be_bytes());
            assert!(is_right(&bytes), "{before:?}");
            assert!(!clamp(&mut bytes, 1410, false), "never raised, never written twice");
        }
    }

    #[test]
    fn other_segments_stay_as_they_are() {
        let mss = [2, 4, 0x05, 0xb4];
        for (flags, options) in
            [(tcp::ACK, &mss[..]), (tcp::SYN, &[]), (tcp::SYN, &[0, 2, 4, 5]), (tcp::SYN, &[3, 0])]
        {
            let mut bytes = segment(flags, options);
            let before = bytes.clone();
            assert!(!clamp(&mut bytes, 100, false));
            assert_eq!(bytes, before);
        }
    }

    #[test]
    fn an_unfinished_checksum_is_left_alone() {
        let mut bytes = segment(tcp::SYN, &[2, 4, 0x05, 0xb4]);
        let field = bytes[16..18].to_vec();
        assert!(clamp(&mut bytes, 1000, true));
        assert_eq!(bytes[16..18], field);
    }

    #[test]
    fn sizes_fit_the_mtu() {
        assert_eq!((fitting(1450, false), fitting(1430, true), fitting(20, true)), (1410, 1370, 0));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_what_it_writes_keeps_the_sum(
            options in proptest::collection::vec(0u8..6, 0..40), most: u16, junk: u8,
        ) {
            let mut bytes = segment(tcp::SYN, &options);
            let wrote = clamp(&mut bytes, most, false);
            prop_assert!(is_right(&bytes) || !wrote);
            let cut = usize::from(junk) % bytes.len();
            bytes[12] ^= junk;
            let _ = clamp(&mut bytes[..cut], most, false);
        }
    }
}
