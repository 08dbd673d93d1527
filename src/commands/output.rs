//! Printing answers: as table, JSON or YAML.

use comfy_table::{Table, presets};
use serde::Serialize;
use std::io::{ErrorKind, Write};

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    #[default]
    Table,
    /// More columns
    Wide,
    /// One JSON value
    Json,
    /// YAML
    Yaml,
}

/// Prints an answer; `table` makes the columns. A reader that stops reading is no error.
pub(crate) fn print<T: Serialize>(
    format: Format,
    answer: &T,
    table: impl FnOnce(&T) -> Table,
) -> anyhow::Result<()> {
    let text = match format {
        Format::Table | Format::Wide => table(answer).trim_fmt(),
        Format::Json => serde_json::to_string_pretty(answer)?,
        Format::Yaml => serde_saphyr::to_string(answer)?,
    };
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// A table without lines, with these headings.
pub(crate) fn columns<'a>(headings: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    let headings = headings.into_iter().map(str::to_uppercase);
    table.load_style(presets::NOTHING).set_header(headings);
    table
}
