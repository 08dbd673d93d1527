use super::*;
use crate::port::PortId;
use crate::segment::tests::{assert_all_back, bytes_of, pool};
use crate::segment::{Checksums, detect_partial, segment};
use crate::sys::memory::{FramePool, HEADROOM};
use etherparse::PacketBuilder;
use proptest::prelude::*;

/// One segment, as a test wants it.
#[derive(Debug, Clone)]
struct Wanted {
    flow: u8,
    v6: bool,
    sequence: u32,
    id: u16,
    ttl: u8,
    window: u16,
    options: Vec<u8>,
    flags: u8,
    payload: Vec<u8>,
}

impl Default for Wanted {
    fn default() -> Wanted {
        Wanted {
            flow: 0,
            v6: false,
            sequence: 1000,
            id: 7,
            ttl: 64,
            window: 500,
            options: vec![],
            flags: tcp::ACK,
            payload: vec![5; 100],
        }
    }
}

fn built(wanted: &Wanted) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let port = 4000 + u16::from(wanted.flow);
    let ip = if wanted.v6 {
        builder.ipv6([0xfd; 16], [0xfe; 16], wanted.ttl)
    } else {
        let mut ip = etherparse::Ipv4Header::new(
            0,
            wanted.ttl,
            etherparse::IpNumber::TCP,
            [10, 0, 0, 1],
            [10, 0, 0, 2],
        )
        .unwrap();
        ip.identification = wanted.id;
        builder.ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
    };
    let mut header = etherparse::TcpHeader::new(port, 80, wanted.sequence, wanted.window);
    header.acknowledgment_number = 77;
    header.set_options_raw(&wanted.options).unwrap();
    header.ack = wanted.flags & tcp::ACK != 0;
    header.psh = wanted.flags & tcp::PSH != 0;
    header.fin = wanted.flags & tcp::FIN != 0;
    header.syn = wanted.flags & tcp::SYN != 0;
    header.cwr = wanted.flags & tcp::CWR != 0;
    header.ece = wanted.flags & tcp::ECE != 0;
    let mut bytes = Vec::new();
    ip.tcp_header(header).write(&mut bytes, &wanted.payload).unwrap();
    bytes
}

fn received(pool: &mut FramePool, bytes: &[u8]) -> Packet {
    let mut frame = pool.alloc().unwrap();
    frame.bytes_mut(HEADROOM, bytes.len()).copy_from_slice(bytes);
    let mut packet = Packet::new(frame, HEADROOM, bytes.len(), PortId(1));
    (packet.l3, packet.l4) = (14, if bytes[14] >> 4 == 4 { 34 } else { 54 });
    packet
}

/// Joins the wanted segments; gives the lengths of the payloads that come out.
fn joined(wanted: &[Wanted]) -> Vec<usize> {
    let (arena, mut pool) = pool();
    let mut burst: Vec<Packet> =
        wanted.iter().map(|one| received(&mut pool, &built(one))).collect();
    coalesce(&mut burst);
    let lengths = burst.iter().map(|one| one.len() - headers_len(one)).collect();
    assert_all_back(&arena, pool, burst);
    lengths
}

/// A stream of `count` segments of 100 bytes, changed by `change`.
fn stream(count: u32, change: impl Fn(u32, &mut Wanted)) -> Vec<Wanted> {
    (0..count)
        .map(|at| {
            let mut one =
                Wanted { sequence: 1000 + at * 100, id: 7 + at as u16, ..Default::default() };
            change(at, &mut one);
            one
        })
        .collect()
}

#[test]
fn a_stream_becomes_one_packet() {
    for v6 in [false, true] {
        assert_eq!(joined(&stream(30, |_, one| one.v6 = v6)), [3000]);
    }
    let timestamps = vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    assert_eq!(joined(&stream(5, |_, one| one.options.clone_from(&timestamps))), [500]);
}

#[test]
fn what_cutting_would_not_give_back_stays_apart() {
    let differs = |change: fn(&mut Wanted)| {
        joined(&stream(4, |at, one| {
            if at == 2 {
                change(one)
            }
        }))
    };
    assert_eq!(differs(|one| one.ttl = 63), [200, 100, 100], "TTL");
    assert_eq!(differs(|one| one.window = 9), [200, 100, 100], "window");
    assert_eq!(differs(|one| one.options = vec![1; 4]), [200, 100, 100], "options");
    assert_eq!(differs(|one| one.id = 1), [200, 100, 100], "identification");
    assert_eq!(differs(|one| one.flags |= tcp::ECE), [200, 100, 100], "ECE");
    assert_eq!(differs(|one| one.flags |= tcp::SYN), [200, 100, 100], "SYN");
    assert_eq!(differs(|one| one.sequence += 1), [200, 100, 100], "sequence");
    assert_eq!(differs(|one| one.payload = vec![]), [200, 0, 100], "pure acknowledgement");
    assert_eq!(differs(|one| one.flow = 1), [200, 100, 100], "another flow leaves a gap");
    assert_eq!(differs(|one| one.flags |= tcp::PSH), [300, 100], "PSH ends");
    assert_eq!(differs(|one| one.flags |= tcp::FIN), [300, 100], "FIN ends");
    assert_eq!(differs(|one| one.flags |= tcp::CWR), [200, 200], "CWR begins");
    let short = stream(4, |at, one| {
        one.payload.truncate(if at == 2 { 60 } else { 100 });
        one.sequence -= if at == 3 { 40 } else { 0 };
    });
    assert_eq!(joined(&short), [260, 100], "a shorter one ends");
}

#[test]
fn flows_are_joined_side_by_side_up_to_the_bound() {
    let interleaved = |flows: u8| {
        let mut all = Vec::new();
        for at in 0..3u32 {
            for flow in 0..flows {
                all.push(Wanted { flow, sequence: at * 100, id: at as u16, ..Default::default() });
            }
        }
        joined(&all)
    };
    assert_eq!(interleaved(FLOWS as u8), [300; FLOWS]);
    assert_eq!(interleaved(FLOWS as u8 + 1).iter().sum::<usize>(), 300 * (FLOWS + 1));
}

#[test]
fn a_super_packet_stays_within_64_kib_and_the_longest_chain() {
    let big = |size: usize, count: u32| {
        stream(count, |at, one| {
            one.payload = vec![1; size];
            one.sequence = at * size as u32;
        })
    };
    assert_eq!(joined(&big(1448, 60)), [45 * 1448, 15 * 1448]);
    assert_eq!(joined(&big(10, 100)), [MAX_SEGMENTS * 10, 360]);
}

#[test]
fn a_standing_identification_is_taken_under_dont_fragment_only() {
    assert_eq!(joined(&stream(4, |_, one| one.id = 0)), [400], "etherparse sets DF");
    let (arena, mut pool) = pool();
    let mut burst = Vec::new();
    for one in stream(3, |_, one| one.id = 0) {
        let mut bytes = built(&one);
        bytes[20] = 0;
        ipv4::fill_checksum(&mut bytes[14..]);
        burst.push(received(&mut pool, &bytes));
    }
    coalesce(&mut burst);
    assert_eq!(burst.len(), 3);
    assert_all_back(&arena, pool, burst);
}

#[test]
fn a_wrong_checksum_is_never_joined() {
    for damaged in 0..3 {
        let (arena, mut pool) = pool();
        let mut burst = Vec::new();
        for (at, one) in stream(3, |_, _| ()).iter().enumerate() {
            let mut bytes = built(one);
            bytes[60] ^= if at == damaged { 1 } else { 0 };
            burst.push(received(&mut pool, &bytes));
        }
        let before = bytes_of(&burst[damaged]);
        coalesce(&mut burst);
        assert!(burst.iter().any(|one| bytes_of(one) == before), "{damaged}");
        assert_all_back(&arena, pool, burst);
    }
}

#[test]
fn a_fragment_is_not_overtaken() {
    let (arena, mut pool) = pool();
    let mut burst: Vec<Packet> =
        stream(4, |_, _| ()).iter().map(|one| received(&mut pool, &built(one))).collect();
    burst[2].head_mut()[20] = 0x20;
    coalesce(&mut burst);
    assert_eq!(burst.iter().map(Packet::len).collect::<Vec<_>>(), [254, 154, 154]);
    assert_all_back(&arena, pool, burst);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..Default::default() })]

    #[test]
    fn cutting_gives_back_what_was_joined(
        v6 in any::<bool>(), partial in any::<bool>(),
        steps in proptest::collection::vec(
            (0u8..3, 0usize..4, 0u32..20, 0usize..3, any::<u8>()), 1..80),
    ) {
        let (arena, mut pool) = pool();
        let (mut sequences, mut ids) = ([0u32; 3], [0u16; 3]);
        let (mut burst, mut before) = (Vec::new(), vec![Vec::new(); 3]);
        for (flow, size, jump, flags, byte) in steps {
            let at = usize::from(flow);
            let one = Wanted {
                flow,
                v6,
                sequence: sequences[at].wrapping_add(if jump == 0 { 1 } else { 0 }),
                id: ids[at],
                flags: tcp::ACK | [0, 0, tcp::PSH][flags],
                payload: vec![byte; [0, 333, 1000, 1000][size]],
                ..Default::default()
            };
            sequences[at] = one.sequence.wrapping_add(one.payload.len() as u32);
            ids[at] = ids[at].wrapping_add(1);
            let bytes = built(&one);
            let mut packet = received(&mut pool, &bytes);
            if partial {
                let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
                let (_, pseudo) = pseudo_header(packet.head(), l3, l4).unwrap();
                let field = checksum::fold(pseudo).to_be_bytes();
                packet.head_mut()[l4 + 16..l4 + 18].copy_from_slice(&field);
                prop_assert!(detect_partial(&mut packet));
            }
            before[at].push(bytes);
            burst.push(packet);
        }
        coalesce(&mut burst);
        let mut out = Vec::new();
        for packet in burst {
            prop_assert!(packet.segment_count() <= MAX_SEGMENTS);
            segment(packet, &mut pool, &mut out, Checksums::Finish).unwrap();
        }
        let mut after = vec![Vec::new(); 3];
        for packet in &out {
            let bytes = bytes_of(packet);
            let port = tcp::View::new(&bytes[usize::from(packet.l4)..]).unwrap().src_port();
            after[usize::from(port - 4000)].push(bytes);
        }
        prop_assert_eq!(after, before);
        assert_all_back(&arena, pool, out);
    }

    #[test]
    fn nonsense_is_left_alone_and_never_panics(
        burst in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..120), 0u16..60, 0u16..130), 0..70),
    ) {
        let (arena, mut pool) = pool();
        let mut packets = Vec::new();
        for (bytes, l3, l4) in &burst {
            let mut frame = pool.alloc().unwrap();
            frame.bytes_mut(HEADROOM, bytes.len()).copy_from_slice(bytes);
            let mut packet = Packet::new(frame, HEADROOM, bytes.len(), PortId(1));
            (packet.l3, packet.l4) = (*l3, *l4);
            packets.push(packet);
        }
        coalesce(&mut packets);
        prop_assert_eq!(packets.len(), burst.len());
        assert_all_back(&arena, pool, packets);
    }
}
