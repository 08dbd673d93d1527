//! Packets and chains over rings in plain memory; the kernel is the test.

use super::*;
use crate::offload::{Arrivals, FlowMap};
use crate::packet::MAX_SEGMENTS;
use crate::port::xdp::spec::XdpSpec;
use crate::sys::memory::HEADROOM;
use crate::sys::xdp::ring::Desc;
use crate::sys::xdp::socket::tests::{FRAMES, Kernel, socket};
use crate::sys::xdp::umem::Umem;
use std::sync::Arc;

const LEVELS: FillLevels = FillLevels { idle: 16, most: 16, share: 1 };
const PORT: PortId = PortId(3);

fn queue() -> (Queue, Kernel, Arc<Umem>, FramePool) {
    let (socket, kernel, umem, pool) = socket();
    (Queue::new(socket, 0, LEVELS, None), kernel, umem, pool)
}

/// The kernel delivers one part of `len` bytes.
fn deliver(kernel: &mut Kernel, len: u32, more: bool) {
    let addr = kernel.fill.pop().unwrap() + HEADROOM as u64;
    kernel.fill.release();
    kernel.rx.push(Desc { addr, len, options: u32::from(more) });
    kernel.rx.publish();
}

#[test]
fn parts_become_packets_also_when_the_rest_comes_later() {
    let (mut queue, mut kernel, umem, mut pool) = queue();
    assert!(queue.refill(&mut pool));
    deliver(&mut kernel, 60, false);
    deliver(&mut kernel, 3840, true);
    deliver(&mut kernel, 3840, true);
    let mut out = Vec::new();
    assert_eq!(queue.receive(&mut pool, &mut out, 8, PORT), 1);
    assert_eq!((out[0].len(), out[0].in_port, out[0].segment_count()), (60, PORT, 1));
    deliver(&mut kernel, 1000, false);
    deliver(&mut kernel, 61, false);
    assert_eq!(queue.receive(&mut pool, &mut out, 1, PORT), 1);
    assert_eq!((out[1].len(), out[1].segment_count()), (8680, 3));
    assert_eq!(queue.receive(&mut pool, &mut out, 1, PORT), 1);
    assert_eq!(out[2].len(), 61);
    deliver(&mut kernel, 500, true);
    assert_eq!(queue.receive(&mut pool, &mut out, 8, PORT), 0);
    out.into_iter().for_each(|packet| packet.free(&mut pool));
    queue.abandon(&mut pool);
    drop((queue, pool));
    assert_eq!(umem.arena().free_small(), FRAMES);
}

#[test]
fn a_chain_beyond_the_bound_is_passed_over_whole() {
    let (mut queue, mut kernel, umem, mut pool) = queue();
    let mut out = Vec::new();
    for part in 0..MAX_SEGMENTS + 5 {
        assert!(queue.refill(&mut pool));
        deliver(&mut kernel, 1, part != MAX_SEGMENTS + 4);
        assert_eq!(queue.receive(&mut pool, &mut out, 8, PORT), 0);
        assert_eq!(queue.too_long, u64::from(part >= MAX_SEGMENTS));
    }
    assert!(queue.refill(&mut pool));
    deliver(&mut kernel, 70, false);
    assert_eq!(queue.receive(&mut pool, &mut out, 8, PORT), 1);
    assert_eq!((out[0].len(), queue.too_long), (70, 1));
    out.into_iter().for_each(|packet| packet.free(&mut pool));
    drop((queue, pool));
    assert_eq!(umem.arena().free_small(), FRAMES);
}

#[test]
fn a_chain_is_sent_as_one_and_empty_parts_are_left_out() {
    let (mut queue, mut kernel, umem, mut pool) = queue();
    let mut packet = Packet::new(pool.alloc().unwrap(), HEADROOM, 100, PORT);
    for len in [0, 3000, 0, 200] {
        packet.append(pool.alloc().unwrap(), HEADROOM, len).unwrap();
    }
    let mut burst = vec![packet, Packet::new(pool.alloc().unwrap(), 128, 60, PORT)];
    assert_eq!((queue.send(&mut pool, &mut burst), burst.len()), (0, 0));
    assert_eq!(queue.socket.end_send(), 4);
    let sent: Vec<Desc> = std::iter::from_fn(|| kernel.tx.pop()).collect();
    let shape: Vec<_> = sent.iter().map(|desc| (desc.len, desc.options)).collect();
    assert_eq!(shape, [(100, 1), (3000, 1), (200, 0), (60, 0)]);
    kernel.tx.release();
    for desc in &sent {
        kernel.completion.push(desc.addr);
    }
    kernel.completion.publish();
    queue.reclaim(&mut pool);
    assert_eq!(queue.socket.tx_held(), 0);
    drop((queue, pool));
    assert_eq!(umem.arena().free_small(), FRAMES);
}

#[test]
fn what_does_not_fit_stays_in_order() {
    let (mut queue, mut kernel, _umem, mut pool) = queue();
    let chain = |pool: &mut FramePool, len| {
        let mut packet = Packet::new(pool.alloc().unwrap(), HEADROOM, len, PORT);
        packet.append(pool.alloc().unwrap(), HEADROOM, 1).unwrap();
        packet.append(pool.alloc().unwrap(), HEADROOM, 1).unwrap();
        packet
    };
    // 32 places: ten chains of 3; a single one would still fit, but not past the eleventh.
    let mut burst: Vec<Packet> = (0..11).map(|at| chain(&mut pool, 100 + at)).collect();
    burst.push(Packet::new(pool.alloc().unwrap(), HEADROOM, 60, PORT));
    assert_eq!(queue.send(&mut pool, &mut burst), 0);
    assert_eq!(burst.iter().map(Packet::len).collect::<Vec<_>>(), [112, 60]);
    assert_eq!(queue.socket.end_send(), 30);
    assert_eq!(std::iter::from_fn(|| kernel.tx.pop()).count(), 30);
    kernel.tx.release();
    assert_eq!(queue.send(&mut pool, &mut burst), 0);
    assert!(burst.is_empty());
}

/// What the program carries is the worker's at the next change, so there is room for it.
#[test]
fn frames_are_posted_for_what_goes_past_the_worker_too() {
    let (socket, _kernel, umem, mut pool) = socket();
    let map = FlowMap::new().unwrap();
    let arrivals = Arc::new(Arrivals::new(1).unwrap());
    let spec = XdpSpec::pod(PORT, "pod");
    let arrival = Arrival::new((arrivals, map.clone()), 0, &spec, 1500);
    let levels = FillLevels { idle: 8, most: 32, share: 1 };
    let mut queue = Queue::new(socket, 0, levels, Some(arrival));
    queue.socket.fill_to(&mut pool, levels.idle);
    let posted = |queue: &mut Queue, pool: &mut FramePool| {
        queue.look(true);
        (0..4).for_each(|_| assert!(queue.refill(pool)));
        queue.socket.rx_held()
    };
    assert_eq!(posted(&mut queue, &mut pool), 8);
    map.count((PORT, PortId(4)), [(1000, 60_000); 2]);
    assert_eq!(posted(&mut queue, &mut pool), 32);
    drop((queue, pool));
    assert_eq!(umem.arena().free_small(), FRAMES);
}
