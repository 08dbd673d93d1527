//! Limits that program and pipeline keep together: the same packets pass, whoever is asked.

use super::*;
use crate::drop_reason::DropReason;
use crate::limit::gates::{CREDIT_SHIFT, FRACTION, layout};
use crate::limit::{Rate, Rates, Totals, WayLimits};
use crate::sys::clock::monotonic_ns;
use margay_acl::Direction as Way;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// So slow that what comes in while a case runs is less than half a [`STEP`],
const SLOW: u64 = 1000;
/// which does not take longer than this unless the machine stands still; then it is run again.
const CASE: Duration = Duration::from_millis(300);
/// Frames have a multiple of so many bytes; bursts end in the middle between two.
const STEP: u64 = 100;
/// Bytes of a frame without payload.
const HEADERS: u64 = 42;
const NONE: WayLimits =
    WayLimits { rates: Rates { bits: None, peak: None, packets: None }, shaped: false };

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passed,
    Bandwidth,
    PacketRate,
    /// Beyond a shaper, where it would wait too long.
    Queue,
}

/// Limits in bytes and packets that do not come back in a test's time.
#[derive(Debug, Clone, Copy, Default)]
struct Budget {
    bytes: Option<u64>,
    peak: Option<u64>,
    packets: Option<u64>,
    shaped: bool,
}

impl Budget {
    fn limits(&self) -> WayLimits {
        let bits = |bytes: u64| Rate { per_second: SLOW, burst: bytes * 8 };
        let packets = |burst| Rate { per_second: 1, burst };
        let rates = Rates {
            bits: self.bytes.map(bits),
            peak: self.peak.map(bits),
            packets: self.packets.map(packets),
        };
        WayLimits { rates, shaped: self.shaped }
    }

    /// As the rule says it; of a shaper nothing but whether a packet passes at once.
    fn take(&mut self, bytes: u64) -> Fate {
        if self.packets == Some(0) {
            return Fate::PacketRate;
        }
        if self.peak.is_some_and(|left| left < bytes) || self.bytes.is_some_and(|left| left < bytes)
        {
            return if self.shaped { Fate::Queue } else { Fate::Bandwidth };
        }
        self.packets = self.packets.map(|left| left - 1);
        for left in [&mut self.bytes, &mut self.peak].into_iter().flatten() {
            *left -= bytes;
        }
        Fate::Passed
    }
}

fn dropped(rig: &Rig) -> [u64; 3] {
    [DropReason::LimitBandwidth, DropReason::LimitPacketRate, DropReason::LimitQueue]
        .map(|reason| rig.pipeline.counters.drops[reason as usize].get())
}

/// What the pipeline does with a packet, at the program's time.
fn by_worker(rig: &mut Rig, from: PortId, packet: Vec<u8>) -> Fate {
    let before = dropped(rig);
    rig.now_ns = monotonic_ns() - rig.clock_ns;
    if rig.feed(from, &[packet]).len() == 1 {
        return Fate::Passed;
    }
    let after = dropped(rig);
    let which = (0..3).find(|at| after[*at] > before[*at]).expect("it has a reason");
    [Fate::Bandwidth, Fate::PacketRate, Fate::Queue][which]
}

/// What the program does; a packet that is the worker's goes there.
fn by_program(rig: &mut Rig, from: PortId, packet: Vec<u8>) -> Fate {
    let verdict = |rig: &Rig| {
        let program = &rig.programs[usize::from(from.0)];
        program.test_run(&packet, XdpContext { ifindex: 1, rx_queue: 0 }, 1).unwrap().verdict
    };
    rig.pipeline.read_offload();
    let before = dropped(rig);
    rig.arrivals[usize::from(from.0)].set_seen(0, u64::MAX);
    match verdict(rig) {
        XDP_REDIRECT => return Fate::Passed,
        XDP_PASS => return by_worker(rig, from, packet),
        verdict => assert_eq!(verdict, XDP_DROP),
    }
    rig.pipeline.read_offload();
    let after = dropped(rig);
    match [0, 1, 2].map(|at| after[at] - before[at]) {
        [1, 0, 0] => Fate::Bandwidth,
        [0, 1, 0] => Fate::PacketRate,
        other => panic!("{other:?}"),
    }
}

/// A frame of so many steps.
fn frame_of(rig: &mut Rig, from: PortId, steps: u64) -> Vec<u8> {
    rig.ordinary(&UDP4, from, &vec![7; (steps * STEP - HEADERS) as usize])
}

/// A rig whose flow is carried both ways, with untouched limits.
fn limited(of: &[(PortId, [WayLimits; 2])]) -> Rig {
    let mut rig = Rig::new(false);
    // Decided while there is room for all that takes.
    let wide = |per_second| Some(Rate { per_second, burst: 1 << 30 });
    let rates = Rates { bits: wide(1 << 30), peak: None, packets: None };
    let open = of.iter().map(|(port, ways)| {
        let way = |way: WayLimits| if way == NONE { NONE } else { WayLimits { rates, ..NONE } };
        (*port, ways.map(way))
    });
    rig.limit(&open.collect::<Vec<_>>());
    rig.offload(&UDP4);
    rig.limit(of);
    // Decided anew, by packets that are not counted: these rows are dropped.
    for from in [POD, UPLINK] {
        decide_anew(&mut rig, from);
    }
    rig
}

/// A first packet from either side brings the flow back, and the worker is done with it. What they
/// took is given back.
fn decide_anew(rig: &mut Rig, from: PortId) {
    let packet = frame_of(rig, from, 1);
    rig.now_ns = monotonic_ns() - rig.clock_ns;
    rig.feed(from, std::slice::from_ref(&packet));
    rig.arrivals[usize::from(from.0)].set_seen(0, u64::MAX);
    // The flow settles.
    let program = &rig.programs[usize::from(from.0)];
    program.test_run(&packet, XdpContext { ifindex: 1, rx_queue: 0 }, 1).unwrap();
}

fn totals(rig: &mut Rig, port: PortId, way: Way) -> Totals {
    rig.pipeline.read_offload();
    let limits = rig.tables.limits_of(port).unwrap();
    Totals { bits_per_s: 0, ..limits.way(way).account.totals(rig.now_ns) }
}

/// Whom packets are given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Program,
    Worker,
    Either(u64),
}

/// The fate of each packet from the pod, of so many steps, and what was counted.
fn fates(budget: Budget, steps: &[u64], asked: Asked) -> (Vec<Fate>, Totals) {
    // The packet that has the flow decided costs one.
    let whole = Budget {
        bytes: budget.bytes.map(|bytes| bytes + STEP),
        peak: budget.peak.map(|bytes| bytes + STEP),
        packets: budget.packets.map(|packets| packets + 1),
        ..budget
    };
    let (mut rig, start) = (limited(&[(POD, [NONE, whole.limits()])]), Instant::now());
    let fates = steps.iter().enumerate().map(|(at, steps)| {
        let packet = frame_of(&mut rig, POD, *steps);
        let by_us = match asked {
            Asked::Program => true,
            Asked::Worker => false,
            Asked::Either(bits) => bits >> (at % 64) & 1 == 1,
        };
        if by_us { by_program(&mut rig, POD, packet) } else { by_worker(&mut rig, POD, packet) }
    });
    let counted = (fates.collect(), totals(&mut rig, POD, Way::Egress));
    match start.elapsed() < CASE {
        true => counted,
        false => self::fates(budget, steps, asked),
    }
}

#[test]
fn the_same_packets_pass_whoever_is_asked() {
    in_namespace(|| {
        let half = |steps: u64| steps * STEP + STEP / 2;
        let budgets = [
            Budget { bytes: Some(half(40)), ..Budget::default() },
            Budget { bytes: Some(half(60)), peak: Some(half(30)), ..Budget::default() },
            Budget { packets: Some(5), ..Budget::default() },
            Budget { bytes: Some(half(40)), packets: Some(8), ..Budget::default() },
            Budget { bytes: Some(half(40)), shaped: true, ..Budget::default() },
        ];
        let mut runner =
            TestRunner::new(Config { failure_persistence: None, cases: 12, ..Config::default() });
        let inputs = (prop::collection::vec(1u64..14, 20..30), any::<u64>());
        let fell = RefCell::new([0; 5]);
        let outcome = runner.run(&inputs, |(steps, bits)| {
            for (at, budget) in budgets.into_iter().enumerate() {
                let mut left = budget;
                let expected: Vec<Fate> =
                    steps.iter().map(|steps| left.take(steps * STEP)).collect();
                fell.borrow_mut()[at] +=
                    expected.iter().filter(|one| **one != Fate::Passed).count();
                let mut counted = Vec::new();
                // What one rate refuses a worker has leased of the others, and keeps for a while.
                let one = [budget.bytes, budget.peak, budget.packets].iter().flatten().count() == 1;
                let either = if one { Asked::Either(bits) } else { Asked::Program };
                for asked in [Asked::Worker, Asked::Program, either] {
                    let (fates, totals) = fates(budget, &steps, asked);
                    prop_assert_eq!(&fates, &expected, "{:?}, {:?}", budget, asked);
                    counted.push(totals);
                }
                prop_assert_eq!(counted[0], counted[1]);
                prop_assert_eq!(counted[0], counted[2]);
            }
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{error}"));
        assert!(fell.into_inner().iter().all(|count| *count > 20), "too few fell to say anything");
    });
}

/// When everything that was taken from a limit will have arrived, booked or not.
fn arrival(rig: &Rig, port: PortId, way: Way) -> u64 {
    let row = rig.tables.limits_of(port).unwrap().way(way).row().unwrap().clone();
    let words = [layout::BITS + layout::ARRIVAL, layout::OWED].map(|at| row.word(at).load(Relaxed));
    words[0].wrapping_add(words[1])
}

#[test]
fn two_limited_ends_are_asked_one_after_the_other() {
    in_namespace(|| {
        let wide = Budget { bytes: Some(100 * STEP + STEP / 2), ..Budget::default() };
        let narrow = Budget { bytes: Some(6 * STEP + STEP / 2), ..Budget::default() };
        for shaped in [false, true] {
            let to = Budget { shaped, ..narrow };
            let mut rig = limited(&[(POD, [NONE, wide.limits()]), (UPLINK, [to.limits(), NONE])]);
            // One step of it has gone to the worker.
            let packet = frame_of(&mut rig, POD, 3);
            assert_eq!(by_program(&mut rig, POD, packet.clone()), Fate::Passed);
            let before = arrival(&rig, POD, Way::Egress);
            rig.pipeline.read_offload();
            let (pod_before, uplink_before) = (rig.map.totals(POD), rig.map.totals(UPLINK));
            let beyond = rig.run_any(POD, &packet);
            let taken = arrival(&rig, POD, Way::Egress).wrapping_sub(before);
            let cost = ((3 * STEP * 8) * (1_000_000_000 / SLOW)) << FRACTION;
            let pod = totals(&mut rig, POD, Way::Egress);
            let other = totals(&mut rig, UPLINK, Way::Ingress);
            assert_eq!((other.packets, other.bytes), (2, 4 * STEP));
            match shaped {
                true => {
                    assert_eq!((beyond, taken), (XDP_PASS, 0), "the worker takes it again");
                    assert_eq!((pod.packets, pod.bytes), (2, 4 * STEP));
                    assert_eq!(other.dropped, [0; 4]);
                }
                false => {
                    assert_eq!((beyond, taken), (XDP_DROP, cost));
                    assert_eq!((pod.packets, pod.bytes), (3, 7 * STEP), "it passed the first one");
                    assert_eq!((pod.dropped, other.dropped), ([0; 4], [1, 0, 0, 0]));
                    let port = rig.map.totals(POD);
                    assert_eq!(port.rx_packets - pod_before.rx_packets, 1, "and it came");
                    assert_eq!(port.rx_bytes - pod_before.rx_bytes, 3 * STEP);
                    assert_eq!(rig.map.totals(UPLINK).tx_packets, uplink_before.tx_packets);
                }
            }
        }
    });
}

#[test]
fn no_more_passes_on_credit_than_the_burst() {
    in_namespace(|| {
        let packets = 700;
        let way = Budget { bytes: Some(640 * STEP + STEP / 2), ..Budget::default() }.limits();
        for shared in [false, true] {
            let mut rig = limited(&[(POD, [NONE, way])]);
            let row = rig.tables.limits_of(POD).unwrap().way(Way::Egress).row().unwrap().clone();
            let owed = |at: usize| row.word(at).load(Relaxed);
            let packet = frame_of(&mut rig, POD, 1);
            // A step of the burst has gone to the worker.
            let (mut passed, mut most_owed, mut unasked) = (1, 0, 0);
            for at in 0..packets {
                let booked = owed(layout::BITS + layout::ARRIVAL);
                let fate = match shared && at % 16 == 9 {
                    true => by_worker(&mut rig, POD, packet.clone()),
                    false => by_program(&mut rig, POD, packet.clone()),
                };
                passed += u64::from(fate == Fate::Passed);
                let is_on_credit = booked == owed(layout::BITS + layout::ARRIVAL);
                unasked += u64::from(fate == Fate::Passed && is_on_credit);
                most_owed = most_owed.max(owed(layout::OWED));
            }
            let part = owed(layout::BITS + layout::BURST) >> CREDIT_SHIFT;
            assert!(most_owed > part / 2 && most_owed <= part, "{most_owed} of {part}");
            assert!(unasked > 400, "{unasked} of {passed} did not ask the clock");
            assert_eq!(owed(layout::OWED), 0);
            assert_eq!(owed(layout::FLAGS) & layout::OPEN as u64, 0);
            // What a worker has leased and does not need is not for others.
            let least = if shared { 640 - 640 / 128 } else { 640 };
            assert!((least..=640).contains(&passed), "{passed}");
        }
    });
}

#[test]
fn credit_is_booked_by_workers_and_given_back() {
    in_namespace(|| {
        let wide = Budget { bytes: Some(1000 * STEP), ..Budget::default() };
        let narrow = Budget { bytes: Some(6 * STEP + STEP / 2), shaped: true, ..wide };
        let mut rig = limited(&[(POD, [NONE, wide.limits()]), (UPLINK, [narrow.limits(), NONE])]);
        let row = rig.tables.limits_of(POD).unwrap().way(Way::Egress).row().unwrap().clone();
        let owed = || row.word(layout::OWED).load(Relaxed);
        let cost = ((3 * STEP * 8) * (1_000_000_000 / SLOW)) << FRACTION;
        let packet = frame_of(&mut rig, POD, 3);
        let first = arrival(&rig, POD, Way::Egress);
        assert_eq!(by_program(&mut rig, POD, packet.clone()), Fate::Passed);
        assert_eq!(rig.run_any(POD, &packet), XDP_PASS, "beyond the other end's");
        assert_eq!(arrival(&rig, POD, Way::Egress), first + cost, "one of two");
        let small = frame_of(&mut rig, POD, 1);
        assert_eq!(by_program(&mut rig, POD, small), Fate::Passed);
        assert!(owed() > 0);
        let before = arrival(&rig, POD, Way::Egress);
        let other = frame_of(&mut rig, POD, 6);
        by_worker(&mut rig, POD, other);
        assert_eq!(owed(), 0);
        assert!(arrival(&rig, POD, Way::Egress) >= before, "it is booked");
    });
}

#[test]
fn nothing_is_carried_past_what_waits() {
    in_namespace(|| {
        // 25 steps at once, and one every 8 ms, on the pipeline's clock, which stands still.
        let bits = Rate { per_second: 100_000, burst: 25 * STEP * 8 };
        let way = WayLimits { rates: Rates { bits: Some(bits), ..Rates::default() }, shaped: true };
        let mut rig = limited(&[(POD, [NONE, way])]);
        let row = rig.tables.limits_of(POD).unwrap().way(Way::Egress).row().unwrap().clone();
        let packet = frame_of(&mut rig, POD, 12);
        assert_eq!(rig.feed(POD, &[packet.clone(), packet.clone()]).len(), 2);
        let last = frame_of(&mut rig, POD, 1);
        assert_eq!((rig.feed(POD, &[last]).len(), row.waiting()), (0, 1));
        // Time passes for the program.
        row.word(layout::BITS + layout::ARRIVAL).store(0, Relaxed);
        assert_eq!([(); 3].map(|()| rig.run_any(POD, &packet)), [XDP_PASS; 3]);
        rig.now_ns += 20_000_000;
        let view = View { tables: &rig.tables, fib: &rig.fib, now_ns: rig.now_ns };
        let Some(limit::Waiting::From(packet_after)) = rig.pipeline.release(view) else {
            panic!("its time has come");
        };
        packet_after.free(&mut rig.pipeline.pool);
        assert_eq!((row.waiting(), rig.run_any(POD, &packet)), (1, XDP_PASS), "it is under way");
        rig.pipeline.released().clear();
        assert_eq!((row.waiting(), rig.run_any(POD, &packet)), (0, XDP_REDIRECT));
    });
}

#[test]
fn a_change_of_limits_counts_at_once() {
    in_namespace(|| {
        let wide = Budget { bytes: Some(100 * STEP), ..Budget::default() };
        let mut rig = limited(&[(POD, [NONE, wide.limits()])]);
        let packet = frame_of(&mut rig, POD, 3);
        assert_eq!(rig.run_any(POD, &packet), XDP_REDIRECT);
        rig.limit(&[(POD, [NONE, Budget { bytes: Some(STEP * 3 / 2), ..wide }.limits()])]);
        assert_eq!(rig.run_any(POD, &packet), XDP_PASS, "decided before");
        decide_anew(&mut rig, POD);
        assert_eq!(rig.run_any(POD, &packet), XDP_DROP);
        rig.tables.limits = None;
        rig.map.generation().raise();
        decide_anew(&mut rig, POD);
        assert_eq!(rig.run_any(POD, &packet), XDP_REDIRECT);
    });
}
