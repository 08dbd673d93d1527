//! Parts and checksums against etherparse, an independent reader and writer of headers.

use super::*;
use crate::sys::memory::{Arena, BATCH, Frame};
use etherparse::{IpHeaders, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use std::sync::Arc;

const SRC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const DST: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub(crate) fn pool() -> (Arc<Arena>, FramePool) {
    let arena = Arena::new(512, 4).unwrap();
    let pool = FramePool::new(arena.clone());
    (arena, pool)
}

/// A packet of `bytes`, the first `first` of them in the first frame, `step` in each later one.
pub(crate) fn packet(pool: &mut FramePool, bytes: &[u8], first: usize, step: usize) -> Packet {
    let (head, rest) = bytes.split_at(first.min(bytes.len()));
    let mut frame = pool.alloc_large().unwrap();
    frame.bytes_mut(HEADROOM, head.len()).copy_from_slice(head);
    let mut packet = Packet::new(frame, HEADROOM, head.len(), PortId(3));
    for part in rest.chunks(step) {
        let mut frame = pool.alloc().unwrap();
        frame.bytes_mut(LINK_SPACE, part.len()).copy_from_slice(part);
        packet.append(frame, LINK_SPACE, part.len()).unwrap();
    }
    packet
}

pub(crate) fn bytes_of(packet: &Packet) -> Vec<u8> {
    packet.segments().flatten().copied().collect()
}

/// Every checksum and length, as etherparse sees them; gives the transport payload.
pub(crate) fn validate(bytes: &[u8]) -> Vec<u8> {
    let sliced = SlicedPacket::from_ethernet(bytes).unwrap();
    let (ip, length) = match sliced.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            (IpHeaders::Ipv4(header, Default::default()), usize::from(ip.header().total_len()))
        }
        NetSlice::Ipv6(ip) => {
            let length = 40 + usize::from(ip.header().payload_length());
            (IpHeaders::Ipv6(ip.header().to_header(), Default::default()), length)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(length + 14, bytes.len(), "IP length");
    match sliced.transport.unwrap() {
        TransportSlice::Tcp(tcp) => {
            let expected = match &ip {
                IpHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(ip.source, ip.destination),
                IpHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(ip.source, ip.destination),
            };
            assert_eq!(tcp.checksum(), expected.unwrap(), "TCP checksum");
            tcp.payload().to_vec()
        }
        TransportSlice::Udp(udp) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            let expected = match &ip {
                IpHeaders::Ipv4(ip, _) => header.calc_checksum_ipv4(ip, payload),
                IpHeaders::Ipv6(ip, _) => header.calc_checksum_ipv6(ip, payload),
            };
            assert_eq!(udp.checksum(), expected.unwrap(), "UDP checksum");
            assert_eq!(usize::from(udp.length()), 8 + payload.len());
            payload.to_vec()
        }
        other => panic!("{other:?}"),
    }
}

/// The whole super-packet as etherparse writes it, its checksum finished, and `l4`.
pub(crate) fn written(v6: bool, udp: bool, options: &[u8], payload: &[u8]) -> (Vec<u8>, usize) {
    let builder = PacketBuilder::ethernet2(SRC, DST);
    let mut bytes = Vec::new();
    let ip = if v6 {
        builder.ipv6([0xfd; 16], [0xfe; 16], 64)
    } else {
        builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
    };
    if udp {
        ip.udp(4000, 53).write(&mut bytes, payload).unwrap();
    } else {
        let tcp = ip.tcp(4000, 80, 0xffff_f000, 500).ack(77).psh().fin().cwr();
        tcp.options_raw(options).unwrap().write(&mut bytes, payload).unwrap();
    }
    (bytes, if v6 { 54 } else { 34 })
}

/// Sets offsets and a super-packet's state as a TAP delivers it: checksum unfinished.
pub(crate) fn as_super(packet: &mut Packet, l4: usize, gso: Gso, gso_size: u16) {
    (packet.l3, packet.l4) = (14, l4 as u16);
    let offset = if gso == Gso::Udp { 6 } else { 16 };
    let (_, pseudo) = pseudo_header(packet.head(), 14, l4).unwrap();
    let field = checksum::fold(pseudo).to_be_bytes();
    packet.head_mut()[l4 + offset..l4 + offset + 2].copy_from_slice(&field);
    packet.set_offload(Offload {
        needs_csum: true,
        gso,
        gso_size,
        csum_start: l4 as u16,
        csum_offset: offset as u16,
    });
}

pub(crate) fn assert_all_back(arena: &Arena, mut pool: FramePool, out: Vec<Packet>) {
    out.into_iter().for_each(|packet| packet.free(&mut pool));
    drop(pool);
    assert_eq!((arena.free_small(), arena.free_large()), (512, 4));
}

fn kind(v6: bool, udp: bool) -> Gso {
    match (v6, udp) {
        (_, true) => Gso::Udp,
        (false, false) => Gso::Tcp4,
        (true, false) => Gso::Tcp6,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..Default::default() })]

    #[test]
    fn parts_are_valid_and_give_the_payload_back(
        v6 in any::<bool>(), udp in any::<bool>(), seed in any::<u8>(), length in 1usize..40_000,
        size in 100u16..9000, first in 90usize..4000, step in 701usize..4032,
        options in prop_oneof![Just(vec![]), Just(vec![1u8, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])],
        leave in any::<bool>(),
    ) {
        let (arena, mut pool) = pool();
        let payload: Vec<u8> = (0..length).map(|at| (at as u8).wrapping_mul(31) ^ seed).collect();
        let (bytes, l4) = written(v6, udp, &options, &payload);
        let mut whole = packet(&mut pool, &bytes, first, step);
        as_super(&mut whole, l4, kind(v6, udp), size);
        let longest = largest_ip_len(&whole);
        let checksums = if leave { Checksums::Leave } else { Checksums::Finish };
        let mut out = Vec::new();
        segment(whole, &mut pool, &mut out, checksums).unwrap();
        prop_assert_eq!(out.len(), length.div_ceil(usize::from(size)));
        let (mut all, count) = (Vec::new(), out.len());
        for (index, part) in out.iter_mut().enumerate() {
            prop_assert_eq!(part.offload().gso, Gso::None);
            prop_assert_eq!(part.offload().needs_csum, leave);
            prop_assert_eq!(part.in_port, PortId(3));
            prop_assert!(part.len() - 14 <= longest);
            finish_checksum(part).unwrap();
            let bytes = bytes_of(part);
            if !v6 {
                let id = u16::from_be_bytes([bytes[18], bytes[19]]);
                prop_assert_eq!(id, index as u16);
            }
            if !udp {
                let view = tcp::View::new(&bytes[l4..]).unwrap();
                prop_assert_eq!(view.sequence(), 0xffff_f000u32.wrapping_add(all.len() as u32));
                let ends = if index + 1 == count { tcp::FIN | tcp::PSH } else { 0 };
                let begins = if index == 0 { tcp::CWR } else { 0 };
                prop_assert_eq!(view.flags(), tcp::ACK | ends | begins);
                prop_assert_eq!(&bytes[l4 + 20..l4 + view.header_len()], &options[..]);
            }
            all.extend(validate(&bytes));
        }
        prop_assert_eq!(all, payload);
        assert_all_back(&arena, pool, out);
    }

    #[test]
    fn a_finished_checksum_is_right_over_odd_frames(
        v6 in any::<bool>(), udp in any::<bool>(),
        payload in proptest::collection::vec(any::<u8>(), 0..3000),
        first in 80usize..300, step in 101usize..999,
    ) {
        let (arena, mut pool) = pool();
        let (bytes, l4) = written(v6, udp, &[], &payload);
        let mut one = packet(&mut pool, &bytes, first, step);
        as_super(&mut one, l4, kind(v6, udp), 0);
        one.set_offload(Offload::default());
        prop_assert!(detect_partial(&mut one));
        prop_assert_eq!(usize::from(one.offload().csum_start), l4);
        finish_checksum(&mut one).unwrap();
        prop_assert_eq!(bytes_of(&one), bytes);
        assert_all_back(&arena, pool, vec![one]);
    }

    #[test]
    fn nonsense_is_refused_or_cut_but_never_panics(
        mut bytes in proptest::collection::vec(any::<u8>(), 1..400), version in 0u8..16,
        l3 in 0u16..60, l4 in 0u16..400, gso in 0usize..4, gso_size in any::<u16>(),
        csum in any::<(bool, u16, u16)>(), first in 1usize..400,
    ) {
        let (arena, mut pool) = pool();
        if let Some(byte) = bytes.get_mut(usize::from(l3)) {
            *byte = version << 4 | 5;
        }
        let mut one = packet(&mut pool, &bytes, first, 97);
        (one.l3, one.l4) = (l3, l4);
        let gso = [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp][gso];
        let (needs_csum, csum_start, csum_offset) = csum;
        one.set_offload(Offload { needs_csum, gso, gso_size, csum_start, csum_offset });
        largest_ip_len(&one);
        if !needs_csum {
            detect_partial(&mut one);
        }
        let mut out = Vec::new();
        let done = segment(one, &mut pool, &mut out, Checksums::Finish);
        prop_assert_eq!(done.is_err(), out.is_empty());
        assert_all_back(&arena, pool, out);
    }
}

#[test]
fn one_part_goes_through_unchanged() {
    let (arena, mut pool) = pool();
    let (bytes, l4) = written(false, false, &[], &[7; 1000]);
    let mut one = packet(&mut pool, &bytes, 60, 500);
    as_super(&mut one, l4, Gso::Tcp4, 1000);
    let mut out = Vec::new();
    segment(one, &mut pool, &mut out, Checksums::Finish).unwrap();
    assert_eq!((out.len(), out[0].offload()), (1, Offload { gso_size: 0, ..out[0].offload() }));
    assert_eq!(out[0].offload().gso, Gso::None);
    assert_eq!(bytes_of(&out[0]), bytes);
    assert_all_back(&arena, pool, out);
}

#[test]
fn a_finished_checksum_is_not_taken_for_an_unfinished_one() {
    let (arena, mut pool) = pool();
    for (v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
        let (bytes, l4) = written(v6, udp, &[], b"payload");
        let mut one = packet(&mut pool, &bytes, 4000, 1);
        (one.l3, one.l4) = (14, l4 as u16);
        assert!(!detect_partial(&mut one));
        one.free(&mut pool);
    }
    assert_all_back(&arena, pool, vec![]);
}

#[test]
fn fragments_are_not_looked_at_for_checksums() {
    let (arena, mut pool) = pool();
    let (bytes, l4) = written(false, true, &[], b"payload");
    let mut one = packet(&mut pool, &bytes, 4000, 1);
    as_super(&mut one, l4, Gso::Udp, 0);
    one.set_offload(Offload::default());
    one.head_mut()[20] = 0x20;
    assert!(!detect_partial(&mut one));
    one.head_mut()[20] = 0;
    assert!(detect_partial(&mut one));
    assert_all_back(&arena, pool, vec![one]);
}

#[test]
fn udp_computes_0_as_ffff_rfc_768() {
    let (arena, mut pool) = pool();
    // The payload is chosen so that the sum comes to ffff: the complement is 0.
    let (bytes, l4) = written(false, true, &[], &[0, 0]);
    let field = u16::from_be_bytes([bytes[40], bytes[41]]);
    let (bytes, _) = written(false, true, &[], &field.to_be_bytes());
    assert_eq!(bytes[40..42], [0xff, 0xff]);
    let mut one = packet(&mut pool, &bytes, 4000, 1);
    as_super(&mut one, l4, Gso::Udp, 0);
    finish_checksum(&mut one).unwrap();
    assert_eq!(one.head()[40..42], [0xff, 0xff]);
    assert_all_back(&arena, pool, vec![one]);
}

#[test]
fn parts_are_bounded_and_an_empty_pool_leaves_nothing_behind() {
    let (arena, mut pool) = pool();
    let (bytes, l4) = written(false, false, &[], &[7; 30_000]);
    let mut fine = packet(&mut pool, &bytes, 30_060, 1);
    as_super(&mut fine, l4, Gso::Tcp4, 21);
    let mut out = Vec::new();
    let done = segment(fine, &mut pool, &mut out, Checksums::Finish);
    assert_eq!(done, Err(SegmentError::Malformed), "{MAX_PARTS} parts at most");
    let mut fine = packet(&mut pool, &bytes, 30_060, 1);
    as_super(&mut fine, l4, Gso::Tcp4, 22);
    let done = segment(fine, &mut pool, &mut out, Checksums::Finish);
    assert_eq!((done, out.len()), (Err(SegmentError::NoFrame), 0));
    assert_eq!(SegmentError::NoFrame.drop_reason(), DropReason::NoFrame);
    assert_all_back(&arena, pool, out);
}

#[test]
fn a_large_frame_is_copied_into_small_ones() {
    let (arena, mut pool) = pool();
    let (bytes, l4) = written(false, false, &[], &[7; 9000]);
    let mut one = packet(&mut pool, &bytes, 20_000, 1);
    as_super(&mut one, l4, Gso::Tcp4, 1448);
    let whole = bytes_of(&one);
    let offload = one.offload();
    let small = into_small(one, &mut pool).unwrap();
    assert_eq!((small.segment_count(), small.offload(), small.l4), (3, offload, l4 as u16));
    assert_eq!(bytes_of(&small), whole);
    let kept: Vec<Frame> = std::iter::from_fn(|| pool.alloc()).collect();
    assert!(kept.len() > BATCH);
    let back = into_small(small, &mut pool).unwrap_err();
    kept.into_iter().for_each(|frame| pool.free(frame));
    assert_all_back(&arena, pool, vec![back]);
}

#[test]
fn only_what_others_may_be_trusted_with_goes_whole() {
    let (arena, mut pool) = pool();
    let (bytes, l4) = written(false, false, &[], &[7; 9000]);
    let mut one = packet(&mut pool, &bytes, 20_000, 1);
    as_super(&mut one, l4, Gso::Tcp4, 1448);
    let right = one.offload();
    let plain = Offload { gso: Gso::None, gso_size: 0, ..right };
    let at = |csum_start, csum_offset| Offload { csum_start, csum_offset, ..plain };
    for (offload, may) in [
        (right, true),
        (plain, true),
        (Offload::default(), true),
        // A tunnel's inner checksum.
        (at(90, 6), true),
        (at(34, 2), false),
        (at(14, 16), false),
        (at(14, 26), false),
        (Offload { needs_csum: false, ..right }, false),
        (Offload { csum_start: 60, ..right }, false),
        (Offload { csum_offset: 6, ..right }, false),
        (Offload { gso: Gso::Udp, ..right }, false),
        (Offload { gso_size: 6, ..right }, false),
        (Offload { gso_size: 7, ..right }, true),
        (Offload { gso_size: 0, ..right }, false),
    ] {
        one.set_offload(offload);
        assert_eq!(may_go_whole(&one), may, "{offload:?}");
        assert!(offload.gso != Gso::None || finish_checksum(&mut one).is_ok() == may);
    }
    assert_all_back(&arena, pool, vec![one]);
}
