//! Devices and sockets that come and go: nothing is lost.

use crate::rig::{Flood, Memory, Pod, Relay, in_namespace, sh, two_pods, wait_for};
use margay_fastpath::port::xdp::{XdpError, XdpSpec, open};
use margay_fastpath::port::{Port, PortId};
use margay_fastpath::sys::bpf::asm::{Assembler, Reg};
use margay_fastpath::sys::bpf::{AttachMode, Link, Program};
use margay_fastpath::sys::memory::FramePool;
use margay_fastpath::sys::xdp::netdev::Device;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Rounds of the long test.
const ROUNDS: usize = 200;

fn pings(from: &Pod, to: &str) {
    from.sh(&format!("ping -q -c 3 -i 0.005 -w 2 {to}"));
}

/// Descriptors and threads of this process.
fn holdings() -> (usize, usize) {
    let count = |path| std::fs::read_dir(path).unwrap().count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

#[test]
fn a_device_deleted_under_traffic_is_gone_and_its_frames_are_back() {
    in_namespace(|| {
        let (left, right) = two_pods("");
        let memory = Memory::new(4096);
        let (one, mut parts) = memory.open(0, "left");
        let (two, others) = memory.open(1, "right");
        parts.extend(others);
        let relay = Relay::start(memory.arena.clone(), parts);
        let flood = Flood::start(&left, "10.1.0.2:9");
        wait_for("traffic", || relay.packets() > 1000);
        right.sh("ip link del eth0");
        wait_for("one port is gone", || relay.moved.gone.load(Ordering::Relaxed) == 1);
        flood.stop();
        relay.stop();
        drop((one, two));
        memory.assert_whole();
    });
}

#[test]
fn two_hundred_rounds_of_create_flap_and_delete_lose_nothing() {
    in_namespace(|| {
        let (left, right) = two_pods("");
        let memory = Memory::new(4096);
        let (one, parts) = memory.open(0, "left");
        let relay = Relay::start(memory.arena.clone(), parts);
        let floods = [Flood::start(&left, "10.1.0.2:9"), Flood::start(&right, "10.1.0.1:9")];
        sh("ip link del right");
        let before = holdings();
        for round in 0..ROUNDS {
            right.plug("right", "");
            let (two, mut parts) = memory.open(1, "right");
            relay.place(1, parts.pop());
            let seen = relay.packets();
            wait_for("traffic", || relay.packets() > seen + 50);
            if round % 4 == 0 {
                sh("ip link set right down && ip link set right up");
                right.sh("ip neigh replace 10.1.0.1 lladdr 02:00:00:00:00:01 dev eth0");
            }
            match round % 3 {
                0 => sh("ip link del right"),
                1 => right.sh("ip link del eth0"),
                _ => {
                    // Closed first, as when a pod is deleted in order.
                    relay.place(1, None);
                    sh("ip link del right")
                }
            };
            relay.place(1, None);
            two.close();
        }
        assert_eq!(holdings(), before, "descriptors and threads");
        floods.into_iter().for_each(Flood::stop);
        relay.stop();
        drop(one);
        memory.assert_whole();
        assert_eq!(margay_fastpath::sys::memory::lost_frames(), 0);
    });
}

#[test]
fn a_link_that_flaps_carries_packets_again() {
    in_namespace(|| {
        let (left, right) = two_pods("");
        let memory = Memory::new(4096);
        let (_one, mut parts) = memory.open(0, "left");
        let (_two, others) = memory.open(1, "right");
        parts.extend(others);
        let relay = Relay::start(memory.arena.clone(), parts);
        pings(&left, "10.1.0.2");
        for device in ["left", "right"] {
            let flood = Flood::start(&left, "10.1.0.2:9");
            sh(&format!("ip link set {device} down"));
            std::thread::sleep(Duration::from_millis(300));
            sh(&format!("ip link set {device} up"));
            flood.stop();
            for (pod, other) in [(&left, 2), (&right, 1)] {
                let mac = format!("lladdr 02:00:00:00:00:{other:02} dev eth0");
                pod.sh(&format!("ip neigh replace 10.1.0.{other} {mac}"));
            }
            pings(&left, "10.1.0.2");
            pings(&right, "10.1.0.1");
        }
        assert_eq!(relay.moved.gone.load(Ordering::Relaxed), 0);
        relay.stop();
    });
}

#[test]
fn an_mtu_that_changes_is_survived() {
    in_namespace(|| {
        let (left, right) = two_pods("mtu 9000");
        let memory = Memory::new(4096);
        let (_one, mut parts) = memory.open(0, "left");
        let (_two, others) = memory.open(1, "right");
        parts.extend(others);
        let relay = Relay::start(memory.arena.clone(), parts);
        for mtu in [1500, 9000, 4000] {
            sh(&format!("ip link set left mtu {mtu} && ip link set right mtu {mtu}"));
            left.sh(&format!("ip link set eth0 mtu {mtu}"));
            right.sh(&format!("ip link set eth0 mtu {mtu}"));
            left.sh(&format!("ping -q -c 3 -i 0.005 -w 2 -M do -s {} 10.1.0.2", mtu - 28));
        }
        relay.stop();
    });
}

#[test]
fn the_registration_outlives_the_socket_that_made_it() {
    in_namespace(|| {
        let (left, right) = two_pods("");
        let memory = Memory::new(4096);
        let (one, parts) = memory.open(0, "left");
        let (two, others) = memory.open(1, "right");
        let relay = Relay::start(memory.arena.clone(), parts);
        relay.place(1, others.into_iter().next());
        pings(&left, "10.1.0.2");
        // The first goes; it comes back on the second's registration.
        relay.place(0, None);
        one.close();
        let (one, mut parts) = memory.open(0, "left");
        relay.place(0, parts.pop());
        pings(&right, "10.1.0.1");
        // The second's device goes while its socket lives: nobody can share with that one.
        right.sh("ip link del eth0");
        right.plug("right", "");
        relay.place(1, None);
        two.close();
        let (two, mut parts) = memory.open(1, "right");
        relay.place(1, parts.pop());
        pings(&left, "10.1.0.2");
        // All go: the next one registers anew.
        relay.place(0, None);
        relay.place(1, None);
        drop((one, two));
        assert_eq!(memory.steering.umem().lent(), 0);
        let (one, mut parts) = memory.open(0, "left");
        relay.place(0, parts.pop());
        let (two, mut parts) = memory.open(1, "right");
        relay.place(1, parts.pop());
        pings(&left, "10.1.0.2");
        relay.stop();
        drop((one, two));
        memory.assert_whole();
    });
}

#[test]
fn a_device_is_opened_again_at_once_after_it_was_closed() {
    in_namespace(|| {
        let (_left, _right) = two_pods("");
        let memory = Memory::new(1024);
        for _ in 0..10 {
            let (device, parts) = memory.open(0, "left");
            drop(parts);
            device.close();
            memory.assert_whole();
        }
    });
}

#[test]
fn parts_that_outlive_their_device_or_are_dropped_lose_no_frame() {
    in_namespace(|| {
        let (left, _right) = two_pods("");
        let memory = Memory::new(1024);
        let (device, mut parts) = memory.open(0, "left");
        let mut pool = FramePool::new(memory.arena.clone());
        let mut port = parts.remove(0);
        port.service(&mut pool);
        left.sh("ping -q -c 20 -i 0.002 -W 1 10.1.0.2; true");
        device.close();
        assert_ne!(memory.steering.umem().lent(), 0);
        assert_eq!(Device::by_name("left").unwrap().program, None, "detached with the device");
        port.service(&mut pool);
        drop(pool);
        drop(port);
        memory.assert_whole();
    });
}

#[test]
fn a_program_of_someone_else_is_not_replaced() {
    in_namespace(|| {
        let (_left, _right) = two_pods("");
        let mut asm = Assembler::new();
        asm.mov(Reg::R0, 2);
        asm.exit();
        let program = Program::load_xdp("firewall", &asm.finish().unwrap()).unwrap();
        let device = Device::by_name("left").unwrap();
        let memory = Memory::new(1024);
        for mode in [AttachMode::Native, AttachMode::Generic] {
            let link = Link::attach_xdp(&program, device.index, mode).unwrap();
            let id = Device::by_index(device.index).unwrap().program.unwrap().id;
            let error = open(&memory.steering, &XdpSpec::pod(PortId(0), "left")).unwrap_err();
            let start = format!("left already has XDP program id {id} (firewall): ");
            assert!(error.to_string().starts_with(&start), "{error}");
            assert_eq!(Device::by_index(device.index).unwrap().program.unwrap().id, id);
            drop(link);
        }
        memory.assert_whole();
    });
}

#[test]
fn what_can_not_be_opened_is_named() {
    in_namespace(|| {
        let (_left, _right) = two_pods("");
        let memory = Memory::new(1024);
        let error = |spec: &XdpSpec| open(&memory.steering, spec).unwrap_err();
        let spec = XdpSpec::pod(PortId(0), "nonesuch");
        assert!(matches!(error(&spec), XdpError::NoDevice { device, .. } if device == "nonesuch"));
        let mut spec = XdpSpec::pod(PortId(0), "left");
        spec.rings.rx = 1000;
        let text = error(&spec).to_string();
        assert_eq!(text, "left: ring sizes must be powers of two from 32 to 32768");
        let (_device, _parts) = memory.open(0, "left");
        let start = Instant::now();
        let error = error(&XdpSpec::pod(PortId(0), "left"));
        assert!(
            matches!(&error, XdpError::ForeignProgram { name, .. } if name == "margay_steering")
        );
        assert!(start.elapsed() > Duration::from_millis(900), "one of ours is waited for");
    });
}
