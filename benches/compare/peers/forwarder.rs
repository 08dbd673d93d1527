//! Margay's data plane with fixed tables, and the flows that every peer gets.

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};
use margay_fastpath::dataplane::{Dataplane, DataplaneConfig};
use margay_fastpath::fib::FibWriter;
use margay_fastpath::port::PortId;
use margay_fastpath::tables::{Adjacency, AdjacencyId, PortEntry, Tables, Target, TargetId};
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{checksum, ipv4, protocol, udp};
use std::net::Ipv4Addr;

/// 198.18.0.0/15 is for benchmarks (RFC 2544).
pub(crate) const FIRST: u32 = 0xc612_0000;
/// Length of a frame of 64 bytes without its check sequence.
pub(crate) const FRAME: usize = 60;
/// The port that packets come in by, and the one they leave by.
pub(crate) const IN: PortId = PortId(0);
pub(crate) const OUT: PortId = PortId(1);

/// UDP packets to the router `router`, each flow with a destination of its own, in 256 /24 nets.
pub(crate) fn flows(count: u32, router: Mac) -> Vec<Vec<u8>> {
    let dst = |number: u32| FIRST + (number % 256) * 256 + 1 + number / 256;
    flows_to((0..count).map(|number| dst(number).into()), router)
}

/// UDP packets to the router `router`, one to each of these addresses.
pub(crate) fn flows_to(all: impl Iterator<Item = Ipv4Addr>, router: Mac) -> Vec<Vec<u8>> {
    let flow = |(number, dst): (usize, Ipv4Addr)| {
        let mut bytes = ethernet::header(router, Mac([2, 0, 0, 0, 0, 2]), ethernet::IPV4).to_vec();
        let src = Ipv4Addr::from(0x0a0a_0002);
        bytes.extend(ipv4::header(src, dst, protocol::UDP, 64, (FRAME - 34) as u16));
        bytes.extend((1024 + number as u16).to_be_bytes());
        bytes.extend([0, 9, 0, (FRAME - 34) as u8, 0, 0]);
        bytes.resize(FRAME, 0);
        bytes
    };
    all.enumerate().map(flow).collect()
}

/// A frame of 60 bytes to the station `to`: UDP from an address and port to another one, with its
/// checksum.
pub(crate) fn udp(to: Mac, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Vec<u8> {
    let len = (FRAME - 34) as u16;
    let mut bytes = ethernet::header(to, Mac([2, 0, 0, 0, 0, 2]), ethernet::IPV4).to_vec();
    bytes.extend(ipv4::header(src.0, dst.0, protocol::UDP, 64, len));
    for word in [src.1, dst.1, len, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.resize(FRAME, 0);
    let pseudo = checksum::pseudo_v4(src.0, dst.0, protocol::UDP, usize::from(len));
    let sum = udp::nonzero(checksum::finish(checksum::sum(&bytes[34..]) + pseudo));
    bytes[40..42].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The 256 routes that the flows use.
pub(crate) fn routes() -> Result<Vec<Ipv4Net>> {
    let net = |third: u32| Ipv4Net::new(Ipv4Addr::from(FIRST + third * 256), 24);
    (0..256).map(|third| net(third).context("a prefix of 24 bits")).collect()
}

/// Address and length of one of many routes, 1,000,000 at most: three of four of 24 bits, others of
/// 21 to 28, none in another, spread over the address space without 10.0.0.0/8.
pub(crate) fn wide_route(at: u32) -> (Ipv4Addr, u8) {
    let len = match at % 16 {
        0..12 => 24,
        12 | 13 => 22,
        14 => 21,
        _ => 28,
    };
    let address = 0x0100_0000 + at * 8 * 256;
    let beyond = if address >= 0x0a00_0000 { 0x0100_0000 } else { 0 };
    (Ipv4Addr::from(address + beyond), len)
}

/// A number without order, always the same.
pub(crate) fn mixed(at: u32) -> u32 {
    let mut value = at.wrapping_mul(0x9e37_79b1);
    value ^= value >> 15;
    value = value.wrapping_mul(0x85eb_ca6b);
    value ^ (value >> 13)
}

/// Link addresses of the router's ports, and of the next hop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Macs {
    pub(crate) ingress: Mac,
    pub(crate) egress: Mac,
    pub(crate) next_hop: Mac,
}

/// Starts one worker on the router's core that sends these routes from [`IN`] to [`OUT`].
pub(crate) fn start(macs: Macs, frames: usize, routes: &[Ipv4Net]) -> Result<Dataplane> {
    let (mut writer, fib) = FibWriter::new();
    for net in routes {
        writer.insert(IpNet::from(*net), TargetId(1)).context("a route")?;
    }
    let worker_cores = vec![Some(crate::ROUTER_CORE)];
    let config = DataplaneConfig { worker_cores, frames, large_frames: 0 };
    let (dataplane, _events) = Dataplane::start(&config, fib)?;
    let next_hop = Adjacency {
        port: OUT,
        neighbor: Ipv4Addr::new(10, 20, 0, 2).into(),
        mac: Some(macs.next_hop),
        tunnel: None,
    };
    let port = |name: &str, mac| Some(PortEntry::network(name, mac, 1500));
    let published = dataplane.publish(Tables {
        ports: vec![port("in", macs.ingress), port("out", macs.egress)],
        targets: vec![Target::NoRoute, Target::Forward(AdjacencyId(0))],
        adjacencies: vec![next_hop],
        ..Tables::default()
    });
    anyhow::ensure!(published, "the worker did not take the tables");
    Ok(dataplane)
}
