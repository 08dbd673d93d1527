//! Tunnels through the whole pipeline: two routers in memory, and packets made by hand.

use super::*;
use crate::tables::EcmpGroup;
use crate::tunnel::{LEARNED_FOR_NS, Tunnel, TunnelEnd, TunnelId, TunnelKind, VxlanEnd};
use margay_tunnels::encap::{Encap, Inner, VxlanEnds};
use margay_tunnels::wire::vxlan::Vni;
use margay_tunnels::wire::{checksum, tcp, udp};

const VNI: u32 = 4096;
const PORT: u16 = 4789;
const GATEWAY: Mac = Mac([2, 0, 0, 0, 0, 9]);
/// Targets of the first tunnel, IPIP, and those of VXLAN over IPv4 and IPv6.
const FIRST_TARGET: u32 = 9;
const KINDS: [(&str, usize); 3] = [("10.66.0.7", 20), ("10.67.0.7", 50), ("fd67::7", 70)];

fn vtep(number: u8) -> Mac {
    Mac([0x66, 0, 0, 0, 0, number])
}

fn node_v4(number: u8) -> std::net::Ipv4Addr {
    [192, 168, 0, number].into()
}

fn node_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, u16::from(number))
}

fn encaps(from: u8, to: u8) -> [(TunnelKind, IpAddr, Encap); 3] {
    let vni = Vni::new(VNI).unwrap();
    let ends = VxlanEnds { vni, port: PORT, local: vtep(from), remote: vtep(to) };
    let v4 = Encap::vxlan(node_v4(from).into(), node_v4(to).into(), ends).unwrap();
    let v6 = Encap::vxlan(node_v6(from).into(), node_v6(to).into(), ends).unwrap();
    [
        (TunnelKind::Ipip, node_v4(to).into(), Encap::ipip(node_v4(from), node_v4(to))),
        (TunnelKind::Vxlan, node_v4(to).into(), v4),
        (TunnelKind::Vxlan, node_v6(to).into(), v6),
    ]
}

impl Router {
    /// Node `me` with tunnels of all kinds to node `far`, whose pods it reaches through them.
    fn with_tunnels(me: u8, far: u8) -> Router {
        let mut router = Router::new();
        let mut end = TunnelEnd {
            v4: node_v4(me),
            v6: node_v6(me),
            ipip: true,
            vxlan: [Some(VxlanEnd { vni: Vni::new(VNI).unwrap(), mac: vtep(me) }); 2],
            vxlan_port: PORT,
            guards_ipip: true,
            guards_vxlan: true,
            ..TunnelEnd::default()
        };
        for (at, (kind, remote, encap)) in encaps(me, far).into_iter().enumerate() {
            let id = TunnelId(at as u32);
            end.sources.insert((kind, remote), id);
            let base = Default::default();
            let tunnel = Tunnel { kind, remote, encap, mss_mtu: 0, base };
            router.tables.tunnels.push(Some(tunnel));
            let next = AdjacencyId(router.tables.adjacencies.len() as u32);
            router.tables.targets.push(Target::Forward(next));
            let next =
                Adjacency { port: UPLINK, neighbor: remote, mac: Some(GATEWAY), tunnel: Some(id) };
            router.tables.adjacencies.push(next);
        }
        for (net, target) in [
            ("10.66.0.0/24", FIRST_TARGET),
            ("10.67.0.0/24", FIRST_TARGET + 1),
            ("fd67::/64", FIRST_TARGET + 2),
            ("192.168.0.1/32", 2),
            ("fd99::1/128", 2),
        ] {
            router.writer.insert(net.parse().unwrap(), TargetId(target)).unwrap();
        }
        router.tables.tunnel_end = end;
        router
    }

    /// Packets from the uplink; what comes out.
    fn arrive(&mut self, frames: &[Vec<u8>]) -> Vec<(PortId, Vec<u8>)> {
        self.feed(UPLINK, frames)
    }

    fn demand_drop(&mut self, bytes: Vec<u8>, reason: DropReason) {
        let before = self.dropped(reason);
        let sent = self.arrive(&[bytes]);
        assert!(sent.is_empty(), "{reason:?}: {sent:?}");
        assert_eq!(self.dropped(reason), before + 1, "{reason:?}");
        self.assert_no_frame_missing();
    }

    fn rx(&self, tunnel: u32) -> (u64, u64) {
        let counter = self.pipeline.counters.tunnels.get(TunnelId(tunnel));
        counter.map_or((0, 0), |it| (it.rx_packets.get(), it.rx_drops.get()))
    }

    fn tx(&self, tunnel: u32) -> (u64, u64) {
        let counter = self.pipeline.counters.tunnels.get(TunnelId(tunnel));
        counter.map_or((0, 0), |it| (it.tx_packets.get(), it.tx_bytes.get()))
    }
}

/// To node 1 from node 2, with `packet` (from its IP header on) inside.
fn wrapped(kind: usize, packet: &[u8]) -> Vec<u8> {
    let (_, remote, encap) = &encaps(2, 1)[kind];
    let ethertype = if remote.is_ipv4() { ethernet::IPV4 } else { ethernet::IPV6 };
    let mut bytes = link(ethertype);
    let mut outer = vec![0; encap.overhead()];
    assert!(encap.write(&mut outer, Inner::of(packet, packet.len(), 77).unwrap()));
    outer.extend(packet);
    if let Some(at) = encap.udp_to_sum() {
        let field = encap.udp_checksum(&outer, checksum::sum(&outer[at..]));
        outer[at + 6..at + 8].copy_from_slice(&field.to_be_bytes());
    }
    bytes.extend(outer);
    bytes
}

/// From a pod of node 2 to the pod of node 1.
fn inner_packet(payload: &[u8]) -> Vec<u8> {
    v4("10.66.0.7", SRC, 63, payload)[14..].to_vec()
}

/// A packet for the far pod of a kind of tunnel.
fn outward(kind: usize, ttl: u8, payload: &[u8]) -> Vec<u8> {
    match KINDS[kind].0 {
        dst if dst.contains(':') => v6("fd00::5", dst, ttl, payload),
        dst => v4(SRC, dst, ttl, payload),
    }
}

#[test]
fn what_one_router_wraps_the_other_one_delivers() {
    for (kind, (_, overhead)) in KINDS.iter().enumerate() {
        for length in [0, 1, 57, 1200] {
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut near = Router::with_tunnels(1, 2);
            let packet = outward(kind, 64, &payload);
            let mut sent = near.feed(PODS, std::slice::from_ref(&packet));
            let (to, mut wire) = sent.pop().unwrap();
            assert!(sent.is_empty() && to == UPLINK);
            assert_eq!(wire.len(), packet.len() + overhead);
            assert_eq!(wire[..12], [GATEWAY.0, MARGAY.0].concat());
            assert_eq!(near.tx(kind as u32), (1, packet.len() as u64 - 14));
            // At the far node the prefixes of tunnels are its own pods.
            let mut far = Router::with_tunnels(2, 1);
            for (net, target) in [("10.66.0.0/24", 8), ("10.67.0.0/24", 8), ("fd67::/64", 8)] {
                far.writer.insert(net.parse().unwrap(), TargetId(target)).unwrap();
            }
            wire[..6].copy_from_slice(&MARGAY.0);
            let sent = far.arrive(&[wire]);
            let mut wanted = outward(kind, 62, &payload);
            wanted[..12].copy_from_slice(&[POD.0, MARGAY.0].concat());
            assert_eq!(sent, [(PODS, wanted)], "kind {kind}, {length} bytes");
            assert_eq!(far.rx(kind as u32), (1, 0));
            near.assert_no_frame_missing();
            far.assert_no_frame_missing();
        }
    }
}

#[test]
fn outer_headers_are_read_by_an_independent_parser() {
    let mut router = Router::with_tunnels(1, 2);
    let mut packet = outward(0, 64, b"hello");
    packet[15] = 0xb9;
    ipv4::fill_checksum(&mut packet[14..]);
    let sent = router.feed(PODS, &[packet]);
    let parsed = etherparse::SlicedPacket::from_ethernet(&sent[0].1).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = parsed.net else { panic!("not IPv4") };
    let header = ip.header().to_header();
    assert_eq!((header.source, header.destination), ([192, 168, 0, 1], [192, 168, 0, 2]));
    assert_eq!((header.protocol.0, header.time_to_live, header.dont_fragment), (4, 64, true));
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!((header.dscp.value(), header.ecn.value()), (0x2e, 1));
    assert_eq!(usize::from(header.total_len), sent[0].1.len() - 14);
}

#[test]
fn a_packet_that_the_tunnel_has_no_room_for_is_refused_or_cut_before_it_goes_in() {
    for (kind, (_, overhead)) in KINDS.iter().enumerate() {
        let mut router = Router::with_tunnels(1, 2);
        let mtu = 1400 - *overhead as u32;
        let mut packet = outward(kind, 64, &[7; 1400]);
        if kind < 2 {
            set_df(&mut packet);
            let (icmp, code, word, quote) = icmp_v4(&router.feed(PODS, &[packet.clone()]));
            assert_eq!((icmp, code, word), (3, 4, mtu), "RFC 2003 5.1");
            assert_eq!(quote, &packet[14..14 + 576 - 28]);
        } else {
            let (icmp, _, word, _) = icmp_v6(&router.feed(PODS, &[packet]));
            assert_eq!((icmp, word), (2, mtu));
        }
        assert_eq!(router.dropped(DropReason::TooBig), 1);
        // As large as fits.
        let headers = if kind < 2 { 28 } else { 40 };
        let fitting = outward(kind, 64, &vec![7; mtu as usize - headers]);
        let sent = router.feed(PODS, &[fitting]);
        assert_eq!(sent[0].1.len(), 1414);
    }
    let mut router = Router::with_tunnels(1, 2);
    let payload: Vec<u8> = (0..2900u32).map(|at| (at % 251) as u8).collect();
    let whole = outward(0, 64, &payload);
    let sent = router.feed(PODS, std::slice::from_ref(&whole));
    let mut joined = Vec::new();
    for (to, bytes) in &sent {
        let (outer, inner) =
            (ipv4::View::new(&bytes[14..]).unwrap(), ipv4::View::new(&bytes[34..]).unwrap());
        assert!(outer.total_len() <= 1400 && !outer.is_fragment() && *to == UPLINK);
        assert!(inner.checksum_ok() && inner.is_fragment() && inner.ttl() == 63);
        assert_eq!(inner.fragment_offset(), joined.len());
        joined.extend_from_slice(&bytes[54..]);
    }
    assert_eq!((sent.len(), joined), (3, whole[34..].to_vec()));
    router.assert_no_frame_missing();
}

#[test]
fn a_ttl_that_ends_before_the_tunnel_is_told() {
    let mut router = Router::with_tunnels(1, 2);
    let sent = router.feed(PODS, &[outward(1, 1, b"x")]);
    assert_eq!(icmp_v4(&sent).0, 11);
    assert_eq!(router.dropped(DropReason::TtlExceeded), 1);
}

/// The packet that waits is the inner one: it goes in when the underlay's next hop is known.
#[test]
fn packets_wait_for_the_next_hop_of_the_underlay() {
    let mut router = Router::with_tunnels(1, 2);
    let at = router.tables.adjacencies.len() - 3;
    router.tables.adjacencies[at].mac = None;
    assert!(router.feed(PODS, &[outward(0, 64, b"hello")]).is_empty());
    let neighbor = router.pipeline.requests.pop().unwrap();
    assert_eq!(neighbor, Neighbor { port: UPLINK, address: node_v4(2).into() });
    router.tables.adjacencies[at].mac = Some(GATEWAY);
    router.with(|pipeline, view| pipeline.neighbor_result(view, &neighbor, true));
    let sent = router.sent();
    assert_eq!((sent.len(), sent[0].1[23], sent[0].1[42]), (1, 4, 63));
    router.assert_no_frame_missing();
}

fn tcp_packet(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = 20 + options.len() + payload.len();
    let (src, dst) = (SRC.parse().unwrap(), "10.67.0.7".parse().unwrap());
    let mut bytes = link(ethernet::IPV4);
    bytes.extend(ipv4::header(src, dst, protocol::TCP, 64, length as u16));
    bytes.extend([0x30, 0x39, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 0]);
    let words = (20 + options.len()) as u8 / 4;
    bytes.extend([words << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    bytes.extend(options);
    bytes.extend(payload);
    let sum = checksum::pseudo_v4(src, dst, protocol::TCP, length);
    bytes[50..52].copy_from_slice(&checksum::fold(sum).to_be_bytes());
    bytes
}

fn checksum_is_right(ip: &[u8]) -> bool {
    let view = ipv4::View::new(ip).unwrap();
    let length = ip.len() - 20;
    let pseudo = checksum::pseudo_v4(view.src(), view.dst(), view.protocol(), length);
    checksum::fold(checksum::sum(&ip[20..]) + pseudo) == 0xffff
}

#[test]
fn super_packets_are_cut_and_checksums_finished_before_they_go_in() {
    let mut router = Router::with_tunnels(1, 2);
    let payload: Vec<u8> = (0..3000u32).map(|at| (at % 253) as u8).collect();
    let bytes = tcp_packet(tcp::ACK, &[], &payload);
    let mut packet = router.packet(&bytes, TAP);
    let partial = Offload {
        needs_csum: true,
        gso: Gso::Tcp4,
        gso_size: 1200,
        csum_start: 34,
        csum_offset: 16,
    };
    packet.set_offload(partial);
    let mut burst = vec![packet];
    router.with(|pipeline, view| pipeline.process(view, TAP, &mut burst));
    let sent = router.sent();
    let lengths: Vec<usize> = sent.iter().map(|(_, bytes)| bytes.len() - 104).collect();
    assert_eq!(lengths, [1200, 1200, 600]);
    let mut joined = Vec::new();
    for (_, bytes) in &sent {
        assert_eq!(udp::View::new(&bytes[34..]).unwrap().dst_port(), PORT);
        assert!(checksum_is_right(&bytes[64..]));
        joined.extend_from_slice(&bytes[104..]);
    }
    assert_eq!(joined, payload);
    assert_eq!(router.tx(1), (3, 3000 + 3 * 40));
    router.assert_no_frame_missing();
}

#[test]
fn unfinished_checksums_of_a_veth_are_seen_inside_of_tunnels_too() {
    let mut router = Router::with_tunnels(1, 2);
    router.tables.ports[1].as_mut().unwrap().implicit_partial_csum = true;
    let mut inner = tcp_packet(tcp::ACK, &[], b"hello")[14..].to_vec();
    inner[16..20].copy_from_slice(&[10, 1, 0, 5]);
    inner[12..16].copy_from_slice(&[10, 67, 0, 7]);
    ipv4::fill_checksum(&mut inner);
    let view = ipv4::View::new(&inner).unwrap();
    let sum = checksum::pseudo_v4(view.src(), view.dst(), protocol::TCP, 25);
    inner[36..38].copy_from_slice(&checksum::fold(sum).to_be_bytes());
    let bytes = wrapped(1, &inner);
    let packet = router.packet(&bytes, UPLINK);
    let mut burst = vec![packet];
    router.with(|pipeline, view| pipeline.process(view, UPLINK, &mut burst));
    let mut queue = Vec::new();
    assert_eq!(router.pipeline.egress.take(&mut queue), Some(PODS));
    assert!(queue[0].offload().needs_csum);
    router.pipeline.pool.free_burst(&mut queue);
}

#[test]
fn only_known_nodes_known_networks_and_right_headers_come_out() {
    let mut router = Router::with_tunnels(1, 2);
    let inner = inner_packet(b"hello");
    let ip_checksum = |bytes: &mut Vec<u8>| ipv4::fill_checksum(&mut bytes[14..]);
    for kind in [0, 1] {
        let mut bytes = wrapped(kind, &inner);
        bytes[29] = 66;
        ip_checksum(&mut bytes);
        router.demand_drop(bytes, DropReason::TunnelSource);
        let mut bytes = wrapped(kind, &inner);
        bytes[20] = 0x20;
        ip_checksum(&mut bytes);
        router.demand_drop(bytes, DropReason::TunnelFragment);
    }
    let with = |at: usize, value: u8| {
        let mut bytes = wrapped(1, &inner);
        bytes[at] = value;
        bytes
    };
    router.demand_drop(with(48, 9), DropReason::TunnelVni);
    router.demand_drop(with(42, 0), DropReason::TunnelHeader);
    router.demand_drop(with(38, 0xff), DropReason::TunnelHeader);
    router.demand_drop(with(39, 29), DropReason::TunnelHeader);
    router.demand_drop(with(55, 0x99), DropReason::NotOurMac);
    router.demand_drop(with(62, 0x81), DropReason::EtherType);
    let mut arp = with(63, 0x06);
    arp[62] = 0x08;
    router.demand_drop(arp, DropReason::NeighborMessage);
    router.demand_drop(with(64, 0x65), DropReason::BadHeader);
    let mut sixth = wrapped(0, &inner);
    sixth[34] = 0x65;
    router.demand_drop(sixth, DropReason::TunnelHeader);
    for cut in [1, 20, 28] {
        let mut bytes = wrapped(0, &inner);
        let length = bytes.len() - cut;
        bytes.truncate(length);
        bytes[16..18].copy_from_slice(&((length - 14) as u16).to_be_bytes());
        ip_checksum(&mut bytes);
        let reason = if cut < 14 { DropReason::Truncated } else { DropReason::TunnelHeader };
        router.demand_drop(bytes, reason);
    }
    assert_eq!(router.rx(0).0 + router.rx(1).0, 0);
    assert!(router.rx(1).1 > 5, "counted at the tunnel too");
}

/// An outer packet in fragments of at most 400 bytes, as senders that know no better cut it.
fn cut(bytes: &[u8]) -> Vec<Vec<u8>> {
    let is_v4 = bytes[14] >> 4 == 4;
    let header = if is_v4 { 34 } else { 54 };
    let pieces: Vec<&[u8]> = bytes[header..].chunks(400).collect();
    let build = |(at, piece): (usize, &&[u8])| {
        let (more, offset) = (at + 1 < pieces.len(), at * 400);
        let mut out = bytes[..header].to_vec();
        if is_v4 {
            let flag = if more { ipv4::MORE_FRAGMENTS } else { 0 };
            let word = (offset / 8) as u16 | flag;
            ipv4::set_fragment(&mut out[14..], (20 + piece.len()) as u16, 9, word);
        } else {
            out[18..20].copy_from_slice(&((piece.len() + 8) as u16).to_be_bytes());
            let word = offset as u16 | u16::from(more);
            let next = std::mem::replace(&mut out[20], 44);
            out.extend([next, 0]);
            out.extend(word.to_be_bytes());
            out.extend([0, 0, 0, 9]);
        }
        out.extend(*piece);
        out
    };
    pieces.iter().enumerate().map(build).collect()
}

#[test]
fn outer_fragments_are_put_together_in_any_order() {
    for kind in 0..KINDS.len() {
        let mut router = Router::with_tunnels(1, 2);
        let payload: Vec<u8> = (0..1200).map(|at| at as u8).collect();
        let fragments = cut(&wrapped(kind, &inner_packet(&payload)));
        assert!(fragments.len() > 3);
        for turn in 0..fragments.len() {
            let mut order = fragments.clone();
            order.rotate_left(turn);
            let last = order.pop().unwrap();
            assert!(router.arrive(&order).is_empty());
            let sent = router.arrive(&[last]);
            assert_eq!((sent.len(), sent[0].0), (1, PODS), "kind {kind}");
            assert_eq!(sent[0].1[42..], payload, "kind {kind}");
        }
        assert_eq!((router.drops(), router.rx(kind as u32).0), (0, fragments.len() as u64));
        // Not whole in time.
        assert!(router.arrive(&fragments[1..]).is_empty());
        router.now_ns += crate::tunnel::reassembly::TIME_NS;
        router.with(|pipeline, view| pipeline.tick(view));
        let lost = fragments.len() as u64 - 1;
        assert_eq!(router.dropped(DropReason::FragmentTimeout), lost);
        router.assert_no_frame_missing();
    }
}

#[test]
fn rfc_8200_8_1_vxlan_over_ipv6_without_a_right_checksum_is_dropped() {
    let mut router = Router::with_tunnels(1, 2);
    let inner = v6("fd67::7", "fd00::5", 63, b"hello")[14..].to_vec();
    assert_eq!(router.arrive(&[wrapped(2, &inner)]).len(), 1);
    let mut zero = wrapped(2, &inner);
    zero[60..62].fill(0);
    router.demand_drop(zero, DropReason::BadChecksum);
    let mut wrong = wrapped(2, &inner);
    *wrong.last_mut().unwrap() ^= 1;
    router.demand_drop(wrong.clone(), DropReason::BadChecksum);
    router.tables.ports[1].as_mut().unwrap().implicit_partial_csum = true;
    assert_eq!(router.arrive(&[wrong]).len(), 1, "behind a veth it may be unfinished");
}

#[test]
fn a_tunnel_inside_of_a_tunnel_to_this_node_is_dropped() {
    let mut router = Router::with_tunnels(1, 2);
    for (outside, inside) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let nested = wrapped(inside, &inner_packet(b"x"))[14..].to_vec();
        router.demand_drop(wrapped(outside, &nested), DropReason::TunnelNested);
    }
    // One that leads elsewhere is a packet like any other.
    let mut other = wrapped(0, &inner_packet(b"x"))[14..].to_vec();
    other[16..20].copy_from_slice(&[10, 1, 0, 5]);
    ipv4::fill_checksum(&mut other);
    assert_eq!(router.arrive(&[wrapped(1, &other)])[0].0, PODS);
}

#[test]
fn what_workloads_send_is_never_taken_apart() {
    let mut router = Router::with_tunnels(1, 2);
    for kind in [0, 1, 2] {
        let inner = inner_packet(b"x");
        let before = router.dropped(DropReason::TunnelFromWorkload);
        assert!(router.feed(PODS, &[wrapped(kind, &inner)]).is_empty());
        assert_eq!(router.dropped(DropReason::TunnelFromWorkload), before + 1);
        // To another node either.
        let mut bytes = wrapped(kind, &inner);
        if kind < 2 {
            bytes[33] = 77;
            ipv4::fill_checksum(&mut bytes[14..]);
        } else {
            bytes[53] = 77;
        }
        assert!(router.feed(PODS, &[bytes]).is_empty());
        assert_eq!(router.dropped(DropReason::TunnelFromWorkload), before + 2);
    }
    router.tables.tunnel_end.guards_ipip = false;
    router.tables.tunnel_end.guards_vxlan = false;
    for kind in [0, 1, 2] {
        let sent = router.feed(PODS, &[wrapped(kind, &inner_packet(b"x"))]);
        assert_eq!((sent.len(), sent[0].0), (1, HOST), "allowed, but to the host as it is");
        assert_eq!(sent[0].1[14..], wrapped(kind, &inner_packet(b"x"))[14..]);
    }
    assert_eq!(router.rx(0).0 + router.rx(1).0 + router.rx(2).0, 0);
    // Other datagrams are nobody's business.
    assert_eq!(router.feed(PODS, &[v4(SRC, "172.16.3.4", 64, b"x")]).len(), 1);
}

#[test]
fn tunnels_that_do_not_end_here_are_the_hosts() {
    let mut router = Router::with_tunnels(1, 2);
    router.tables.tunnel_end.ipip = false;
    router.tables.tunnel_end.vxlan = [None; 2];
    for kind in [0, 1, 2] {
        let sent = router.arrive(&[wrapped(kind, &inner_packet(b"x"))]);
        assert_eq!((sent.len(), sent[0].0), (1, HOST));
    }
}

/// The host's own address inside a tunnel, as other nodes reach its processes.
#[test]
fn inner_packets_to_the_host_are_delivered() {
    let mut router = Router::with_tunnels(1, 2);
    let inner = v4("10.66.0.7", "10.1.0.1", 63, b"x")[14..].to_vec();
    for kind in [0, 1] {
        let sent = router.arrive(&[wrapped(kind, &inner)]);
        assert_eq!((sent[0].0, &sent[0].1[14..]), (HOST, &inner[..]));
    }
}

#[test]
fn rfc_6040_congestion_of_the_underlay_is_carried_over_or_drops() {
    let mut router = Router::with_tunnels(1, 2);
    let congested = |class: u8| {
        let mut inner = inner_packet(b"x");
        inner[1] = class;
        ipv4::fill_checksum(&mut inner);
        let mut bytes = wrapped(1, &inner);
        bytes[15] = 3;
        ipv4::fill_checksum(&mut bytes[14..]);
        bytes
    };
    router.demand_drop(congested(0), DropReason::TunnelEcn);
    let sent = router.arrive(&[congested(2)]);
    let view = ipv4::View::new(&sent[0].1[14..]).unwrap();
    assert!(view.traffic_class() == 3 && view.checksum_ok());
}

#[test]
fn flows_share_two_tunnels_and_each_keeps_to_one() {
    let mut router = Router::with_tunnels(1, 2);
    let members = [AdjacencyId(4), AdjacencyId(5)];
    router.tables.ecmp_groups.push(EcmpGroup { ..crate::ecmp::build(&members, 7) });
    router.tables.targets.push(Target::Ecmp(0));
    let target = TargetId(router.tables.targets.len() as u32 - 1);
    router.writer.insert("10.68.0.0/16".parse().unwrap(), target).unwrap();
    let packets: Vec<Vec<u8>> =
        (0..64).map(|at| v4(SRC, &format!("10.68.{at}.1"), 64, b"x")).collect();
    let first: Vec<u8> = router.feed(PODS, &packets).iter().map(|(_, bytes)| bytes[23]).collect();
    let ipip = first.iter().filter(|protocol| **protocol == 4).count();
    assert!((8..56).contains(&ipip), "{ipip} of 64 by IPIP");
    let again: Vec<u8> = router.feed(PODS, &packets).iter().map(|(_, bytes)| bytes[23]).collect();
    assert_eq!(first, again);
}

#[test]
fn segment_sizes_are_lowered_both_ways_where_that_is_asked_for() {
    let mut router = Router::with_tunnels(1, 2);
    router.tables.tunnels[1].as_mut().unwrap().mss_mtu = 1350;
    let mut syn = tcp_packet(tcp::SYN, &[2, 4, 0x05, 0xb4], &[]);
    let field = checksum::finish(checksum::sum(&syn[34..]));
    syn[50..52].copy_from_slice(&field.to_be_bytes());
    let sent = router.feed(PODS, &[syn.clone()]);
    let inner = &sent[0].1[64..];
    assert_eq!(inner[42..44], 1310u16.to_be_bytes());
    assert!(checksum_is_right(inner));
    // The answer, out of the tunnel.
    syn[26..30].copy_from_slice(&[10, 67, 0, 7]);
    syn[30..34].copy_from_slice(&[10, 1, 0, 5]);
    let (src, dst) = ([10, 67, 0, 7].into(), [10, 1, 0, 5].into());
    syn[50..52].fill(0);
    let sum = checksum::sum(&syn[34..]) + checksum::pseudo_v4(src, dst, protocol::TCP, 24);
    syn[50..52].copy_from_slice(&checksum::finish(sum).to_be_bytes());
    ipv4::fill_checksum(&mut syn[14..]);
    let sent = router.arrive(&[wrapped(1, &syn[14..])]);
    assert_eq!(sent[0].1[56..58], 1310u16.to_be_bytes());
    assert!(checksum_is_right(&sent[0].1[14..]));
}

/// An ICMP error of the underlay about a packet that node 1 sent, quoting `quoted` bytes of it.
fn underlay_error(kind: u8, code: u8, word: u32, outer: &[u8]) -> Vec<u8> {
    let v6 = outer[0] >> 4 == 6;
    let mut icmp = vec![kind, code, 0, 0];
    icmp.extend(word.to_be_bytes());
    icmp.extend(outer);
    let mut bytes = link(if v6 { ethernet::IPV6 } else { ethernet::IPV4 });
    let length = icmp.len() as u16;
    let pseudo = if v6 {
        bytes.extend(ipv6::header(node_v6(200), node_v6(1), protocol::ICMPV6, 64, length));
        checksum::pseudo_v6(node_v6(200), node_v6(1), protocol::ICMPV6, icmp.len())
    } else {
        bytes.extend(ipv4::header(node_v4(200), node_v4(1), protocol::ICMP, 64, length));
        0
    };
    let field = checksum::finish(checksum::sum(&icmp) + pseudo);
    icmp[2..4].copy_from_slice(&field.to_be_bytes());
    bytes.extend(icmp);
    bytes
}

/// What node 1 sends for `packet`, from the outer IP header on.
fn outer_of(router: &mut Router, packet: Vec<u8>) -> Vec<u8> {
    router.feed(PODS, &[packet])[0].1[14..].to_vec()
}

#[test]
fn rfc_2003_4_too_big_in_the_underlay_is_learnt_and_told_to_the_inner_sender() {
    for (kind, (_, overhead)) in KINDS.iter().enumerate() {
        let mut router = Router::with_tunnels(1, 2);
        let mut packet = outward(kind, 64, &[7; 1270]);
        let (too_big, code, mtu) = if kind < 2 { (3, 4, 1200) } else { (2, 0, 1290) };
        if kind < 2 {
            set_df(&mut packet);
        }
        let outer = outer_of(&mut router, packet.clone());
        let error = underlay_error(too_big, code, mtu, &outer[..200]);
        let sent = router.arrive(&[error]);
        let inner_mtu = mtu - *overhead as u32;
        let (icmp, got, word, quote) = if kind < 2 { icmp_v4(&sent) } else { icmp_v6(&sent) };
        assert_eq!((icmp, got, word), (too_big, code, inner_mtu), "kind {kind}");
        assert_eq!(quote[..20], outer[*overhead..][..20], "the inner packet as it went in");
        assert_eq!(router.dropped(DropReason::TunnelError), 1);
        // The next one is refused here, until the path's MTU is forgotten.
        let sent = router.feed(PODS, &[packet.clone()]);
        let (icmp, _, word, _) = if kind < 2 { icmp_v4(&sent) } else { icmp_v6(&sent) };
        assert_eq!((icmp, word), (too_big, inner_mtu));
        router.now_ns += LEARNED_FOR_NS + 1_000_000_000;
        assert_eq!(router.feed(PODS, &[packet])[0].0, UPLINK);
        router.assert_no_frame_missing();
    }
}

#[test]
fn an_error_that_quotes_little_is_learnt_and_one_about_a_packet_without_df_not_told() {
    let mut router = Router::with_tunnels(1, 2);
    let outer = outer_of(&mut router, outward(0, 64, &[7; 1300]));
    // RFC 792: the header and 8 bytes.
    assert!(router.arrive(&[underlay_error(3, 4, 1000, &outer[..28])]).is_empty());
    let pieces = router.feed(PODS, &[outward(0, 64, &[7; 1300])]);
    assert_eq!(pieces.len(), 2, "cut for the path's MTU");
    assert!(pieces.iter().all(|(_, bytes)| bytes.len() <= 1014));
    assert!(router.arrive(&[underlay_error(3, 4, 1000, &outer[..200])]).is_empty(), "no DF inside");
    // Nothing below what Linux believes.
    assert!(router.arrive(&[underlay_error(3, 4, 0, &outer[..28])]).is_empty());
    let pieces = router.feed(PODS, &[outward(0, 64, &[7; 1300])]);
    assert!(pieces.iter().all(|(_, bytes)| bytes.len() <= 14 + 552) && pieces.len() == 3);
}

#[test]
fn rfc_2003_4_other_errors_become_host_unreachable() {
    let mut router = Router::with_tunnels(1, 2);
    for kind in [0, 1] {
        let outer = outer_of(&mut router, outward(kind, 64, &[7; 100]));
        for (icmp, code) in [(3, 1), (3, 0), (11, 0)] {
            let sent = router.arrive(&[underlay_error(icmp, code, 0, &outer)]);
            assert_eq!(icmp_v4(&sent).0, 3);
            assert_eq!(icmp_v4(&sent).1, 1);
        }
    }
    assert_eq!(router.pipeline.path_mtus.get(TunnelId(0), router.now_ns), None);
}

#[test]
fn errors_that_are_wrong_or_about_others_teach_nothing() {
    let mut router = Router::with_tunnels(1, 2);
    let outer = outer_of(&mut router, outward(0, 64, &[7; 1300]));
    let mut wrong = underlay_error(3, 4, 1000, &outer[..200]);
    *wrong.last_mut().unwrap() ^= 1;
    router.demand_drop(wrong, DropReason::BadChecksum);
    let mut others = outer.clone();
    others[19] = 77;
    ipv4::fill_checksum(&mut others);
    let mut not_sent = outer.clone();
    not_sent[15] = 77;
    let mut plain = outer.clone();
    plain[9] = 17;
    let echo = underlay_error(8, 0, 0, &outer[..28]);
    for bytes in [others, not_sent, plain].map(|outer| underlay_error(3, 4, 1000, &outer[..200])) {
        assert_eq!(router.arrive(&[bytes])[0].0, HOST);
    }
    assert_eq!(router.arrive(&[echo])[0].0, HOST);
    assert_eq!(router.pipeline.path_mtus.get(TunnelId(0), router.now_ns), None);
}

proptest! {
    #[test]
    fn no_bytes_from_the_underlay_make_it_panic_or_lose_a_frame(
        kind in 0usize..4, changes in proptest::collection::vec((0usize..160, any::<u8>()), 0..6),
        cut in 0usize..200, fix: bool,
    ) {
        let mut router = Router::with_tunnels(1, 2);
        let mut bytes = match kind {
            3 => underlay_error(3, 4, 1000, &wrapped(0, &inner_packet(&[1; 60]))[14..]),
            kind => wrapped(kind, &inner_packet(&[1; 60])),
        };
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(bytes.len().saturating_sub(cut).max(14));
        if fix && bytes.len() >= 34 && bytes[14] == 0x45 {
            let length = (bytes.len() - 14) as u16;
            bytes[16..18].copy_from_slice(&length.to_be_bytes());
            ipv4::fill_checksum(&mut bytes[14..]);
        }
        router.arrive(&[bytes.clone()]);
        router.feed(PODS, &[bytes]);
        router.assert_no_frame_missing();
    }
}
