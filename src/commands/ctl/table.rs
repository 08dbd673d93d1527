//! Tables as calicoctl prints them: columns of spaces, and boxes for IPAM.

use super::kinds::Column;
use serde_json::Value;

/// Narrowest column, and the space behind the widest cell.
const WIDTH: (usize, usize) = (5, 3);

/// Rows in columns, the heading first, and an empty line at the end.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        (widest + WIDTH.1).max(WIDTH.0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(&format!("{cell:width$}"));
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

/// Rows in a box, the heading first; the cells of the columns `right` end at the right.
pub(super) fn boxed(rows: &[Vec<String>], right: &[usize]) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let line = format!("+{}+\n", dashes.join("+"));
    let mut text = line.clone();
    for (at, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| match at > 0 && right.contains(&column) {
            true => format!(" {cell:>width$} "),
            false => format!(" {cell:width$} "),
        });
        text.push_str(&format!("|{}|\n", cells.collect::<Vec<_>>().join("|")));
        if at == 0 || at + 1 == rows.len() {
            text.push_str(&line);
        }
    }
    text
}

/// The text of one column of a resource.
pub(super) fn cell(resource: &Value, (_, paths, missing): &Column) -> String {
    let (paths, counts) = match paths.strip_prefix('#') {
        Some(path) => (path, true),
        None => (*paths, false),
    };
    let found = paths.split('|').find_map(|path| {
        let value = path.split('.').try_fold(resource, |value, name| value.get(name))?;
        (!value.is_null() && value != "").then_some(value)
    });
    match found {
        None => (*missing).to_owned(),
        Some(value) if counts => value.as_array().map_or(0, Vec::len).to_string(),
        Some(value) => plain(value),
    }
}

/// A value without quotes; lists by commas.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Object(object) => {
            let pairs = object.iter().map(|(name, value)| format!("{name}={}", plain(value)));
            pairs.collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}
