//! VXLAN (RFC 7348 5): eight bytes between UDP and the inner Ethernet frame.
//!
//! Reserved fields are sent as zero and not looked at on receipt.

use super::be32;
use std::fmt;

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 8;
/// The I flag: the VNI is valid.
pub const VNI_VALID: u8 = 0x08;

/// A VXLAN network identifier: 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vni(u32);

impl Vni {
    /// The largest.
    pub const MAX: u32 = 0xff_ffff;

    /// `None` above [`Vni::MAX`].
    pub const fn new(number: u32) -> Option<Vni> {
        if number <= Vni::MAX { Some(Vni(number)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// View of a payload of UDP from the first byte of its VXLAN header.
#[derive(Debug, Clone, Copy)]
pub struct View<'a>(&'a [u8; HEADER_LEN]);

impl<'a> View<'a> {
    /// `None` when `bytes` is shorter than the header.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(View)
    }

    /// The VNI; `None` when the flag that makes it valid is not set.
    #[inline]
    pub fn vni(&self) -> Option<Vni> {
        (self.0[0] & VNI_VALID != 0).then_some(Vni(be32(self.0, 4) >> 8))
    }
}

/// The header as it stands on the wire.
pub fn header(vni: Vni) -> [u8; HEADER_LEN] {
    let [_, a, b, c] = vni.get().to_be_bytes();
    [VNI_VALID, 0, 0, 0, a, b, c, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_rfc_puts_them() {
        let vni = Vni::new(0x01_0203).unwrap();
        assert_eq!(header(vni), [8, 0, 0, 0, 1, 2, 3, 0]);
        assert_eq!(View::new(&header(vni)).unwrap().vni(), Some(vni));
        assert!(View::new(&header(vni)[..7]).is_none());
        assert_eq!(Vni::new(Vni::MAX).map(Vni::get), Some(0xff_ffff));
        assert!(Vni::new(Vni::MAX + 1).is_none());
    }

    #[test]
    fn rfc_7348_5_reserved_bits_are_ignored_and_the_flag_is_not() {
        let mut bytes = header(Vni::new(7).unwrap());
        (bytes[1], bytes[2], bytes[3], bytes[7]) = (0xff, 0xff, 0xff, 0xff);
        bytes[0] = 0xff;
        assert_eq!(View::new(&bytes).unwrap().vni(), Vni::new(7));
        bytes[0] = !VNI_VALID;
        assert_eq!(View::new(&bytes).unwrap().vni(), None);
    }
}
