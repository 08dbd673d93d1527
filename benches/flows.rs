//! Flows and translation in memory, without a kernel: one worker's pipeline with up to 4M flows.
//!
//! ```text
//! cargo bench -p margay-fastpath --bench flows -- \
//!     [--flows 65536,1048576] [--per-endpoint N] [--repeats N] [--rules 0,100,1000,10000]
//! ```
//!
//! For each number of flows: new flows a second into an empty table and into one whose flows have
//! ended, packets a second over all flows in both directions, and memory. What is beside
//! translation (making 60-byte packets, route, rewrite) is measured too, with NAT off. With
//! `--rules` flows have policy of so many rules instead. See `benches/README.md` for figures.

#[path = "flows/policy.rs"]
mod policy;
#[path = "flows/router.rs"]
mod router;
#[path = "flows/rules.rs"]
mod rules;
#[path = "flows/tables.rs"]
mod tables;
#[path = "flows/traffic.rs"]
mod traffic;
#[path = "flows/worker.rs"]
mod worker;

use clap::Parser;
use std::time::{Duration, Instant};
use traffic::Traffic;
use worker::{Cost, Worker};

#[derive(Debug, Parser)]
struct Arguments {
    /// Numbers of flows.
    #[arg(long, value_delimiter = ',', default_values = ["65536", "262144", "1048576", "4194304"])]
    flows: Vec<u32>,
    /// Flows of each inside endpoint, which share its mapping.
    #[arg(long, default_value_t = 1)]
    per_endpoint: u32,
    /// Numbers of rules of policy: without translation, and of the first number of flows.
    #[arg(long, value_delimiter = ',')]
    rules: Vec<u32>,
    /// Runs; the median counts.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Seconds of each measurement of the steady rate.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one run found.
struct Figures {
    fill: Cost,
    refill: Cost,
    steady: Cost,
    plain: Cost,
    bytes: f64,
}

fn main() {
    let arguments = Arguments::parse();
    if !arguments.rules.is_empty() {
        return rules::run(&arguments);
    }
    println!("one worker, {} flows an inside endpoint", arguments.per_endpoint);
    println!(
        "{:>9} {:>13} {:>13} {:>19} {:>19} {:>9} {:>7}",
        "flows",
        "new, Mflow/s",
        "again, Mflow/s",
        "steady, Mpps (ns)",
        "no NAT, Mpps (ns)",
        "B/flow",
        "lost",
    );
    let mut first = None;
    for flows in &arguments.flows {
        let runs: Vec<Figures> = (0..arguments.repeats).map(|_| run(*flows, &arguments)).collect();
        let median = |pick: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(pick).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let rate = median(|run| run.steady.mega());
        let first = *first.get_or_insert(rate);
        println!(
            "{flows:>9} {:>13.2} {:>14.2} {:>11.2} ({:>5.1}) {:>11.2} ({:>5.1}) {:>9.0} {:>6.1}%",
            median(|run| run.fill.mega()),
            median(|run| run.refill.mega()),
            rate,
            median(|run| run.steady.ns()),
            median(|run| run.plain.mega()),
            median(|run| run.plain.ns()),
            median(|run| run.bytes),
            (1.0 - rate / first) * 100.0,
        );
    }
}

fn run(flows: u32, arguments: &Arguments) -> Figures {
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut traffic = Traffic::new(flows, arguments.per_endpoint);
    let mut plain = Worker::new(None);
    let without = steady(&mut plain, &mut traffic, time, false);
    drop(plain);
    let before = worker::resident_bytes();
    let mut worker = Worker::new(Some(flows as usize));
    let fill = worker.open_all(&mut traffic);
    let bytes = (worker::resident_bytes() - before) / f64::from(flows);
    worker.end_all(flows);
    let refill = worker.open_all(&mut traffic);
    worker.learn(&mut traffic);
    let steady = steady(&mut worker, &mut traffic, time, true);
    worker.assert_no_loss();
    Figures { fill, refill, steady, plain: without, bytes }
}

/// All flows in turn, forth and back, for at least `time`.
fn steady(worker: &mut Worker, traffic: &mut Traffic, time: Duration, both: bool) -> Cost {
    let (mut cost, start) = (Cost::default(), Instant::now());
    while start.elapsed() < time {
        cost = cost + worker.send_some(traffic, both);
    }
    cost
}
