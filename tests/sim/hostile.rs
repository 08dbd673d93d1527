//! Hostile captures: truncated, nested, wrong lengths, options, fragments, jumbo, made from a seed.
//! Every packet has one fate, nothing panics, and no frame is lost.

use crate::body::{Way, mac, mend, wrapped};
use crate::views::views;
use margay_fastpath::packet::Offload;
use margay_fastpath::port::PortId;
use margay_fastpath::replay::Fate;
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{ipv4, ipv6};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// A small generator of random numbers (xorshift64*), so that a seed means the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Payload sizes: around the MTUs of the ports, around a frame's room, and the largest.
const SIZES: [usize; 12] = [0, 1, 7, 8, 64, 1252, 1372, 1472, 3840, 8972, 9001, 65_507];

fn transport(random: &mut Random) -> (u8, Vec<u8>) {
    let kind = random.pick(&[1, 4, 6, 17, 41, 47, 58, 132, 255]);
    let size = if random.one_in(4) { random.pick(&SIZES) } else { random.below(200) };
    let mut body = random.bytes(size);
    if kind == 4 && random.one_in(2) {
        body = packet_v4(random, 3);
    }
    if kind == 1 && body.len() > 8 {
        body[0] = random.pick(&[0, 3, 5, 8, 11, 12]);
    }
    if kind == 58 && !body.is_empty() {
        body[0] = random.pick(&[1, 2, 3, 128, 129, 133, 134, 135, 136, 137]);
    }
    (kind, body)
}

fn packet_v4(random: &mut Random, depth: usize) -> Vec<u8> {
    let (mut protocol, mut body) = transport(random);
    if depth > 0 && random.one_in(6) {
        (protocol, body) = (4, packet_v4(random, depth - 1));
    }
    let options = if random.one_in(4) { random.below(11) * 4 } else { 0 };
    let total = (20 + options + body.len()).min(65_535);
    let mut header = vec![0x45 + (options / 4) as u8, random.next() as u8];
    header.extend((total as u16).to_be_bytes());
    header.extend(random.bytes(2));
    let flags = random.pick(&[0, 0x4000, 0x2000, 0x2001, 0x0010, 0x1fff, 0x3fff, 0x8000]);
    header.extend(u16::to_be_bytes(flags));
    header.extend([random.pick(&[0, 1, 2, 64, 255]), protocol, 0, 0]);
    let third = random.below(11) as u8;
    header.extend(match random.below(8) {
        0 => [127, 0, 0, 1],
        1 => [255, 255, 255, 255],
        2 => [224, 0, 0, 5],
        3 => [0, 0, 0, 0],
        _ => [192, 0, 2, random.next() as u8],
    });
    header.extend(match random.below(12) {
        0 => [127, 0, 0, 1],
        1 => [255, 255, 255, 255],
        2 => [169, 254, 1, 1],
        3 => [10, 3, 0, 1],
        _ => [10, third, 0, random.next() as u8],
    });
    header.extend(random.bytes(options));
    header.extend(body);
    header.truncate(65_535);
    header
}

fn packet_v6(random: &mut Random) -> Vec<u8> {
    let (kind, body) = transport(random);
    let mut rest = Vec::new();
    let mut next = kind;
    for _ in 0..if random.one_in(3) { random.below(11) } else { 0 } {
        let length = random.below(4);
        let mut extension = vec![next, length as u8];
        extension.extend(random.bytes(6 + length * 8));
        next = random.pick(&[0, 43, 44, 51, 60, 135]);
        rest.splice(0..0, extension);
    }
    rest.extend(body);
    rest.truncate(65_535);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((rest.len() as u16).to_be_bytes());
    packet.extend([next, random.pick(&[0, 1, 2, 64, 255])]);
    let address = |random: &mut Random| match random.below(10) {
        0 => [0; 16],
        1 => [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        2 => [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        _ => {
            let net = random.below(10) as u8;
            [0x20, 1, 0xd, 0xb8, 0, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, random.next() as u8]
        }
    };
    packet.extend(address(random));
    packet.extend(address(random));
    packet.extend(rest);
    packet
}

fn arp(random: &mut Random) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, random.pick(&[1, 2, 9])];
    packet.extend(random.bytes(20));
    packet
}

/// One packet for port `ingress`: well formed at first, then damaged more often than not.
pub(crate) fn packet(random: &mut Random, ingress: usize) -> Vec<u8> {
    let (ethertype, body) = match random.below(10) {
        0..5 => (0x0800u16, packet_v4(random, 4)),
        5..8 => (0x86dd, packet_v6(random)),
        8 => (0x0806, arp(random)),
        _ => (random.next() as u16, random.bytes(60)),
    };
    let to = if random.one_in(12) { [0xff; 6] } else { mac(ingress).0 };
    let mut bytes = [&to[..], &[2, 0, 0, 0, 0, 1], &ethertype.to_be_bytes(), &body].concat();
    if random.one_in(4) {
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len().min(80));
            bytes[at] = random.next() as u8;
        }
    }
    if !random.one_in(6) {
        mend(&mut bytes);
    }
    if ingress == 0 && random.one_in(3) {
        bytes = wrapped(&bytes, random.below(3));
    }
    if random.one_in(8) {
        bytes.truncate(random.below(bytes.len() + 1));
    }
    if random.one_in(8) {
        bytes.extend(vec![0; random.below(9000)]);
    }
    bytes
}

/// Some packets of a seed.
pub(crate) fn packets(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut random = Random(seed);
    (0..count).map(|_| packet(&mut random, 0)).collect()
}

/// Packets of each seed.
const PACKETS: usize = 8_000;

fn run(seed: u64) {
    println!("MARGAY_SEED={seed}");
    let (mut random, mut way) = (Random(seed), Way::default());
    let mut fates: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..PACKETS {
        let ingress = random.below(4);
        let bytes = packet(&mut random, ingress);
        views(&bytes);
        views(bytes.get(14..).unwrap_or_default());
        let fate = match way.packet(ingress, &bytes) {
            Fate::Dropped(reason) => reason.name().to_owned(),
            Fate::Forwarded(_) => "forwarded".to_owned(),
            other => format!("{other:?}"),
        };
        *fates.entry(fate).or_default() += 1;
    }
    assert_eq!(fates.values().sum::<usize>(), PACKETS);
    // The generator would prove little if it did not get everywhere.
    for fate in ["forwarded", "Punted", "Answered", "truncated", "too-big", "ttl-exceeded"] {
        assert!(fates.contains_key(fate), "none is {fate}: {fates:?}");
    }
}

#[test]
fn hostile_captures_are_accounted_for() {
    match std::env::var("MARGAY_SEED").map(|text| text.parse()) {
        Ok(seed) => run(seed.expect("MARGAY_SEED is a number above 0")),
        Err(_) => (1..=6).for_each(run),
    }
}

/// An empty datagram into port `ingress`.
fn datagram(ingress: usize, dst: IpAddr) -> Vec<u8> {
    let link = |ethertype| ethernet::header(mac(ingress), Mac([2, 0, 0, 0, 0, 1]), ethertype);
    let mut bytes = match dst {
        IpAddr::V4(dst) => {
            let ip = ipv4::header([192, 0, 2, 9].into(), dst, 17, 64, 8);
            [&link(ethernet::IPV4)[..], &ip].concat()
        }
        IpAddr::V6(dst) => {
            let src = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 9);
            [&link(ethernet::IPV6)[..], &ipv6::header(src, dst, 17, 64, 8)].concat()
        }
    };
    bytes.extend([0, 7, 0, 9, 0, 8, 0, 0]);
    bytes
}

#[test]
fn each_kind_of_tunnel_is_taken_apart_and_made() {
    let (uplink, tap) = (PortId(0), PortId(2));
    let kinds =
        [("10.7.0.9", "10.9.0.9"), ("10.7.0.9", "10.10.0.9"), ("2001:db8:7::9", "2001:db8:9::9")];
    for (kind, (here, there)) in kinds.into_iter().enumerate() {
        let from_far = wrapped(&datagram(0, here.parse().unwrap()), kind);
        assert_eq!(Way::default().packet(0, &from_far), Fate::Forwarded(tap), "kind {kind}");
        let to_far = datagram(2, there.parse().unwrap());
        assert_eq!(Way::default().packet(2, &to_far), Fate::Forwarded(uplink), "kind {kind}");
    }
}

#[test]
fn a_neighbor_solicitation_cut_short_is_ignored() {
    let (src, dst) = ("fe80::7".parse().unwrap(), "ff02::1".parse().unwrap());
    for length in 0..24 {
        let mut bytes = vec![0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7, 0x86, 0xdd];
        bytes.extend(ipv6::header(src, dst, 58, 255, length));
        bytes.extend([135, 0, 0, 0].iter().chain([0; 20].iter()).take(usize::from(length)));
        let fate = Way::default().packet(2, &bytes);
        assert!(matches!(fate, Fate::Dropped(_)), "{length}: {fate:?}");
    }
}

#[test]
fn no_checksum_is_written_over_headers_or_ports() {
    let mut bytes = [&mac(2).0[..], &[2, 0, 0, 0, 0, 1, 8, 0]].concat();
    bytes.extend(ipv4::header([192, 0, 2, 9].into(), [10, 7, 0, 1].into(), 17, 64, 28));
    bytes.extend([0; 28]);
    for csum_start in 0..62 {
        let offload =
            Offload { needs_csum: true, csum_start, csum_offset: 0, ..Offload::default() };
        let fate = Way::default().unfinished(2, &bytes, offload);
        let forwarded = matches!(fate, Fate::Forwarded(_));
        assert_eq!(forwarded, (38..=60).contains(&csum_start), "{csum_start}: {fate:?}");
    }
}

proptest! {
    #[test]
    fn the_fuzz_body_holds_on_any_bytes(input in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut way = Way::default();
        views(&input);
        way.fuzzed(&input);
    }

    #[test]
    fn the_fuzz_body_holds_on_damaged_packets(
        seed in 1u64..,
        choices in 0u8..128,
        state in prop::array::uniform8(any::<u8>()),
    ) {
        let bytes = packet(&mut Random(seed), usize::from(choices & 3));
        let mut input = vec![choices];
        if choices & 4 != 0 {
            input.extend(state);
        }
        input.extend(bytes);
        Way::default().fuzzed(&input);
    }
}
