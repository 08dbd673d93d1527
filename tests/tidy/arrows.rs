//! Who may depend on whom, and what the leaves keep away from.

use super::Finding;
use super::source::Source;

/// Each package and those of ours that it may use, directly or not.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "margay",
        &["margay-control", "margay-fastpath", "margay-acl", "margay-tunnels", "margay-bgp"],
    ),
    ("margay-control", &["margay-fastpath", "margay-bgp", "margay-acl", "margay-tunnels"]),
    ("margay-fastpath", &["margay-acl", "margay-tunnels"]),
    ("margay-fuzz", &["margay-acl", "margay-fastpath", "margay-tunnels", "margay-bgp"]),
    ("margay-counts", &["margay-acl", "margay-fastpath", "margay-tunnels"]),
    ("margay-acl", &[]),
    ("margay-tunnels", &[]),
    ("margay-bgp", &[]),
];

/// Folders of the leaf crates.
const LEAVES: &[&str] = &["acl/", "tunnels/", "bgp/"];

/// What a leaf does not do: files, sockets, threads, the clock.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::io",
    "std::thread",
    "std::process",
    "std::env",
    "TcpStream",
    "UdpSocket",
    "TcpListener",
    "Instant::now",
    "SystemTime",
    "println!",
    "eprintln!",
];

/// The dependencies in one `Cargo.toml`.
pub(crate) fn manifest(path: &str, text: &str) -> Vec<Finding> {
    let mut section = "";
    let mut package = String::new();
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line;
        }
        if section == "[package]" && line.starts_with("name") {
            package = line.split('"').nth(1).unwrap_or_default().to_owned();
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if section == "[workspace.dependencies]" || !section.ends_with("dependencies]") {
            continue;
        }
        let allowed = ARROWS.iter().find(|(owner, _)| *owner == package);
        let known = ARROWS.iter().any(|(owner, _)| *owner == name);
        if known && !allowed.is_some_and(|(_, targets)| targets.contains(&name)) {
            findings.push(Finding::new(path, at + 1, format!("{package} may not use {name}")));
        }
    }
    findings
}

/// Input and output in a leaf, and async code outside `control` and the commands.
pub(crate) fn purity(source: &Source) -> Vec<Finding> {
    let path = &source.path;
    let is_leaf = LEAVES.iter().any(|leaf| path.starts_with(leaf));
    let may_wait = path.starts_with("control/") || path.starts_with("src/commands/");
    let mut findings = Vec::new();
    for (number, line) in source.product_lines() {
        if is_leaf && let Some(word) = IMPURE.iter().find(|word| line.contains(*word)) {
            findings.push(Finding::new(path, number, format!("a leaf crate has no {word}")));
        }
        let waits = line.contains("async ") || line.contains(".await");
        if waits && !may_wait {
            findings.push(Finding::new(path, number, "async code lives in control"));
        }
    }
    findings
}

#[test]
fn an_arrow_against_the_direction_is_found() {
    let text =
        "[package]\nname = \"margay-acl\"\n[dependencies]\nmargay-tunnels.workspace = true\n";
    assert_eq!(
        manifest("acl/Cargo.toml", text),
        [Finding::new("acl/Cargo.toml", 4, "margay-acl may not use margay-tunnels")]
    );
    let right = text.replace("margay-acl", "margay-fastpath");
    assert_eq!(manifest("fastpath/Cargo.toml", &right), []);
}

#[test]
fn io_in_a_leaf_and_async_outside_control_are_found() {
    let text = "use std::fs::File;\nasync fn a() {}\n";
    assert_eq!(purity(&Source::new("bgp/src/a.rs", text)).len(), 2);
    assert_eq!(purity(&Source::new("fastpath/src/a.rs", text)).len(), 1);
    assert_eq!(purity(&Source::new("control/src/a.rs", text)), []);
}
