use super::*;
use crate::segment::tests::{assert_all_back, bytes_of, packet, pool};
use proptest::prelude::*;

const IDS: (PortId, PortId) = (PortId(1), PortId(2));

fn numbered(pool: &mut FramePool, number: u32) -> Packet {
    let mut bytes = [0u8; 60];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    let frame = pool.alloc().unwrap();
    let mut one = Packet::new(frame, 256, 60, PortId(9));
    one.head_mut().copy_from_slice(&bytes);
    one
}

fn number(packet: &Packet) -> u32 {
    u32::from_be_bytes(packet.head()[..4].try_into().unwrap())
}

/// Sends `count` packets one microsecond apart; gives the numbers as they arrived.
fn run(config: LinkConfig, count: u32) -> (Vec<u32>, LinkCounters) {
    let (arena, mut pool) = pool();
    let clock = Clock::default();
    let (mut a, mut b, link) = link(config, &clock, IDS);
    let (mut arrived, mut out) = (Vec::new(), Vec::new());
    for at in 0..count {
        let mut burst = vec![numbered(&mut pool, at)];
        a.tx(&mut pool, &mut burst);
        assert!(burst.is_empty());
        clock.advance(1000);
        b.rx(&mut pool, &mut out, BURST);
        arrived.extend(out.drain(..).map(|one| (number(&one), one.free(&mut pool)).0));
    }
    while let Some(due_ns) = link.next_arrival_ns() {
        clock.advance(due_ns.saturating_sub(clock.now_ns()));
        b.rx(&mut pool, &mut out, BURST);
        arrived.extend(out.drain(..).map(|one| (number(&one), one.free(&mut pool)).0));
    }
    let counters = link.counters(0);
    Box::new(a).close(&mut pool);
    Box::new(b).close(&mut pool);
    assert_all_back(&arena, pool, vec![]);
    (arrived, counters)
}

#[test]
fn a_perfect_link_delivers_all_in_order() {
    let (arrived, counters) = run(LinkConfig::default(), 500);
    assert_eq!(arrived, (0..500).collect::<Vec<_>>());
    let expected = LinkCounters { sent: 500, delivered: 500, ..Default::default() };
    assert_eq!(counters, expected);
}

#[test]
fn nothing_arrives_before_its_time_and_both_ways_are_apart() {
    let (arena, mut pool) = pool();
    let clock = Clock::default();
    let config = LinkConfig { delay_ns: 50, ..Default::default() };
    let (mut a, mut b, link) = link(config, &clock, IDS);
    let mut out = Vec::new();
    out.push(numbered(&mut pool, 7));
    a.tx(&mut pool, &mut out);
    clock.advance(49);
    assert_eq!(b.rx(&mut pool, &mut out, BURST), RxState::Up);
    assert!(out.is_empty());
    assert_eq!((link.next_arrival_ns(), link.under_way()), (Some(50), 1));
    clock.advance(1);
    b.rx(&mut pool, &mut out, BURST);
    assert_eq!((out.len(), out[0].in_port, number(&out[0])), (1, PortId(2), 7));
    b.tx(&mut pool, &mut out);
    clock.advance(50);
    a.rx(&mut pool, &mut out, BURST);
    assert_eq!((out.len(), out[0].in_port), (1, PortId(1)));
    assert_all_back(&arena, pool, out);
}

#[test]
fn the_queue_is_bounded_and_a_link_that_is_down_takes_nothing() {
    let (arena, mut pool) = pool();
    let clock = Clock::default();
    let config = LinkConfig { delay_ns: 1, queue_limit: 10, ..Default::default() };
    let (mut a, mut b, link) = link(config, &clock, IDS);
    let mut burst: Vec<Packet> = (0..12).map(|at| numbered(&mut pool, at)).collect();
    a.tx(&mut pool, &mut burst);
    link.set_up(false);
    burst.push(numbered(&mut pool, 12));
    a.tx(&mut pool, &mut burst);
    let counters = link.counters(0);
    assert_eq!((counters.overflowed, counters.cut_off, link.under_way()), (2, 1, 10));
    assert_eq!(b.report().frames_held, 10);
    link.remove();
    let mut out = Vec::new();
    assert_eq!(b.rx(&mut pool, &mut out, BURST), RxState::Gone);
    assert_eq!((link.counters(0).cut_off, out.len()), (11, 0));
    assert_all_back(&arena, pool, out);
}

#[test]
fn a_state_that_the_link_does_not_take_is_lost() {
    let (arena, mut pool) = pool();
    let clock = Clock::default();
    for (offloads, left) in [(TxOffloads::default(), false), (TxOffloads::ALL, true)] {
        let config = LinkConfig { offloads, ..Default::default() };
        let (mut a, mut b, _) = link(config, &clock, IDS);
        let mut one = packet(&mut pool, &[1; 5000], 3000, 4000);
        one.set_offload(Offload { needs_csum: true, ..Offload::default() });
        a.tx(&mut pool, &mut vec![one]);
        let mut out = Vec::new();
        b.rx(&mut pool, &mut out, BURST);
        assert_eq!(out[0].offload().needs_csum, left);
        assert_eq!(bytes_of(&out[0]), [1; 5000]);
        out.into_iter().for_each(|one| one.free(&mut pool));
    }
    assert_all_back(&arena, pool, vec![]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..Default::default() })]

    #[test]
    fn every_packet_is_accounted_for_and_a_seed_repeats_itself(
        seed in any::<u64>(), loss in 0..PPM, corruption in 0..PPM, duplication in 0..PPM,
        reordering in 0..PPM, delay_ns in 0u64..20_000, queue_limit in 1usize..200,
    ) {
        let config = LinkConfig {
            seed, delay_ns, loss, corruption, duplication, reordering, reorder_ns: 5_000,
            queue_limit, offloads: TxOffloads::default(),
            line: None,
        };
        let (arrived, counters) = run(config, 300);
        prop_assert_eq!(counters.sent, 300);
        prop_assert_eq!(counters.delivered as usize, arrived.len());
        prop_assert_eq!(
            counters.sent + counters.duplicated,
            counters.delivered + counters.lost + counters.overflowed + counters.cut_off
        );
        prop_assert_eq!(run(config, 300), (arrived, counters));
    }

    #[test]
    fn each_fault_comes_as_often_as_asked_and_alone(seed in any::<u64>(), fault in 0usize..4) {
        let mut config = LinkConfig { seed, reorder_ns: 2_500, ..Default::default() };
        *[&mut config.loss, &mut config.corruption, &mut config.duplication,
          &mut config.reordering].into_iter().nth(fault).unwrap() = PPM / 4;
        let (arrived, counters) = run(config, 2000);
        let faults =
            [counters.lost, counters.corrupted, counters.duplicated, counters.reordered];
        for (at, &count) in faults.iter().enumerate() {
            // Six standard deviations of 2000 draws at 1/4 are 116.
            let expected = if at == fault { 380..=620 } else { 0..=0 };
            prop_assert!(expected.contains(&count), "{faults:?}");
        }
        let in_order = arrived.is_sorted();
        prop_assert_eq!(in_order, fault != 3 && fault != 1, "{:?}", arrived);
    }
}

#[test]
fn a_line_takes_its_time_and_what_its_ring_has_room_for() {
    let (arena, mut pool) = pool();
    let clock = Clock::default();
    // 60 bytes in 480 ns.
    let line = Some(Line { bits_per_s: 1_000_000_000, ring: 3 });
    let config = LinkConfig { delay_ns: 20, line, ..Default::default() };
    let (mut a, mut b, link) = link(config, &clock, IDS);
    let mut burst: Vec<Packet> = (0..5).map(|at| numbered(&mut pool, at)).collect();
    a.tx(&mut pool, &mut burst);
    assert_eq!(burst.iter().map(number).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(link.next_arrival_ns(), Some(500));
    clock.advance(480);
    a.tx(&mut pool, &mut burst);
    assert_eq!((burst.len(), link.counters(0).sent), (1, 4));
    clock.advance(10_000);
    a.tx(&mut pool, &mut burst);
    let mut out = Vec::new();
    b.rx(&mut pool, &mut out, BURST);
    assert_eq!((out.len(), link.next_arrival_ns()), (4, Some(10_980)));
    out.drain(..).for_each(|packet| packet.free(&mut pool));
    Box::new(a).close(&mut pool);
    Box::new(b).close(&mut pool);
    assert_all_back(&arena, pool, vec![]);
}
