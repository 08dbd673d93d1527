//! TCP (RFC 9293): the fields that segmentation and flow keys need.

use super::{be16, be32};

/// Length of the header without options, in bytes.
pub const MIN_HEADER_LEN: usize = 20;
/// Offset of the checksum field in the header.
pub const CHECKSUM_OFFSET: usize = 16;
/// FIN in [`View::flags`].
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;
/// URG.
pub const URG: u8 = 0x20;
/// ECE (RFC 3168).
pub const ECE: u8 = 0x40;
/// CWR (RFC 3168).
pub const CWR: u8 = 0x80;

/// View of a segment from the first byte of its TCP header.
#[derive(Debug, Clone, Copy)]
pub struct View<'a>(&'a [u8; MIN_HEADER_LEN]);

impl<'a> View<'a> {
    /// `None` when `bytes` is shorter than the fixed header.
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

    /// Sequence number.
    #[inline]
    pub fn sequence(&self) -> u32 {
        be32(self.0, 4)
    }

    /// Acknowledgement number.
    #[inline]
    pub fn acknowledgement(&self) -> u32 {
        be32(self.0, 8)
    }

    /// Header length with options, in bytes: 0 to 60, at least 20 in a good segment.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.0[12] >> 4) * 4
    }

    /// The eight flag bits.
    #[inline]
    pub fn flags(&self) -> u8 {
        self.0[13]
    }

    /// Receive window, unscaled.
    #[inline]
    pub fn window(&self) -> u16 {
        be16(self.0, 14)
    }

    /// Checksum field.
    #[inline]
    pub fn checksum(&self) -> u16 {
        be16(self.0, CHECKSUM_OFFSET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_agree_with_an_independent_writer() {
        let mut theirs = etherparse::TcpHeader::new(4000, 179, 0x0102_0304, 0x1000);
        theirs.acknowledgment_number = 9;
        theirs.ack = true;
        theirs.psh = true;
        theirs.set_options_raw(&[1, 1, 1, 1]).unwrap();
        let bytes = theirs.to_bytes();
        let view = View::new(&bytes).unwrap();
        assert_eq!((view.src_port(), view.dst_port()), (4000, 179));
        assert_eq!((view.sequence(), view.acknowledgement()), (0x0102_0304, 9));
        assert_eq!((view.header_len(), view.flags(), view.window()), (24, ACK | PSH, 0x1000));
        assert!(View::new(&bytes[..19]).is_none());
    }
}
