//! Translation of whole packets, made and checked by an independent library.

use super::*;
use crate::flow::{Limits, State, Timeouts};
use crate::nat::{Filtering, PortRange, Ranges};
use crate::parse::parse_any;
use crate::port::PortId;
use crate::sys::memory::{Arena, FramePool, HEADROOM};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use margay_tunnels::wire::ethernet::Mac;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

mod alike;
mod connections;
mod fragments;
mod hosts;
mod icmp;
mod model;
mod policy;
mod random;
mod rfc4787;
mod rfc5382;
mod rfc5508;
mod rfc6888;
mod services;

const SECOND: u64 = 1_000_000_000;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Some workers with the same rules, as if each packet came to the right one by itself or by
/// hand-over.
pub(super) struct Bench {
    pub(super) pool: FramePool,
    pub(super) rules: Rules,
    pub(super) workers: Vec<Tracker>,
    pub(super) now_ns: u64,
    pub(super) handed_over: usize,
}

/// Pods in 10.1.0.0/16 and 2001:db8:1::/48; the outside address is 192.0.2.1 and not the host's.
pub(super) fn rules() -> Rules {
    let class = |text: &str, bits: u16| (text.parse().unwrap(), Class(bits));
    Rules {
        generation: 1,
        ranges: Ranges::new(&[
            class("10.1.0.0/16", Class::POOL.0 | Class::INSIDE.0),
            class("10.2.0.0/16", Class::POOL.0),
            class("2001:db8:1::/48", Class::POOL.0 | Class::INSIDE.0),
            class("172.16.0.0/24", Class::NODE.0),
            class("172.16.0.1/32", Class::LOCAL.0),
            class("192.0.2.0/28", Class::OUTSIDE.0),
            class("2001:db8:ff::1/128", Class::OUTSIDE.0),
        ]),
        outside_v4: vec![Ipv4Addr::new(192, 0, 2, 1)],
        outside_v6: vec!["2001:db8:ff::1".parse().unwrap()],
        ports: PortRange { first: 61_000, last: 65_535 },
        taken: Vec::new(),
        exclude_nodes: false,
        filtering: Filtering::default(),
        limits: Limits { sessions: 100_000, per_source: 0 },
        timeouts: Timeouts::default(),
        workers: 1,
        services: None,
    }
}

/// The same with the host's own address, 172.16.0.1, as the outside one.
pub(super) fn host_rules() -> Rules {
    let mut prefixes: Vec<(ipnet::IpNet, Class)> = Vec::new();
    for (text, bits) in [
        ("10.1.0.0/16", Class::POOL.0 | Class::INSIDE.0),
        ("172.16.0.0/24", Class::NODE.0),
        ("172.16.0.1/32", Class::LOCAL.0 | Class::OUTSIDE.0),
    ] {
        prefixes.push((text.parse().unwrap(), Class(bits)));
    }
    let outside_v4 = vec![Ipv4Addr::new(172, 16, 0, 1)];
    Rules { ranges: Ranges::new(&prefixes), outside_v4, ..rules() }
}

impl Bench {
    pub(super) fn new(rules: Rules) -> Bench {
        let workers =
            (0..rules.workers).map(|worker| Tracker::new(&rules, worker, 99, 0).unwrap()).collect();
        let pool = FramePool::new(Arena::new(4096, 0).unwrap());
        Bench { pool, rules, workers, now_ns: SECOND, handed_over: 0 }
    }

    pub(super) fn packet(&mut self, bytes: &[u8]) -> Packet {
        let mut frame = self.pool.alloc().unwrap();
        frame.bytes_mut(HEADROOM, bytes.len()).copy_from_slice(bytes);
        let mut packet = Packet::new(frame, HEADROOM, bytes.len(), PortId(0));
        parse_any(&mut packet, Mac(MAC), &mut self.pool).unwrap();
        packet
    }

    /// One packet through the first worker, and others as they are asked for.
    pub(super) fn track(&mut self, packet: &mut Packet) -> Verdict {
        let mut worker = 0;
        for _ in 0..4 {
            let mut verdicts = [Verdict::Go];
            let packets = std::slice::from_mut(packet);
            self.workers[worker].track(&self.rules, packets, &mut verdicts, self.now_ns);
            match verdicts[0] {
                Verdict::HandOver(to) => worker = usize::from(to),
                verdict => return verdict,
            }
            self.handed_over += 1;
        }
        panic!("handed round in circles");
    }

    /// What becomes of a packet, with all its checksums verified when it goes on.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Verdict> {
        let mut packet = self.packet(bytes);
        let verdict = self.track(&mut packet);
        let out: Vec<u8> = packet.segments().flatten().copied().collect();
        packet.free(&mut self.pool);
        match verdict {
            Verdict::Go | Verdict::Rewritten => {
                verify(&out);
                Ok(out)
            }
            verdict => Err(verdict),
        }
    }

    /// The endpoints that a UDP datagram leaves with.
    pub(super) fn udp(
        &mut self,
        src: &str,
        dst: &str,
    ) -> Result<(SocketAddr, SocketAddr), Verdict> {
        self.send(&udp(src, dst, b"data")).map(|out| endpoints(&out))
    }

    /// The same for TCP with these flags.
    pub(super) fn tcp(
        &mut self,
        (src, dst): (&str, &str),
        flags: u8,
    ) -> Result<(SocketAddr, SocketAddr), Verdict> {
        self.send(&tcp(src, dst, flags)).map(|out| endpoints(&out))
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        self.now_ns += seconds * SECOND;
        for worker in &mut self.workers {
            worker.tick(self.now_ns);
        }
    }

    pub(super) fn sessions(&self) -> usize {
        self.workers.iter().map(|worker| worker.table.len()).sum()
    }
}

fn to(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(src: SocketAddr, dst: SocketAddr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let link = PacketBuilder::ethernet2([9; 6], MAC);
    match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => link.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => link.ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("two families"),
    }
}

pub(super) fn udp(src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (to(src), to(dst));
    let mut bytes = Vec::new();
    ip(src, dst).udp(src.port(), dst.port()).write(&mut bytes, payload).unwrap();
    bytes
}

pub(super) fn tcp(src: &str, dst: &str, flags: u8) -> Vec<u8> {
    let (src, dst) = (to(src), to(dst));
    let mut bytes = Vec::new();
    let mut header = etherparse::TcpHeader::new(src.port(), dst.port(), 7, 1024);
    header.syn = flags & 2 != 0;
    header.ack = flags & 16 != 0;
    header.fin = flags & 1 != 0;
    header.rst = flags & 4 != 0;
    ip(src, dst).tcp_header(header).write(&mut bytes, b"stream").unwrap();
    bytes
}

/// Checks every checksum of a packet with the library's own sums.
pub(super) fn verify(bytes: &[u8]) {
    let packet = SlicedPacket::from_ethernet(bytes).unwrap();
    let net = packet.net.as_ref().unwrap();
    let (v4, v6) = match net {
        etherparse::NetSlice::Ipv4(slice) => (Some(slice.header().to_header()), None),
        etherparse::NetSlice::Ipv6(slice) => (None, Some(slice.header().to_header())),
        etherparse::NetSlice::Arp(_) => panic!("not IP"),
    };
    if let Some(header) = &v4 {
        assert_eq!(header.header_checksum, header.calc_header_checksum());
    }
    let payload = match net {
        etherparse::NetSlice::Ipv4(slice) => slice.payload(),
        etherparse::NetSlice::Ipv6(slice) => slice.payload(),
        etherparse::NetSlice::Arp(_) => panic!("not IP"),
    };
    if payload.fragmented {
        return;
    }
    let expected = |header: etherparse::TransportHeader, data: &[u8]| {
        let mut header = header;
        match (&v4, &v6) {
            (Some(ip), _) => header.update_checksum_ipv4(ip, data).unwrap(),
            (_, Some(ip)) => header.update_checksum_ipv6(ip, data).unwrap(),
            _ => panic!("not IP"),
        }
        header
    };
    match packet.transport.as_ref() {
        Some(TransportSlice::Udp(slice)) => {
            let header = etherparse::TransportHeader::Udp(slice.to_header());
            assert_eq!(expected(header.clone(), slice.payload()), header);
        }
        Some(TransportSlice::Tcp(slice)) => {
            let header = etherparse::TransportHeader::Tcp(slice.to_header());
            assert_eq!(expected(header.clone(), slice.payload()), header);
        }
        Some(TransportSlice::Icmpv4(slice)) => {
            let header = etherparse::TransportHeader::Icmpv4(slice.header());
            assert_eq!(expected(header.clone(), slice.payload()), header);
        }
        Some(TransportSlice::Icmpv6(slice)) => {
            let header = etherparse::TransportHeader::Icmpv6(slice.header());
            assert_eq!(expected(header.clone(), slice.payload()), header);
        }
        _ => {}
    }
}

/// Addresses and ports of a packet.
pub(super) fn endpoints(bytes: &[u8]) -> (SocketAddr, SocketAddr) {
    let packet = SlicedPacket::from_ethernet(bytes).unwrap();
    let (src, dst): (IpAddr, IpAddr) = match packet.net.as_ref().unwrap() {
        etherparse::NetSlice::Ipv4(slice) => {
            (slice.header().source_addr().into(), slice.header().destination_addr().into())
        }
        etherparse::NetSlice::Ipv6(slice) => {
            (slice.header().source_addr().into(), slice.header().destination_addr().into())
        }
        etherparse::NetSlice::Arp(_) => panic!("not IP"),
    };
    let ports = match packet.transport.as_ref().unwrap() {
        TransportSlice::Udp(slice) => (slice.source_port(), slice.destination_port()),
        TransportSlice::Tcp(slice) => (slice.source_port(), slice.destination_port()),
        _ => (0, 0),
    };
    (SocketAddr::new(src, ports.0), SocketAddr::new(dst, ports.1))
}

pub(super) fn unchanged(src: &str, dst: &str) -> Result<(SocketAddr, SocketAddr), Verdict> {
    Ok((to(src), to(dst)))
}

#[test]
fn only_traffic_from_a_pool_to_no_pool_is_translated() {
    let mut bench = Bench::new(rules());
    let (pod, server) = ("10.1.0.5:4000", "198.51.100.1:53");
    assert_eq!(bench.udp(pod, server), Ok((to("192.0.2.1:4000"), to(server))));
    // To another pool, to the same one, from one without natOutgoing, to the node.
    for (src, dst) in [
        (pod, "10.2.0.9:53"),
        (pod, "10.1.0.9:53"),
        ("10.2.0.9:4000", server),
        (pod, "172.16.0.1:53"),
        ("172.16.0.1:53", pod),
    ] {
        assert_eq!(bench.udp(src, dst), unchanged(src, dst));
    }
    assert_eq!(bench.udp(pod, "172.16.0.9:53"), Ok((to("192.0.2.1:4000"), to("172.16.0.9:53"))));
    bench.rules.exclude_nodes = true;
    bench.rules.generation += 1;
    let (other, node) = ("10.1.0.6:4000", "172.16.0.9:53");
    assert_eq!(bench.udp(other, node), unchanged(other, node));
}

#[test]
fn ipv6_is_translated_too() {
    let mut bench = Bench::new(rules());
    let (pod, server) = ("[2001:db8:1::5]:4000", "[2001:db8:9::1]:53");
    let outside = "[2001:db8:ff::1]:4000";
    assert_eq!(bench.udp(pod, server), Ok((to(outside), to(server))));
    assert_eq!(bench.udp(server, outside), Ok((to(server), to(pod))));
    assert_eq!(bench.tcp((pod, server), 2), Ok((to(outside), to(server))));
}

#[test]
fn answers_to_a_flow_that_came_from_outside_are_not_translated() {
    let mut bench = Bench::new(rules());
    let (client, pod) = ("198.51.100.1:5555", "10.1.0.5:80");
    assert_eq!(bench.tcp((client, pod), 2), unchanged(client, pod));
    assert_eq!(bench.tcp((pod, client), 18), unchanged(pod, client));
    assert_eq!(bench.tcp((client, pod), 16), unchanged(client, pod));
    assert_eq!(bench.sessions(), 1);
    // An answer without a question must not show the inside address.
    let stray = bench.tcp((pod, "198.51.100.2:5555"), 18);
    assert_eq!(stray, Err(Verdict::Drop(DropReason::FlowInvalid)));
}

#[test]
fn the_hosts_own_ports_are_left_to_the_host() {
    let mut bench = Bench::new(Rules { taken: vec![61_002], ..host_rules() });
    let (pod, server, host) = ("10.1.0.5:61002", "198.51.100.1:53", "172.16.0.1");
    let (outside, _) = bench.udp(pod, server).unwrap();
    assert_eq!(outside.ip(), to("172.16.0.1:0").ip());
    assert!(outside.port() >= 61_000 && outside.port() != 61_002);
    assert_eq!(bench.udp(server, &outside.to_string()), Ok((to(server), to(pod))));
    for port in [22, 60_999, 61_002] {
        let host = format!("{host}:{port}");
        assert_eq!(bench.udp(server, &host), unchanged(server, &host));
        assert_eq!(bench.udp(pod, &host), unchanged(pod, &host));
    }
    assert_eq!(bench.udp(server, "172.16.0.1:64000"), unchanged(server, "172.16.0.1:64000"));
}

#[test]
fn an_outside_address_that_goes_ends_its_flows_and_frees_its_ports() {
    let mut bench = Bench::new(rules());
    bench.udp("10.1.0.5:4000", "198.51.100.1:53").unwrap();
    bench.tcp(("198.51.100.1:9", "10.1.0.5:80"), 2).unwrap();
    bench.rules.outside_v4 = vec![Ipv4Addr::new(192, 0, 2, 2)];
    bench.rules.generation += 1;
    let again = bench.udp("10.1.0.5:4000", "198.51.100.1:53");
    assert_eq!(again, Ok((to("192.0.2.2:4000"), to("198.51.100.1:53"))));
    assert_eq!(bench.sessions(), 2);
    assert!(bench.workers[0].report().ports.iter().all(|ports| ports.used == 1));
}

#[test]
fn returns_find_the_worker_that_has_their_port() {
    let mut bench = Bench::new(Rules { workers: 4, ..rules() });
    for port in 2000..2100 {
        let pod = format!("10.1.0.7:{port}");
        for server in ["198.51.100.1:53", "198.51.100.2:53"] {
            let (outside, _) = bench.udp(&pod, server).unwrap();
            assert_eq!(outside, to(&format!("192.0.2.1:{port}")), "a kept port is the owner's");
            assert_eq!(bench.udp(server, &outside.to_string()), Ok((to(server), to(&pod))));
        }
        let (outside, _) = bench.udp(&format!("10.1.0.8:{port}"), "198.51.100.1:53").unwrap();
        assert_ne!(outside.port(), port);
        assert_eq!(bench.rules.owner(outside.port()), bench.rules.owner(port));
    }
    assert!(bench.handed_over > 300);
    assert!(bench.workers.iter().all(|worker| worker.table.len() > 50));
}

#[test]
fn protocols_without_ports_need_an_address_of_their_own() {
    let gre = |src: [u8; 4], dst: [u8; 4]| {
        let mut bytes = Vec::new();
        let link = PacketBuilder::ethernet2([9; 6], MAC).ipv4(src, dst, 64);
        link.write(&mut bytes, etherparse::IpNumber(47), b"tunnelled").unwrap();
        bytes
    };
    let (pod, server, outside) = ([10, 1, 0, 5], [198, 51, 100, 1], [192, 0, 2, 1]);
    let mut bench = Bench::new(rules());
    assert_eq!(bench.send(&gre(pod, server)).unwrap()[26..30], outside);
    assert_eq!(bench.send(&gre(server, outside)).unwrap()[30..34], pod);
    let second = bench.send(&gre([10, 1, 0, 6], server));
    assert_eq!(second, Err(Verdict::Drop(DropReason::NatPortsExhausted)));
    let refused = Bench::new(host_rules()).send(&gre(pod, server));
    assert_eq!(refused, Err(Verdict::Drop(DropReason::NatProtocol)));
}

#[test]
fn an_unfinished_checksum_follows_the_addresses_alone() {
    for (src, dst) in
        [("10.1.0.5:4000", "198.51.100.1:53"), ("[2001:db8:1::5]:4000", "[2001:db8:9::1]:53")]
    {
        let mut bench = Bench::new(rules());
        bench.udp("10.1.0.9:4000", "198.51.100.1:53").unwrap();
        bench.udp("[2001:db8:1::9]:4000", "[2001:db8:9::1]:53").unwrap();
        for is_tcp in [false, true] {
            let whole = if is_tcp { tcp(src, dst, 2) } else { udp(src, dst, b"odd") };
            let mut packet = bench.packet(&whole);
            let (l4, at) = (packet.l4, if is_tcp { 16 } else { 6 });
            let field = usize::from(l4) + at;
            let head = packet.head();
            let (_, pseudo) =
                crate::segment::pseudo_header(head, usize::from(packet.l3), usize::from(l4))
                    .unwrap();
            packet.head_mut()[field..field + 2]
                .copy_from_slice(&margay_tunnels::wire::checksum::fold(pseudo).to_be_bytes());
            packet.set_offload(crate::packet::Offload {
                needs_csum: true,
                csum_start: l4,
                csum_offset: at as u16,
                ..Default::default()
            });
            assert_eq!(bench.track(&mut packet), Verdict::Rewritten);
            crate::segment::finish_checksum(&mut packet).unwrap();
            let out: Vec<u8> = packet.segments().flatten().copied().collect();
            verify(&out);
            assert_ne!(endpoints(&out).0, to(src));
            packet.free(&mut bench.pool);
        }
    }
}

#[test]
fn a_datagram_without_a_checksum_stays_without() {
    let mut bench = Bench::new(rules());
    let mut bytes = udp("10.1.0.5:4000", "198.51.100.1:53", b"data");
    bytes[40..42].fill(0);
    let mut packet = bench.packet(&bytes);
    assert_eq!(bench.track(&mut packet), Verdict::Rewritten);
    assert_eq!(packet.head()[40..42], [0, 0]);
    packet.free(&mut bench.pool);
}

#[test]
fn a_damaged_packet_stays_damaged() {
    let mut bench = Bench::new(rules());
    let mut bytes = udp("10.1.0.5:4000", "198.51.100.1:53", b"data");
    bytes[43] ^= 4;
    let mut packet = bench.packet(&bytes);
    assert_eq!(bench.track(&mut packet), Verdict::Rewritten);
    packet.head_mut()[43] ^= 4;
    verify(packet.head());
    packet.free(&mut bench.pool);
}
