//! Devices and sockets that come and go: nothing is lost.

use crate::rig::{Memory, Relay, in_namespace, two_pods, wait_for};
use std::sync::atomic::Ordering;

#[test]
fn a_device_deleted_under_traffic_is_gone_and_its_frames_are_back() {
    in_namespace(|| {
        let (left, right) = two_pods("");
        let memory = Memory::new(4096);
        let (one, mut parts) = memory.open(0, "left");
        let (two, others) = memory.open(1, "right");
        parts.extend(others);
        let relay = Relay::start(memory.arena.clone(), parts);
        let flood = left.spawn(|| {
            let line = "timeout 2 ping -q -f 10.1.0.2";
            std::process::Command::new("sh").args(["-c", line]).output().unwrap();
        });
        let moved = relay.moved.clone();
        wait_for("traffic", || moved.load(Ordering::Relaxed) > 1000);
        right.sh("ip link del eth0");
        let gone = relay.gone.clone();
        wait_for("one port is gone", || gone.load(Ordering::Relaxed) == 1);
        flood.join().unwrap();
        relay.stop();
        drop((one, two));
        memory.assert_whole();
    });
}
