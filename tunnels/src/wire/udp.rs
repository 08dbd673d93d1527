//! UDP (RFC 768).

use super::be16;

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 8;
/// Offset of the checksum field in the header.
pub const CHECKSUM_OFFSET: usize = 6;

/// View of a datagram from the first byte of its UDP header.
#[derive(Debug, Clone, Copy)]
pub struct View<'a>(&'a [u8; HEADER_LEN]);

impl<'a> View<'a> {
    /// `None` when `bytes` is shorter than the header.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(View)
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        be16(self.0, 0)
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        be16(self.0, 2)
    }

    /// Length of header and payload, in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(be16(self.0, 4))
    }

    /// True when the datagram has no payload.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() <= HEADER_LEN
    }

    /// Checksum field; 0 over IPv4 means that there is none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.0, CHECKSUM_OFFSET)
    }
}

/// A checksum as UDP writes it: a computed 0 is sent as 0xffff (RFC 768).
#[inline]
pub fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_rfc_puts_them() {
        let bytes = [0x0f, 0xa0, 0x00, 0x35, 0x00, 0x0c, 0xab, 0xcd, 1, 2, 3, 4];
        let view = View::new(&bytes).unwrap();
        assert_eq!((view.src_port(), view.dst_port(), view.len()), (4000, 53, 12));
        assert_eq!(view.checksum(), 0xabcd);
        assert!(View::new(&bytes[..7]).is_none());
        assert_eq!((nonzero(0), nonzero(7)), (0xffff, 7));
    }
}
