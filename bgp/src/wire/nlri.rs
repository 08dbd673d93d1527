//! Prefixes as UPDATE messages carry them (RFC 4271 section 4.3, RFC 7911 section 3): a length in
//! bits, as many octets as it takes, and a path identifier in front where ADD-PATH is agreed on.
//! Bits behind the length are of no meaning (RFC 4271) and are cleared on reading.

use super::notification::{self, Notification};
use crate::family::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest prefix on the wire, in bytes: path identifier, length, 16 octets.
pub const MAX_NLRI_LEN: usize = 4 + 1 + 16;

/// UPDATE message error subcode 10.
const INVALID_NETWORK_FIELD: u8 = 10;

/// A prefix that cannot be read. Nothing behind it can be found, so the session ends (RFC 7606
/// section 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NlriError {
    /// More bits than an address has.
    #[error("prefix length {bits} in {family:?}")]
    Bits {
        /// What the length said.
        bits: u8,
        /// The family of the section.
        family: Family,
    },
    /// The section ends within the prefix.
    #[error("{family:?} prefix cut off behind {octets} octets")]
    Truncated {
        /// How many octets of the prefix there are.
        octets: usize,
        /// The family of the section.
        family: Family,
    },
}

impl NlriError {
    /// What the peer is told: Invalid Network Field.
    pub fn notification(&self) -> Notification {
        Notification::new(notification::UPDATE_MESSAGE, INVALID_NETWORK_FIELD)
    }
}

/// A prefix of one family.
pub trait Prefix: Copy + Eq + std::hash::Hash + std::fmt::Debug {
    /// Its family.
    const FAMILY: Family;
    /// Length of an address, in bits.
    const MAX_BITS: u8;

    /// Reads the octets of a prefix of `bits` (at most `MAX_BITS`) from the front of `octets`.
    fn read(bits: u8, octets: &[u8]) -> Option<Self>;

    /// The prefix length.
    fn bits(self) -> u8;

    /// Writes length and octets.
    fn write(self, out: &mut Vec<u8>);
}

impl Prefix for Ipv4Net {
    const FAMILY: Family = Family::Ipv4Unicast;
    const MAX_BITS: u8 = 32;

    #[inline]
    fn read(bits: u8, octets: &[u8]) -> Option<Ipv4Net> {
        let address = match octets.first_chunk() {
            Some(whole) => *whole,
            None => padded(bits, octets)?,
        };
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        let address = u32::from_be_bytes(address) & mask;
        Ipv4Net::new(Ipv4Addr::from_bits(address), bits).ok()
    }

    #[inline]
    fn bits(self) -> u8 {
        self.prefix_len()
    }

    #[inline]
    fn write(self, out: &mut Vec<u8>) {
        out.push(self.prefix_len());
        out.extend_from_slice(&self.network().octets()[..octets_of(self.prefix_len())]);
    }
}

impl Prefix for Ipv6Net {
    const FAMILY: Family = Family::Ipv6Unicast;
    const MAX_BITS: u8 = 128;

    #[inline]
    fn read(bits: u8, octets: &[u8]) -> Option<Ipv6Net> {
        let address = match octets.first_chunk() {
            Some(whole) => *whole,
            None => padded(bits, octets)?,
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        let address = u128::from_be_bytes(address) & mask;
        Ipv6Net::new(Ipv6Addr::from_bits(address), bits).ok()
    }

    #[inline]
    fn bits(self) -> u8 {
        self.prefix_len()
    }

    #[inline]
    fn write(self, out: &mut Vec<u8>) {
        out.push(self.prefix_len());
        out.extend_from_slice(&self.network().octets()[..octets_of(self.prefix_len())]);
    }
}

/// How many octets a prefix of `bits` takes.
#[inline]
const fn octets_of(bits: u8) -> usize {
    (bits as usize).div_ceil(8)
}

/// The last prefix of a section, behind which there is less than an address.
fn padded<const N: usize>(bits: u8, octets: &[u8]) -> Option<[u8; N]> {
    let mut address = [0; N];
    let len = octets_of(bits);
    address.get_mut(..len)?.copy_from_slice(octets.get(..len)?);
    Some(address)
}

/// A prefix and its path identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nlri<P> {
    /// RFC 7911's identifier; 0 without ADD-PATH.
    pub path_id: u32,
    /// The prefix, with no bit set behind its length.
    pub prefix: P,
}

impl<P: Prefix> Nlri<P> {
    /// A prefix without path identifier.
    pub const fn new(prefix: P) -> Nlri<P> {
        Nlri { path_id: 0, prefix }
    }

    /// Bytes on the wire.
    #[inline]
    pub fn wire_len(self, add_path: bool) -> usize {
        1 + octets_of(self.prefix.bits()) + if add_path { 4 } else { 0 }
    }

    /// Writes it, the identifier only with `add_path`.
    #[inline]
    pub fn write(self, add_path: bool, out: &mut Vec<u8>) {
        if add_path {
            out.extend_from_slice(&self.path_id.to_be_bytes());
        }
        self.prefix.write(out);
    }
}

/// The prefixes of one section of an UPDATE. Ends behind the first error.
#[derive(Debug, Clone)]
pub struct Prefixes<'a, P> {
    rest: &'a [u8],
    add_path: bool,
    family: std::marker::PhantomData<P>,
}

impl<'a, P: Prefix> Prefixes<'a, P> {
    /// Reads `section`, which is of `P`'s family.
    pub fn new(section: &'a [u8], add_path: bool) -> Prefixes<'a, P> {
        Prefixes { rest: section, add_path, family: std::marker::PhantomData }
    }

    #[cold]
    fn fail(&mut self, error: NlriError) -> Option<Result<Nlri<P>, NlriError>> {
        self.rest = &[];
        Some(Err(error))
    }
}

impl<P: Prefix> Iterator for Prefixes<'_, P> {
    type Item = Result<Nlri<P>, NlriError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let family = P::FAMILY;
        let mut rest = self.rest;
        let mut path_id = 0;
        if self.add_path {
            let Some((id, behind)) = rest.split_first_chunk() else {
                return self.fail(NlriError::Truncated { octets: 0, family });
            };
            (path_id, rest) = (u32::from_be_bytes(*id), behind);
        }
        let Some((&bits, octets)) = rest.split_first() else {
            return self.fail(NlriError::Truncated { octets: 0, family });
        };
        if bits > P::MAX_BITS {
            return self.fail(NlriError::Bits { bits, family });
        }
        let (Some(prefix), Some(rest)) = (P::read(bits, octets), octets.get(octets_of(bits)..))
        else {
            return self.fail(NlriError::Truncated { octets: octets.len(), family });
        };
        self.rest = rest;
        Some(Ok(Nlri { path_id, prefix }))
    }
}

/// The prefixes of a section of either family; for tools, as it costs more than [`Prefixes`].
pub fn prefixes(
    family: Family,
    section: &[u8],
    add_path: bool,
) -> Box<dyn Iterator<Item = Result<(u32, IpNet), NlriError>> + '_> {
    match family {
        Family::Ipv4Unicast => Box::new(
            Prefixes::<Ipv4Net>::new(section, add_path)
                .map(|nlri| nlri.map(|nlri| (nlri.path_id, nlri.prefix.into()))),
        ),
        Family::Ipv6Unicast => Box::new(
            Prefixes::<Ipv6Net>::new(section, add_path)
                .map(|nlri| nlri.map(|nlri| (nlri.path_id, nlri.prefix.into()))),
        ),
    }
}

#[cfg(test)]
mod tests;
