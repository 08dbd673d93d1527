//! Next hops (RFC 4271 section 5.1.3, RFC 2545 section 3, RFC 8950). Other speakers send `::` for
//! an address that they do not have, in either place of a pair: it is passed over on reading, and
//! never written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where routes lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NextHop {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address: a global one, or a link-local one on its own.
    V6(Ipv6Addr),
    /// A global and a link-local IPv6 address of the same router.
    V6Pair {
        /// The global one.
        global: Ipv6Addr,
        /// The one on the link that both speakers share.
        link_local: Ipv6Addr,
    },
}

/// A next hop that is no host's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no next hop can be read from {length} bytes")]
pub struct BadNextHop {
    /// How many bytes it has.
    pub length: usize,
}

impl NextHop {
    /// Reads 4, 16 or 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<NextHop, BadNextHop> {
        let error = BadNextHop { length: bytes.len() };
        if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
            // "This network" and multicast are no hosts.
            let is_host = !matches!(octets[0], 0 | 224..=239);
            return if is_host { Ok(NextHop::V4(octets.into())) } else { Err(error) };
        }
        let (first, second) = bytes.split_first_chunk::<16>().ok_or(error)?;
        let first = host_v6(*first);
        let second = match <[u8; 16]>::try_from(second) {
            Ok(octets) => host_v6(octets),
            Err(_) if second.is_empty() => None,
            Err(_) => return Err(error),
        };
        match (first, second) {
            (None, None) => Err(error),
            (Some(only), None) | (None, Some(only)) => Ok(NextHop::V6(only)),
            // Not a pair: BIRD before 2.0.8 sends the link-local address twice.
            (Some(first), Some(second)) if first == second => Ok(NextHop::V6(first)),
            (Some(first), Some(second)) if first.is_unicast_link_local() => {
                let link_local = if second.is_unicast_link_local() { second } else { first };
                let is_swapped = link_local == first;
                Ok(if is_swapped {
                    NextHop::V6Pair { global: second, link_local }
                } else {
                    NextHop::V6(link_local)
                })
            }
            (Some(global), Some(link_local)) => Ok(NextHop::V6Pair { global, link_local }),
        }
    }

    /// The address to resolve: the global one where there is one.
    pub fn address(self) -> IpAddr {
        match self {
            NextHop::V4(address) => address.into(),
            NextHop::V6(address) | NextHop::V6Pair { global: address, .. } => address.into(),
        }
    }

    /// True when no address of it is unspecified or multicast: it may be sent.
    pub fn is_sendable(self) -> bool {
        match self {
            NextHop::V4(address) => !matches!(address.octets()[0], 0 | 224..=239),
            NextHop::V6(address) => host_v6(address.octets()).is_some(),
            NextHop::V6Pair { global, link_local } => {
                host_v6(global.octets()).is_some() && host_v6(link_local.octets()).is_some()
            }
        }
    }

    /// Bytes on the wire: 4, 16 or 32.
    pub const fn wire_len(self) -> usize {
        match self {
            NextHop::V4(_) => 4,
            NextHop::V6(_) => 16,
            NextHop::V6Pair { .. } => 32,
        }
    }

    /// Writes the bytes of MP_REACH_NLRI's next hop.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            NextHop::V4(address) => out.extend_from_slice(&address.octets()),
            NextHop::V6(address) => out.extend_from_slice(&address.octets()),
            NextHop::V6Pair { global, link_local } => {
                out.extend_from_slice(&global.octets());
                out.extend_from_slice(&link_local.octets());
            }
        }
    }
}

/// The address, unless it is unspecified or multicast.
fn host_v6(octets: [u8; 16]) -> Option<Ipv6Addr> {
    let address = Ipv6Addr::from(octets);
    (!address.is_unspecified() && !address.is_multicast()).then_some(address)
}

impl std::fmt::Display for NextHop {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NextHop::V4(address) => write!(out, "{address}"),
            NextHop::V6(address) => write!(out, "{address}"),
            NextHop::V6Pair { global, link_local } => write!(out, "{global} {link_local}"),
        }
    }
}
