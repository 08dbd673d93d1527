//! Why traffic control refuses a packet.

use crate::drop_reason::DropReason;

/// Why a packet or connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Excess {
    /// Beyond the bandwidth, or its peak.
    Bandwidth,
    /// Beyond the packet rate.
    PacketRate,
    /// A connection too many.
    Connections,
    /// It would have waited too long, or too many wait.
    Queue,
}

impl Excess {
    /// All, in the order of their numbers.
    pub const ALL: [Excess; 4] =
        [Excess::Bandwidth, Excess::PacketRate, Excess::Connections, Excess::Queue];

    /// The counter for the lost packet.
    pub const fn drop_reason(self) -> DropReason {
        match self {
            Excess::Bandwidth => DropReason::LimitBandwidth,
            Excess::PacketRate => DropReason::LimitPacketRate,
            Excess::Connections => DropReason::LimitConnections,
            Excess::Queue => DropReason::LimitQueue,
        }
    }
}
