//! The table against a model that is a plain list, over random packets on a virtual clock.

use super::protocol::{self, Signal, State};
use super::*;
use std::net::Ipv4Addr;

pub(crate) mod tcp_history;

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn limits(sessions: usize) -> Limits {
    Limits { sessions, per_source: 0 }
}

fn table(limits: Limits) -> FlowTable {
    FlowTable::new(limits, Timeouts::default(), 7, 1000).unwrap()
}

fn tuple(src: u32, src_port: u16, dst: u32, dst_port: u16, protocol: u8) -> Tuple {
    let address = |host| Address::from(Ipv4Addr::from_bits(0x0a00_0000 + host));
    Tuple { src: address(src), dst: address(dst), src_port, dst_port, protocol }
}

/// A session of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plain {
    tuples: (Tuple, Tuple),
    state: State,
    bits: u8,
    last_s: u32,
}

impl Plain {
    fn end_s(&self) -> u32 {
        let translated = self.tuples.0 != self.tuples.1;
        self.last_s + Timeouts::default().of(self.state, translated)
    }

    fn direction(&self, tuple: &Tuple) -> Option<Direction> {
        if self.tuples.0 == *tuple {
            return Some(Direction::Original);
        }
        (self.tuples.1.reversed() == *tuple).then_some(Direction::Reply)
    }
}

fn signal(random: &mut Random, protocol: u8) -> Signal {
    match protocol {
        6 => {
            Signal::Tcp([0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x04, 0x00][random.below(8) as usize])
        }
        17 => Signal::Udp,
        1 => Signal::Query { asks: random.below(3) > 0 },
        132 => Signal::Sctp([1, 2, 10, 11, 0, 6, 7, 14][random.below(8) as usize]),
        _ => Signal::Other,
    }
}

/// Packets of few hosts and ports, some translated; time passes in steps of all sizes.
fn against_the_model(seed: u64, steps: usize) {
    let mut random = Random(seed);
    let mut table = table(limits(100_000));
    let mut model: Vec<Plain> = Vec::new();
    let mut now_s = 1000;
    for step in 0..steps {
        if random.below(40) == 0 {
            now_s += [1, 1, 2, 7, 29, 120, 700, 3000, 440_000][random.below(9) as usize] as u32;
            let before = table.len();
            let mut ended = 0;
            assert!(table.expire(now_s, usize::MAX, |_| ended += 1));
            model.retain(|session| session.end_s() > now_s);
            assert_eq!(table.len(), before - ended);
            compare(&table, &model);
        }
        let protocol = [6, 6, 17, 1, 132, 47][random.below(6) as usize];
        let mut port = |count| random.below(count) as u16;
        let (ports, hosts) = ((port(5), port(3)), (u32::from(port(4)), u32::from(port(4))));
        let packet = tuple(hosts.0, ports.0, hosts.1 + 4, ports.1, protocol);
        let packet = if random.below(2) == 0 { packet.reversed() } else { packet };
        let signal = signal(&mut random, protocol);
        let found = table.find(&packet);
        let known = model.iter().position(|session| session.direction(&packet).is_some());
        assert_eq!(found.is_some(), known.is_some(), "step {step}: {packet:?}");
        match (found, known) {
            (Some((id, direction)), Some(at)) => {
                let session = &mut model[at];
                let expected = session.direction(&packet).unwrap();
                assert_eq!(direction, expected);
                table.seen(id, Seen { direction, signal, bytes: 40 }, now_s);
                (session.state, session.bits) =
                    protocol::next(session.state, session.bits, signal, expected);
                session.last_s = now_s;
                assert_eq!(table.state_of(id), Some(session.state));
            }
            _ => {
                let nat = Tuple { src_port: 100 + random.below(9) as u16, ..packet };
                let translated = if random.below(2) == 0 { nat } else { packet };
                let clash =
                    model.iter().any(|session| session.direction(&translated.reversed()).is_some());
                let made = table.insert((packet, translated), (signal, 40), now_s, &mut None);
                match (signal.begins(), clash) {
                    (None, _) => assert_eq!(made, Err(Refused::Invalid)),
                    (_, true) => assert_eq!(made, Err(Refused::Clash)),
                    (Some(state), false) => {
                        assert!(made.is_ok());
                        let tuples = (packet, translated);
                        model.push(Plain { tuples, state, bits: 0, last_s: now_s });
                    }
                }
            }
        }
    }
    let ids: Vec<SessionId> = table.iter().map(|(id, _)| id).collect();
    ids.into_iter().for_each(|id| assert!(table.remove(id).is_some()));
    assert!(table.is_empty());
}

fn compare(table: &FlowTable, model: &[Plain]) {
    assert_eq!(table.len(), model.len());
    for session in model {
        let (id, _) = table.find(&session.tuples.0).unwrap();
        let found = table.get(id).unwrap();
        assert_eq!((found.original(), found.translated()), session.tuples);
        assert_eq!((found.state, found.bits), (session.state, session.bits));
        assert_eq!(found.last_seen_s, session.last_s);
    }
}

#[test]
fn two_million_packets_are_answered_as_by_a_plain_list() {
    for seed in 0..8 {
        against_the_model(seed, 250_000);
    }
}

#[test]
fn every_state_expires_at_its_second_and_not_before() {
    for translated in [false, true] {
        for state in State::ALL {
            let mut table = table(limits(16));
            let inside = tuple(1, 7, 2, 9, 17);
            let outside = if translated { tuple(3, 70, 2, 9, 17) } else { inside };
            let made = table.insert((inside, outside), (Signal::Udp, 40), 1000, &mut None);
            let id = made.unwrap();
            table.slab_mut(id).state = state;
            table.rewind_for_test(id);
            let timeout = Timeouts::default().of(state, translated);
            // A packet halfway does not touch the wheel.
            let seen = 1000 + timeout / 2;
            table.slab_mut(id).last_seen_s = seen;
            for now_s in [1000 + timeout, seen + timeout - 1] {
                assert!(table.expire(now_s, 1 << 20, |_| panic!("{state:?} ended early")));
            }
            let mut ended = 0;
            table.expire(seen + timeout, 1 << 20, |_| ended += 1);
            assert_eq!((ended, table.len()), (1, 0), "{state:?}");
        }
    }
}

#[test]
fn expiry_is_done_in_bounded_pieces() {
    let mut table = table(limits(1000));
    for port in 0..1000 {
        let flow = tuple(1, port, 2, 9, 17);
        table.insert((flow, flow), (Signal::Udp, 40), 1000, &mut None).unwrap();
    }
    let (mut ended, mut calls) = (0, 0);
    while !table.expire(1030, 64, |_| ended += 1) {
        calls += 1;
        assert!(ended <= calls * 64);
    }
    assert_eq!((ended, calls), (1000, 15));
}

#[test]
fn a_full_table_gives_up_what_nobody_answered_and_keeps_what_is_assured() {
    let mut table = table(limits(64));
    let assured: Vec<Tuple> = (0..32).map(|port| tuple(1, port, 2, 80, 6)).collect();
    for flow in &assured {
        let signal = Signal::Tcp(0x02);
        let id = table.insert((*flow, *flow), (signal, 40), 1000, &mut None).unwrap();
        for (flags, direction) in [(0x12, Direction::Reply), (0x10, Direction::Original)] {
            table.seen(id, Seen { direction, signal: Signal::Tcp(flags), bytes: 40 }, 1000);
        }
    }
    // A flood of SYNs, ten times the table.
    for host in 0..640 {
        let flow = tuple(1000 + host, 5, 2, 80, 6);
        let mut gave_way = None;
        let made = table.insert((flow, flow), (Signal::Tcp(0x02), 40), 1001, &mut gave_way);
        let full = matches!(made, Err(Refused::Full));
        assert!(made.is_ok() || full, "{made:?}");
        assert!(table.len() <= 64);
        assert!(gave_way.is_none_or(|removed| !removed.session.is_assured()));
    }
    assert!(assured.iter().all(|flow| table.find(flow).is_some()));
    let counters = table.counters();
    assert_eq!(counters.made, 64 + counters.gave_way);
    assert!(counters.gave_way > 300, "most of a flood gives way to the rest: {counters:?}");
}

#[test]
fn a_table_full_of_assured_sessions_refuses() {
    let mut table = table(limits(8));
    for port in 0..8 {
        let flow = tuple(1, port, 2, 80, 6);
        let id = table.insert((flow, flow), (Signal::Tcp(0x10), 40), 1000, &mut None).unwrap();
        let seen = Seen { direction: Direction::Reply, signal: Signal::Tcp(0x10), bytes: 40 };
        table.seen(id, seen, 1000);
    }
    let flow = tuple(1, 99, 2, 80, 6);
    let made = table.insert((flow, flow), (Signal::Tcp(0x02), 40), 1000, &mut None);
    assert_eq!((made, table.len()), (Err(Refused::Full), 8));
    assert_eq!(table.counters().refused, 1);
}

#[test]
fn a_source_has_no_more_sessions_than_it_may() {
    let mut table = table(Limits { sessions: 100, per_source: 3 });
    let insert = |table: &mut FlowTable, host, port| {
        let flow = tuple(host, port, 2, 9, 17);
        table.insert((flow, flow), (Signal::Udp, 40), 1000, &mut None)
    };
    let first = insert(&mut table, 1, 0).unwrap();
    assert!(insert(&mut table, 1, 1).is_ok() && insert(&mut table, 1, 2).is_ok());
    assert_eq!(insert(&mut table, 1, 3), Err(Refused::SourceLimit));
    assert!(insert(&mut table, 7, 3).is_ok(), "others are not held back");
    table.remove(first);
    assert!(insert(&mut table, 1, 3).is_ok());
}

#[test]
fn a_mapping_lives_as_long_as_one_of_its_sessions() {
    let mut table = table(limits(100));
    let outside = tuple(50, 4000, 0, 0, 17).src;
    let flows: Vec<(Tuple, Tuple)> = (0..5)
        .map(|far| {
            let original = tuple(1, 7, 10 + far, 53, 17);
            (original, Tuple { src: outside, src_port: 4000, ..original })
        })
        .collect();
    let mut ids = Vec::new();
    for flow in &flows {
        let with = table.mapping_of(flow.0.src, 7, 17);
        let id = table.insert(*flow, (Signal::Udp, 40), 1000, &mut None).unwrap();
        match with {
            None => assert!(table.begin_mapping(id)),
            Some(with) => table.share_mapping(id, with),
        }
        ids.push(id);
    }
    assert_eq!(table.mapped_with(ids[2]).count(), 5);
    for (left, at) in [(4, 0), (3, 3), (2, 1), (1, 4), (0, 2)] {
        let removed = table.remove(ids[at]).unwrap();
        assert_eq!(removed.ends_mapping, left == 0);
        let found = (table.mapping_of(flows[0].0.src, 7, 17), table.mapping_at(outside, 4000, 17));
        assert_eq!((found.0.is_some(), found.1.is_some()), (left > 0, left > 0));
        assert_eq!(found.0.map_or(0, |id| table.mapped_with(id).count()), left);
    }
}

#[test]
fn a_session_takes_no_more_than_200_bytes_with_its_keys() {
    for sessions in [1000, 65_536, 100_000, 1 << 20] {
        let index = super::index::Index::new(sessions * 4).unwrap();
        assert!(size_of::<Session>() + index.bytes() / sessions <= 200, "{sessions}");
    }
    let few = 3000;
    let mut table = table(limits(few));
    for at in 0..few as u32 {
        let original = tuple(at, 7, 2, 9, 17);
        let flow = (original, Tuple { src_port: 8, ..original });
        let id = table.insert(flow, (Signal::Udp, 40), 1000, &mut None).unwrap();
        assert!(table.begin_mapping(id), "there is room for four keys of each");
    }
    assert!(table.bytes() / few <= 200);
}

#[test]
fn batch_and_single_lookups_agree() {
    let mut table = table(limits(1000));
    let flows: Vec<Tuple> = (0..500).map(|port| tuple(1, port, 2, 9, 17)).collect();
    for flow in flows.iter().step_by(2) {
        table.insert((*flow, *flow), (Signal::Udp, 40), 1000, &mut None).unwrap();
    }
    for chunk in flows.chunks(BATCH) {
        let mut found = [None; BATCH];
        table.find_batch(chunk, &mut found);
        let single: Vec<_> = chunk.iter().map(|flow| table.find(flow)).collect();
        assert_eq!(found[..chunk.len()], single);
    }
}
