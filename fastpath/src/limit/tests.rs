//! On a virtual clock: limits against exact oracles, and what they promise over every interval.

use super::dscp::{Dscp, mark};
use super::*;
use margay_tunnels::wire::{ipv4, ipv6, protocol};
use proptest::prelude::*;

/// Units of a bit, as in the bucket.
const UNITS: u128 = 1_000_000_000;

/// A token bucket with exact numbers: how far the arrivals are ahead of the clock.
struct Oracle {
    rate: Rate,
    /// In units after the clock's zero.
    arrival: u128,
}

impl Oracle {
    fn pass(&mut self, now_ns: u64, cost: u32) -> bool {
        let now = u128::from(now_ns) * u128::from(self.rate.per_second);
        let end = self.arrival.max(now) + u128::from(cost) * UNITS;
        let passes = end - now <= u128::from(self.rate.burst) * UNITS;
        if passes {
            self.arrival = end;
        }
        passes
    }
}

/// Nanoseconds since the packet before, the worker, and the cost.
type Step = (u64, usize, u32);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wait =
        prop_oneof![3 => Just(0u64), 5 => 0u64..2000, 3 => 0u64..1_000_000, 1 => 0u64..1 << 40];
    let cost = prop_oneof![4 => 512u32..12_000, 1 => 0u32..3, 1 => Just(64_000 * 8)];
    prop::collection::vec((wait, 0usize..4, cost), 1..300)
}

fn rate() -> impl Strategy<Value = Rate> {
    let rates = prop_oneof![
        Just(1u64),
        Just(3),
        1u64..2000,
        1_000_000u64..10_000_000_000,
        Just(999_999_999_999),
        Just(RATE_MAX)
    ];
    let bursts =
        prop_oneof![0u64..10, 1_000u64..1_000_000, Just(4_294_967_296), Just(34_359_738_360)];
    (rates, bursts).prop_map(|(per_second, burst)| Rate { per_second, burst })
}

/// Fails if some interval has more than rate x time + burst.
fn conforms(passed: &[(u64, u32)], rate: Rate) -> Result<(), TestCaseError> {
    for (first, (start, _)) in passed.iter().enumerate() {
        let mut sum = 0u128;
        for (at, cost) in &passed[first..] {
            sum += u128::from(*cost) * UNITS;
            let may = u128::from(at - start) * u128::from(rate.per_second)
                + u128::from(rate.burst) * UNITS;
            prop_assert!(sum <= may, "{sum} of {may} units from {start} to {at}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn one_worker_passes_what_an_exact_bucket_passes(rate in rate(), steps in steps()) {
        let bucket = Bucket::new(rate, 1);
        let mut oracle = Oracle { rate, arrival: 0 };
        let (mut lease, mut now_ns) = (Lease::default(), 1_000_000_000_000);
        for (wait, _, cost) in steps {
            now_ns += wait;
            let asked = bucket.spend(&mut lease, now_ns, cost).is_some();
            let passed = bucket.pass(&mut lease, now_ns, cost);
            prop_assert_eq!(asked, passed, "asking spends nothing, at {}", now_ns);
            prop_assert_eq!(passed, oracle.pass(now_ns, cost), "at {}", now_ns);
        }
    }

    #[test]
    fn no_split_over_workers_passes_more_than_rate_and_burst(
        rate in rate(),
        steps in steps(),
        workers in 1usize..4,
    ) {
        let bucket = Bucket::new(rate, workers);
        let mut leases = vec![Lease::default(); workers];
        let (mut passed, mut now_ns) = (Vec::new(), 7);
        for (wait, worker, cost) in steps {
            now_ns += wait;
            let lease = &mut leases[worker % workers];
            if bucket.pass(lease, now_ns, cost) {
                passed.push((now_ns, cost));
            }
        }
        conforms(&passed, rate)?;
    }

    #[test]
    fn with_several_workers_too_hardly_less_passes(
        rate in rate().prop_filter("some burst", |rate| rate.burst > 10_000_000),
        steps in steps(),
        workers in 1usize..4,
    ) {
        let bucket = Bucket::new(rate, workers);
        let mut leases = vec![Lease::default(); workers];
        let (mut passed, mut now_ns): (Vec<(u64, u32)>, _) = (Vec::new(), 7);
        for (wait, worker, cost) in steps {
            now_ns += wait;
            let lease = &mut leases[worker % workers];
            if bucket.pass(lease, now_ns, cost) {
                passed.push((now_ns, cost));
                continue;
            }
            // Some interval up to now has 98 % of what it may have.
            let mut sum = u128::from(cost) * UNITS;
            let mut is_full = sum * 100 > u128::from(rate.burst) * UNITS * 98;
            for (at, cost) in passed.iter().rev() {
                sum += u128::from(*cost) * UNITS;
                let may = u128::from(now_ns - at) * u128::from(rate.per_second)
                    + u128::from(rate.burst) * UNITS;
                is_full |= sum * 100 >= may * 98;
            }
            prop_assert!(is_full, "dropped at {}", now_ns);
        }
    }

    #[test]
    fn a_policer_keeps_every_rate_and_a_dropped_packet_counts_for_none(
        bits in rate(),
        peak in rate(),
        packets in rate(),
        steps in steps(),
        workers in 1usize..3,
    ) {
        let rates = Rates { bits: Some(bits), peak: Some(peak), packets: Some(packets) };
        let policer = Policer::new(rates, workers);
        let mut oracles = [bits, peak, packets].map(|rate| Oracle { rate, arrival: 0 });
        let mut leases = vec![Leases::default(); workers];
        let (mut passed, mut now_ns) = (Vec::new(), 5);
        for (wait, worker, cost) in steps {
            now_ns += wait;
            let result = policer.pass(&mut leases[worker % workers], now_ns, Cost::packet(cost));
            if workers == 1 {
                let before = [0, 1, 2].map(|one: usize| oracles[one].arrival);
                let passes = oracles[2].pass(now_ns, 1)
                    && oracles[1].pass(now_ns, cost * 8)
                    && oracles[0].pass(now_ns, cost * 8);
                prop_assert_eq!(result.is_ok(), passes, "at {}", now_ns);
                if !passes {
                    (0..3).for_each(|one| oracles[one].arrival = before[one]);
                }
            }
            if result.is_ok() {
                passed.push((now_ns, cost * 8));
            }
        }
        conforms(&passed, bits)?;
        conforms(&passed, peak)?;
        let counted: Vec<(u64, u32)> = passed.iter().map(|(at, _)| (*at, 1)).collect();
        conforms(&counted, packets)?;
    }

    #[test]
    fn a_shaper_books_departures_that_keep_the_rate(
        rate in rate(),
        steps in steps(),
        workers in 1usize..4,
    ) {
        let shaper = Shaper::new(rate, workers);
        let mut leases = vec![Lease::default(); workers];
        let (mut departures, mut now_ns) = (Vec::new(), 7);
        for (wait, worker, cost) in steps {
            now_ns += wait;
            match shaper.book(&mut leases[worker % workers], now_ns, cost, true) {
                Booking::Now => departures.push((now_ns, cost)),
                Booking::At(at_ns) => {
                    prop_assert!(at_ns > now_ns && at_ns <= now_ns + SHAPER_DELAY_NS);
                    departures.push((at_ns, cost));
                }
                Booking::Drop => {}
            }
        }
        departures.sort_by_key(|(at, _)| *at);
        // A packet that is longer than the burst goes too: then the burst is its length. Departures
        // are whole nanoseconds, so two of them may be closer by one, and every worker keeps what
        // is left of its last one for its next packet.
        let longest = departures.iter().map(|(_, cost)| u64::from(*cost)).max().unwrap_or(0);
        let rounded = rate.per_second.div_ceil(1_000_000_000) * (1 + workers as u64);
        conforms(&departures, Rate { burst: rate.burst + longest + rounded, ..rate })?;
    }

    #[test]
    fn the_wheel_gives_back_in_order_and_in_time(
        things in prop::collection::vec((0u64..2 * HORIZON_NS, 0u64..4 * SLOT_NS), 1..200),
        limit in 1usize..100,
    ) {
        let mut now_ns = 12_345_678;
        let mut wheel = Wheel::new(limit, now_ns);
        let mut waiting: Vec<(u64, usize)> = Vec::new();
        for (number, (ahead, wait)) in things.into_iter().enumerate() {
            now_ns += wait;
            while let Some(number) = wheel.pop(now_ns) {
                let at = waiting.iter().position(|one| one.1 == number);
                let (at_ns, _) = waiting.remove(at.expect("it waits"));
                prop_assert!(at_ns <= now_ns, "not before its time");
                let slot = at_ns.div_ceil(SLOT_NS);
                prop_assert!(waiting.iter().all(|one| one.0.div_ceil(SLOT_NS) >= slot
                    && (one.0.div_ceil(SLOT_NS) > slot || one.1 > number)));
            }
            prop_assert!(waiting.iter().all(|one| one.0 + SLOT_NS > now_ns), "none is late");
            let at_ns = now_ns + ahead;
            match wheel.insert(at_ns, number) {
                Ok(()) => waiting.push((at_ns, number)),
                Err(_) => prop_assert!(waiting.len() == limit || ahead > HORIZON_NS - SLOT_NS),
            }
            prop_assert_eq!(wheel.len(), waiting.len());
        }
    }
}

#[test]
fn a_changed_rate_remembers_what_has_passed() {
    let old = Bucket::new(Rate { per_second: 1000, burst: 5000 }, 1);
    let mut lease = Lease::default();
    for _ in 0..5 {
        assert!(old.pass(&mut lease, 1_000_000_000, 1000), "within the burst");
    }
    assert!(!old.pass(&mut lease, 1_000_000_000, 1000));
    let new = old.changed(Rate { per_second: 2000, burst: 6000 }, 1, 1_000_000_000);
    let mut lease = Lease::default();
    assert!(new.pass(&mut lease, 1_000_000_000, 1000), "the burst has grown by it");
    assert!(!new.pass(&mut lease, 1_499_999_999, 1000));
    assert!(new.pass(&mut lease, 1_500_000_000, 1000));
}

#[test]
fn a_packet_limit_of_five_passes_five_at_once() {
    let policer = Policer::new(
        Rates { packets: Some(Rate { per_second: 3, burst: 5 }), ..Rates::default() },
        2,
    );
    let mut leases = [Leases::default(); 2];
    let mut pass = |at, now_ns| policer.pass(&mut leases[at], now_ns, Cost::packet(100));
    // Two workers round apart from each other, which may cost a nanosecond each.
    assert!((0..5).all(|at| pass(at % 2, 9 + at as u64).is_ok()));
    assert_eq!(pass(0, 13), Err(Excess::PacketRate));
    assert_eq!(pass(1, 333_333_342), Err(Excess::PacketRate));
    assert_eq!(pass(1, 333_333_345), Ok(()));
}

#[test]
fn connections_are_counted_to_the_limit() {
    let connections = Connections::default();
    assert!(connections.open(2) && connections.open(2) && !connections.open(2));
    connections.close();
    assert!(connections.open(2));
    assert!(!connections.open(1), "a lower limit holds for new ones");
    assert_eq!(connections.count(), 2);
    (0..4).for_each(|_| connections.close());
    assert_eq!(connections.count(), 0);
}

#[test]
fn code_points_have_their_names() {
    let named = |name| Dscp::named(name).map(Dscp::value);
    let pairs = [("EF", 46), ("cs6", 48), ("AF11", 10), ("af43", 38), ("LE", 1), ("DF", 0)];
    assert!(pairs.iter().all(|(name, value)| named(name) == Some(*value)));
    assert!(
        ["AF14", "AF51", "CS8", "XX", "", "AF1", "CSx"].iter().all(|name| named(name).is_none())
    );
    assert_eq!(Dscp::new(64), None);
}

#[test]
fn rfc2474_3_marking_leaves_ecn_alone() {
    let (from, to) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    let mut packet = ipv4::header(from, to, protocol::UDP, 64, 0).to_vec();
    packet[1] = 0b1011_0101;
    packet[10..12].copy_from_slice(&[0, 0]);
    let field =
        margay_tunnels::wire::checksum::finish(margay_tunnels::wire::checksum::sum(&packet));
    packet[10..12].copy_from_slice(&field.to_be_bytes());
    let dscp = Dscp::new(46).unwrap();
    mark(&mut packet, dscp);
    let view = ipv4::View::new(&packet).unwrap();
    assert_eq!((view.traffic_class(), view.checksum_ok()), (46 << 2 | 1, true));
    let mut packet = [0u8; 40];
    (packet[0], packet[1], packet[2]) = (0x6b, 0x5a, 0xbc);
    mark(&mut packet, dscp);
    let view = ipv6::View::new(&packet).unwrap();
    assert_eq!(view.traffic_class(), 46 << 2 | 1);
    assert_eq!((packet[1] & 0xf, packet[2]), (0xa, 0xbc), "the flow label stays");
    mark(&mut [0x45; 19], dscp);
}

#[test]
fn a_super_packet_costs_what_its_parts_do() {
    use crate::packet::{Gso, Packet};
    use crate::port::PortId;
    use crate::segment::tests::as_super;
    use crate::sys::memory::{Arena, FramePool, HEADROOM};
    let mut pool = FramePool::new(Arena::new(8, 0).unwrap());
    let mut frame = pool.alloc().unwrap();
    let bytes = frame.bytes_mut(HEADROOM, 42 + 250);
    bytes.fill(0);
    let (src, dst) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let header = margay_tunnels::wire::ipv4::header(src, dst, 17, 64, 258);
    bytes[14..34].copy_from_slice(&header);
    let mut packet = Packet::new(frame, HEADROOM, 42 + 250, PortId(0));
    (packet.l3, packet.l4) = (14, 34);
    assert_eq!(Cost::of(&packet), Cost::packet(292));
    as_super(&mut packet, 34, Gso::Udp, 100);
    assert_eq!(Cost::of(&packet), Cost { bytes: 3 * 42 + 250, packets: 3 });
    packet.free(&mut pool);
}

/// The bound on what waits in one worker: an endpoint leaves room to others, what is refused is not
/// booked, and nothing is lost.
#[test]
fn no_more_wait_in_a_worker_than_may() {
    use crate::packet::Packet;
    use crate::port::{BURST, PortId};
    use crate::sys::memory::{Arena, FramePool, HEADROOM};
    let mut pool = FramePool::new(Arena::new(WAITING_MAX + 64, 0).unwrap());
    let bits = Some(Rate { per_second: 1_000_000_000, burst: 1 });
    let way = WayLimits { rates: Rates { bits, ..Rates::default() }, shaped: true };
    let wanted = Wanted { ways: [way; 2], dscp: None };
    let mut own = OwnLimits::default();
    let now_ns = 5_000_000_000;
    let ask = |own: &mut OwnLimits, pool: &mut FramePool, limits: &EndpointLimits, port: u16| {
        let place = (PortId(port), margay_acl::Direction::Egress);
        match own.admit(place, limits, now_ns, Cost::packet(64)) {
            Ok(Departure::At(at_ns)) => {
                let packet = Packet::new(pool.alloc().unwrap(), HEADROOM, 64, PortId(port));
                own.wait((at_ns, now_ns), Waiting::From(packet), None).unwrap();
                Some(at_ns)
            }
            Ok(Departure::Now) => panic!("there is no burst"),
            Err(excess) => {
                assert_eq!(excess, Excess::Queue);
                None
            }
        }
    };
    let room = (WAITING_MAX - BURST) as u64;
    let mut first = None;
    for (port, most) in [(3, room / 2), (4, room / 4), (5, room / 8), (6, room / 16)] {
        let limits = EndpointLimits::new(wanted, 1, 1);
        let (before, mut last_ns) = (own.waiting() as u64, 0);
        while let Some(at_ns) = ask(&mut own, &mut pool, &limits, port) {
            last_ns = at_ns;
        }
        assert_eq!(own.waiting() as u64 - before, most);
        assert!((0..1000).all(|_| ask(&mut own, &mut pool, &limits, port).is_none()));
        first.get_or_insert((limits, last_ns));
    }
    let mut drained = 0;
    while let Some(Waiting::From(packet)) = own.release(now_ns + HORIZON_NS) {
        drained += 1;
        packet.free(&mut pool);
    }
    assert_eq!((drained, own.waiting()), (room / 2 + room / 4 + room / 8 + room / 16, 0));
    let (limits, last_ns) = first.unwrap();
    let next_ns = ask(&mut own, &mut pool, &limits, 3);
    assert_eq!(next_ns, Some(last_ns + 512), "refusals are not booked");
    own.take_any().unwrap().free(&mut pool);
    assert!(own.take_any().is_none());
}

/// What passes in ten seconds of a flood at half as much again.
fn passed(rate: Rate, workers: usize, shaped: bool) -> u64 {
    const FRAME: Cost = Cost::packet(1514);
    const END_NS: u64 = 10_000_000_000;
    let way = WayLimits { rates: Rates { bits: Some(rate), ..Rates::default() }, shaped };
    let limits = EndpointLimits::new(Wanted { ways: [way; 2], dscp: None }, 1, workers);
    let mut own: Vec<_> = (0..workers).map(|_| OwnLimits::default()).collect();
    let place = (crate::port::PortId(0), margay_acl::Direction::Egress);
    let ns_of_bits = 1_000_000_000.0 / rate.per_second as f64;
    let step = |at: u64| (at as f64 * f64::from(FRAME.bits()) / 1.5 * ns_of_bits) as u64;
    let mut bits = 0;
    // The first two go to one worker, the next to the other, as uneven as it comes.
    for (at, now_ns) in (0..).map(|at| (at, step(at))).take_while(|(_, at_ns)| *at_ns < END_NS) {
        let own = &mut own[at as usize / 2 % workers];
        let goes = match own.admit(place, &limits, now_ns, FRAME) {
            Ok(Departure::Now) => true,
            Ok(Departure::At(at_ns)) => at_ns < END_NS,
            Err(_) => false,
        };
        bits += if goes { u64::from(FRAME.bits()) } else { 0 };
    }
    bits
}

#[test]
fn limits_of_gigabits_are_kept_to_a_thousandth_by_one_and_by_two_workers() {
    for per_second in [1_000_000_000, 5_000_000_000] {
        let rate = Rate { per_second, burst: per_second / 1000 };
        for (workers, shaped) in [(1, false), (2, false), (1, true), (2, true)] {
            let may = per_second * 10 + rate.burst;
            let bits = passed(rate, workers, shaped);
            println!("{per_second} bit/s, {workers} workers, shaped {shaped}: {bits} of {may}");
            // A shaped packet may be the one after the last.
            assert!(bits <= may + 12_112 && bits * 1000 >= may * 999, "{bits} of {may}");
        }
    }
}
