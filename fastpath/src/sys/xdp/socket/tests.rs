//! A socket whose kernel is the test: rings in plain memory, any descriptor that may come.

use super::*;
use crate::sys::memory::Arena;
use crate::sys::xdp::ring::{Layout, Region};
use proptest::prelude::*;

pub(crate) const FRAMES: usize = 128;
pub(crate) const SLOTS: u32 = 32;

/// The kernel's ends of the rings.
pub(crate) struct Kernel {
    pub(crate) rx: Producer<Desc>,
    pub(crate) tx: Consumer<Desc>,
    pub(crate) fill: Consumer<u64>,
    pub(crate) completion: Producer<u64>,
}

/// A socket over [`FRAMES`] frames, with rings of [`SLOTS`], and what is behind it.
pub(crate) fn socket() -> (Socket, Kernel, Arc<Umem>, FramePool) {
    let region = || Region::plain(Layout::PLAIN.bytes::<Desc>(SLOTS));
    let (rx, tx, fill, completion) = (region(), region(), region(), region());
    let layout = Layout::PLAIN;
    let rings = Rings {
        rx: Consumer::new(rx.clone(), layout, SLOTS).unwrap(),
        tx: Producer::new(tx.clone(), layout, SLOTS).unwrap(),
        fill: Producer::new(fill.clone(), layout, SLOTS).unwrap(),
        completion: Consumer::new(completion.clone(), layout, SLOTS).unwrap(),
    };
    let kernel = Kernel {
        rx: Producer::new(rx, layout, SLOTS).unwrap(),
        tx: Consumer::new(tx, layout, SLOTS).unwrap(),
        fill: Consumer::new(fill, layout, SLOTS).unwrap(),
        completion: Producer::new(completion, layout, SLOTS).unwrap(),
    };
    let umem = Umem::new(Arena::new(FRAMES, 0).unwrap());
    let file = std::fs::File::open("/dev/null").unwrap();
    let fd = OpenFd::new(umem.clone(), file.into());
    let pool = FramePool::new(umem.arena().clone());
    (Socket::new(&umem, rings, fd, None, true), kernel, umem, pool)
}

#[test]
fn frames_go_round_and_a_dropped_socket_gives_back_those_that_are_out() {
    let (mut socket, mut kernel, umem, mut pool) = socket();
    assert!(socket.fill_to(&mut pool, 20));
    assert_eq!(socket.rx_held(), 20);
    let addr = kernel.fill.pop().unwrap();
    kernel.rx.push(Desc { addr: addr | 256 << 48, len: 60, options: 0 });
    kernel.rx.publish();
    let part = socket.receive(&mut pool).unwrap();
    assert_eq!((part.offset, part.len, part.more, socket.rx_held()), (256, 60, false, 19));
    assert!(socket.receive(&mut pool).is_none());
    socket.end_receive();
    assert!(socket.send(part.frame, (200, 116), false).is_ok());
    assert_eq!(socket.end_send(), 1);
    let sent = kernel.tx.pop().unwrap();
    assert_eq!(sent, Desc { addr: addr + 200, len: 116, options: 0 });
    assert_eq!((socket.tx_held(), umem.lent()), (1, 20));
    kernel.completion.push(sent.addr);
    kernel.completion.publish();
    assert_eq!((socket.reclaim(&mut pool), socket.tx_held()), (1, 0));
    assert_eq!(socket.bad_descs(), 0);
    drop(pool);
    drop(socket);
    assert_eq!((umem.lent(), umem.arena().free_small()), (0, FRAMES));
}

#[test]
fn a_full_ring_and_a_useless_part_give_the_frame_back() {
    let (mut socket, _kernel, umem, mut pool) = socket();
    for at in [(256, 0), (4000, 97)] {
        let frame = socket.send(pool.alloc().unwrap(), at, false).unwrap_err();
        pool.free(frame);
    }
    for _ in 0..SLOTS {
        assert!(socket.send(pool.alloc().unwrap(), (256, 60), false).is_ok());
    }
    let frame = socket.send(pool.alloc().unwrap(), (256, 60), false).unwrap_err();
    pool.free(frame);
    assert_eq!((socket.end_send(), socket.tx_room(1)), (SLOTS as usize, 0));
    drop((socket, pool));
    assert_eq!(umem.arena().free_small(), FRAMES);
}

proptest! {
    /// Whatever a kernel may say: no frame has two owners, none is lost, the worst is a count.
    #[test]
    fn descriptors_that_make_no_sense_are_counted(
        rx in prop::collection::vec(
            (0u64..160 * 4096, 0u64..0x1_0000, 0u32..6000, 0u32..3), 0..60),
        completions in prop::collection::vec(0u64..160 * 4096, 0..60),
    ) {
        let (mut socket, mut kernel, umem, mut pool) = socket();
        socket.fill_to(&mut pool, 24);
        for _ in 0..16 {
            let sent = socket.send(pool.alloc().unwrap(), (256, 60), false);
            prop_assert!(sent.is_ok());
        }
        socket.end_send();
        let (mut said, mut good) = (0, 0);
        let mut held = Vec::new();
        for (addr, distance, len, options) in rx {
            // Of aligned memory, or of unaligned.
            let distance = if distance & 1 == 0 { distance & 0xfff } else { 0 };
            kernel.rx.push(Desc { addr: addr | distance << 48, len, options });
            kernel.rx.publish();
            said += 1;
            while let Some(part) = socket.receive(&mut pool) {
                prop_assert!(part.offset + part.len <= SMALL_CHUNK);
                good += 1;
                held.push(part.frame);
            }
            socket.end_receive();
        }
        for addr in completions {
            kernel.completion.push(addr);
            kernel.completion.publish();
            said += 1;
            good += socket.reclaim(&mut pool);
        }
        prop_assert_eq!(socket.bad_descs() as usize, said - good);
        let mut indices: Vec<_> = held.iter().map(|frame| umem.arena().index(frame)).collect();
        indices.sort_unstable();
        indices.dedup();
        prop_assert_eq!(indices.len(), held.len());
        held.into_iter().for_each(|frame| pool.free(frame));
        drop(pool);
        drop(socket);
        prop_assert_eq!((umem.lent(), umem.arena().free_small()), (0, FRAMES));
    }
}
