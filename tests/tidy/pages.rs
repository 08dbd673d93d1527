//! How long files, functions and lines may be, and what a file begins with.

use super::Finding;
use super::source::{Source, end_of_item};

/// Most lines of a file, its tests not counted.
const FILE: usize = 400;
/// Most lines of a function.
const FUNCTION: usize = 70;
/// Most characters of a line.
const WIDTH: usize = 100;

/// Files, functions and lines that are too long.
pub(crate) fn sizes(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = source.product_lines().count();
    if lines > FILE {
        let what = format!("{lines} lines without tests, {FILE} are the limit");
        findings.push(Finding::new(&source.path, FILE, what));
    }
    for (at, line) in source.lines.iter().enumerate() {
        let width = line.chars().count();
        if width > WIDTH {
            let what = format!("{width} characters, {WIDTH} are the limit");
            findings.push(Finding::new(&source.path, at + 1, what));
        }
    }
    for (at, line) in source.code.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let length = end_of_item(&source.code, at) - at + 1;
        if length > FUNCTION {
            let what = format!("fn {name} has {length} lines, {FUNCTION} are the limit");
            findings.push(Finding::new(&source.path, at + 1, what));
        }
    }
    findings
}

/// The name of the function that is defined in this line.
fn function_name(line: &str) -> Option<&str> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "fn")?;
    let before = ["pub", "const", "unsafe", "async", "extern"];
    let is_definition = words[..at]
        .iter()
        .all(|word| before.contains(word) || word.starts_with("pub(") || word.ends_with(')'));
    is_definition.then(|| words.get(at + 1)?.split(['(', '<']).next()).flatten()
}

/// Files that do not begin with a word about themselves.
pub(crate) fn head(source: &Source) -> Vec<Finding> {
    let in_tests = source.is_test.first().copied().unwrap_or(true);
    let begins = source.lines.first().is_some_and(|line| line.starts_with("//! "));
    if begins || in_tests {
        return Vec::new();
    }
    vec![Finding::new(&source.path, 1, "a file begins with a `//!` comment that says what it is")]
}

#[test]
fn long_files_functions_and_lines_are_found() {
    let function = format!("pub(crate) fn a(\n) {{\n{}}}\n", "    b();\n".repeat(68));
    let text = format!("//! X\n{function}{}", "\n".repeat(400));
    let found = sizes(&Source::new("x/src/y.rs", &text));
    let what: Vec<&str> = found.iter().map(|finding| finding.what.as_str()).collect();
    assert_eq!(
        what,
        ["472 lines without tests, 400 are the limit", "fn a has 71 lines, 70 are the limit"]
    );
    let wide = format!("// {}", "ä".repeat(98));
    assert_eq!(sizes(&Source::new("x/src/y.rs", &wide)).len(), 1);
    assert_eq!(sizes(&Source::new("x/src/y.rs", &wide[..wide.len() - 2])), []);
}

#[test]
fn a_file_without_a_head_is_found() {
    assert_eq!(head(&Source::new("x/src/y.rs", "use a;\n")).len(), 1);
    assert_eq!(head(&Source::new("x/src/y.rs", "//! A y.\n")), []);
}
