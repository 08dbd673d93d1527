//! What two speakers have agreed on, as far as it changes how messages read.

use super::MAX_LEN;
use crate::family::{Family, FamilySet};

/// The outcome of both OPENs for reading and writing messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Negotiated {
    /// AS numbers in AS_PATH and AGGREGATOR have four octets (RFC 6793).
    pub asn4: bool,
    /// Both speakers are in one AS.
    pub ibgp: bool,
    /// The families that the session carries (RFC 4760).
    pub families: FamilySet,
    /// Families in which the peer sends path identifiers (RFC 7911).
    pub add_path_rx: FamilySet,
    /// Families in which we send path identifiers.
    pub add_path_tx: FamilySet,
    /// IPv4 prefixes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Longest message that the peer may send, in bytes: what we have advertised (RFC 8654).
    pub max_rx: usize,
    /// Longest message that we may send, in bytes.
    pub max_tx: usize,
}

impl Default for Negotiated {
    /// A session of plain RFC 4271 with four-octet AS numbers.
    fn default() -> Negotiated {
        Negotiated {
            asn4: true,
            ibgp: false,
            families: FamilySet::EMPTY.with(Family::Ipv4Unicast),
            add_path_rx: FamilySet::EMPTY,
            add_path_tx: FamilySet::EMPTY,
            extended_next_hop: false,
            max_rx: MAX_LEN,
            max_tx: MAX_LEN,
        }
    }
}
