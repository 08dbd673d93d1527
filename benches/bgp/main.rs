//! Runs margay's BGP and its peers side by side: the same sessions, the same bytes.
//!
//! ```text
//! MARGAY_DATA=DIR cargo bench --bench bgp -- [--only recorded,table,recorded-feeds,two-feeds,
//!     peer-down,fail-over,reflector,mesh] [--daemons margay,bird2,bird,frr,gobgpd]
//!     [--repeats N] [--percent N] [--save NAME]
//! ```
//!
//! Feeds and receivers are this process, on one core: it writes messages that were encoded before,
//! and counts what comes. The daemon under test is alone in a namespace, on the other cores.
//! Recorded tables are read from `MARGAY_DATA`; made-up ones come from seeds.

mod config;
mod count;
mod daemon;
mod endpoint;
mod feed;
mod measure;
mod recorded;
mod report;
mod scenario;
mod speaker;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use daemon::Daemon;
use margay::lab::process;
use margay::lab::requirements;
use report::{Row, section, skipped};
use scenario::Scenario;
use serde_json::json;
use std::path::Path;

#[derive(Debug, Parser)]
struct Arguments {
    /// The scenarios to run.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Which::ALL)]
    only: Vec<Which>,
    /// The daemons to run.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Daemon::ALL)]
    daemons: Vec<Daemon>,
    /// Runs of each.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Prefixes in hundredths of the full sizes, for a quick look.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=100))]
    percent: u16,
    /// Write the results to benches/results/NAME.md and .json.
    #[arg(long)]
    save: Option<String>,
    /// Be the daemon under test: margay's thread of BGP alone.
    #[arg(long, hide = true)]
    speaker: Option<String>,
    /// Cargo passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// One recorded full table to one receiver.
    Recorded,
    /// The same with a made-up table.
    Table,
    /// Two full tables of both families with recorded attributes, one receiver.
    RecordedFeeds,
    /// The same with made-up tables.
    TwoFeeds,
    /// A peer with a full table goes down: withdrawals.
    PeerDown,
    /// A peer with a full table goes down: the other peer's paths.
    FailOver,
    /// One internal feed, 200 clients of a route reflector.
    Reflector,
    /// A hundred peers that all send and all receive.
    Mesh,
}

impl Which {
    const ALL: [Which; 8] = [
        Which::Recorded,
        Which::Table,
        Which::RecordedFeeds,
        Which::TwoFeeds,
        Which::PeerDown,
        Which::FailOver,
        Which::Reflector,
        Which::Mesh,
    ];
}

/// Runs the daemons in turns. An error means that it was interrupted.
fn run(scenario: &Scenario, arguments: &Arguments) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = arguments.daemons.iter().map(|one| (*one, Ok(Vec::new()))).collect();
    for _ in 0..arguments.repeats {
        for (daemon, row) in &mut rows {
            let Ok(values) = row else { continue };
            match scenario.measure(*daemon) {
                Ok(figures) => {
                    eprintln!("  {}: {figures}", daemon.name());
                    values.push(figures);
                }
                Err(error) => {
                    eprintln!("  {}: SKIPPED: {error:#}", daemon.name());
                    *row = Err(format!("{error:#}"));
                }
            }
            process::check_interrupt()?;
        }
    }
    Ok(rows)
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(config) = &arguments.speaker {
        return speaker::run(config);
    }
    requirements::check(requirements::NETWORK)?;
    process::stop_on_signals()?;
    let mut text = String::new();
    let mut sections = Vec::new();
    for which in &arguments.only {
        let (part, json) = match Scenario::new(*which, arguments.percent.into()) {
            Ok(scenario) => {
                eprintln!("{}", scenario.title);
                section(&scenario, &run(&scenario, &arguments)?)
            }
            Err(why) => skipped(*which, &why),
        };
        text += &part;
        sections.push(json);
    }
    let versions: Vec<String> = arguments.daemons.iter().map(|one| one.version()).collect();
    let head = format!(
        "- {} runs each, medians; feeds and receivers on CPU 0, the daemon on the others\n- {}\n",
        arguments.repeats,
        versions.join("; ")
    );
    println!("{head}{text}");
    let json = json!({"versions": versions, "repeats": arguments.repeats, "scenarios": sections});
    println!("{json}");
    if let Some(name) = &arguments.save {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results");
        let save = |end: &str, text: String| {
            std::fs::write(folder.join(format!("{name}.{end}")), text).context("benches/results")
        };
        save("md", format!("# {name}\n\n{head}{text}"))?;
        save("json", serde_json::to_string_pretty(&json)? + "\n")?;
    }
    Ok(())
}
