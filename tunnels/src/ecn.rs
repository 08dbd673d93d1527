//! The traffic class of a tunnel's outer header (RFC 6040, RFC 2983).
//!
//! On the way in, the outer header gets the inner one's ECN field as it is (RFC 6040 4.1, normal
//! mode) and its DSCP (RFC 2983's uniform model). On the way out, congestion that the underlay
//! marked is carried over to the inner header (RFC 6040 4.2); the inner DSCP stays.

use crate::wire::{be16, ipv4};

/// The two bits of ECN in the traffic class.
pub const MASK: u8 = 0b11;

const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The ECN field that goes on, of those that an inner and an outer header came with (RFC 6040,
/// figure 4). `None`: congestion was met, and the inner transport would not understand the mark,
/// so the packet must be dropped.
#[inline]
pub const fn combine(inner: u8, outer: u8) -> Option<u8> {
    match (inner & MASK, outer & MASK) {
        (0, CE) => None,
        (0, _) => Some(0),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

/// Carries the marks of an outer traffic class over to an inner packet, which begins with its IP
/// header of at least the fixed length. False, with nothing written, when it must be dropped.
#[inline]
#[must_use]
pub fn carry_over(outer: u8, inner: &mut [u8]) -> bool {
    let (Some(first), Some(second)) = (inner.first().copied(), inner.get(1).copied()) else {
        return false;
    };
    let class = if first >> 4 == 4 { second } else { first << 4 | second >> 4 };
    match combine(class, outer) {
        None => false,
        Some(field) if field == class & MASK => true,
        Some(field) => write(inner, class & !MASK | field),
    }
}

#[cold]
fn write(inner: &mut [u8], class: u8) -> bool {
    if inner[0] >> 4 == 4 {
        let Some(header) = inner.first_chunk_mut::<{ ipv4::MIN_HEADER_LEN }>() else {
            return false;
        };
        let old = be16(header, 0);
        header[1] = class;
        let new = be16(header, 0);
        let field = crate::wire::checksum::update16(be16(header, 10), old, new);
        header[10..12].copy_from_slice(&field.to_be_bytes());
    } else {
        inner[0] = inner[0] & 0xf0 | class >> 4;
        inner[1] = class << 4 | inner[1] & 0x0f;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipv6;
    use proptest::prelude::*;

    const NOT: u8 = 0;

    /// Each cell of RFC 6040, figure 4: rows by the inner field, columns by the outer one.
    #[test]
    fn rfc_6040_4_2_every_cell_of_the_table() {
        let columns = [NOT, ECT_0, ECT_1, CE];
        let rows = [
            (NOT, [Some(NOT), Some(NOT), Some(NOT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in rows {
            for (outer, wanted) in columns.into_iter().zip(row) {
                assert_eq!(combine(inner, outer), wanted, "inner {inner:02b}, outer {outer:02b}");
            }
        }
    }

    proptest! {
        #[test]
        fn both_families_get_the_field_and_keep_the_rest(inner: u8, outer: u8) {
            let mut v4 = ipv4::header([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 6, 64, 20);
            v4[1] = inner;
            ipv4::fill_checksum(&mut v4);
            let address = std::net::Ipv6Addr::LOCALHOST;
            let mut v6 = ipv6::header(address, address, 6, 64, 20);
            v6[0] |= inner >> 4;
            v6[1] = inner << 4 | 0x0a;
            let before = (v4, v6);
            let wanted = combine(inner, outer);
            prop_assert_eq!(carry_over(outer, &mut v4), wanted.is_some());
            prop_assert_eq!(carry_over(outer, &mut v6), wanted.is_some());
            match wanted {
                None => prop_assert_eq!((v4, v6), before),
                Some(field) => {
                    let class = inner & !MASK | field;
                    let view = ipv4::View::new(&v4).unwrap();
                    prop_assert!(view.checksum_ok());
                    prop_assert_eq!(view.traffic_class(), class);
                    let view = ipv6::View::new(&v6).unwrap();
                    prop_assert_eq!((view.traffic_class(), view.flow_label()), (class, 0xa_0000));
                    prop_assert_eq!(view.version(), 6);
                }
            }
        }
    }

    #[test]
    fn what_is_too_short_is_dropped() {
        assert!(!carry_over(0, &mut []) && !carry_over(0, &mut [0x45]));
        assert!(!carry_over(CE, &mut [0x45, ECT_0, 0, 0]), "no room for the checksum");
    }
}
