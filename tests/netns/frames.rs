//! Every frame of packet memory is accounted for: free, in a ring, or with a packet on its way.

use std::time::Duration;

use margay::lab::daemon::Daemon;
use margay::lab::process;

/// Frames that are free now, after the daemon has said that none was lost.
pub(crate) fn free(daemon: &Daemon) -> u64 {
    let status = daemon.show("status").unwrap();
    let frames = &status["frames"];
    assert_eq!(frames["lost"], 0, "{frames}");
    frames["free"].as_u64().expect("show status has frames.free")
}

/// Fails the test unless as many frames as `before` are free again soon.
pub(crate) fn demand_free(daemon: &Daemon, before: u64) {
    process::wait_for("the frames to be free again", Duration::from_secs(10), || {
        Ok((free(daemon) >= before).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}: {before} before, {} now", free(daemon)));
}
