//! The house rules that a machine can check, one test each. A failure lists every place as
//! `file:line: what is wrong`.
//!
//! Rules look at code with comments and text literals blanked ([`source`]). Each rule is also run
//! on a small wrong example, so that it is known to find what it is for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod arrows;
mod pages;
mod source;
mod words;

use std::path::{Path, PathBuf};
use std::process::Command;

use source::Source;

/// Something wrong, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl Finding {
    /// A finding at `line`, counted from 1.
    pub(crate) fn new(path: &str, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, what: what.into() }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that belongs to the project, relative to its root: what git knows or would add.
fn project_files() -> Vec<String> {
    let args = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let listed = Command::new("git").args(args).current_dir(root()).output();
    let files: Vec<String> = match listed {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
        }
        // An unpacked archive has no git: walk it.
        _ => walk(&root()),
    };
    let present = files.into_iter().filter(|file| root().join(file).is_file()).collect::<Vec<_>>();
    assert!(present.len() > 20, "only {} files found", present.len());
    present
}

fn walk(directory: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && name != ".git" {
            files.extend(walk(&path));
        } else if path.is_file() {
            files.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
        }
    }
    files
}

fn sources() -> Vec<Source> {
    let files = project_files();
    let rust = files.iter().filter(|file| file.ends_with(".rs"));
    rust.map(|file| Source::new(file, &std::fs::read_to_string(root().join(file)).unwrap()))
        .collect()
}

fn check(rule: impl Fn(&Source) -> Vec<Finding>) {
    demand_none(sources().iter().flat_map(rule).collect());
}

fn demand_none(findings: Vec<Finding>) {
    let lines: Vec<String> = findings
        .iter()
        .map(|finding| format!("{}:{}: {}", finding.path, finding.line, finding.what))
        .collect();
    assert!(lines.is_empty(), "{} places:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn dependencies_follow_the_arrows() {
    let files = project_files();
    let manifests = files.iter().filter(|file| file.ends_with("Cargo.toml"));
    let read = |file: &String| std::fs::read_to_string(root().join(file)).unwrap();
    demand_none(manifests.flat_map(|file| arrows::manifest(file, &read(file))).collect());
}

#[test]
fn leaves_do_no_io_and_only_control_is_async() {
    check(arrows::purity);
}

#[test]
fn unsafe_code_lives_in_its_rooms() {
    check(words::unsafe_rooms);
}

#[test]
fn files_functions_and_lines_fit_their_page() {
    check(pages::sizes);
}

#[test]
fn every_file_says_what_it_is() {
    check(pages::head);
}

#[test]
fn no_macros_unwraps_or_open_ends() {
    check(words::banned_code);
}

#[test]
fn no_words_of_a_particular_machine() {
    let findings = project_files().into_iter().flat_map(|file| {
        let bytes = std::fs::read(root().join(&file)).unwrap();
        words::workplace(&file, &String::from_utf8_lossy(&bytes))
    });
    demand_none(findings.collect());
}
