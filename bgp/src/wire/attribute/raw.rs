//! Attributes as they stand in a block: flags, type, length, value (RFC 4271 section 4.3).

use super::{EXTENDED_LENGTH, OPTIONAL, TRANSITIVE, code};

/// One attribute that is not decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw<'a> {
    pub(crate) flags: u8,
    pub(crate) code: u8,
    pub(crate) value: &'a [u8],
    /// From the flags on.
    pub(crate) bytes: &'a [u8],
}

impl Raw<'_> {
    /// True when Optional and Transitive are as the attribute's specification wants them, and for
    /// all attributes that are not known here.
    pub(crate) fn has_flags_of_its_type(&self) -> bool {
        let expected = code::flags(self.code);
        expected.is_none_or(|expected| self.flags & (OPTIONAL | TRANSITIVE) == expected)
    }
}

/// An attribute that ends behind the block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Overrun<'a> {
    /// Type code; 0 when it is not there.
    pub(crate) code: u8,
    /// What is there of it.
    pub(crate) bytes: &'a [u8],
}

impl Overrun<'_> {
    pub(crate) fn is_multiprotocol(&self) -> bool {
        matches!(self.code, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI)
    }
}

/// The attributes of a block in their order. Ends behind the first that does not fit.
#[derive(Debug, Clone)]
pub(crate) struct RawAttributes<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> RawAttributes<'a> {
    pub(crate) fn new(block: &'a [u8]) -> RawAttributes<'a> {
        RawAttributes { block, at: 0 }
    }

    /// Where the next attribute begins.
    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    /// Length of header and value of the attribute at the front of `rest`, if they are all there.
    fn lengths(rest: &[u8]) -> Option<(usize, usize)> {
        let (&flags, &short) = (rest.first()?, rest.get(2)?);
        let (header, value) = match flags & EXTENDED_LENGTH {
            0 => (3, usize::from(short)),
            _ => (4, usize::from(u16::from_be_bytes([short, *rest.get(3)?]))),
        };
        (rest.len() >= header + value).then_some((header, value))
    }
}

impl<'a> Iterator for RawAttributes<'a> {
    type Item = Result<Raw<'a>, Overrun<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.block[self.at..];
        if rest.is_empty() {
            return None;
        }
        let Some((header, value)) = Self::lengths(rest) else {
            self.at = self.block.len();
            let code = rest.get(1).copied().unwrap_or(0);
            return Some(Err(Overrun { code, bytes: rest }));
        };
        let bytes = &rest[..header + value];
        self.at += bytes.len();
        Some(Ok(Raw { flags: bytes[0], code: bytes[1], value: &bytes[header..], bytes }))
    }
}
