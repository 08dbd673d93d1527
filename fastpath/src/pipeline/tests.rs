mod tunnels;

use super::*;
use crate::fib::FibWriter;
use crate::limit::{Cause, QueueAccount};
use crate::neighbor::{HOLD_TIME_NS, MAX_PER_NEIGHBOR};
use crate::packet::{Gso, Offload};
use crate::proxy_neighbor;
use crate::sys::memory::{Arena, HEADROOM};
use crate::tables::Adjacency;
use margay_tunnels::wire::ethernet::Mac;
use margay_tunnels::wire::{ethernet, ipv4, ipv6, protocol};
use proptest::prelude::*;
use std::net::Ipv6Addr;

mod limits;
mod nat;
mod policy;
mod punt;

const FRAMES: usize = 4096;
const MARGAY: Mac = Mac([2, 0, 0, 0, 0, 1]);
const POD: Mac = Mac([2, 0, 0, 0, 0, 2]);
const UPLINK: PortId = PortId(1);
const PODS: PortId = PortId(0);
const HOST: PortId = PortId(2);
const TAP: PortId = PortId(3);
const SRC: &str = "10.1.0.5";

/// A router in memory: pods on port 0, an uplink with a gateway on port 1, the host on port 2 and
/// a pod behind a TAP on port 3.
struct Router {
    pipeline: Pipeline,
    tables: Tables,
    fib: Arc<Fib>,
    writer: FibWriter,
    now_ns: u64,
    arena: Arc<Arena>,
}

fn port(name: &str, mtu: u16) -> Option<PortEntry> {
    Some(PortEntry {
        name: name.to_owned(),
        mac: MARGAY,
        mtu,
        worker: 0,
        implicit_partial_csum: name == "pods",
        workload: name != "uplink",
        answers_neighbors: name == "tap",
        icmp_source_v4: Some([10, 1, 0, 1].into()),
        icmp_source_v6: Some("fd00::1".parse().unwrap()),
        sources: None,
        up: true,
        queue: QueueAccount::default(),
    })
}

fn adjacency(port: PortId, neighbor: &str, mac: Option<Mac>) -> Adjacency {
    Adjacency { port, neighbor: neighbor.parse().unwrap(), mac, tunnel: None }
}

impl Router {
    fn new() -> Router {
        let arena = Arena::new(FRAMES, 2).unwrap();
        let (mut writer, fib) = FibWriter::new();
        let tables = Tables {
            ports: vec![
                port("pods", 1500),
                port("uplink", 1400),
                port("host", 1500),
                port("tap", 9000),
            ],
            targets: vec![
                Target::NoRoute,
                Target::Forward(AdjacencyId(0)),
                Target::Local,
                Target::Blackhole,
                Target::Unreachable,
                Target::Prohibit,
                Target::Glean(UPLINK),
                Target::Forward(AdjacencyId(1)),
                Target::Forward(AdjacencyId(2)),
            ],
            adjacencies: vec![
                adjacency(UPLINK, "192.168.0.1", Some(Mac([2, 0, 0, 0, 0, 9]))),
                adjacency(UPLINK, "192.168.0.7", None),
                adjacency(PODS, "10.1.0.5", Some(POD)),
                adjacency(HOST, "10.1.0.1", Some(Mac([2, 0, 0, 0, 0, 8]))),
            ],
            host: Some(AdjacencyId(3)),
            ..Tables::default()
        };
        for (net, target) in [
            ("172.16.0.0/16", 1),
            ("10.1.0.1/32", 2),
            ("172.17.0.0/16", 3),
            ("172.18.0.0/16", 4),
            ("172.19.0.0/16", 5),
            ("192.168.0.0/24", 6),
            ("172.20.0.0/16", 7),
            ("10.1.0.0/24", 8),
            ("fd01::/16", 1),
            ("fd02::/16", 4),
            ("fd03::/16", 5),
            ("fd00::/64", 8),
        ] {
            writer.insert(net.parse().unwrap(), TargetId(target)).unwrap();
        }
        let pipeline = Pipeline::new(FramePool::new(arena.clone()), Arc::default());
        Router { pipeline, tables, fib, writer, now_ns: 1, arena }
    }

    fn packet(&mut self, bytes: &[u8], from: PortId) -> Packet {
        let mut frame = self.pipeline.pool.alloc().unwrap();
        frame.bytes_mut(HEADROOM, bytes.len()).copy_from_slice(bytes);
        Packet::new(frame, HEADROOM, bytes.len(), from)
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Pipeline, View<'_>) -> T) -> T {
        let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
        act(&mut self.pipeline, view)
    }

    /// Takes packets in by a port; what comes out, by port, as bytes.
    fn feed(&mut self, from: PortId, frames: &[Vec<u8>]) -> Vec<(PortId, Vec<u8>)> {
        let mut burst: Vec<Packet> = frames.iter().map(|bytes| self.packet(bytes, from)).collect();
        self.with(|pipeline, view| pipeline.process(view, from, &mut burst));
        self.sent()
    }

    fn sent(&mut self) -> Vec<(PortId, Vec<u8>)> {
        let mut sent = Vec::new();
        let mut queue = Vec::new();
        while let Some(port) = self.pipeline.egress.take(&mut queue) {
            for packet in queue.drain(..) {
                let bytes = packet.segments().flatten().copied().collect();
                sent.push((port, bytes));
                packet.free(&mut self.pipeline.pool);
            }
        }
        sent
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.pipeline.counters.drops[reason as usize].get()
    }

    fn drops(&self) -> u64 {
        self.pipeline.counters.drops().map(|(_, count)| count).sum()
    }

    /// Every frame is back: free in the arena or in the pool's cache.
    fn assert_no_frame_missing(&self) {
        let free = self.arena.free_small() + self.pipeline.pool.cached();
        assert_eq!(free + self.pipeline.held(), FRAMES);
    }
}

fn link(ethertype: u16) -> Vec<u8> {
    ethernet::header(MARGAY, POD, ethertype).to_vec()
}

fn v4(src: &str, dst: &str, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let udp =
        [&[0x30, 0x39, 0, 53][..], &(8 + payload.len() as u16).to_be_bytes(), &[0, 0], payload]
            .concat();
    let length = udp.len() as u16;
    let mut bytes = link(ethernet::IPV4);
    bytes.extend(ipv4::header(
        src.parse().unwrap(),
        dst.parse().unwrap(),
        protocol::UDP,
        ttl,
        length,
    ));
    bytes.extend(udp);
    bytes
}

fn v6(src: &str, dst: &str, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = link(ethernet::IPV6);
    let length = payload.len() as u16;
    bytes.extend(ipv6::header(src.parse().unwrap(), dst.parse().unwrap(), 59, hop_limit, length));
    bytes.extend(payload);
    bytes
}

fn set_df(bytes: &mut [u8]) {
    bytes[20] |= 0x40;
    ipv4::fill_checksum(&mut bytes[14..]);
}

/// Type, code and the rest-of-header word of the one ICMP error sent, and what it quotes; read by
/// an independent parser, which checks lengths and checksums.
fn icmp_v4(sent: &[(PortId, Vec<u8>)]) -> (u8, u8, u32, Vec<u8>) {
    let [(to, bytes)] = sent else { panic!("{} packets sent", sent.len()) };
    assert_eq!(*to, PODS);
    let parsed = etherparse::SlicedPacket::from_ethernet(bytes).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = parsed.net else { panic!("not IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!((header.source, header.destination), ([10, 1, 0, 1], [10, 1, 0, 5]));
    let Some(etherparse::TransportSlice::Icmpv4(icmp)) = parsed.transport else {
        panic!("not ICMP")
    };
    let whole = icmp.slice();
    assert_eq!(
        margay_tunnels::wire::checksum::fold(margay_tunnels::wire::checksum::sum(whole)),
        0xffff
    );
    let word = u32::from_be_bytes(whole[4..8].try_into().unwrap());
    (whole[0], whole[1], word, whole[8..].to_vec())
}

fn icmp_v6(sent: &[(PortId, Vec<u8>)]) -> (u8, u8, u32, Vec<u8>) {
    let [(to, bytes)] = sent else { panic!("{} packets sent", sent.len()) };
    assert_eq!(*to, PODS);
    let parsed = etherparse::SlicedPacket::from_ethernet(bytes).unwrap();
    let Some(etherparse::NetSlice::Ipv6(ip)) = parsed.net else { panic!("not IPv6") };
    let (src, dst) = (ip.header().source(), ip.header().destination());
    let Some(etherparse::TransportSlice::Icmpv6(icmp)) = parsed.transport else {
        panic!("not ICMPv6")
    };
    assert!(icmp.is_checksum_valid(src, dst));
    let whole = icmp.slice();
    assert_eq!(src, "fd00::1".parse::<Ipv6Addr>().unwrap().octets());
    (whole[0], whole[1], u32::from_be_bytes(whole[4..8].try_into().unwrap()), whole[8..].to_vec())
}

#[test]
fn ipv4_is_forwarded_with_ttl_and_link_header_rewritten() {
    let mut router = Router::new();
    let sent = router.feed(PODS, &[v4(SRC, "172.16.3.4", 64, b"hello")]);
    let [(to, bytes)] = &sent[..] else { panic!() };
    assert_eq!(*to, UPLINK);
    let mut wanted = v4(SRC, "172.16.3.4", 63, b"hello");
    wanted[..12].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1]);
    assert_eq!(*bytes, wanted);
    router.assert_no_frame_missing();
}

#[test]
fn ipv6_is_forwarded_with_hop_limit_rewritten() {
    let mut router = Router::new();
    let sent = router.feed(PODS, &[v6("fd00::5", "fd01::9", 2, b"hello")]);
    let mut wanted = v6("fd00::5", "fd01::9", 1, b"hello");
    wanted[..12].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1]);
    assert_eq!(sent, [(UPLINK, wanted)]);
}

#[test]
fn link_layer_padding_is_cut_off() {
    let mut router = Router::new();
    let mut bytes = v4(SRC, "172.16.3.4", 64, b"");
    bytes.extend([0xaa; 18]);
    let sent = router.feed(PODS, &[bytes]);
    assert_eq!(sent[0].1.len(), 14 + 28);
}

#[test]
fn rfc_1812_5_3_1_ttl_that_ends_here_is_told_from_the_ingress_address() {
    let mut router = Router::new();
    for ttl in [0, 1] {
        let offending = v4(SRC, "172.16.3.4", ttl, b"hello");
        let sent = router.feed(PODS, std::slice::from_ref(&offending));
        let (kind, code, word, quote) = icmp_v4(&sent);
        assert_eq!((kind, code, word), (11, 0, 0));
        assert_eq!(quote, &offending[14..]);
    }
    let sent = router.feed(PODS, &[v6("fd00::5", "fd01::9", 1, b"hello")]);
    assert_eq!(icmp_v6(&sent).0, 3);
    assert_eq!(router.dropped(DropReason::TtlExceeded), 3);
}

#[test]
fn each_refusing_route_has_its_icmp_code() {
    let mut router = Router::new();
    for (dst, wanted) in [("8.8.8.8", (3, 0)), ("172.18.0.1", (3, 1)), ("172.19.0.1", (3, 13))] {
        let sent = router.feed(PODS, &[v4(SRC, dst, 64, b"x")]);
        let (kind, code, ..) = icmp_v4(&sent);
        assert_eq!((kind, code), wanted, "{dst}");
    }
    for (dst, wanted) in [("2001:db8::1", (1, 0)), ("fd02::1", (1, 3)), ("fd03::1", (1, 1))] {
        let sent = router.feed(PODS, &[v6("fd00::5", dst, 64, b"x")]);
        let (kind, code, ..) = icmp_v6(&sent);
        assert_eq!((kind, code), wanted, "{dst}");
    }
    assert!(
        router.feed(PODS, &[v4(SRC, "172.17.0.1", 64, b"x")]).is_empty(),
        "a blackhole is silent"
    );
    assert_eq!(router.dropped(DropReason::Blackhole), 1);
}

#[test]
fn rfc_1191_too_big_with_df_gets_the_mtu_back() {
    let mut router = Router::new();
    let mut bytes = v4(SRC, "172.16.3.4", 64, &[7; 1400]);
    set_df(&mut bytes);
    let sent = router.feed(PODS, std::slice::from_ref(&bytes));
    let (kind, code, word, quote) = icmp_v4(&sent);
    assert_eq!((kind, code, word), (3, 4, 1400));
    // RFC 1812 4.3.2.3: as much as fits 576 bytes.
    assert_eq!(quote, &bytes[14..14 + 576 - 28]);
    let big = v6("fd00::5", "fd01::9", 64, &[7; 1400]);
    let sent = router.feed(PODS, std::slice::from_ref(&big));
    let (kind, _, word, quote) = icmp_v6(&sent);
    assert_eq!((kind, word), (2, 1400));
    assert_eq!(quote, &big[14..14 + 1280 - 48]);
    assert_eq!(router.dropped(DropReason::TooBig), 2);
}

#[test]
fn too_big_without_df_arrives_in_whole_fragments() {
    let mut router = Router::new();
    let payload: Vec<u8> = (0..1450u32).map(|at| at as u8).collect();
    let whole = v4(SRC, "172.16.3.4", 64, &payload);
    let sent = router.feed(PODS, std::slice::from_ref(&whole));
    let mut joined = Vec::new();
    for (at, (to, bytes)) in sent.iter().enumerate() {
        let view = ipv4::View::new(&bytes[14..]).unwrap();
        assert!(view.checksum_ok() && view.total_len() <= 1400 && *to == UPLINK);
        assert_eq!((view.fragment_offset(), view.ttl()), (joined.len(), 63));
        assert_eq!(view.flags_fragment() & ipv4::MORE_FRAGMENTS != 0, at + 1 < sent.len());
        joined.extend_from_slice(&bytes[34..14 + view.total_len()]);
    }
    assert_eq!((sent.len(), joined), (2, whole[34..].to_vec()));
    router.assert_no_frame_missing();
}

#[test]
fn unfinished_checksums_are_finished_in_fragments_too() {
    let mut router = Router::new();
    let mut whole = v4(SRC, "172.16.3.4", 64, &[9; 1450]);
    let sum = margay_tunnels::wire::checksum::pseudo_v4(
        SRC.parse().unwrap(),
        [172, 16, 3, 4].into(),
        protocol::UDP,
        1458,
    );
    whole[40..42].copy_from_slice(&margay_tunnels::wire::checksum::fold(sum).to_be_bytes());
    let sent = router.feed(PODS, &[whole]);
    let udp: Vec<u8> = sent.iter().flat_map(|(_, bytes)| bytes[34..].to_vec()).collect();
    let header = etherparse::UdpHeaderSlice::from_slice(&udp[..8]).unwrap();
    let wanted =
        header.to_header().calc_checksum_ipv4_raw([10, 1, 0, 5], [172, 16, 3, 4], &udp[8..]);
    assert_eq!(header.checksum(), wanted.unwrap());
}

#[test]
fn rfc_1812_4_3_2_7_no_error_about_an_error_a_later_fragment_or_a_group() {
    let mut router = Router::new();
    let mut error = v4(SRC, "8.8.8.8", 64, b"xxxx");
    error[23] = protocol::ICMP;
    error[34] = 3;
    ipv4::fill_checksum(&mut error[14..]);
    let mut later = v4(SRC, "8.8.8.8", 64, b"xxxx");
    ipv4::set_fragment(&mut later[14..], 32, 7, 185);
    assert!(router.feed(PODS, &[error.clone(), later]).is_empty());
    assert_eq!(router.dropped(DropReason::NoRoute), 2);
    error[34] = 8;
    assert_eq!(router.feed(PODS, &[error]).len(), 1, "an echo request is answered");
    let mut redirect = v6("fd00::5", "2001:db8::1", 64, &[1, 0, 0, 0, 0, 0, 0, 0]);
    redirect[20] = protocol::ICMPV6;
    assert!(router.feed(PODS, &[redirect]).is_empty());
}

#[test]
fn rfc_1812_4_3_2_8_errors_are_rate_limited() {
    let mut router = Router::new();
    let mut count = 0;
    for _ in 0..10 {
        let flood = vec![v4(SRC, "8.8.8.8", 64, b"x"); 32];
        count += router.feed(PODS, &flood).len() as u64;
    }
    let limit = Cause::Unreachable.allowance();
    assert_eq!(count, limit.burst);
    assert_eq!(router.dropped(DropReason::IcmpSuppressed), 320 - limit.burst);
    router.now_ns += 1_000_000_000 / limit.per_second * 5;
    let flood = vec![v4(SRC, "8.8.8.8", 64, b"x"); 32];
    assert_eq!(router.feed(PODS, &flood).len(), 5);
}

#[test]
fn what_a_router_must_refuse_is_counted_by_reason() {
    let good = v4(SRC, "172.16.3.4", 64, b"hello");
    let mend = |bytes: &mut Vec<u8>| ipv4::fill_checksum(&mut bytes[14..]);
    let change = |at: usize, value: u8, checksum: bool| {
        let mut bytes = good.clone();
        bytes[at] = value;
        if checksum {
            mend(&mut bytes);
        }
        bytes
    };
    let address = |at: usize, address: [u8; 4]| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&address);
        mend(&mut bytes);
        bytes
    };
    let six = v6("fd00::5", "fd01::9", 64, b"hello");
    let six_with = |src: &str, dst: &str| v6(src, dst, 64, b"x");
    let mut wrong_version = six.clone();
    wrong_version[14] = 0x70;
    let mut endless = six.clone();
    endless[20] = 0;
    let cases = [
        (good[..13].to_vec(), DropReason::Truncated),
        (good[..33].to_vec(), DropReason::Truncated),
        (good[..good.len() - 1].to_vec(), DropReason::Truncated),
        (change(14, 0x65, true), DropReason::BadHeader),
        (change(14, 0x44, false), DropReason::BadHeader),
        (change(17, 19, true), DropReason::BadHeader),
        (change(14, 0x4f, false), DropReason::BadHeader),
        (change(24, 1, false), DropReason::BadChecksum),
        (change(13, 0x42, false), DropReason::EtherType),
        (change(0, 4, false), DropReason::NotOurMac),
        (change(0, 0xff, false), DropReason::BadDestination),
        (address(26, [127, 0, 0, 1]), DropReason::BadSource),
        (address(26, [0, 0, 0, 0]), DropReason::BadSource),
        (address(26, [224, 0, 0, 1]), DropReason::BadSource),
        (address(26, [255; 4]), DropReason::BadSource),
        (address(30, [127, 0, 0, 1]), DropReason::BadDestination),
        (address(30, [239, 1, 1, 1]), DropReason::BadDestination),
        (address(30, [169, 254, 1, 1]), DropReason::BadDestination),
        (address(30, [255; 4]), DropReason::BadDestination),
        (six[..50].to_vec(), DropReason::Truncated),
        (six[..six.len() - 1].to_vec(), DropReason::Truncated),
        (wrong_version, DropReason::BadHeader),
        (endless, DropReason::BadExtension),
        (six_with("::1", "fd01::9"), DropReason::BadSource),
        (six_with("::", "fd01::9"), DropReason::BadSource),
        (six_with("fe80::1", "fd01::9"), DropReason::BadSource),
        (six_with("fd00::5", "ff02::1"), DropReason::BadDestination),
        (six_with("fd00::5", "::"), DropReason::BadDestination),
    ];
    for (at, (bytes, reason)) in cases.into_iter().enumerate() {
        let mut router = Router::new();
        assert!(router.feed(PODS, &[bytes]).is_empty(), "case {at}");
        assert_eq!(
            router.dropped(reason),
            1,
            "case {at}: {:?}",
            router.pipeline.counters.drops().collect::<Vec<_>>()
        );
        router.assert_no_frame_missing();
    }
}

#[test]
fn a_packet_for_the_host_goes_there_as_it_came() {
    let mut router = Router::new();
    let bytes = v4(SRC, "10.1.0.1", 1, b"hello");
    let sent = router.feed(PODS, std::slice::from_ref(&bytes));
    assert_eq!(sent[0].0, HOST);
    assert_eq!(sent[0].1[12..], bytes[12..], "the TTL stays");
    assert_eq!(router.pipeline.counters.punted.get(), 1);
    router.tables.host = None;
    assert!(router.feed(PODS, &[bytes]).is_empty());
    assert_eq!(router.dropped(DropReason::NoHost), 1);
}

#[test]
fn packets_wait_for_a_link_address_and_leave_in_order() {
    let mut router = Router::new();
    let frames: Vec<_> = (0..5u8).map(|at| v4(SRC, "172.20.0.1", 64, &[at])).collect();
    assert!(router.feed(PODS, &frames).is_empty());
    let asked = std::mem::take(&mut router.pipeline.requests);
    let neighbor = Neighbor { port: UPLINK, address: [192, 168, 0, 7].into() };
    assert_eq!(asked, [neighbor]);
    router.assert_no_frame_missing();
    router.tables.adjacencies[1].mac = Some(Mac([2, 0, 0, 0, 0, 7]));
    router.with(|pipeline, view| pipeline.neighbor_result(view, &neighbor, true));
    let sent = router.sent();
    let order: Vec<u8> = sent.iter().map(|(_, bytes)| bytes[42]).collect();
    assert_eq!(order, [0, 1, 2, 3, 4]);
    assert!(sent.iter().all(|(port, bytes)| *port == UPLINK && bytes[5] == 7 && bytes[22] == 63));
}

#[test]
fn a_host_on_the_link_is_asked_for_by_its_own_address() {
    let mut router = Router::new();
    router.feed(PODS, &[v4(SRC, "192.168.0.77", 64, b"x")]);
    let asked = &router.pipeline.requests;
    assert_eq!(asked[..], [Neighbor { port: UPLINK, address: [192, 168, 0, 77].into() }]);
}

#[test]
fn a_link_address_that_fails_or_never_comes_is_told_to_the_sender() {
    let mut router = Router::new();
    router.feed(PODS, &[v4(SRC, "172.20.0.1", 64, b"x")]);
    let neighbor = router.pipeline.requests[0];
    router.with(|pipeline, view| pipeline.neighbor_result(view, &neighbor, false));
    let sent = router.sent();
    assert_eq!(icmp_v4(&sent).1, 1);
    router.feed(PODS, &[v4(SRC, "172.20.0.1", 64, b"x")]);
    router.now_ns += HOLD_TIME_NS;
    router.with(Pipeline::tick);
    let sent = router.sent();
    assert_eq!(icmp_v4(&sent).1, 1);
    assert_eq!((router.dropped(DropReason::NeighborFailed), router.pipeline.held()), (2, 0));
}

#[test]
fn the_hold_queue_is_bounded() {
    let mut router = Router::new();
    let burst = vec![v4(SRC, "172.20.0.1", 64, b"x"); MAX_PER_NEIGHBOR + 9];
    router.feed(PODS, &burst);
    assert_eq!(router.dropped(DropReason::NeighborQueueFull), 9);
    router.assert_no_frame_missing();
}

#[test]
fn a_pod_on_a_tap_finds_its_gateway_by_arp() {
    let mut router = Router::new();
    let ask = |sender: [u8; 4], target: [u8; 4]| {
        let mut bytes = ethernet::header(Mac::BROADCAST, POD, ethernet::ARP).to_vec();
        bytes.extend([0, 1, 8, 0, 6, 4, 0, 1]);
        bytes.extend(POD.0);
        bytes.extend(sender);
        bytes.extend([0; 6]);
        bytes.extend(target);
        bytes
    };
    let sent = router.feed(TAP, &[ask([10, 1, 0, 6], [169, 254, 1, 1])]);
    let [(TAP, bytes)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((&bytes[..6], &bytes[6..12]), (&POD.0[..], &MARGAY.0[..]));
    assert_eq!(bytes[20..22], [0, 2]);
    assert_eq!((&bytes[22..28], &bytes[28..32]), (&MARGAY.0[..], &[169, 254, 1, 1][..]));
    // RFC 5227: probes for duplicates, and announcements, are not answered.
    assert!(
        router
            .feed(TAP, &[ask([0; 4], [10, 1, 0, 6]), ask([10, 1, 0, 6], [10, 1, 0, 6])])
            .is_empty()
    );
    assert!(
        router.feed(PODS, &[ask([10, 1, 0, 5], [169, 254, 1, 1])]).is_empty(),
        "a kernel answers there"
    );
    router.assert_no_frame_missing();
}

#[test]
fn a_pod_on_a_tap_finds_its_gateway_by_neighbor_discovery() {
    use smoltcp::wire::{EthernetAddress, Icmpv6Packet, Icmpv6Repr, NdiscRepr};
    let mut router = Router::new();
    let solicit = |src: Ipv6Addr, hop_limit: u8, lladdr: bool| {
        let dst: Ipv6Addr = "ff02::1:ffee:eeee".parse().unwrap();
        let lladdr = lladdr.then(|| EthernetAddress(POD.0).into());
        let target_addr = proxy_neighbor::GATEWAY_V6;
        let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, lladdr });
        let mut icmp = vec![0; repr.buffer_len()];
        repr.emit(&src, &dst, &mut Icmpv6Packet::new_unchecked(&mut icmp[..]), &Default::default());
        let group = Mac([0x33, 0x33, 0xff, 0xee, 0xee, 0xee]);
        let mut bytes = ethernet::header(group, POD, ethernet::IPV6).to_vec();
        bytes.extend(ipv6::header(src, dst, protocol::ICMPV6, hop_limit, icmp.len() as u16));
        bytes.extend(icmp);
        bytes
    };
    let pod: Ipv6Addr = "fe80::2".parse().unwrap();
    for lladdr in [true, false] {
        let sent = router.feed(TAP, &[solicit(pod, 255, lladdr)]);
        let [(TAP, bytes)] = &sent[..] else { panic!("{sent:?}") };
        let view = ipv6::View::new(&bytes[14..]).unwrap();
        assert_eq!(
            (view.src(), view.dst(), view.hop_limit()),
            (proxy_neighbor::GATEWAY_V6, pod, 255)
        );
        let icmp = Icmpv6Packet::new_checked(&bytes[54..]).unwrap();
        assert!(icmp.verify_checksum(&view.src(), &pod));
        assert_eq!(icmp.target_addr(), proxy_neighbor::GATEWAY_V6);
        assert_eq!(bytes[bytes.len() - 6..], MARGAY.0);
    }
    // RFC 4861 7.1.1: a hop limit below 255 came from elsewhere; RFC 4862: "::" is a probe.
    assert!(
        router
            .feed(TAP, &[solicit(pod, 254, true), solicit(Ipv6Addr::UNSPECIFIED, 255, false)])
            .is_empty()
    );
    assert_eq!(router.dropped(DropReason::NeighborMessage), 2);
    router.assert_no_frame_missing();
}

#[test]
fn super_packets_are_measured_by_their_parts() {
    let mut router = Router::new();
    let mut packet = {
        let bytes = v4(SRC, "172.16.3.4", 64, &[1; 3000]);
        router.packet(&bytes, PODS)
    };
    packet.set_offload(Offload { gso: Gso::Udp, gso_size: 1000, ..Offload::default() });
    let mut burst = vec![packet];
    router.with(|pipeline, view| pipeline.process(view, PODS, &mut burst));
    let sent = router.sent();
    assert_eq!(sent.len(), 1, "1000 bytes and headers fit the MTU of 1400");
}

#[test]
fn a_port_that_is_down_or_unknown_drops() {
    let mut router = Router::new();
    router.tables.ports[1].as_mut().unwrap().up = false;
    assert!(router.feed(PODS, &[v4(SRC, "172.16.3.4", 64, b"x")]).is_empty());
    assert!(router.feed(PortId(77), &[v4(SRC, "172.16.3.4", 64, b"x")]).is_empty());
    assert_eq!(router.dropped(DropReason::PortDown), 2);
    router.writer.insert("172.16.0.0/16".parse().unwrap(), TargetId(999)).unwrap();
    assert_eq!(
        router.feed(PODS, &[v4(SRC, "172.16.3.4", 64, b"x")]).len(),
        1,
        "an id that is not published is no route"
    );
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let destinations =
        ["172.16.3.4", "8.8.8.8", "10.1.0.1", "172.20.0.1", "192.168.0.9", "172.19.0.1"];
    let flips = proptest::collection::vec((0usize..120, any::<u8>()), 0..6);
    (0..destinations.len(), 0usize..1500, flips, any::<bool>(), 0usize..1600, any::<bool>())
        .prop_map(move |(dst, length, flips, six, cut, mend)| {
            let mut bytes = match six {
                true => v6("fd00::5", "fd01::9", 3, &vec![0x3c; length]),
                false => v4(SRC, destinations[dst], 3, &vec![0x3c; length]),
            };
            for (at, value) in flips {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            if mend
                && !six
                && usize::from(bytes[14] & 0xf) * 4 + 14 <= bytes.len()
                && bytes[14] & 0xf >= 5
            {
                ipv4::fill_checksum(&mut bytes[14..]);
            }
            bytes.truncate(cut.max(1));
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_comes_in_is_accounted_for(
        frames in proptest::collection::vec(hostile(), 1..BURST),
        from in 0u16..4,
    ) {
        let mut router = Router::new();
        let sent = router.feed(PortId(from), &frames).len() as u64;
        let counters = router.pipeline.counters.clone();
        let outcomes = sent + router.drops() + router.pipeline.held() as u64;
        let sources = frames.len() as u64 + counters.icmp_errors.get() + counters.made.get();
        prop_assert_eq!(outcomes, sources);
        router.assert_no_frame_missing();
        router.pipeline.clear();
        prop_assert_eq!(router.arena.free_small() + router.pipeline.pool.cached(), FRAMES);
    }
}
