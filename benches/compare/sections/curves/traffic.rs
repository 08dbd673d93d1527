//! The packets: 60-byte UDP, each made from its number.

use super::worker::ROUTER;
use crate::peers::forwarder;
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{ipv4, protocol};
use std::net::Ipv4Addr;

/// Length of the smallest frame without its check sequence.
pub(super) const FRAME: usize = 60;
/// 198.18.0.0: a /24 for each port.
pub(super) const FIRST_PORT: u32 = 0xc612_0000;
/// Flows of one source address.
const FLOWS_EACH: u32 = 1024;

/// What differs from packet to packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Routes(u32),
    Flows(u32),
    Ports(u32),
}

/// Packets without end.
#[derive(Debug)]
pub(super) struct Traffic {
    kind: Kind,
    at: u32,
}

impl Traffic {
    pub(super) fn to_routes(count: u32) -> Traffic {
        Traffic { kind: Kind::Routes(count), at: 0 }
    }

    pub(super) fn of_flows(count: u32) -> Traffic {
        Traffic { kind: Kind::Flows(count), at: 0 }
    }

    pub(super) fn to_ports(count: u32) -> Traffic {
        Traffic { kind: Kind::Ports(count), at: 0 }
    }

    /// Packets until all flows are known.
    pub(super) fn flows(&self) -> u32 {
        if let Kind::Flows(count) = self.kind { count } else { 1 }
    }

    /// Writes the next packet.
    pub(super) fn write(&mut self, frame: &mut [u8]) {
        let at = self.at;
        self.at = at.wrapping_add(1);
        let (src, port, dst) = match self.kind {
            Kind::Routes(count) => {
                let (net, _) = forwarder::wide_route(forwarder::mixed(at) % count);
                (0x0a00_0001, 1024, u32::from(net) + 1 + (at & 7))
            }
            Kind::Flows(count) => {
                let flow = shuffled(at, count);
                (0x0a00_0001 + flow / FLOWS_EACH, 1024 + flow % FLOWS_EACH, FIRST_PORT + 1)
            }
            Kind::Ports(count) => {
                (0x0a00_0001, 1024, FIRST_PORT + forwarder::mixed(at) % count * 256 + 1)
            }
        };
        let (src, dst) = (Ipv4Addr::from(src), Ipv4Addr::from(dst));
        let from = Mac([2, 0, 0, 0, 0, 9]);
        frame[..14].copy_from_slice(&ethernet::header(ROUTER, from, ethernet::IPV4));
        frame[14..34].copy_from_slice(&ipv4::header(src, dst, protocol::UDP, 64, 26));
        frame[34..36].copy_from_slice(&(port as u16).to_be_bytes());
        frame[36..42].copy_from_slice(&[0, 9, 0, 26, 0x12, 0x34]);
    }
}

/// Each number below `count` once in so many packets; a step of a prime that is far from it.
fn shuffled(at: u32, count: u32) -> u32 {
    const STEP: u64 = 618_033_989;
    (u64::from(at % count) * STEP % u64::from(count)) as u32
}
