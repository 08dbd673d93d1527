//! BFD (RFC 5880) without sockets and without a clock: says within fractions of a second that a
//! peer cannot be reached. Asynchronous mode over one hop (RFC 5881) or several (RFC 5883).
//!
//! Left out: authentication, the echo function (we announce that we want none), and demand mode of
//! our own; a peer that asks for demand mode is granted it.

mod packet;
mod session;

pub use packet::{Diagnostic, Malformed, PACKET_LEN, Packet, State};
pub use session::{Action, Config, Path, Refused, SLOW_TX_US, Session};

/// UDP port of single-hop sessions (RFC 5881 section 4).
pub const SINGLE_HOP_PORT: u16 = 3784;
/// UDP port of multihop sessions (RFC 5883 section 5).
pub const MULTIHOP_PORT: u16 = 4784;
/// Source ports of all sessions (RFC 5881 section 4).
pub const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;
/// TTL or hop limit of what we send (RFC 5881 section 5).
pub const TTL: u8 = 255;

#[cfg(test)]
mod tests;
