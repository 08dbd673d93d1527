//! DPDK's own FIB bench, `dpdk-test-fib`, with our prefixes and our addresses.
//!
//! It needs Debian's package `dpdk` and 2-MiB pages that are free: it is not run on normal pages,
//! where its tables would be at a disadvantage. It inherits our priority, and one of our cores.

use crate::TARGETS;
use crate::table::{Addresses, Table};
use std::fmt::{Display, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = "dpdk-test-fib";
/// 2-MiB pages that the largest of its tables takes.
const HUGE_PAGES: u64 = 850;

/// What one run says, in cycles.
struct Figures {
    lookup: f64,
    add: f64,
    delete: f64,
}

/// Runs each kind of its lookups, and prints their cycles; or why not.
pub(crate) fn print(table: &Table, addresses: &Addresses) {
    println!();
    let free = proc_number("/proc/meminfo", "HugePages_Free:");
    if free < HUGE_PAGES {
        println!(
            "{PROGRAM}: SKIPPED: {free} of {HUGE_PAGES} huge pages are free: \
             echo {HUGE_PAGES} > /proc/sys/vm/nr_hugepages"
        );
        return;
    }
    let directory = std::env::temp_dir().join(format!("margay-fib-{}", std::process::id()));
    let outcome = run_all(&directory, table, addresses);
    let _ = std::fs::remove_dir_all(&directory);
    if let Err(reason) = outcome {
        println!("{PROGRAM}: SKIPPED: {reason}");
    }
}

fn run_all(directory: &Path, table: &Table, addresses: &Addresses) -> Result<(), String> {
    let text = |error: std::io::Error| format!("{}: {error}", directory.display());
    std::fs::create_dir_all(directory).map_err(text)?;
    let write = |name: &str, content: String| -> Result<PathBuf, String> {
        let path = directory.join(name);
        std::fs::write(&path, content).map_err(text)?;
        Ok(path)
    };
    let v4 = (write("routes-v4", routes(&table.v4))?, write("addresses-v4", lines(&addresses.v4))?);
    let v6 = (write("routes-v6", routes(&table.v6))?, write("addresses-v6", lines(&addresses.v6))?);
    println!("{:<34} {:>14} {:>14} {:>14}", "dpdk-test-fib, cycles", "lookup", "add", "delete");
    for (what, options, (routes, addresses)) in [
        ("IPv4, scalar", "-e 4 -g 200000 -v s1", &v4),
        ("IPv4, vector", "-e 4 -g 200000 -v v", &v4),
        ("IPv6, scalar", "-6 -e 4 -g 400000 -v s", &v6),
        ("IPv6, vector", "-6 -e 4 -g 400000 -v v", &v6),
    ] {
        let Figures { lookup, add, delete } = run(options, routes, addresses)?;
        println!("{what:<34} {lookup:>14.1} {add:>14.0} {delete:>14.0}");
    }
    Ok(())
}

fn routes(nets: &[impl Display]) -> String {
    let mut text = String::new();
    for (number, net) in nets.iter().enumerate() {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{net} {}", number % TARGETS + 1);
    }
    text
}

fn lines(addresses: &[impl Display]) -> String {
    addresses.iter().map(|address| format!("{address}\n")).collect()
}

fn run(options: &str, routes: &Path, addresses: &Path) -> Result<Figures, String> {
    let mut command = Command::new(PROGRAM);
    command
        .args(["--no-telemetry", "--in-memory", "--no-pci", "--force-max-simd-bitwidth=512", "-l"])
        .arg(proc_number("/proc/self/status", "Cpus_allowed_list:").to_string())
        .args(["--", "-f"])
        .arg(routes)
        .arg("-t")
        .arg(addresses)
        .args(options.split_whitespace());
    let output = command.output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mean = |what: &str| {
        let figures = text.lines().filter_map(|line| line.strip_prefix(what)?.trim().parse().ok());
        let figures: Vec<f64> = figures.collect();
        figures.iter().sum::<f64>() / figures.len() as f64
    };
    let figures = Figures {
        lookup: mean("AVG FIB lookup"),
        add: mean("AVG FIB add"),
        delete: mean("AVG FIB delete"),
    };
    if figures.lookup.is_nan() {
        return Err(format!("{options}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(figures)
}

/// The first number of a line in a file of /proc; 0 without one.
fn proc_number(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let digits = line.split(|letter: char| !letter.is_ascii_digit()).find(|part| !part.is_empty());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}
