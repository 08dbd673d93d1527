//! Every frame of packet memory is accounted for: free, held by a port, or waiting with a packet.

use std::time::Duration;

use margay::lab::daemon::Daemon;
use margay::lab::process;
use serde_json::Value;

/// Frames that nobody accounts for, once nothing is on its way. Fails the test when the daemon
/// itself says that it lost one.
fn missing(daemon: &Daemon) -> i64 {
    let sum = |list: &Value, name: &str| -> i64 {
        list.as_array().unwrap().iter().map(|entry| entry[name].as_i64().unwrap()).sum()
    };
    let held = sum(&daemon.show("ports").unwrap(), "framesHeld");
    let waiting = sum(&daemon.show("workers").unwrap(), "held");
    let frames = daemon.show("status").unwrap()["frames"].clone();
    assert_eq!(frames["lost"], 0, "{frames}");
    frames["total"].as_i64().unwrap() - frames["free"].as_i64().unwrap() - held - waiting
}

/// Fails the test unless all frames are accounted for soon.
pub(crate) fn demand_all(daemon: &Daemon) {
    let mut last = 0;
    process::wait_for("every frame to be accounted for", Duration::from_secs(10), || {
        last = missing(daemon);
        Ok((last == 0).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}: {last} missing"));
}
