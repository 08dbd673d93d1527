//! What the fuzz targets and the property tests run: bytes through the real pipeline, and after
//! each packet everything that must hold whatever the bytes were.

use ipnet::IpNet;
use margay_fastpath::fib::FibWriter;
use margay_fastpath::limit::QueueAccount;
use margay_fastpath::packet::{Gso, Offload};
use margay_fastpath::port::PortId;
use margay_fastpath::replay::{Fate, Replay, Sent};
use margay_fastpath::sys::memory::lost_frames;
use margay_fastpath::tables::{
    Adjacency, AdjacencyId, EcmpGroup, PortEntry, Tables, Target, TargetId,
};
use margay_fastpath::tunnel::{Tunnel, TunnelEnd, TunnelId, TunnelKind, VxlanEnd};
use margay_tunnels::encap::{Encap, Inner, VxlanEnds};
use margay_tunnels::wire::vxlan::{self, Vni};
use margay_tunnels::wire::{checksum, ethernet, ethernet::Mac, ipv4, ipv6, protocol, udp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Name, MTU, and whether margay answers ARP there, of each port.
const PORTS: [(&str, u16, bool); 4] =
    [("uplink", 1500, false), ("veth", 1400, false), ("tap", 9000, true), ("narrow", 1280, false)];

/// Prefix and target number; see [`tables`].
const ROUTES: [(&str, u32); 21] = [
    ("0.0.0.0/0", 1),
    ("10.0.0.0/16", 2),
    ("10.1.0.0/24", 5),
    ("10.2.0.0/16", 6),
    ("10.3.0.1/32", 7),
    ("10.4.0.0/16", 8),
    ("10.5.0.0/16", 9),
    ("10.6.0.0/16", 10),
    ("10.7.0.0/16", 3),
    ("10.8.0.0/16", 4),
    ("2001:db8::/32", 1),
    ("2001:db8:1::/48", 2),
    ("2001:db8:2::/120", 5),
    ("2001:db8:3::1/128", 7),
    ("2001:db8:7::/48", 3),
    ("2001:db8:8::/48", 4),
    ("10.9.0.0/16", FIRST_TUNNEL),
    ("10.10.0.0/16", FIRST_TUNNEL + 1),
    ("2001:db8:9::/48", FIRST_TUNNEL + 2),
    ("192.0.2.1/32", 7),
    ("2001:db8:ff::1/128", 7),
];

/// Target of the first tunnel: IPIP, then VXLAN over IPv4, then over IPv6.
const FIRST_TUNNEL: u32 = 11;
/// UDP port of VXLAN.
const VXLAN_PORT: u16 = 4789;

/// Link address of port `at`.
pub fn mac(at: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, 0x10 + at as u8])
}

fn entry(at: usize) -> PortEntry {
    let (name, mtu, answers_neighbors) = PORTS[at];
    PortEntry {
        name: name.to_owned(),
        mac: mac(at),
        mtu,
        worker: 0,
        implicit_partial_csum: name == "veth",
        workload: name != "uplink",
        answers_neighbors,
        icmp_source_v4: Some(Ipv4Addr::new(192, 0, 2, 1 + at as u8)),
        icmp_source_v6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1 + at as u16)),
        sources: None,
        up: true,
        queue: QueueAccount::default(),
    }
}

/// Targets 1 to 4 lead to the four ports, 5 is a link, 6 two next hops, then host, blackhole,
/// unreachable, prohibit, and the three tunnels, all by the uplink.
fn tables() -> Tables {
    let next_hop = |port: usize, neighbor: IpAddr, tunnel: Option<TunnelId>| Adjacency {
        port: PortId(port as u16),
        neighbor,
        mac: None,
        tunnel,
    };
    let mut targets = vec![Target::NoRoute];
    targets.extend((0..4).map(|at| Target::Forward(AdjacencyId(at))));
    targets.extend([Target::Glean(PortId(3)), Target::Ecmp(0), Target::Local]);
    targets.extend([Target::Blackhole, Target::Unreachable, Target::Prohibit]);
    let mut adjacencies: Vec<_> = (0..PORTS.len())
        .map(|port| next_hop(port, IpAddr::from([198, 51, 100, port as u8]), None))
        .collect();
    let mut tunnels = Vec::new();
    for (at, (kind, remote, encap)) in tunnels_from(0).into_iter().enumerate() {
        targets.push(Target::Forward(AdjacencyId(adjacencies.len() as u32)));
        adjacencies.push(next_hop(0, remote, Some(TunnelId(at as u32))));
        let mss_mtu = if kind == TunnelKind::Ipip { 1480 } else { 0 };
        tunnels.push(Some(Tunnel { kind, remote, encap, mss_mtu, base: Default::default() }));
    }
    Tables {
        ports: (0..PORTS.len()).map(|at| Some(entry(at))).collect(),
        targets,
        adjacencies,
        ecmp_groups: vec![EcmpGroup { buckets: Box::new([AdjacencyId(0), AdjacencyId(3)]) }],
        tunnels,
        tunnel_end: tunnel_end(),
        ..Tables::default()
    }
}

fn ends() -> [(Ipv4Addr, Ipv6Addr, Mac); 2] {
    let far = (Ipv4Addr::new(192, 0, 2, 200), Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 200));
    let entry = entry(0);
    let near = entry.icmp_source_v4.zip(entry.icmp_source_v6).expect("an uplink with addresses");
    [(near.0, near.1, Mac([0x66, 0, 0, 0, 0, 1])), (far.0, far.1, Mac([0x66, 0, 0, 0, 0, 2]))]
}

fn vni() -> Vni {
    Vni::new(4096).expect("24 bits")
}

/// Tunnels of all kinds from this end (0: margay) to the other: kind, far end, headers.
fn tunnels_from(end: usize) -> [(TunnelKind, IpAddr, Encap); 3] {
    let (local, remote) = (ends()[end], ends()[1 - end]);
    let macs = VxlanEnds { vni: vni(), port: VXLAN_PORT, local: local.2, remote: remote.2 };
    let vxlan = |src, dst| Encap::vxlan(src, dst, macs).expect("one family");
    [
        (TunnelKind::Ipip, remote.0.into(), Encap::ipip(local.0, remote.0)),
        (TunnelKind::Vxlan, remote.0.into(), vxlan(local.0.into(), remote.0.into())),
        (TunnelKind::Vxlan, remote.1.into(), vxlan(local.1.into(), remote.1.into())),
    ]
}

fn tunnel_end() -> TunnelEnd {
    let [(v4, v6, mac), _] = ends();
    let from = tunnels_from(0).into_iter().enumerate();
    TunnelEnd {
        v4,
        v6,
        ipip: true,
        vxlan: [Some(VxlanEnd { vni: vni(), mac }); 2],
        vxlan_port: VXLAN_PORT,
        sources: from.map(|(at, (kind, far, _))| ((kind, far), TunnelId(at as u32))).collect(),
        guards_ipip: true,
        guards_vxlan: true,
        ..TunnelEnd::default()
    }
}

/// The frame as the far node sends it through a tunnel, or as it is when nothing is in it that
/// could be sent.
pub fn wrapped(frame: &[u8], kind: usize) -> Vec<u8> {
    let (_, end, encap) = &tunnels_from(1)[kind];
    let packet = frame.get(ethernet::HEADER_LEN..).unwrap_or_default();
    let Some(inner) = Inner::of(packet, packet.len(), 77) else { return frame.to_vec() };
    let mut outer = vec![0; encap.overhead()];
    if !encap.carries(inner.is_v6) || !encap.write(&mut outer, inner) {
        return frame.to_vec();
    }
    outer.extend(packet);
    if let Some(at) = encap.udp_to_sum() {
        let field = encap.udp_checksum(&outer, checksum::sum(&outer[at..]));
        outer[at + 6..at + 8].copy_from_slice(&field.to_be_bytes());
    }
    let ethertype = if end.is_ipv4() { ethernet::IPV4 } else { ethernet::IPV6 };
    let mut bytes = ethernet::header(mac(0), Mac([2, 0, 0, 0, 0, 9]), ethertype).to_vec();
    bytes.extend(outer);
    bytes
}

/// A pipeline in which every kind of target, port and MTU is found.
pub struct Way {
    replay: Replay,
    lost_before: u64,
    out: Vec<Sent>,
    time_ns: u64,
}

impl Default for Way {
    fn default() -> Way {
        Way::with(|plain| plain)
    }
}

impl Way {
    /// With further tables.
    pub fn with(further: impl FnOnce(Tables) -> Tables) -> Way {
        let (mut writer, fib) = FibWriter::new();
        for (prefix, target) in ROUTES {
            let prefix: IpNet = prefix.parse().expect("a prefix");
            writer.insert(prefix, TargetId(target)).expect("room for a few routes");
        }
        let replay = Replay::new(further(tables()), writer, fib).expect("4 MiB of memory");
        Way { replay, lost_before: lost_frames(), out: Vec::new(), time_ns: 0 }
    }

    /// What went out for the last packet.
    pub fn sent(&self) -> &[Sent] {
        &self.out
    }

    /// Lets time pass, in seconds.
    pub fn pass(&mut self, seconds: u64) {
        self.time_ns += seconds * 1_000_000_000;
    }

    /// Forgets flows and what waits.
    pub fn forget(&mut self) {
        self.replay.forget();
        assert_eq!(self.replay.frames_under_way(), 0);
    }

    /// One packet, as it is, into port `ingress` (0 to 3). Panics when an invariant is broken.
    pub fn packet(&mut self, ingress: usize, bytes: &[u8]) -> Fate {
        // Far enough apart that the limit on ICMP errors hides none.
        self.time_ns += 1_000_000_000;
        self.out.clear();
        let port = PortId(ingress as u16);
        let fate = self.replay.packet(port, self.time_ns, bytes, &mut self.out);
        self.check(fate);
        fate
    }

    /// One packet whose sender left checksum or segmentation to others.
    pub fn unfinished(&mut self, ingress: usize, bytes: &[u8], offload: Offload) -> Fate {
        self.out.clear();
        let fate = self.replay.unfinished(PortId(ingress as u16), bytes, offload, &mut self.out);
        self.check(fate);
        fate
    }

    /// What a fuzzer gives: a byte of choices, then for unfinished packets their state, then the
    /// packet. The choices mend the fields without which nearly all bytes end in the first check.
    pub fn fuzzed(&mut self, input: &[u8]) {
        let Some((&choices, rest)) = input.split_first() else { return };
        let through = (choices & 0x60 == 0x60).then_some(usize::from(choices & 3) % 3);
        let ingress = if through.is_some() { 0 } else { usize::from(choices & 3) };
        let (offload, bytes) = match rest.split_first_chunk::<8>() {
            Some((state, rest)) if choices & 4 != 0 => (Some(offload(state)), rest),
            _ => (None, rest),
        };
        let mut bytes = bytes.to_vec();
        if choices & 8 == 0 && bytes.len() >= 6 {
            bytes[..6].copy_from_slice(&mac(ingress).0);
        }
        if choices & 16 == 0 {
            mend(&mut bytes);
        }
        if let Some(kind) = through {
            bytes = wrapped(&bytes, kind);
        }
        match offload {
            Some(offload) => self.unfinished(ingress, &bytes, offload),
            None => self.packet(ingress, &bytes),
        };
    }

    /// What holds after every packet.
    fn check(&self, fate: Fate) {
        // Only fragments wait, for the one that has the ports.
        let (frames, waiting) = (self.replay.frames_under_way(), self.replay.held());
        assert_eq!(frames > 0, waiting > 0, "{fate:?}: {frames} frames, {waiting} packets");
        assert!(fate != Fate::Waiting || waiting > 0);
        assert_eq!(lost_frames(), self.lost_before, "{fate:?}");
        let own = self.out.iter().filter(|sent| !sent.made_here).count();
        let goes_on = !matches!(fate, Fate::Dropped(_) | Fate::Waiting);
        assert!(own > 0 || !goes_on, "{fate:?}: {own} sent");
        let host = self.replay.tables().host;
        let host = host.and_then(|id| self.replay.tables().adjacency(id)).map(|it| it.port);
        for sent in self.out.iter().filter(|sent| Some(sent.port) != host) {
            check_sent(sent, &entry(usize::from(sent.port.0)), fate);
        }
    }
}

fn check_sent(sent: &Sent, port: &PortEntry, fate: Fate) {
    let link = ethernet::View::new(&sent.bytes).expect("a whole link header");
    assert_eq!(link.src(), if fate == Fate::Answered { link.src() } else { port.mac });
    let ip = link.payload();
    assert!(ip.len() <= usize::from(port.mtu), "{} bytes into {}", ip.len(), port.mtu);
    check_packet(link.ethertype(), ip, sent.made_here, fate);
}

/// The same of a packet as of the one that a tunnel of ours carries in it.
fn check_packet(ethertype: u16, ip: &[u8], made_here: bool, fate: Fate) {
    if let Some((ethertype, inner)) = unwrapped(ethertype, ip) {
        return check_packet(ethertype, inner, made_here, fate);
    }
    match ethertype {
        ethernet::IPV4 => {
            let view = ipv4::View::new(ip).expect("a whole header");
            assert!(view.checksum_ok() && view.ttl() > 0);
            assert_eq!(view.total_len(), ip.len());
            if made_here {
                let body = &ip[view.header_len()..];
                assert_eq!(view.protocol(), protocol::ICMP);
                assert_eq!(checksum::fold(checksum::sum(body)), 0xffff);
                assert!(ip.len() <= 576, "RFC 1812 4.3.2.3");
            }
        }
        ethernet::IPV6 => {
            let view = ipv6::View::new(ip).expect("a whole header");
            assert!(view.hop_limit() > 0);
            assert_eq!(ipv6::HEADER_LEN + view.payload_len(), ip.len());
            if made_here {
                let body = &ip[ipv6::HEADER_LEN..];
                let pseudo =
                    checksum::pseudo_v6(view.src(), view.dst(), protocol::ICMPV6, body.len());
                assert_eq!(checksum::fold(pseudo + checksum::sum(body)), 0xffff);
                assert!(ip.len() <= 1280, "RFC 4443 2.4 (c)");
            }
        }
        other => assert_eq!((other, fate), (ethernet::ARP, Fate::Answered)),
    }
}

/// The packet inside, when this one is of a tunnel of ours: its outer headers are looked at here.
fn unwrapped(ethertype: u16, ip: &[u8]) -> Option<(u16, &[u8])> {
    let kinds = [ethernet::IPV4, ethernet::IPV4, ethernet::IPV6];
    let from_here = tunnels_from(0).into_iter().zip(kinds).filter(|(_, of)| *of == ethertype);
    for ((kind, remote, encap), _) in from_here {
        let (src, dst, carries, len) = match ethertype {
            ethernet::IPV4 => {
                let view = ipv4::View::new(ip)?;
                assert!(view.checksum_ok() && view.total_len() == ip.len() && view.ttl() > 0);
                (IpAddr::from(view.src()), view.dst().into(), view.protocol(), view.header_len())
            }
            _ => {
                let view = ipv6::View::new(ip)?;
                assert!(ipv6::HEADER_LEN + view.payload_len() == ip.len() && view.hop_limit() > 0);
                (view.src().into(), IpAddr::from(view.dst()), view.next_header(), ipv6::HEADER_LEN)
            }
        };
        let [(v4, v6, _), _] = ends();
        let carrier = if kind == TunnelKind::Ipip { protocol::IPIP } else { protocol::UDP };
        if !(src == IpAddr::V4(v4) || src == IpAddr::V6(v6)) || (dst, carries) != (remote, carrier)
        {
            continue;
        }
        if kind == TunnelKind::Ipip {
            return Some((ethernet::IPV4, &ip[len..]));
        }
        let datagram = udp::View::new(&ip[len..]).expect("a whole header");
        assert_eq!((datagram.dst_port(), datagram.len()), (VXLAN_PORT, ip.len() - len));
        if let Some(at) = encap.udp_to_sum() {
            let pseudo = ipv6::View::new(ip).map_or(0, |view| {
                checksum::pseudo_v6(view.src(), view.dst(), protocol::UDP, view.payload_len())
            });
            assert_eq!(checksum::fold(pseudo + checksum::sum(&ip[at..])), 0xffff);
        }
        let rest = &ip[len + udp::HEADER_LEN..];
        assert_eq!(vxlan::View::new(rest).and_then(|view| view.vni()), Some(vni()));
        let frame = &rest[vxlan::HEADER_LEN..];
        let link = ethernet::View::new(frame).expect("an inner link header");
        assert_eq!((link.src(), link.dst()), (ends()[0].2, ends()[1].2));
        return Some((link.ethertype(), &frame[ethernet::HEADER_LEN..]));
    }
    None
}

fn offload(state: &[u8; 8]) -> Offload {
    let [flags, gso, rest @ ..] = *state;
    let word = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    Offload {
        needs_csum: flags & 1 != 0,
        gso: [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp][usize::from(gso & 3)],
        gso_size: word(0),
        csum_start: word(2),
        csum_offset: word(4),
    }
}

/// Writes a right IPv4 header checksum where there is a header.
pub fn mend(bytes: &mut [u8]) {
    let is_v4 = ethernet::View::new(bytes).is_some_and(|link| link.ethertype() == ethernet::IPV4);
    if !is_v4 {
        return;
    }
    let ip = &mut bytes[ethernet::HEADER_LEN..];
    let whole = ipv4::View::new(ip)
        .is_some_and(|view| (ipv4::MIN_HEADER_LEN..=ip.len()).contains(&view.header_len()));
    if whole {
        ipv4::fill_checksum(ip);
    }
}
