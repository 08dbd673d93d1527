//! Path attributes (RFC 4271 section 5 and its extensions): the type codes, the raw form, and
//! [`Attributes`], the decoded set that one route carries.
//!
//! Left out: confederation peers (RFC 5065; their segments are understood in a path), AIGP, and
//! everything else that is not listed here, which passes through as an unknown attribute.

pub mod code;

mod canonical;
mod decode;
mod encode;
mod next_hop;
mod raw;

pub use canonical::BadCanonical;
pub use decode::Decoded;
pub use next_hop::{BadNextHop, NextHop};
pub(crate) use raw::{Raw, RawAttributes};

use super::as_path::AsPath;
use super::community::{Community, ExtendedCommunity, LargeCommunity};
use std::net::Ipv4Addr;

/// The value does not vary with routes: it concerns all speakers.
pub const OPTIONAL: u8 = 0x80;
/// It is passed on even by who does not know it.
pub const TRANSITIVE: u8 = 0x40;
/// Somebody on the way did not know it.
pub const PARTIAL: u8 = 0x20;
/// The length has two octets.
pub const EXTENDED_LENGTH: u8 = 0x10;

/// AS_TRANS (RFC 6793): stands for a number that two octets cannot hold.
pub const AS_TRANS: u16 = 23_456;

/// ORIGIN: where the route's way into BGP began. The smaller is the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Origin {
    /// 0: interior to the originating AS.
    Igp,
    /// 1: learnt by EGP.
    Egp,
    /// 2: by other means.
    #[default]
    Incomplete,
}

impl Origin {
    /// The value on the wire.
    pub const fn value(self) -> u8 {
        self as u8
    }

    /// The origin of this value.
    pub const fn from_value(value: u8) -> Option<Origin> {
        match value {
            0 => Some(Origin::Igp),
            1 => Some(Origin::Egp),
            2 => Some(Origin::Incomplete),
            _ => None,
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Origin::Igp => "igp",
            Origin::Egp => "egp",
            Origin::Incomplete => "incomplete",
        })
    }
}

/// AGGREGATOR: who formed an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Aggregator {
    /// Its AS.
    pub asn: u32,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
}

/// A transitive attribute that is only passed on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UnknownAttribute {
    /// The flags as they came, without the one for the length.
    pub flags: u8,
    /// Attribute type code.
    pub code: u8,
    /// What it says.
    pub value: Box<[u8]>,
}

/// The attributes of a route. Lists are in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, with AS4_PATH merged in.
    pub as_path: AsPath,
    /// NEXT_HOP, or the one of MP_REACH_NLRI. `None` in a route of our own.
    pub next_hop: Option<NextHop>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR, with AS4_AGGREGATOR merged in.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES (RFC 1997).
    pub communities: Vec<Community>,
    /// Extended communities (RFC 4360).
    pub extended_communities: Vec<ExtendedCommunity>,
    /// Large communities (RFC 8092).
    pub large_communities: Vec<LargeCommunity>,
    /// ORIGINATOR_ID (RFC 4456).
    pub originator_id: Option<Ipv4Addr>,
    /// CLUSTER_LIST (RFC 4456), the newest first.
    pub cluster_list: Vec<Ipv4Addr>,
    /// Transitive attributes not known here, by type code.
    pub unknown: Vec<UnknownAttribute>,
}

#[cfg(test)]
pub(crate) mod tests;
