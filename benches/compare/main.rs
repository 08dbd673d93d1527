//! Runs margay and its peers side by side on this machine, and prints what each does.
//!
//! ```text
//! cargo bench --bench compare -- [--only SECTION,...]
//!     [--peers NAME,...] [--repeats N] [--seconds S] [--rates MBIT,...] [--save NAME]
//! ```
//!
//! All peers of a section get the same packets, the same sink and the same core for the router, in
//! random order, repeated; a table and JSON give median, spread and ratios. What cannot run says
//! SKIPPED and why. Everything that is set up (namespaces, huge pages, mounts) is undone.

mod machine;
mod peers;
mod pods;
mod report;
mod rig;
mod sections;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use report::{Outcome, Report, Row};
use std::time::Duration;

/// The core that generates and the core that routes.
const GENERATOR_CORE: usize = 0;
const ROUTER_CORE: usize = 1;
/// Steal time above which a figure is marked, in hundredths.
const STEAL_LIMIT: f64 = 0.01;

#[derive(Debug, Parser)]
struct Arguments {
    /// The sections to run; without it all of them.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Section>,
    /// Peers whose names have one of these in them; without it all of them.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
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
    /// How long packets take from veth to veth.
    Latency,
    /// What a packet costs in memory, over routes, flows, policies and ports.
    Curves,
    /// One TCP stream between two pods.
    Tcp,
    /// A million flows from veth to veth, their sources translated.
    Nat,
    /// A million routes from veth to veth.
    Routes,
    /// Tracking, policies, NAT and a limit at once.
    Full,
    /// Into a VXLAN tunnel.
    Vxlan,
    /// New flows to a pod with policy.
    Acl,
    /// A pod's bandwidth limit.
    Tc,
    /// A pod that floods, beside others.
    Floods,
    /// Greedy TCP on a congested uplink.
    Share,
}

impl Section {
    fn run(self, arguments: &Arguments) -> Vec<Outcome> {
        match self {
            Section::Memory => sections::memory::run(arguments),
            Section::Veth => sections::veth::run(arguments),
            Section::Latency => sections::latency::run(arguments),
            Section::Curves => sections::curves::run(arguments),
            Section::Tcp => sections::tcp::run(arguments),
            Section::Nat => sections::nat::run(arguments),
            Section::Routes => sections::routes::run(arguments),
            Section::Full => sections::full::run(arguments),
            Section::Vxlan => sections::vxlan::run(arguments),
            Section::Acl => sections::acl::run(arguments),
            Section::Tc => sections::tc::run(arguments),
            Section::Floods => sections::floods::run(arguments),
            Section::Share => sections::share::run(arguments),
        }
    }
}

/// One measurement of one peer, in the section's unit.
type Measure<'a> = Box<dyn FnMut(Duration) -> Result<f64> + 'a>;

/// One measurement of one peer that finds several figures.
type Measures<'a, const N: usize> = Box<dyn FnMut(Duration) -> Result<[f64; N]> + 'a>;

/// Runs every peer `repeats` times, in a new random order each time.
fn run_all(peers: &mut [(&'static str, Measure<'_>)], arguments: &Arguments) -> Vec<Row> {
    let mut peers: Vec<(&'static str, Measures<'_, 1>)> = peers
        .iter_mut()
        .map(|(name, measure)| -> (_, Measures<'_, 1>) {
            (*name, Box::new(|time| Ok([measure(time)?])))
        })
        .collect();
    let [rows] = run_figures(&mut peers, arguments);
    rows
}

/// The same for measurements of several figures: the rows of each.
fn run_figures<const N: usize>(
    peers: &mut [(&'static str, Measures<'_, N>)],
    arguments: &Arguments,
) -> [Vec<Row>; N] {
    let wanted = |name: &str| {
        let all = arguments.peers.is_empty();
        all || arguments.peers.iter().any(|part| name.contains(part.as_str()))
    };
    let mut peers: Vec<_> = peers.iter_mut().filter(|(name, _)| wanted(name)).collect();
    let rows: Vec<Row> = peers.iter().map(|(name, _)| Row::new(name)).collect();
    let mut figures = [(); N].map(|()| rows.clone());
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut seed = std::process::id();
    for _ in 0..arguments.repeats {
        for at in shuffled(peers.len(), &mut seed) {
            if figures.iter().any(|rows| rows[at].skipped.is_some()) {
                continue;
            }
            let before = machine::steal();
            match peers[at].1(time) {
                Ok(values) => {
                    let is_disturbed = machine::stolen_since(before) > STEAL_LIMIT;
                    for (rows, value) in figures.iter_mut().zip(values) {
                        rows[at].add(value, is_disturbed);
                    }
                }
                Err(error) => {
                    let why = format!("{error:#}");
                    figures.iter_mut().for_each(|rows| rows[at].skipped = Some(why.clone()));
                }
            }
            let lines: Vec<String> = figures.iter().map(|rows| rows[at].last_figure()).collect();
            eprintln!("  {}: {}", peers[at].0, lines.join(", "));
        }
    }
    figures
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
    for section in Section::value_variants() {
        if arguments.only.is_empty() || arguments.only.contains(section) {
            eprintln!("{section:?}");
            report.add(section.run(&arguments));
        }
    }
    print!("{}", report.text());
    println!("{}", report.json());
    if let Some(name) = &arguments.save {
        report.save(name)?;
    }
    Ok(())
}
