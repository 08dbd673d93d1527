//! Full rings, empty arenas, many ports.

use crate::rig::{Memory, Relay, in_namespace, sh, two_pods};
use margay_fastpath::packet::Packet;
use margay_fastpath::port::xdp::{XdpDevice, XdpPort, XdpSpec};
use margay_fastpath::port::{BURST, Port, PortId};
use margay_fastpath::sys::memory::{FramePool, HEADROOM};

/// A packet of `parts` frames, its first payload byte `mark`.
fn packet(pool: &mut FramePool, parts: usize, mark: u8) -> Packet {
    let mut bytes = vec![0; 60];
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    bytes[14] = mark;
    let mut frame = pool.alloc().unwrap();
    frame.bytes_mut(HEADROOM, 60).copy_from_slice(&bytes);
    let mut packet = Packet::new(frame, HEADROOM, 60, PortId(0));
    for _ in 1..parts {
        packet.append(pool.alloc().unwrap(), HEADROOM, 1000).unwrap();
    }
    packet
}

fn counter(port: &XdpPort, name: &str) -> u64 {
    port.report().kernel.iter().find(|(other, _)| *other == name).unwrap().1
}

#[test]
fn a_full_ring_takes_chains_whole_or_not_at_all_and_leaves_the_rest_in_order() {
    in_namespace(|| {
        let (left, _right) = two_pods("mtu 9000");
        let memory = Memory::new(16_384);
        let (device, mut parts) = memory.open(0, "left");
        let mut port = parts.remove(0);
        let mut pool = FramePool::new(memory.arena.clone());
        port.service(&mut pool);
        sh("ip link set left down");
        let mut burst = Vec::new();
        // 512 places: 170 chains of 3 fit, 2 places are left over.
        for round in 0..3 {
            burst.extend((0..60).map(|at| packet(&mut pool, 3, round * 60 + at)));
            if round < 2 {
                port.tx(&mut pool, &mut burst);
                assert!(burst.is_empty());
            }
        }
        port.tx(&mut pool, &mut burst);
        let marks: Vec<u8> = burst.iter().map(|packet| packet.head()[14]).collect();
        assert_eq!(marks, (170..180).collect::<Vec<u8>>());
        assert_eq!(port.report().frames_held, 510 + 32);
        burst.drain(..).for_each(|packet| packet.free(&mut pool));
        let received = || left.sh("cat /sys/class/net/eth0/statistics/rx_packets");
        let before: u64 = received().trim().parse().unwrap();
        sh("ip link set left up");
        let start = std::time::Instant::now();
        while port.report().frames_held > 32 && start.elapsed().as_secs() < 5 {
            port.service(&mut pool);
        }
        assert_eq!(port.report().frames_held, 32);
        assert!(received().trim().parse::<u64>().unwrap() >= before + 170);
        Box::new(port).close(&mut pool);
        drop((device, pool));
        memory.assert_whole();
    });
}

#[test]
fn what_no_device_sends_is_refused_and_freed() {
    in_namespace(|| {
        let (_left, _right) = two_pods("mtu 9000");
        let memory = Memory::new(1024);
        let (_device, mut parts) = memory.open(0, "left");
        let mut pool = FramePool::new(memory.arena.clone());
        let port = &mut parts[0];
        let mut short = packet(&mut pool, 1, 0);
        short.truncate(13, &mut pool);
        let mut burst = vec![short, packet(&mut pool, 18, 1), packet(&mut pool, 17, 2)];
        port.tx(&mut pool, &mut burst);
        assert!(burst.is_empty());
        assert_eq!(counter(port, "tx_refused"), 2);
        assert_eq!(counter(port, "tx_invalid_descs"), 0);
        drop(parts);
    });
}

#[test]
fn an_empty_arena_starves_no_one_for_good() {
    in_namespace(|| {
        let (left, _right) = two_pods("");
        let memory = Memory::new(96);
        let (one, mut parts) = memory.open(0, "left");
        let (two, others) = memory.open(1, "right");
        parts.extend(others);
        // Both hold 32; one worker's cache takes the rest, and growing is out of the question.
        let relay = Relay::start(memory.arena.clone(), parts);
        left.sh("ping -q -f -c 2000 -w 5 10.1.0.2 >/dev/null");
        left.sh("ping -q -c 5 -i 0.01 -w 5 10.1.0.2");
        relay.stop();
        drop((one, two));
        memory.assert_whole();
    });
}

#[test]
fn many_idle_ports_cost_few_frames_and_busy_ones_get_more() {
    const PORTS: u16 = 24;
    in_namespace(|| {
        let (left, _right) = two_pods("");
        let idle = (0..PORTS).map(|at| format!("link add p{at} up type veth"));
        sh(&format!("echo '{}' | ip -batch -", idle.collect::<Vec<_>>().join("\n")));
        let memory = Memory::new(16_384);
        let mut names = vec!["left".to_string(), "right".to_string()];
        names.extend((0..PORTS).map(|at| format!("p{at}")));
        let opened = (0..).zip(&names).map(|(port, name)| memory.open(port, name));
        let (devices, parts): (Vec<XdpDevice>, Vec<Vec<XdpPort>>) = opened.unzip();
        assert_eq!(memory.steering.umem().lent(), 32 * names.len());
        let relay = Relay::start(memory.arena.clone(), parts.into_iter().flatten().collect());
        left.sh("ping -q -f -l 60 -c 20000 -w 5 10.1.0.2 >/dev/null");
        // What was posted stays posted when the traffic ends.
        assert!(memory.steering.umem().lent() > 32 * names.len());
        relay.stop();
        drop(devices);
        memory.assert_whole();
    });
}

#[test]
fn busy_polling_carries_packets() {
    in_namespace(|| {
        let (left, _right) = two_pods("");
        let memory = Memory::new(8192);
        let spec =
            |port, name| XdpSpec { busy_poll: Some(64), ..XdpSpec::uplink(PortId(port), name) };
        let (_one, mut parts) = memory.open_as(&spec(0, "left"));
        let (_two, others) = memory.open_as(&spec(1, "right"));
        parts.extend(others);
        let relay = Relay::start(memory.arena.clone(), parts);
        left.sh("ping -q -c 20 -i 0.005 -w 5 10.1.0.2");
        assert!(relay.packets() >= 40 && relay.packets() < 40 + BURST as u64);
        relay.stop();
    });
}
