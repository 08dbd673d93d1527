//! Rows, medians, ratios; as a table, as JSON, as a plot, as files.

mod plot;
mod svg;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

/// How figures are to be read, and drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Bars; the longer the better.
    MoreIsBetter,
    /// Bars; the shorter the better.
    LessIsBetter,
    /// Bars of parts of what is to be reached, which is 100.
    PerCent,
    /// A cost over a number ([`Row::at`]): flat is good. The first row is the plain case, and the
    /// second note says where the curve bends: it is drawn, too.
    Curve,
    /// Not drawn.
    TableOnly,
}

/// One peer's figures, or those of one point of a curve.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// The number that a curve is drawn over.
    pub(crate) at: f64,
    values: Vec<f64>,
    disturbed: usize,
    pub(crate) skipped: Option<String>,
}

impl Row {
    pub(crate) fn new(name: &'static str) -> Row {
        Row { name, at: 0.0, values: Vec::new(), disturbed: 0, skipped: None }
    }

    pub(crate) fn add(&mut self, value: f64, disturbed: bool) {
        self.values.push(value);
        self.disturbed += usize::from(disturbed);
    }

    /// The last figure for people, or why there is none.
    pub(crate) fn last_figure(&self) -> String {
        match (&self.skipped, self.values.last()) {
            (Some(why), _) => format!("SKIPPED: {why}"),
            (None, value) => format!("{:.2}", value.unwrap_or(&f64::NAN)),
        }
    }

    pub(crate) fn median(&self) -> Option<f64> {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        match values.len() {
            0 => None,
            count if count % 2 == 1 => Some(values[count / 2]),
            count => Some((values[count / 2 - 1] + values[count / 2]) / 2.0),
        }
    }

    fn spread(&self) -> (f64, f64) {
        let fold = |pick: fn(f64, f64) -> f64, start| self.values.iter().copied().fold(start, pick);
        (fold(f64::min, f64::INFINITY), fold(f64::max, f64::NEG_INFINITY))
    }
}

/// What one section found.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) look: Look,
    /// What must be known to read the figures.
    pub(crate) notes: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

#[derive(Debug)]
pub(crate) struct Report {
    facts: Vec<(&'static str, String)>,
    repeats: usize,
    seconds: f64,
    outcomes: Vec<Outcome>,
}

impl Report {
    pub(crate) fn new(facts: Vec<(&'static str, String)>, repeats: usize, seconds: f64) -> Report {
        Report { facts, repeats, seconds, outcomes: Vec::new() }
    }

    pub(crate) fn add(&mut self, outcomes: Vec<Outcome>) {
        self.outcomes.extend(outcomes);
    }

    /// Markdown, which reads as plain text too.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        for (name, value) in &self.facts {
            let _ = writeln!(out, "- {name}: {value}");
        }
        let _ =
            writeln!(out, "- {} runs of {} s each, in random order", self.repeats, self.seconds);
        for outcome in &self.outcomes {
            let _ = write!(out, "\n## {} ({})\n\n{}", outcome.title, outcome.unit, outcome.table());
            for note in &outcome.notes {
                let _ = writeln!(out, "- {note}");
            }
        }
        out
    }

    pub(crate) fn json(&self) -> Value {
        let facts: serde_json::Map<_, _> =
            self.facts.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        json!({
            "machine": facts,
            "repeats": self.repeats,
            "seconds": self.seconds,
            "sections": self.outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
        })
    }

    pub(crate) fn save(&self, name: &str) -> Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results");
        std::fs::create_dir_all(&folder).context("benches/results")?;
        let text = format!("# {name}\n\n{}", self.text());
        std::fs::write(folder.join(format!("{name}.md")), text).context("benches/results")?;
        std::fs::write(folder.join(format!("{name}.svg")), plot::draw(&self.facts, &self.outcomes))
            .context("benches/results")?;
        let json = serde_json::to_string_pretty(&self.json())? + "\n";
        std::fs::write(folder.join(format!("{name}.json")), json).context("benches/results")
    }
}

impl Outcome {
    /// What the others stand beside: margay's figure, or a curve's first one.
    fn base(&self) -> Option<f64> {
        let is_base = |row: &&Row| self.look == Look::Curve || row.name.starts_with("margay");
        self.rows.iter().find(is_base).and_then(Row::median)
    }

    fn ratio(&self, row: &Row) -> Option<f64> {
        let (base, median) = (self.base()?, row.median()?);
        let ratio = if self.look == Look::Curve { median / base } else { base / median };
        ratio.is_finite().then_some(ratio)
    }

    fn table(&self) -> String {
        let (first, last) = match self.look {
            Look::Curve => ("", "beside the first"),
            _ => ("peer", "margay / peer"),
        };
        let mut out = format!("| {first} | median | least - most | {last} |\n|---|---|---|---|\n");
        for row in &self.rows {
            if let Some(why) = &row.skipped {
                let why = why.lines().next().unwrap_or_default();
                let _ = writeln!(out, "| {} | SKIPPED | {why} | |", row.name);
                continue;
            }
            let (Some(median), (least, most)) = (row.median(), row.spread()) else { continue };
            let ratio = self.ratio(row).map_or(String::new(), |ratio| format!("{ratio:.2}"));
            let mark = if row.disturbed > 0 { " (disturbed: steal time)" } else { "" };
            let _ = writeln!(
                out,
                "| {} | {median:.2} | {least:.2} - {most:.2}{mark} | {ratio} |",
                row.name
            );
        }
        out.push('\n');
        out
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let (least, most) = row.spread();
            json!({
                "peer": row.name,
                "median": row.median(),
                "least": (!row.values.is_empty()).then_some(least),
                "most": (!row.values.is_empty()).then_some(most),
                "values": row.values,
                "runsWithSteal": row.disturbed,
                "ratio": self.ratio(row),
                "skipped": row.skipped,
            })
        });
        json!({
            "title": self.title,
            "unit": self.unit,
            "notes": self.notes,
            "rows": rows.collect::<Vec<_>>(),
        })
    }
}
