//! Runs margay's BGP and its peers side by side: the same sessions, the same bytes.
//!
//! ```text
//! cargo bench --bench bgp -- [--only table,two-feeds,reflector,mesh] [--repeats N] [--save NAME]
//! ```
//!
//! Feeds and receivers are this process, on one core: it writes messages that were encoded before,
//! and counts what comes. The daemon under test is alone in a namespace. Wall time is from the
//! first byte of a feed to the last route at the last receiver; CPU time and memory are the
//! daemon's. The tables are made up from seeds.

mod daemon;
mod endpoint;
mod feed;
mod scenario;
mod speaker;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use daemon::Daemon;
use margay::lab::process;
use scenario::{Figures, Scenario};
use serde_json::json;
use std::path::Path;

#[derive(Debug, Parser)]
struct Arguments {
    /// The scenarios to run.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Which::ALL)]
    only: Vec<Which>,
    /// The daemons to run.
    #[arg(long, value_delimiter = ',', default_values = ["margay", "bird2", "bird", "gobgpd"])]
    daemons: Vec<Daemon>,
    /// Runs of each.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Prefixes in hundredths of the full sizes, for a quick look.
    #[arg(long, default_value_t = 100)]
    percent: usize,
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
    /// One full table to one receiver.
    Table,
    /// Two full tables, one receiver.
    TwoFeeds,
    /// One internal feed, 200 clients of a route reflector.
    Reflector,
    /// A hundred peers that all send and all receive.
    Mesh,
}

impl Which {
    const ALL: [Which; 4] = [Which::Table, Which::TwoFeeds, Which::Reflector, Which::Mesh];
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One daemon's figures in one scenario, or why there are none.
type Row = (Daemon, Result<Vec<Figures>, String>);

fn run(scenario: &Scenario, arguments: &Arguments) -> Vec<Row> {
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
        }
    }
    rows
}

fn table(scenario: &Scenario, rows: &[Row]) -> (String, serde_json::Value) {
    let medians = |values: &[Figures]| {
        let of = |pick: fn(&Figures) -> f64| median(values.iter().map(pick));
        [of(|one| one.wall_s), of(|one| one.cpu_s), of(|one| one.peak_mib)]
    };
    let own = rows.iter().find(|(daemon, _)| *daemon == Daemon::Margay);
    let own = own.and_then(|(_, row)| row.as_ref().ok()).map(|values| medians(values));
    let mut text = format!("\n## {}\n\n", scenario.title);
    text += "| daemon | wall s | CPU s | peak MiB | margay / daemon: wall | CPU | memory |\n";
    text += "|---|---|---|---|---|---|---|\n";
    let mut list = Vec::new();
    for (daemon, row) in rows {
        let name = daemon.name();
        match row {
            Err(why) => {
                text += &format!("| {name} | SKIPPED | {why} | | | | |\n");
                list.push(json!({"daemon": name, "skipped": why}));
            }
            Ok(values) => {
                let [wall, cpu, memory] = medians(values);
                let ratio = |at: usize, value: f64| {
                    own.map_or(String::new(), |own| format!("{:.2}", own[at] / value))
                };
                let (a, b, c) = (ratio(0, wall), ratio(1, cpu), ratio(2, memory));
                text +=
                    &format!("| {name} | {wall:.2} | {cpu:.2} | {memory:.0} | {a} | {b} | {c} |\n");
                let runs: Vec<_> = values.iter().map(Figures::json).collect();
                list.push(json!({"daemon": name, "wallS": wall, "cpuS": cpu, "peakMiB": memory,
                    "runs": runs}));
            }
        }
    }
    (text, json!({"title": scenario.title, "rows": list}))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(config) = &arguments.speaker {
        return speaker::run(config);
    }
    process::stop_on_signals()?;
    let mut text = String::new();
    let mut sections = Vec::new();
    for which in &arguments.only {
        let scenario = Scenario::new(*which, arguments.percent)?;
        eprintln!("{}", scenario.title);
        let (part, json) = table(&scenario, &run(&scenario, &arguments));
        text += &part;
        sections.push(json);
    }
    let versions: Vec<String> = arguments.daemons.iter().map(|one| one.version()).collect();
    let head = format!(
        "- {} runs each, medians; feeds and receivers on CPU 0\n- {}\n",
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
