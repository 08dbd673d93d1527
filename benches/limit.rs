//! Cost of limits: a policer among 10,000, with one worker and with a second one that takes from
//! the same buckets, and a shaper's booking with its wheel.

#[path = "acl/random.rs"]
mod random;

use criterion::{Criterion, criterion_group, criterion_main};
use margay_fastpath::limit::{
    Booking, Cost, Lease, Leases, Policer, Rate, Rates, SHAPER_DELAY_NS, Shaper, Wheel,
};
use random::Random;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

const LIMITERS: usize = 10_000;
/// Packets, at random over all limiters.
const PACKETS: usize = 1 << 16;
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
            done.store(true, Ordering::Relaxed);
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
            if let Booking::At(at_ns) = shapers[shaper].book(&mut leases[shaper], now_ns, 8 * bytes)
            {
                black_box(wheel.insert(at_ns, at)).ok();
            }
            while let Some(packet) = wheel.pop(now_ns) {
                black_box(packet);
            }
        });
    });
}

criterion_group!(benches, policers, shapers);
criterion_main!(benches);
