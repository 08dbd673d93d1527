//! Figures as a table for people and as JSON: medians, and what they are of bird2's.

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::Which;
use crate::daemon::Daemon;
use crate::measure::Figures;
use crate::scenario::Scenario;

/// One daemon's figures in one scenario, or why there are none.
pub(crate) type Row = (Daemon, Result<Vec<Figures>, String>);

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Wall time, CPU time, memory.
fn medians(values: &[Figures]) -> [f64; 3] {
    let of = |pick: fn(&Figures) -> f64| median(values.iter().map(pick));
    [of(|one| one.wall_s), of(|one| one.cpu_s), of(|one| one.peak_mib)]
}

/// A scenario that this machine has not what it takes for.
pub(crate) fn skipped(which: Which, why: &anyhow::Error) -> (String, Value) {
    let name = which.to_possible_value().map_or_else(String::new, |name| name.get_name().into());
    eprintln!("{name}: SKIPPED: {why:#}");
    let text = format!("\n## {name}\n\nSKIPPED: {why:#}\n");
    (text, json!({"title": name, "skipped": format!("{why:#}")}))
}

/// A scenario's rows.
pub(crate) fn section(scenario: &Scenario, rows: &[Row]) -> (String, Value) {
    let base = rows.iter().find(|(daemon, _)| *daemon == Daemon::Bird2);
    let base = base.and_then(|(_, row)| row.as_ref().ok()).map(|values| medians(values));
    let mut text = format!("\n## {}\n\n", scenario.title);
    text += "| daemon | wall s | CPU s | peak MiB | of bird2's: wall | CPU | memory |\n";
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
                let values_of = medians(values);
                let [wall, cpu, memory] = values_of;
                let ratio = |at: usize| base.map(|base: [f64; 3]| values_of[at] / base[at]);
                let shown = |at| ratio(at).map_or(String::new(), |ratio| format!("{ratio:.2}"));
                let (a, b, c) = (shown(0), shown(1), shown(2));
                text +=
                    &format!("| {name} | {wall:.2} | {cpu:.2} | {memory:.0} | {a} | {b} | {c} |\n");
                let runs: Vec<_> = values.iter().map(Figures::json).collect();
                let ratios = [ratio(0), ratio(1), ratio(2)];
                list.push(json!({"daemon": name, "wallS": wall, "cpuS": cpu, "peakMiB": memory,
                    "ofBird2": ratios, "runs": runs}));
            }
        }
    }
    (text, json!({"title": scenario.title, "rows": list}))
}
