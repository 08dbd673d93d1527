//! Packets through two devices.

use crate::rig::{Memory, Pod, Relay, in_namespace, sh, two_pods, wait_for};
use margay_fastpath::port::xdp::{XdpMode, XdpSpec};
use margay_fastpath::port::{Port, PortId};
use std::net::UdpSocket;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Opens `left` and `right` and carries packets between them while `work` runs.
fn relayed(specs: [XdpSpec; 2], work: impl FnOnce(&Relay)) {
    let memory = Memory::new(8192);
    let (left, mut parts) = memory.open_as(&specs[0]);
    let (right, others) = memory.open_as(&specs[1]);
    parts.extend(others);
    let relay = Relay::start(memory.arena.clone(), parts);
    work(&relay);
    relay.stop();
    left.close();
    right.close();
    memory.assert_whole();
}

fn pods() -> [XdpSpec; 2] {
    [XdpSpec::pod(PortId(0), "left"), XdpSpec::pod(PortId(1), "right")]
}

/// Datagrams under way at a time: a cold pod port has frames for these, even of 9000 bytes.
const WINDOW: u32 = 8;

/// Sends `count` datagrams of `size` bytes from pod 1 to pod 2, a window at a time, each of which
/// is acknowledged; how many arrived, and whole.
fn datagrams(from: &Pod, to: &Pod, count: u32, size: usize) -> u32 {
    let byte = |number: u32, at: usize| (number as usize * 31 + at * 7 + at / 251) as u8;
    let (ready, started) = std::sync::mpsc::channel();
    let receiver = to.spawn(move || {
        let socket = UdpSocket::bind("10.1.0.2:7000").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        ready.send(()).unwrap();
        let (mut arrived, mut buffer) = (0, vec![0; 65536]);
        while arrived < count {
            let Ok((len, sender)) = socket.recv_from(&mut buffer) else { break };
            assert_eq!(len, size);
            let number = u32::from_be_bytes(buffer[..4].try_into().unwrap());
            assert!((4..len).all(|at| buffer[at] == byte(number, at)), "datagram {number}");
            arrived += 1;
            if arrived % WINDOW == 0 {
                socket.send_to(&[0], sender).unwrap();
            }
        }
        arrived
    });
    started.recv().unwrap();
    let sender = from.spawn(move || {
        let socket = UdpSocket::bind("10.1.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        for number in 0..count {
            let mut bytes: Vec<u8> = (0..size).map(|at| byte(number, at)).collect();
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            socket.send_to(&bytes, "10.1.0.2:7000").unwrap();
            if (number + 1) % WINDOW == 0 && socket.recv(&mut [0]).is_err() {
                break;
            }
        }
    });
    sender.join().unwrap();
    receiver.join().unwrap()
}

#[test]
fn pings_and_datagrams_cross_two_veths() {
    in_namespace(|| {
        let (left, right) = two_pods("");
        relayed(pods(), |relay| {
            left.sh("ping -q -c 50 -i 0.005 -w 5 10.1.0.2");
            right.sh("ping -q -c 50 -i 0.005 -w 5 fd00::1");
            assert_eq!(datagrams(&left, &right, 5000, 1000), 5000);
            assert!(relay.packets() >= 5200);
            assert_eq!(relay.moved.longest_chain.load(Ordering::Relaxed), 1);
        });
    });
}

#[test]
fn jumbo_frames_cross_as_chains() {
    in_namespace(|| {
        let (left, right) = two_pods("mtu 9000");
        relayed(pods(), |relay| {
            for size in [1000, 3700, 3850, 7600, 8972] {
                left.sh(&format!("ping -q -c 5 -i 0.005 -w 5 -M do -s {size} 10.1.0.2"));
            }
            assert_eq!(datagrams(&left, &right, 1000, 8900), 1000);
            assert_eq!(relay.moved.longest_chain.load(Ordering::Relaxed), 3);
        });
    });
}

#[test]
fn several_queues_are_shared_out_over_parts() {
    in_namespace(|| {
        let (left, right) = two_pods("numrxqueues 4 numtxqueues 4");
        let memory = Memory::new(8192);
        let wide = |port, device| XdpSpec { parts: 3, ..XdpSpec::pod(PortId(port), device) };
        let (one, first) = memory.open_as(&wide(0, "left"));
        let (two, second) = memory.open_as(&wide(1, "right"));
        let queues = |part: usize| first[part].queues().collect::<Vec<_>>();
        assert_eq!([queues(0), queues(1), queues(2)], [vec![0, 3], vec![1], vec![2]]);
        let parts = first.into_iter().zip(second).flat_map(|(a, b)| [a, b]).collect();
        let relay = Relay::start(memory.arena.clone(), parts);
        left.sh("ping -q -c 20 -i 0.005 -w 5 10.1.0.2");
        for _ in 0..4 {
            // Another source port each time: the sender's hash picks another queue.
            assert_eq!(datagrams(&left, &right, 500, 100), 500);
        }
        relay.stop();
        drop((one, two));
        memory.assert_whole();
    });
}

#[test]
fn a_device_without_native_xdp_works_generically_and_says_why() {
    in_namespace(|| {
        let memory = Memory::new(16_384);
        let (device, parts) = memory.open(0, "lo");
        assert_eq!(device.mode(), "generic, copy: lo refuses native XDP (EOPNOTSUPP)");
        assert_eq!(parts[0].report().frames_held, 32);
        drop((device, parts));
        memory.assert_whole();
        let (_left, _right) = two_pods("");
        let (device, _parts) = memory.open(0, "left");
        assert_eq!(device.mode(), "native, copy: veth has no zero-copy");
    });
}

#[test]
fn generic_mode_carries_packets_too() {
    in_namespace(|| {
        let (left, right) = two_pods("");
        let generic = pods().map(|spec| XdpSpec { mode: XdpMode::Generic, ..spec });
        relayed(generic, |_| {
            left.sh("ping -q -c 20 -i 0.005 -w 5 10.1.0.2");
            assert_eq!(datagrams(&left, &right, 1000, 1000), 1000);
        });
    });
}

#[test]
fn a_queue_that_nobody_serves_is_the_kernels() {
    in_namespace(|| {
        let (left, _right) = two_pods("");
        sh("ip addr add 10.1.0.254/24 dev left && ip addr add 10.9.9.9/32 dev lo");
        left.sh("ip route add 10.9.9.9/32 via 10.1.0.254");
        let memory = Memory::new(1024);
        // Not set as local: a worker that has the queue would take the echo requests.
        let ping = || {
            let line = "ping -q -c 3 -i 0.005 -W 1 10.9.9.9 >/dev/null; echo $?";
            left.sh(line).trim() == "0"
        };
        let (device, parts) = memory.open(0, "left");
        assert!(ping(), "opened, not served");
        let releaser = parts[0].releaser();
        let relay = Relay::start(memory.arena.clone(), parts);
        wait_for("the worker has the queue", || !ping());
        releaser.release();
        assert!(ping(), "released");
        relay.stop();
        assert!(ping(), "closed");
        drop(device);
        assert!(ping(), "detached");
        memory.assert_whole();
    });
}
