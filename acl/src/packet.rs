//! What policy sees of a packet: addresses, protocol, and ports or ICMP type and code.
//!
//! Later fragments have no ports here: no rule with ports matches them. Connection tracking gives
//! them their flow's verdict long before.

use std::net::IpAddr;

/// Protocol numbers that policy treats apart (IANA).
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// ICMPv6.
    pub const ICMP6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;

    /// True for protocols with source and destination ports.
    pub const fn has_ports(protocol: u8) -> bool {
        matches!(protocol, TCP | UDP | DCCP | SCTP | UDP_LITE)
    }

    /// True for both ICMPs.
    pub const fn is_icmp(protocol: u8) -> bool {
        matches!(protocol, ICMP | ICMP6)
    }
}

/// A packet, as policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The upper layer's protocol.
    pub protocol: u8,
    /// What is known of the upper layer.
    pub transport: Transport,
}

/// What is known of a packet's upper layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Nothing, as of a later fragment.
    Absent,
    /// Ports; without meaning for protocols that have none.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP of either version; without meaning for other protocols.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
}

impl Packet {
    /// Source and destination port, if the protocol has ports and they are known.
    pub const fn ports(&self) -> Option<(u16, u16)> {
        match self.transport {
            Transport::Ports { source, destination } if protocol::has_ports(self.protocol) => {
                Some((source, destination))
            }
            _ => None,
        }
    }

    /// ICMP type and code, if this is ICMP and they are known.
    pub const fn icmp(&self) -> Option<(u8, u8)> {
        match self.transport {
            Transport::Icmp { kind, code } if protocol::is_icmp(self.protocol) => {
                Some((kind, code))
            }
            _ => None,
        }
    }
}
