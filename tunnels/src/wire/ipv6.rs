//! IPv6 (RFC 8200): view of the fixed header, and the walk over extension headers.

use super::{be16, be32};
use std::net::Ipv6Addr;

/// Length of the fixed header, in bytes.
pub const HEADER_LEN: usize = 40;
/// Longest chain of extension headers that is walked.
pub const MAX_EXTENSIONS: usize = 8;
/// Next-header value of the fragment header.
pub const FRAGMENT: u8 = 44;

/// View of a packet from the first byte of its IPv6 header.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    fixed: &'a [u8; HEADER_LEN],
    bytes: &'a [u8],
}

impl<'a> View<'a> {
    /// `None` when `bytes` is shorter than the fixed header.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(|fixed| View { fixed, bytes })
    }

    /// Version, 6 in a good packet.
    #[inline]
    pub fn version(&self) -> u8 {
        self.fixed[0] >> 4
    }

    /// The byte of DSCP and ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (be16(self.fixed, 0) >> 4) as u8
    }

    /// Flow label, 20 bits.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        be32(self.fixed, 0) & 0xf_ffff
    }

    /// Length of what follows the fixed header, in bytes.
    #[inline]
    pub fn payload_len(&self) -> usize {
        usize::from(be16(self.fixed, 4))
    }

    /// Type of the header after the fixed one.
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.fixed[6]
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.fixed[7]
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv6Addr {
        address(self.fixed, 8)
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv6Addr {
        address(self.fixed, 24)
    }

    /// Walks the extension headers. `None` when they run past the bytes given, or when there are
    /// more than [`MAX_EXTENSIONS`].
    #[inline]
    pub fn transport(&self) -> Option<Transport> {
        let next = self.next_header();
        if !is_extension(next) {
            return Some(Transport { protocol: next, offset: HEADER_LEN, fragment: None });
        }
        walk(self.bytes, next)
    }

    /// The extension headers one by one. Ends at the transport header, where the bytes end, at
    /// [`MAX_EXTENSIONS`] and behind the header of a later fragment, as [`View::transport`] does.
    pub fn extensions(&self) -> impl Iterator<Item = Extension> + use<'a> {
        let bytes = self.bytes;
        let first = Extension::at(bytes, self.next_header(), HEADER_LEN);
        std::iter::successors(first, move |last| {
            if last.is_later_fragment() {
                return None;
            }
            Extension::at(bytes, last.next, last.offset + last.len)
        })
        .take(MAX_EXTENSIONS)
    }
}

/// One extension header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extension {
    /// Its type.
    pub kind: u8,
    /// Its offset from the first byte of the IPv6 header.
    pub offset: usize,
    /// Its length, in bytes; the last bytes of it may lie behind those given.
    pub len: usize,
    /// Type of the header after it.
    pub next: u8,
    /// The offset-and-flags word, if this is a fragment header.
    pub fragment: Option<u16>,
}

impl Extension {
    /// The header at `offset`; `None` when `kind` is no extension or its first 8 bytes are cut.
    fn at(bytes: &[u8], kind: u8, offset: usize) -> Option<Extension> {
        if !is_extension(kind) {
            return None;
        }
        let header = bytes.get(offset..)?.first_chunk::<8>()?;
        let len = match kind {
            FRAGMENT => 8,
            51 => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        let fragment = (kind == FRAGMENT).then(|| be16(header, 2));
        Some(Extension { kind, offset, len, next: header[0], fragment })
    }

    fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|word| word & 0xfff8 != 0)
    }
}

/// Where the transport header of an IPv6 packet begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// Its protocol number.
    pub protocol: u8,
    /// Its offset from the first byte of the IPv6 header.
    pub offset: usize,
    /// The offset-and-flags word of the fragment header, if one was passed.
    pub fragment: Option<u16>,
}

impl Transport {
    /// True for a fragment that does not hold the transport header.
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|word| word & 0xfff8 != 0)
    }
}

#[inline]
fn is_extension(next: u8) -> bool {
    matches!(next, 0 | 43 | FRAGMENT | 51 | 60 | 135)
}

#[cold]
fn walk(bytes: &[u8], mut next: u8) -> Option<Transport> {
    let mut offset = HEADER_LEN;
    let mut fragment = None;
    for _ in 0..MAX_EXTENSIONS {
        let here = Transport { protocol: next, offset, fragment };
        if !is_extension(next) || here.is_later_fragment() {
            return Some(here);
        }
        let header = Extension::at(bytes, next, offset)?;
        fragment = header.fragment.or(fragment);
        next = header.next;
        offset += header.len;
    }
    (!is_extension(next)).then_some(Transport { protocol: next, offset, fragment })
}

#[inline]
fn address(bytes: &[u8; HEADER_LEN], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    Ipv6Addr::from(octets)
}

/// Takes one from the hop limit. False, with nothing written, when that would leave 0.
#[inline]
#[must_use]
pub fn decrement_hop_limit(header: &mut [u8]) -> bool {
    match header.first_chunk_mut::<HEADER_LEN>() {
        Some(header) if header[7] > 1 => {
            header[7] -= 1;
            true
        }
        _ => false,
    }
}

/// A fixed header with traffic class and flow label 0. `payload_len` in bytes.
pub fn header(
    src: Ipv6Addr,
    dst: Ipv6Addr,
    next_header: u8,
    hop_limit: u8,
    payload_len: u16,
) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[0] = 0x60;
    bytes[4..6].copy_from_slice(&payload_len.to_be_bytes());
    bytes[6] = next_header;
    bytes[7] = hop_limit;
    bytes[8..24].copy_from_slice(&src.octets());
    bytes[24..40].copy_from_slice(&dst.octets());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_extensions(chain: &[(u8, usize)], last: u8) -> Vec<u8> {
        let first = chain.first().map_or(last, |(kind, _)| *kind);
        let mut bytes = header(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, first, 64, 0).to_vec();
        for (at, (_, length)) in chain.iter().enumerate() {
            let next = chain.get(at + 1).map_or(last, |(kind, _)| *kind);
            let start = bytes.len();
            bytes.resize(start + length, 0);
            bytes[start] = next;
            bytes[start + 1] = (length / 8 - 1) as u8;
        }
        bytes
    }

    #[test]
    fn extension_headers_are_passed() {
        let bytes = with_extensions(&[(0, 8), (43, 24), (60, 16)], 6);
        let found = View::new(&bytes).unwrap().transport().unwrap();
        assert_eq!((found.protocol, found.offset), (6, 40 + 8 + 24 + 16));
    }

    #[test]
    fn the_headers_listed_are_those_walked() {
        let bytes = with_extensions(&[(0, 8), (43, 24), (60, 16)], 6);
        let view = View::new(&bytes).unwrap();
        let listed: Vec<_> = view.extensions().map(|it| (it.kind, it.offset, it.len)).collect();
        assert_eq!(listed, [(0, 40, 8), (43, 48, 24), (60, 72, 16)]);
        assert_eq!(view.extensions().last().unwrap().next, 6);
        assert_eq!(View::new(&bytes[..50]).unwrap().extensions().count(), 1);
    }

    #[test]
    fn a_later_fragment_ends_the_walk() {
        let mut bytes = with_extensions(&[(FRAGMENT, 8)], 0);
        bytes[42..44].copy_from_slice(&0x0008u16.to_be_bytes());
        let found = View::new(&bytes).unwrap().transport().unwrap();
        assert!(found.is_later_fragment());
        assert_eq!(found.offset, 48);
        bytes[40] = FRAGMENT;
        assert_eq!(View::new(&bytes).unwrap().extensions().count(), 1);
    }

    #[test]
    fn a_chain_past_the_bytes_or_the_bound_is_refused() {
        let bytes = with_extensions(&[(0, 8)], 6);
        assert!(View::new(&bytes[..44]).unwrap().transport().is_none());
        let most = with_extensions(&[(60, 8); MAX_EXTENSIONS], 6);
        assert!(View::new(&most).unwrap().transport().is_some());
        let more = with_extensions(&[(60, 8); MAX_EXTENSIONS + 1], 6);
        assert!(View::new(&more).unwrap().transport().is_none());
    }
}
