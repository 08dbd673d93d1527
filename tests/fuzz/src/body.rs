//! What the fuzz targets and the property tests run: bytes through the real pipeline, and after
//! each packet everything that must hold whatever the bytes were.

use ipnet::IpNet;
use margay_fastpath::fib::FibWriter;
use margay_fastpath::packet::{Gso, Offload};
use margay_fastpath::port::PortId;
use margay_fastpath::replay::{Fate, Replay, Sent};
use margay_fastpath::sys::memory::lost_frames;
use margay_fastpath::tables::{
    Adjacency, AdjacencyId, EcmpGroup, PortEntry, Tables, Target, TargetId,
};
use margay_tunnels::wire::{checksum, ethernet, ethernet::Mac, ipv4, ipv6, protocol, tcp, udp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Name, MTU, and whether margay answers ARP there, of each port.
const PORTS: [(&str, u16, bool); 4] =
    [("uplink", 1500, false), ("veth", 1400, false), ("tap", 9000, true), ("narrow", 1280, false)];

/// Prefix and target number; see [`tables`].
const ROUTES: [(&str, u32); 16] = [
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
];

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
        up: true,
    }
}

/// Targets 1 to 4 lead to the four ports, 5 is a link, 6 two next hops, then host, blackhole,
/// unreachable, prohibit.
fn tables() -> Tables {
    let next_hop = |port: usize| Adjacency {
        port: PortId(port as u16),
        neighbor: IpAddr::from([198, 51, 100, port as u8]),
        mac: None,
        tunnel: None,
    };
    let mut targets = vec![Target::NoRoute];
    targets.extend((0..4).map(|at| Target::Forward(AdjacencyId(at))));
    targets.extend([Target::Glean(PortId(3)), Target::Ecmp(0), Target::Local]);
    targets.extend([Target::Blackhole, Target::Unreachable, Target::Prohibit]);
    Tables {
        ports: (0..PORTS.len()).map(|at| Some(entry(at))).collect(),
        targets,
        adjacencies: (0..PORTS.len()).map(next_hop).collect(),
        ecmp_groups: vec![EcmpGroup { buckets: Box::new([AdjacencyId(0), AdjacencyId(3)]) }],
        ..Tables::default()
    }
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
        let (mut writer, fib) = FibWriter::new();
        for (prefix, target) in ROUTES {
            let prefix: IpNet = prefix.parse().expect("a prefix");
            writer.insert(prefix, TargetId(target)).expect("room for a few routes");
        }
        let replay = Replay::new(tables(), writer, fib).expect("4 MiB of memory");
        Way { replay, lost_before: lost_frames(), out: Vec::new(), time_ns: 0 }
    }
}

impl Way {
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
        let ingress = usize::from(choices & 3);
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
        match offload {
            Some(offload) => self.unfinished(ingress, &bytes, offload),
            None => self.packet(ingress, &bytes),
        };
    }

    /// What holds after every packet.
    fn check(&self, fate: Fate) {
        assert_ne!(fate, Fate::Waiting);
        assert_eq!(self.replay.frames_under_way(), 0, "{fate:?}");
        assert_eq!(lost_frames(), self.lost_before, "{fate:?}");
        let own = self.out.iter().filter(|sent| !sent.made_here).count();
        assert_eq!(own > 0, !matches!(fate, Fate::Dropped(_)), "{fate:?}: {own} sent");
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
    match link.ethertype() {
        ethernet::IPV4 => {
            let view = ipv4::View::new(ip).expect("a whole header");
            assert!(view.checksum_ok() && view.ttl() > 0);
            assert_eq!(view.total_len(), ip.len());
            if sent.made_here {
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
            if sent.made_here {
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

/// Reads every field that the views offer; none may panic once the view was given.
pub fn views(bytes: &[u8]) {
    if let Some(link) = ethernet::View::new(bytes) {
        let _ = (link.dst(), link.src(), link.ethertype(), link.payload());
    }
    if let Some(view) = ipv4::View::new(bytes) {
        let _ = (view.checksum_ok(), view.total_len(), view.is_fragment(), view.src(), view.dst());
        assert!(view.header_len() <= 60 && view.fragment_offset() < 1 << 16);
    }
    if let Some(view) = ipv6::View::new(bytes) {
        let listed: Vec<_> = view.extensions().collect();
        assert!(listed.len() <= ipv6::MAX_EXTENSIONS);
        if let Some(found) = view.transport() {
            let end = listed.last().map_or(ipv6::HEADER_LEN, |last| last.offset + last.len);
            assert_eq!(end, found.offset);
            assert_eq!(listed.last().map_or(view.next_header(), |last| last.next), found.protocol);
        }
    }
    if let Some(view) = tcp::View::new(bytes) {
        let _ = (view.src_port(), view.sequence(), view.flags(), view.window(), view.checksum());
        assert!(view.header_len() <= 60);
    }
    if let Some(view) = udp::View::new(bytes) {
        let _ = (view.src_port(), view.dst_port(), view.len(), view.is_empty(), view.checksum());
    }
}
