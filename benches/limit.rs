//! Cost of limits: a policer among 10,000, with one worker and with a second one that takes from
//! the same buckets, by packets at random and by bursts as the pipeline has them; what a worker
//! does about such a burst in all; a shaper's booking with its wheel; and a packet's way through
//! the queues of a congested port.

#[path = "acl/random.rs"]
mod random;

use criterion::{Criterion, criterion_group, criterion_main};
use margay_acl::Direction;
use margay_fastpath::limit::{
    Booking, Cost, EndpointLimits, Entry, FairQueue, Lease, Leases, OwnLimits, Policer, Rate,
    Rates, SHAPER_DELAY_NS, Shaper, Wanted, WayLimits, Wheel,
};
use margay_fastpath::port::PortId;
use random::Random;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

const LIMITERS: usize = 10_000;
/// Packets, at random over all limiters.
const PACKETS: usize = 1 << 16;
/// Packets of one endpoint at once.
const BURST: usize = 64;
/// Time from one packet to the next.
const STEP_NS: u64 = 100;

/// Rates from 1 Mbit/s to 5 Gbit/s; every packet passes some and is dropped by others.
fn rates(number: usize) -> Rates {
    let per_second = [1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 5_000_000_000][number % 5];
    let burst = [12_000, 100_000, 4_294_967_296][number % 3];
    let bits = Some(Rate { per_second, burst });
    Rates { bits, ..Rates::default() }
}

fn packets() -> Vec<(usize, u32)> {
    let mut random = Random(6);
    (0..PACKETS).map(|_| (random.below(LIMITERS), 64 + random.below(1_450) as u32)).collect()
}

fn policers(criterion: &mut Criterion) {
    let packets = packets();
    for (name, workers) in [("one worker", 1), ("two workers", 2)] {
        let policers: Vec<Policer> =
            (0..LIMITERS).map(|at| Policer::new(rates(at), workers)).collect();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            if workers == 2 {
                scope.spawn(|| run_until(&policers, &packets, &done));
            }
            let mut leases = vec![Leases::default(); LIMITERS];
            let (mut at, mut now_ns) = (0, 1_000_000_000);
            criterion.bench_function(&format!("policer of 10,000, {name}"), |bencher| {
                bencher.iter(|| {
                    at = (at + 1) % PACKETS;
                    now_ns += STEP_NS;
                    let (policer, bytes) = packets[at];
                    black_box(policers[policer].pass(
                        &mut leases[policer],
                        now_ns,
                        Cost::packet(bytes),
                    ))
                });
            });
            let mut leases = vec![Leases::default(); LIMITERS];
            let name = format!("policer of 10,000, bursts of 64, {name}");
            bursts(criterion, &name, &packets, |at, now_ns, cost| {
                black_box(policers[at].pass(&mut leases[at], now_ns, cost)).ok();
            });
            done.store(true, Ordering::Relaxed);
        });
    }
}

/// Bursts of one endpoint each, the endpoints at random: `ask` is asked about each packet, by its
/// endpoint, the clock and its cost. The time is of a packet.
fn bursts(
    criterion: &mut Criterion,
    name: &str,
    packets: &[(usize, u32)],
    mut ask: impl FnMut(usize, u64, Cost),
) {
    let (mut at, mut now_ns) = (0, 1_000_000_000);
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            let begin = std::time::Instant::now();
            for _ in 0..count.div_ceil(BURST as u64) {
                at = (at + BURST) % (PACKETS - BURST);
                now_ns += STEP_NS * BURST as u64;
                let endpoint = packets[at].0;
                for (_, bytes) in &packets[at..at + BURST] {
                    ask(endpoint, now_ns, Cost::packet(*bytes));
                }
            }
            begin.elapsed().mul_f64(count as f64 / count.next_multiple_of(BURST as u64) as f64)
        });
    });
}

/// Bursts as a worker asks about them: endpoint, direction and generation are looked at too.
fn admissions(criterion: &mut Criterion) {
    let packets = packets();
    for (name, workers) in [("one worker", 1), ("two workers", 2)] {
        let limits: Vec<EndpointLimits> = (0..LIMITERS)
            .map(|at| {
                let way = WayLimits { rates: rates(at), shaped: false };
                EndpointLimits::new(Wanted { ways: [way; 2], dscp: None }, 1, workers)
            })
            .collect();
        let mut own = OwnLimits::default();
        let name = format!("a worker's limits of 10,000 endpoints, bursts of 64, {name}");
        bursts(criterion, &name, &packets, |endpoint, now_ns, cost| {
            let place = (PortId(endpoint as u16), Direction::Egress);
            black_box(own.admit(place, &limits[endpoint], now_ns, cost)).ok();
        });
    }
}

/// A packet into the queues of a congested port, and another one out of them.
fn queues(criterion: &mut Criterion) {
    let packets = packets();
    for classes in [10, 1000] {
        let mut queue = FairQueue::new(512, 1024);
        let (mut at, mut now_ns) = (0, 1_000_000_000);
        criterion.bench_function(&format!("queues of {classes} endpoints"), |bencher| {
            bencher.iter(|| {
                at = (at + 1) % PACKETS;
                now_ns += STEP_NS;
                let (class, bytes) = (packets[at].0 % classes, packets[at].1);
                let entry = Entry { class, weight: 1, flow: at as u32, bytes, now_ns };
                black_box(queue.push(entry, at));
                // Every third time none goes, so that they are full.
                if at % 3 > 0 {
                    black_box(queue.pop(now_ns, |lost| {
                        black_box(lost);
                    }));
                }
            });
        });
    }
}

/// What a second worker does beside.
fn run_until(policers: &[Policer], packets: &[(usize, u32)], done: &AtomicBool) {
    let mut leases = vec![Leases::default(); LIMITERS];
    let mut now_ns = 1_000_000_000;
    while !done.load(Ordering::Relaxed) {
        for (policer, bytes) in packets {
            now_ns += STEP_NS;
            let cost = Cost::packet(*bytes);
            black_box(policers[*policer].pass(&mut leases[*policer], now_ns, cost)).ok();
        }
    }
}

fn shapers(criterion: &mut Criterion) {
    let packets = packets();
    let shapers: Vec<Shaper> = (0..LIMITERS)
        .map(|_| Shaper::new(Rate { per_second: 1_000_000, burst: 12_000 }, 1))
        .collect();
    let mut leases = vec![Lease::default(); LIMITERS];
    let (mut at, mut now_ns) = (0, 1_000_000_000);
    let mut wheel = Wheel::new(SHAPER_DELAY_NS as usize / STEP_NS as usize, now_ns);
    criterion.bench_function("shaper of 10,000, with the wheel", |bencher| {
        bencher.iter(|| {
            at = (at + 1) % PACKETS;
            now_ns += STEP_NS;
            let (shaper, bytes) = packets[at];
            let (shaper, lease) = (&shapers[shaper], &mut leases[shaper]);
            if let Booking::At(at_ns) = shaper.book(lease, now_ns, 8 * bytes, true) {
                black_box(wheel.insert(at_ns, at)).ok();
            }
            while let Some(packet) = wheel.pop(now_ns) {
                black_box(packet);
            }
        });
    });
}

criterion_group!(benches, policers, admissions, shapers, queues);
criterion_main!(benches);
