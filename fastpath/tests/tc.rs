//! Veths by tc against the running kernel: what is opened, and that nothing of it is left.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use margay_fastpath::offload::FlowMap;
use margay_fastpath::port::tc::{self, TcError};
use margay_fastpath::port::{Port, PortId};
use margay_fastpath::steering::Steering;
use margay_fastpath::sys::memory::{Arena, FramePool};
use nix::sched::{CloneFlags, unshare};
use std::process::Command;

/// Runs a test on a thread with a network namespace of its own.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root");
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names of the devices.
fn devices() -> String {
    ip("-br link")
}

#[test]
fn a_veth_is_opened_and_given_back() {
    in_namespace(|| {
        ip("link add pod0 type veth peer name pod1");
        ip("link set pod0 up");
        let arena = Arena::new(256, 16).unwrap();
        let steering = Steering::new(&arena, 4789).unwrap();
        let before = devices();
        for _ in 0..2 {
            let (device, port) = tc::open(&steering, PortId(3), "pod0").unwrap();
            let report = port.report();
            assert_eq!(report.kind, "tc");
            assert!(report.mode.starts_with("by mgytc"), "{}", report.mode);
            let tap = ip("-o link show type tun");
            assert!(tap.contains("mgytc") && tap.contains("UP"), "{tap}");
            assert_eq!(ip("-6 addr show type tun"), "", "the kernel talks on the TAP");
            assert!(port.tx_offloads().large_frames && port.tx_offloads().csum);
            drop(device);
            let mut pool = FramePool::new(arena.clone());
            Box::new(port).close(&mut pool);
            assert_eq!(devices(), before);
        }
        let free = (arena.free_small(), arena.free_large());
        assert_eq!(free, (arena.small_count(), arena.large_count()), "frames are lost");
    });
}

#[test]
fn with_flow_offload_the_tap_queues_nothing_before_it() {
    in_namespace(|| {
        ip("link add pod0 type veth peer name pod1");
        let arena = Arena::new(256, 16).unwrap();
        let steering = Steering::new(&arena, 4789).unwrap();
        let steering = steering.with_offload(FlowMap::new().unwrap());
        let (device, port) = tc::open(&steering, PortId(3), "pod0").unwrap();
        let tap = ip("-o link show type tun");
        assert!(tap.contains("UP") && tap.contains("qdisc noqueue"), "{tap}");
        let names: Vec<_> = port.report().kernel.into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"rx_ring_full"), "{names:?}");
        drop(device);
        Box::new(port).close(&mut FramePool::new(arena));
    });
}

#[test]
fn what_is_no_veth_is_refused() {
    in_namespace(|| {
        let steering = Steering::new(&Arena::new(256, 16).unwrap(), 4789).unwrap();
        let open = |name| tc::open(&steering, PortId(0), name).map(drop).unwrap_err();
        assert!(matches!(open("lo"), TcError::OtherKind { .. }));
        assert!(matches!(open("no-such"), TcError::NoDevice { .. }));
    });
}
