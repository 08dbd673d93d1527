//! `margay lab` as a person runs it: every step goes well, at MTU 1500 and 9000, over IPv4 and
//! IPv6, and nothing stays behind.

use std::process::Command;
use std::time::Duration;

use margay::lab::process;
use margay::lab::requirements;
use serde_json::Value;

/// What the command promises.
const LONGEST: Duration = Duration::from_secs(60);

#[test]
fn margay_lab_is_ok_in_a_minute_and_leaves_nothing() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let before = machine();
    let binary = crate::binary();
    let command = process::command(binary.to_str().unwrap(), &["lab", "-o", "json"]);
    let output = process::run(command, "", LONGEST).unwrap();
    let report: Value = serde_json::from_str(&output.stdout).expect(&output.stderr);
    let failed = report["steps"].as_array().unwrap().iter().filter(|step| step["ok"] != true);
    let failed: Vec<&Value> = failed.collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(output.status.success());
    assert_eq!(report["ok"], true);
    assert!(report["steps"].as_array().unwrap().len() > 30);
    assert!(report["bgp"].is_array() && report["drops"].is_object());
    assert!(report["pings"]["sent"].as_u64().unwrap() > 100);
    assert_eq!(report["pings"]["lost"], 0);
    assert!(report["tcpGbps"].as_f64().unwrap() > 0.1);
    assert!(report["udpMpps"].as_f64().unwrap() > 0.001);
    assert!(report["secondsTotal"].as_f64().unwrap() < LONGEST.as_secs_f64());
    assert_eq!(machine(), before);
}

/// The machine's own devices and routes.
fn machine() -> String {
    let list = |args: &[&str]| Command::new("ip").args(args).output().unwrap().stdout;
    let all = [list(&["-o", "link"]), list(&["route", "show", "table", "all"])].concat();
    String::from_utf8(all).unwrap()
}
