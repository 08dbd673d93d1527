//! Runs margay and its peers side by side on this machine, and prints what each does.
//!
//! ```text
//! cargo bench --bench compare -- [--only veth,memory,tcp,nat,acl,tc,floods,share]
//!     [--repeats N] [--seconds S] [--rates MBIT,...] [--save NAME]
//! ```
//!
//! All peers of a section get the same packets, the same sink and the same core for the router, in
//! random order, repeated; a table and JSON give median, spread and ratios. What cannot run says
//! SKIPPED and why. Everything that is set up (namespaces, huge pages, mounts) is undone.

mod acl;
mod felix;
mod floods;
mod forwarder;
mod jumbo;
mod l3fwd;
mod losses;
mod machine;
mod memory;
mod nat;
mod report;
mod share;
mod tc;
mod tcp;
mod testpmd;
mod veth;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use report::{Report, Row};
use std::time::Duration;

/// The core that generates and the core that routes.
const GENERATOR_CORE: usize = 0;
const ROUTER_CORE: usize = 1;
/// Steal time above which a figure is marked, in hundredths.
const STEAL_LIMIT: f64 = 0.01;

const SECTIONS: [&str; 8] = ["memory", "veth", "tcp", "nat", "acl", "tc", "floods", "share"];

#[derive(Debug, Parser)]
struct Arguments {
    /// The sections to run.
    #[arg(long, value_delimiter = ',', default_values = SECTIONS)]
    only: Vec<Section>,
    /// Runs of each peer.
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// The limits of the section tc, in Mbit/s.
    #[arg(long, value_delimiter = ',', default_values = ["1", "10", "100", "1000", "5000"])]
    rates: Vec<u64>,
    /// Write the results to benches/results/NAME.md and .json.
    #[arg(long)]
    save: Option<String>,
    /// Cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// The pipeline in memory, without a kernel.
    Memory,
    /// 64-byte packets from veth to veth.
    Veth,
    /// One TCP stream between two pods.
    Tcp,
    /// A million flows from veth to veth, their sources translated.
    Nat,
    /// New flows to a pod with policy.
    Acl,
    /// A pod's bandwidth limit.
    Tc,
    /// A pod that floods, beside others.
    Floods,
    /// Greedy TCP on a congested uplink.
    Share,
}

/// One measurement of one peer, in the section's unit.
type Measure<'a> = Box<dyn FnMut(Duration) -> Result<f64> + 'a>;

/// Runs every peer `repeats` times, in a new random order each time.
fn run_all(peers: &mut [(&'static str, Measure<'_>)], arguments: &Arguments) -> Vec<Row> {
    let mut rows: Vec<Row> = peers.iter().map(|(name, _)| Row::new(name)).collect();
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut seed = std::process::id();
    for _ in 0..arguments.repeats {
        for at in shuffled(peers.len(), &mut seed) {
            if rows[at].skipped.is_some() {
                continue;
            }
            let before = machine::steal();
            match peers[at].1(time) {
                Ok(value) => rows[at].add(value, machine::stolen_since(before) > STEAL_LIMIT),
                Err(error) => rows[at].skipped = Some(format!("{error:#}")),
            }
            eprintln!("{}", rows[at].last_line());
        }
    }
    rows
}

fn shuffled(count: usize, seed: &mut u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for at in (1..count).rev() {
        // Numerical Recipes' linear congruence: any order will do.
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        order.swap(at, (*seed >> 16) as usize % (at + 1));
    }
    order
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    margay::lab::process::stop_on_signals()?;
    let mut report = Report::new(machine::facts(), arguments.repeats, arguments.seconds);
    for section in &arguments.only {
        match section {
            Section::Memory => report.add(memory::run(&arguments)),
            Section::Veth => report.add(veth::run(&arguments)),
            Section::Tcp => report.add(tcp::run(&arguments)),
            Section::Nat => nat::run(&arguments).into_iter().for_each(|found| report.add(found)),
            Section::Acl => acl::run(&arguments).into_iter().for_each(|found| report.add(found)),
            Section::Tc => tc::run(&arguments).into_iter().for_each(|found| report.add(found)),
            Section::Floods => {
                floods::run(&arguments).into_iter().for_each(|found| report.add(found));
            }
            Section::Share => {
                share::run(&arguments).into_iter().for_each(|found| report.add(found))
            }
        }
    }
    print!("{}", report.text());
    println!("{}", report.json());
    if let Some(name) = &arguments.save {
        report.save(name)?;
    }
    Ok(())
}
