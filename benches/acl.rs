//! Policy at scale: compile time, memory, cost of a verdict, time of a change; beside DPDK's
//! `dpdk-test-acl` on the same rules and packets.
//!
//! The cluster has 20,000 endpoints in 500 namespaces, 1,000 of them here, 10,000 policies, and
//! 80 network sets of 1,000 ranges. The report comes first, then criterion's own benches. See
//! `benches/README.md` for the command and for figures.

#[path = "acl/cluster.rs"]
mod cluster;
#[path = "acl/dpdk.rs"]
mod dpdk;
#[path = "acl/random.rs"]
mod random;

use cluster::Cluster;
use criterion::{Criterion, criterion_group};
use margay_acl::classifier::{Classifier, Question};
use margay_acl::compile::Compiler;
use margay_acl::model::Update;
use std::hint::black_box;
use std::time::Instant;

/// Packets of a measured round.
const PACKETS: usize = 1 << 16;
/// Packets that are timed together.
const CHUNK: usize = 256;
/// Changes that are timed.
const CHANGES: usize = 1000;

fn compiled(updates: Vec<Update>) -> Compiler {
    let mut compiler = Compiler::new();
    for update in updates {
        compiler.apply(update).expect("the cluster is within all limits");
    }
    compiler.commit().expect("the cluster is within all limits");
    compiler
}

fn report() {
    let cluster = Cluster::new();
    let updates = cluster.updates();
    println!("{} policies, {} members", cluster.policies(), cluster.members());
    let (start, busy) = (Instant::now(), cpu_s());
    let mut compiler = compiled(updates);
    let wall = start.elapsed().as_secs_f64();
    println!("full compile: {:.2} s of CPU in {wall:.2} s", cpu_s() - busy);
    let (size, counts) = (compiler.snapshot().size(), compiler.counts());
    println!("{size:?} {counts:?} faults {}", compiler.faults().count());
    let questions = cluster.questions(&compiler, PACKETS);
    let snapshot = compiler.snapshot().clone();
    let [one_by_one, in_bursts] = costs(&snapshot, &questions, 1);
    println!("a verdict: {one_by_one:.1} ns one by one, {in_bursts:.1} ns in bursts");
    drop(snapshot);
    let mut label = |at| cluster.relabelled(at);
    changes("label of a remote endpoint", &mut compiler, &mut label);
    let mut label = |at| cluster.relabelled_here(at);
    changes("label of an endpoint here", &mut compiler, &mut label);
    let mut member = |at| cluster.other_member(at);
    changes("one range of a network set", &mut compiler, &mut member);
    let mut rule = |at| cluster.other_policy(at);
    changes("one policy", &mut compiler, &mut rule);
}

/// Nanoseconds a packet, asked one by one and in bursts, by turns.
fn costs(snapshot: &Classifier, questions: &[Question], rounds: usize) -> [f64; 2] {
    let [mut single, mut burst] = [Vec::new(), Vec::new()];
    let mut outcomes = snapshot.outcomes(questions.len());
    for _ in 0..rounds {
        for some in questions.chunks(CHUNK) {
            let start = Instant::now();
            for Question { endpoint, stage, direction, packet } in some {
                black_box(snapshot.classify(*endpoint, *stage, *direction, packet));
            }
            single.push(start.elapsed().as_nanos() as f64 / some.len() as f64);
        }
        for (some, outcomes) in questions.chunks(CHUNK).zip(outcomes.chunks_mut(CHUNK)) {
            let start = Instant::now();
            snapshot.classify_all(black_box(some), outcomes);
            burst.push(start.elapsed().as_nanos() as f64 / some.len() as f64);
        }
        black_box(&outcomes);
    }
    [median(&mut single), median(&mut burst)]
}

/// Seconds that this process has had a processor; 0 where the kernel does not tell.
fn cpu_s() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|first| first.parse::<f64>().ok());
    nanos.unwrap_or_default() / 1e9
}

/// The middle of measured times, which a busy machine moves least; they are sorted then.
fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Times from a change to its snapshot.
fn changes(what: &str, compiler: &mut Compiler, change: &mut impl FnMut(usize) -> Update) {
    let mut micros: Vec<f64> = Vec::new();
    for at in 0..CHANGES {
        let update = change(at);
        let start = Instant::now();
        compiler.apply(update).expect("one thing is within all limits");
        black_box(compiler.commit().expect("one thing is within all limits"));
        micros.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let half = median(&mut micros);
    let most = micros[CHANGES * 99 / 100];
    println!("{what}: {half:.0} us median, {most:.0} us at the 99th percentile");
}

fn verdicts(criterion: &mut Criterion) {
    let cluster = Cluster::new();
    let compiler = compiled(cluster.updates());
    let questions = cluster.questions(&compiler, PACKETS);
    let snapshot = compiler.snapshot().clone();
    let mut at = 0;
    criterion.bench_function("verdict of a new flow", |bencher| {
        bencher.iter(|| {
            at = (at + 1) % questions.len();
            let Question { endpoint, stage, direction, packet } = &questions[at];
            black_box(snapshot.classify(*endpoint, *stage, *direction, packet))
        });
    });
}

criterion_group!(groups, verdicts);

fn main() {
    report();
    for rules in [1000, 10_000] {
        dpdk::report(rules);
    }
    if std::env::args().any(|argument| argument == "--report-only") {
        return;
    }
    groups();
    Criterion::default().configure_from_args().final_summary();
}
