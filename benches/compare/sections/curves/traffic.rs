//! The packets: 60-byte UDP, each made from its number.

use super::worker::ROUTER;
use crate::peers::forwarder;
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{ipv4, protocol};

/// Length of the smallest frame without its check sequence.
pub(super) const FRAME: usize = 60;
/// 198.18.0.0: a /24 for each port.
pub(super) const FIRST_PORT: u32 = 0xc612_0000;
/// Flows of one source address.
const FLOWS_EACH: u32 = 1024;

/// Where the source stands in a frame, and the ports.
const SRC: usize = 26;
const PORTS: usize = 34;

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
    /// How flows that are translated look from outside, as far as that is known.
    outside: Vec<(u32, u16)>,
}

impl Traffic {
    fn of(kind: Kind) -> Traffic {
        Traffic { kind, at: 0, outside: Vec::new() }
    }

    pub(super) fn to_routes(count: u32) -> Traffic {
        Traffic::of(Kind::Routes(count))
    }

    pub(super) fn of_flows(count: u32) -> Traffic {
        Traffic::of(Kind::Flows(count))
    }

    pub(super) fn to_ports(count: u32) -> Traffic {
        Traffic::of(Kind::Ports(count))
    }

    /// Packets until all flows are known.
    pub(super) fn flows(&self) -> u32 {
        if let Kind::Flows(count) = self.kind { count } else { 1 }
    }

    /// Writes the next packet that comes in by a port.
    pub(super) fn write(&mut self, port: u16, frame: &mut [u8]) {
        let at = self.at;
        self.at = at.wrapping_add(1);
        match self.kind {
            Kind::Routes(count) => {
                let (net, _) = forwarder::wide_route(forwarder::mixed(at) % count);
                write(frame, (0x0a00_0001, 1024), (u32::from(net) + 1 + (at & 7), 9));
            }
            Kind::Flows(count) => match self.outside.get(shuffled(at, count) as usize) {
                Some((address, outside)) if port == 1 => {
                    write(frame, (FIRST_PORT + 1, 9), (*address, *outside));
                }
                _ => self.forth(shuffled(at, count), frame),
            },
            Kind::Ports(count) => {
                let dst = FIRST_PORT + forwarder::mixed(at) % count * 256 + 1;
                write(frame, (0x0a00_0001, 1024), (dst, 9));
            }
        }
    }

    /// Writes a packet of a flow, as the one who began it sends.
    pub(super) fn forth(&self, flow: u32, frame: &mut [u8]) {
        let port = 1024 + flow % FLOWS_EACH;
        write(frame, (0x0a00_0001 + flow / FLOWS_EACH, port as u16), (FIRST_PORT + 1, 9));
    }

    /// Notes how a flow looks from outside; to be called in their order.
    pub(super) fn learn(&mut self, flow: u32, frame: &[u8]) {
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|step| frame[at + step]));
        self.outside.resize(flow as usize, (0, 0));
        self.outside.push((word(SRC), (word(PORTS) >> 16) as u16));
    }
}

fn write(frame: &mut [u8], src: (u32, u16), dst: (u32, u16)) {
    let from = Mac([2, 0, 0, 0, 0, 9]);
    frame[..14].copy_from_slice(&ethernet::header(ROUTER, from, ethernet::IPV4));
    let header = ipv4::header(src.0.into(), dst.0.into(), protocol::UDP, 64, 26);
    frame[14..34].copy_from_slice(&header);
    frame[34..36].copy_from_slice(&src.1.to_be_bytes());
    frame[36..38].copy_from_slice(&dst.1.to_be_bytes());
    frame[38..42].copy_from_slice(&[0, 26, 0x12, 0x34]);
}

/// Each number below `count` once in so many packets; a step of a prime that is far from it.
fn shuffled(at: u32, count: u32) -> u32 {
    const STEP: u64 = 618_033_989;
    (u64::from(at % count) * STEP % u64::from(count)) as u32
}
