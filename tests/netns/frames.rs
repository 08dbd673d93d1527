//! Every frame of packet memory is accounted for: free, in a ring, or with a packet on its way.

use margay::lab::daemon::Daemon;

/// Fails the test when the daemon says that it lost a frame.
pub(crate) fn demand_none_lost(daemon: &Daemon) {
    let shown = daemon.show("workers").unwrap();
    println!("workers: {shown}");
    let lost = shown["framesLost"].as_u64().expect("show workers has framesLost");
    assert_eq!(lost, 0, "{shown}");
}
