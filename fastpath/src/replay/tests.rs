use super::*;
use etherparse::PacketBuilder;
use margay_tunnels::wire::ipv4;
use std::net::Ipv4Addr;

const IN: PortId = PortId(0);
const OUT: PortId = PortId(1);
const HERE: Mac = Mac([2, 0, 0, 0, 0, 9]);

fn port(name: &str, mtu: u16) -> Option<PortEntry> {
    let source = Some(Ipv4Addr::new(192, 0, 2, 1));
    Some(PortEntry { name: name.into(), mac: HERE, mtu, icmp_source_v4: source, ..made_up_host() })
}

/// 10.1/16 by a next hop behind OUT, 10.2/16 on OUT's link, 10.3.0.1 is the host's, 192.0.2/24 back
/// to IN, 10.4/16 a blackhole.
fn replay() -> Replay {
    let (mut writer, fib) = FibWriter::new();
    let next_hop = |port, last| {
        let neighbor = IpAddr::from([198, 51, 100, last]);
        Adjacency { port, neighbor, mac: None, tunnel: None }
    };
    let tables = Tables {
        ports: vec![port("in", 1500), port("out", 1400)],
        targets: vec![
            Target::NoRoute,
            Target::Forward(AdjacencyId(0)),
            Target::Glean(OUT),
            Target::Local,
            Target::Forward(AdjacencyId(1)),
            Target::Blackhole,
        ],
        adjacencies: vec![next_hop(OUT, 7), next_hop(IN, 8)],
        ..Tables::default()
    };
    for (net, target) in [
        ("10.1.0.0/16", 1),
        ("10.2.0.0/16", 2),
        ("10.3.0.1/32", 3),
        ("192.0.2.0/24", 4),
        ("10.4.0.0/16", 5),
    ] {
        writer.insert(net.parse().unwrap(), TargetId(target)).unwrap();
    }
    Replay::new(tables, writer, fib).unwrap()
}

fn udp(dst: [u8; 4], ttl: u8, payload: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], HERE.0)
        .ipv4([192, 0, 2, 50], dst, ttl)
        .udp(1000, 2000);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &vec![7; payload]).unwrap();
    bytes
}

/// Clears DF and mends the header checksum.
fn fragmentable(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[20] = 0;
    ipv4::fill_checksum(&mut bytes[14..34]);
    bytes
}

#[test]
fn a_packet_goes_to_its_next_hop_with_a_smaller_ttl() {
    let (mut replay, mut out) = (replay(), Vec::new());
    let fate = replay.packet(IN, 0, &udp([10, 1, 0, 1], 64, 20), &mut out);
    assert_eq!(fate, Fate::Forwarded(OUT));
    let [sent] = &out[..] else { panic!("{out:?}") };
    assert_eq!((&sent.bytes[..6], sent.made_here), (&[2, 4, 198, 51, 100, 7][..], false));
    let header = ipv4::View::new(&sent.bytes[14..]).unwrap();
    assert_eq!((header.ttl(), header.checksum_ok()), (63, true));
}

#[test]
fn every_other_fate_has_its_name() {
    let mut replay = replay();
    let cases = [
        (udp([10, 2, 0, 1], 64, 20), Fate::Forwarded(OUT), 1),
        (udp([10, 2, 0, 1], 64, 20), Fate::Forwarded(OUT), 1),
        (udp([10, 3, 0, 1], 1, 20), Fate::Punted, 1),
        (udp([10, 4, 0, 1], 64, 20), Fate::Dropped(DropReason::Blackhole), 0),
        (udp([10, 5, 0, 1], 64, 20), Fate::Dropped(DropReason::NoRoute), 1),
        (udp([10, 1, 0, 1], 1, 20), Fate::Dropped(DropReason::TtlExceeded), 1),
        (udp([10, 1, 0, 1], 64, 1400), Fate::Dropped(DropReason::TooBig), 1),
        (fragmentable(udp([10, 1, 0, 1], 64, 1450)), Fate::Forwarded(OUT), 2),
        (vec![], Fate::Dropped(DropReason::Truncated), 0),
        (vec![0; MAX_LEN + 1], Fate::Dropped(DropReason::NoFrame), 0),
    ];
    for (at, (bytes, expected, sent)) in cases.into_iter().enumerate() {
        let mut out = Vec::new();
        // A second apart, so that the limit on ICMP errors is not met.
        let fate = replay.packet(IN, at as u64 * 1_000_000_000, &bytes, &mut out);
        assert_eq!((fate, out.len()), (expected, sent), "case {at}: {out:?}");
        let error = matches!(fate, Fate::Dropped(_)) && sent == 1;
        assert!(out.iter().all(|sent| sent.made_here == error));
        assert_eq!(replay.frames_under_way(), 0);
    }
}

#[test]
fn an_unknown_port_is_a_drop_and_arp_on_a_kernels_link_is_not_ours() {
    let (mut replay, mut out) = (replay(), Vec::new());
    let packet = udp([10, 1, 0, 1], 64, 20);
    let fate = replay.packet(PortId(9), 0, &packet, &mut out);
    assert_eq!(fate, Fate::Dropped(DropReason::PortDown));
    let mut arp = vec![0xff; 6];
    arp.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend([2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 169, 254, 1, 1]);
    replay.tables.ports[0].as_mut().unwrap().answers_neighbors = true;
    assert_eq!(replay.packet(IN, 0, &arp, &mut out), Fate::Answered);
    replay.tables.ports[0].as_mut().unwrap().answers_neighbors = false;
    let fate = replay.packet(IN, 0, &arp, &mut out);
    assert_eq!(fate, Fate::Dropped(DropReason::NeighborMessage));
}

#[test]
fn the_longest_packet_is_taken() {
    let (mut replay, mut out) = (replay(), Vec::new());
    let mut bytes = fragmentable(udp([10, 1, 0, 1], 64, 65_000));
    bytes.resize(MAX_LEN, 0);
    assert_eq!(replay.packet(IN, 0, &bytes, &mut out), Fate::Forwarded(OUT));
    assert_eq!(out.len(), 48);
    assert_eq!(replay.frames_under_way(), 0);
}
