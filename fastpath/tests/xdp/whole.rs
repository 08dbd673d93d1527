//! What goes whole by the packet socket of a port: what the kernel does not take waits, and what a
//! queue refuses is counted.

use crate::rig::{Memory, Pod, in_namespace, sh};
use margay_fastpath::packet::{Gso, Offload, Packet};
use margay_fastpath::port::xdp::XdpPort;
use margay_fastpath::port::{BURST, Port, PortId};
use margay_fastpath::sys::memory::{FramePool, HEADROOM};
use margay_tunnels::wire::ethernet::{self, Mac};
use margay_tunnels::wire::{ipv4, protocol};

const SEGMENT: u16 = 1400;
/// Of a frame.
const PART: usize = 3000;
/// Link to transport.
const HEADERS: usize = 54;

/// A TCP segment with so many bytes of payload, or a super-packet if they are more than fit.
fn packet(pool: &mut FramePool, payload: usize) -> Packet {
    let link = ethernet::header(Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 9]), ethernet::IPV4);
    let (src, dst) = ([10, 1, 0, 9].into(), [10, 1, 0, 1].into());
    let mut bytes = link.to_vec();
    bytes.extend(ipv4::header(src, dst, protocol::TCP, 64, 20 + payload as u16));
    bytes.extend([0, 9, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.resize(HEADERS + payload, 7);
    let mut frames = bytes.chunks(PART).map(|part| {
        let mut frame = pool.alloc().unwrap();
        frame.bytes_mut(HEADROOM, part.len()).copy_from_slice(part);
        (frame, part.len())
    });
    let (head, len) = frames.next().unwrap();
    let mut packet = Packet::new(head, HEADROOM, len, PortId(7));
    frames.for_each(|(frame, len)| packet.append(frame, HEADROOM, len).unwrap());
    (packet.l3, packet.l4) = (14, 34);
    let is_super = payload > SEGMENT.into();
    packet.set_offload(Offload {
        needs_csum: true,
        gso: if is_super { Gso::Tcp4 } else { Gso::None },
        gso_size: if is_super { SEGMENT } else { 0 },
        csum_start: 34,
        csum_offset: 16,
    });
    packet.set_from_tap(true);
    packet
}

fn dropped(port: &XdpPort) -> u64 {
    let report = port.report();
    assert!(report.mode.ends_with("super-packets by a packet socket"), "{}", report.mode);
    report.kernel.iter().find(|(name, _)| *name == "tx_dropped").unwrap().1
}

#[test]
fn what_the_kernel_does_not_take_waits_and_what_a_queue_refuses_is_counted() {
    in_namespace(|| {
        let _pod = Pod::new(1, "left", "");
        let memory = Memory::new(4096);
        let (device, mut parts) = memory.open(0, "left");
        let mut port = parts.remove(0);
        let mut pool = FramePool::new(memory.arena.clone());
        // Hardly anything leaves this queue, and it has room for more than the socket.
        sh("tc qdisc add dev left root tbf rate 8kbit burst 2kb limit 100mb");
        let mut burst: Vec<Packet> = (0..BURST).map(|_| packet(&mut pool, 60_000)).collect();
        port.tx(&mut pool, &mut burst);
        let waiting = burst.len();
        assert!((1..BURST).contains(&waiting), "{waiting} wait");
        assert_eq!(dropped(&port), 0);
        // They go once there is room: the queue goes with what was in it.
        sh("tc qdisc del dev left root");
        for _ in 0..100 {
            port.tx(&mut pool, &mut burst);
            if burst.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!((burst.len(), dropped(&port)), (0, 0));
        sh("tc qdisc add dev left root tbf rate 8kbit burst 2kb limit 4kb");
        burst.extend((0..10).map(|_| packet(&mut pool, 1000)));
        port.tx(&mut pool, &mut burst);
        assert!(burst.is_empty());
        let lost = dropped(&port);
        assert!((5..10).contains(&lost), "{lost} of 10 lost");
        Box::new(port).close(&mut pool);
        drop(pool);
        device.close();
        memory.assert_whole();
    });
}
