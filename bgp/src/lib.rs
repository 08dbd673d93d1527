//! The BGP protocol (RFC 4271) without I/O and without a clock: bytes and times in, messages and
//! decisions out. The address-family words below are what the rest of margay shares with it.
#![forbid(unsafe_code)]

/// An address family that a session can carry (RFC 4760).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 2, SAFI 1.
    Ipv6Unicast,
}

impl Family {
    /// The address family identifier of the IANA registry.
    pub const fn afi(self) -> u16 {
        match self {
            Family::Ipv4Unicast => 1,
            Family::Ipv6Unicast => 2,
        }
    }
}
