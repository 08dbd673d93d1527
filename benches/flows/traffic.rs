//! The flows: UDP from pods to servers, each by its number.

use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{ipv4, protocol};
use std::net::Ipv4Addr;

/// The router's and a neighbour's.
pub(crate) const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(crate) const NEIGHBOR: Mac = Mac([2, 0, 0, 0, 0, 9]);
/// Length of the smallest frame without its check sequence.
pub(crate) const FRAME: usize = 60;
/// Where in a frame its source stands, and the ports.
const SRC: usize = 26;
const PORTS: usize = 34;
/// Endpoints of each pod. Ports of pods that look like one outside address meet.
const ENDPOINTS_EACH: u32 = 1024;

/// All flows, and how they look from outside.
pub(crate) struct Traffic {
    pub(crate) flows: u32,
    per_endpoint: u32,
    /// Outside address and port of each.
    outside: Vec<(u32, u16)>,
    at: u32,
}

impl Traffic {
    pub(crate) fn new(flows: u32, per_endpoint: u32) -> Traffic {
        assert!(flows.is_power_of_two(), "{flows} flows: a power of two is needed");
        Traffic { flows, per_endpoint, outside: vec![(0, 0); flows as usize], at: 0 }
    }

    /// The number that is the `at`th in an order without any: neighbours in memory are not
    /// neighbours in time.
    pub(crate) fn shuffled(&self, at: u32) -> u32 {
        at.wrapping_mul(0x9e37_79b1) & (self.flows - 1)
    }

    /// Where the next packets go on.
    pub(crate) fn turn(&mut self, count: u32) -> u32 {
        let at = self.at;
        self.at = (at + count) & (self.flows - 1);
        at
    }

    /// The first packet of a flow and all others from inside.
    pub(crate) fn forth(&self, number: u32, frame: &mut [u8]) {
        let (endpoint, far) = (number / self.per_endpoint, number % self.per_endpoint);
        let pod = endpoint / ENDPOINTS_EACH;
        let port = 1024 + (endpoint.wrapping_mul(61) + pod.wrapping_mul(7919)) % 64_512;
        let src = Ipv4Addr::from(0x0a00_0001 + pod);
        write(frame, (src, port as u16), (server(far), 9));
    }

    /// Its answer.
    pub(crate) fn back(&self, number: u32, frame: &mut [u8]) {
        let (address, port) = self.outside[number as usize];
        write(frame, (server(number % self.per_endpoint), 9), (address.into(), port));
    }

    /// Notes how a flow looks from outside.
    pub(crate) fn learn(&mut self, number: u32, frame: &[u8]) {
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|step| frame[at + step]));
        self.outside[number as usize] = (word(SRC), (word(PORTS) >> 16) as u16);
    }
}

fn server(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xc612_0001 + number)
}

fn write(frame: &mut [u8], src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) {
    frame[..14].copy_from_slice(&ethernet::header(ROUTER, NEIGHBOR, ethernet::IPV4));
    frame[14..34].copy_from_slice(&ipv4::header(src.0, dst.0, protocol::UDP, 64, 26));
    frame[34..36].copy_from_slice(&src.1.to_be_bytes());
    frame[36..38].copy_from_slice(&dst.1.to_be_bytes());
    frame[38..42].copy_from_slice(&[0, 26, 0x12, 0x34]);
}
