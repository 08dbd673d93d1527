//! `margay lab --peer bird`: packets follow what a real BIRD 2 says. It is the installed one, or
//! the one that `./run-tests` has unpacked under `target/peers`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use margay::lab::bird::{Installation, VARIABLE};
use margay::lab::{process, requirements};
use serde_json::Value;

/// The lab's minute twice: machines can be busy.
const LONGEST: Duration = Duration::from_secs(120);

/// The unpacked package.
fn unpacked() -> PathBuf {
    let house = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| house.join("target"), |path| house.join(path));
    target.join("peers/bird2")
}

#[test]
fn packets_follow_what_a_real_bird_says() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let binary = crate::binary();
    let mut command =
        process::command(binary.to_str().unwrap(), &["lab", "--peer", "bird", "-o", "json"]);
    if let Err(error) = Installation::find() {
        if !unpacked().join(".complete").exists() {
            println!("SKIPPED: {}", error.to_string().replace('\n', ": "));
            return;
        }
        command.env(VARIABLE, unpacked());
    }
    let output = process::run(command, "", LONGEST).unwrap();
    let report: Value = serde_json::from_str(&output.stdout).expect(&output.stderr);
    let steps = report["steps"].as_array().unwrap();
    // The steps that every lab has are judged without BIRD, in steps.rs.
    for name in [
        "BGP sessions are established",
        "routes are learnt by BGP",
        "ping pod to outside",
        "ping outside to pod",
        "a route learnt from BIRD carries TCP",
        "it ends within 1 s of its withdrawal",
        "it ends within 1 s of BIRD's death, by BFD",
    ] {
        let step = steps.iter().find(|step| step["name"] == name).expect(name);
        assert_eq!(step["ok"], true, "{step:#?}");
    }
    let of_tor = |peer: &&Value| peer["name"].as_str().is_some_and(|name| name.contains("_31_"));
    let peers = report["bgp"].as_array().unwrap();
    assert_eq!(peers.len(), 8, "{peers:#?}");
    assert!(peers.iter().any(|peer| of_tor(&peer)), "{peers:#?}");
}

#[test]
fn without_bird_the_error_names_the_package() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let binary = crate::binary();
    let mut command = process::command(binary.to_str().unwrap(), &["lab", "--peer", "bird"]);
    command.env(VARIABLE, "/nonexistent/bird");
    let output = process::run(command, "", LONGEST).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let first = output.stderr.lines().next().unwrap();
    assert!(first.starts_with("error: lab: ") && first.contains("bird2"), "{}", output.stderr);
    assert!(output.stdout.is_empty(), "{}", output.stdout);
}
