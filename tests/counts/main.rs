//! How many instructions the pipeline spends on a packet, stage by stage: counted by callgrind, so
//! that a busy machine says the same as a quiet one, and compared with `budgets.txt`.
//!
//! The package in `driver/` is built as a release is, but without LTO, and runs each case in bursts
//! of 1, 8, 32 and 64. A stage that costs more than its budget fails, and so does one that has
//! become much cheaper: its budget is to be lowered then, or what was won is lost again unseen.
//! What the kernel, the caches and a mispredicted branch cost is not counted: that is for benches.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod budgets;
mod callgrind;
mod stages;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use budgets::{Budgets, Row};
use stages::Attribution;

/// The function of the driver that is counted.
const COUNTED: &str = "margay_counts::counted";

/// Runs a program to its end; `None` when it is not installed.
fn run(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{command:?}: {error}"),
    }
}

/// What it prints; it must succeed.
fn printed(command: &mut Command) -> String {
    let output = run(command).unwrap_or_else(|| panic!("{command:?}: not found"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Why nothing can be counted here.
fn obstacle() -> Option<String> {
    if !cfg!(target_arch = "x86_64") {
        return Some("the budgets are those of x86-64".to_owned());
    }
    let tools = [("valgrind", "valgrind"), ("addr2line", "binutils")];
    let missing = tools.iter().find(|(tool, _)| run(Command::new(tool).arg("--version")).is_none());
    missing.map(|(tool, package)| format!("{tool} is not installed (package {package})"))
}

/// Builds the driver; its path.
fn build() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("counts");
    let cargo = Path::new(env!("CARGO"));
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--profile", "counts", "-p", "margay-counts"]);
    command.arg("--target-dir").arg(&target).current_dir(env!("CARGO_MANIFEST_DIR"));
    printed(&mut command);
    target.join("counts/margay-counts")
}

/// Counts all cases: a row for each.
fn count(program: &Path) -> Vec<Row> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("callgrind");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--dump-instr=yes", "--dump-line=no"]);
    command.args(["--compress-strings=no", "--compress-pos=no", "--collect-atstart=no"]);
    command.arg(format!("--toggle-collect={COUNTED}")).arg(format!("--dump-after={COUNTED}"));
    command.arg(format!("--callgrind-out-file={}", directory.join("out").display()));
    let said = printed(command.arg(program));
    let cases = said.lines().filter_map(|line| line.strip_prefix("case "));
    let parts: Vec<(&str, callgrind::Part)> = cases
        .enumerate()
        .map(|(at, case)| {
            let path = directory.join(format!("out.{}", at + 1));
            let text = std::fs::read_to_string(&path).unwrap();
            (case, callgrind::Part::parse(&text, &program.display().to_string()))
        })
        .collect();
    let attribution = Attribution::new(program, parts.iter().flat_map(|(_, part)| part.places()));
    let rows = parts.iter().map(|(case, part)| {
        let words: Vec<&str> = case.split(' ').collect();
        let [name, size, packets] = words[..] else { panic!("a case is {case:?}") };
        let case = format!("{name} {size}");
        Row::of(case, attribution.by_stage(part), packets.parse().unwrap())
    });
    rows.collect()
}

#[test]
fn each_stage_keeps_to_its_budget_of_instructions() {
    if let Some(reason) = obstacle() {
        return println!("SKIPPED: instructions of the pipeline are not counted: {reason}");
    }
    let rows = count(&build());
    let compiler =
        printed(Command::new(Path::new(env!("CARGO")).with_file_name("rustc")).arg("-V"));
    let table = budgets::table(&compiler, &rows);
    println!("{table}");
    let budgets = Budgets::parse(include_str!("budgets.txt"));
    let findings = budgets.compare(&compiler, &rows);
    assert!(findings.is_empty(), "{}\n\nAs counted now:\n{table}", findings.join("\n"));
}
