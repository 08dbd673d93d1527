//! Packet memory in the kernel's hands: who holds which frame, and who shares a registration.
//!
//! All sockets of the process share the arena's small chunks as their UMEM, so that a frame
//! received on one device is sent on another without a copy. The first socket registers the
//! memory, the next ones bind to any that is still bound (XDP_SHARED_UMEM); when the last is gone,
//! the next registers anew, and which socket came first does not matter. A registration is either
//! for zero-copy devices or for the others, so there may be two at a time, over the same chunks.
//!
//! The book has an entry for each chunk: 0, or the socket and direction in which the kernel has
//! it. What the kernel names in a ring is looked up there, so a wrong address costs a count and
//! never a second owner; and when a socket is closed, a walk over the book finds all it held.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sys::memory::{Arena, Frame, FramePool, SMALL_CHUNK};

/// Which ring a frame went into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Into the fill ring; it comes back on the rx ring.
    Rx = 0,
    /// Into the tx ring; it comes back on the completion ring.
    Tx = 1,
}

/// A socket's entry in the book; unique while the process lives (it wraps after 2^31 sockets).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder(u32);

impl Holder {
    fn tag(self, direction: Direction) -> u32 {
        self.0 << 1 | direction as u32
    }
}

/// A socket that others may share the registration of.
#[derive(Debug)]
pub(super) struct Sharer {
    pub(super) fd: RawFd,
    pub(super) zero_copy: bool,
    pub(super) chains: bool,
}

/// The book over one arena. Make one for the process.
#[derive(Debug)]
pub struct Umem {
    arena: Arc<Arena>,
    book: Box<[AtomicU32]>,
    last_holder: AtomicU32,
    sharers: Mutex<Vec<Sharer>>,
}

impl Umem {
    /// An empty book over the small chunks of `arena`.
    pub fn new(arena: Arc<Arena>) -> Arc<Umem> {
        let book = (0..arena.small_count()).map(|_| AtomicU32::new(0)).collect();
        let (last_holder, sharers) = (AtomicU32::new(0), Mutex::new(Vec::new()));
        Arc::new(Umem { arena, book, last_holder, sharers })
    }

    /// The packet memory itself.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// A new entry for a socket.
    pub fn new_holder(&self) -> Holder {
        loop {
            let id = self.last_holder.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & (!0 >> 1);
            if id != 0 {
                return Holder(id);
            }
        }
    }

    /// Writes down that the kernel has `frame`, a small one; its chunk's offset in the UMEM.
    #[inline]
    pub fn lend(&self, frame: Frame, holder: Holder, direction: Direction) -> u64 {
        let index = self.arena.index(&frame);
        self.book[index].store(holder.tag(direction), Ordering::Relaxed);
        let _ = frame.into_token();
        (index * SMALL_CHUNK) as u64
    }

    /// The frame that the kernel gives back with UMEM address `addr`. `None` when this holder has
    /// not lent it in this direction.
    #[inline]
    pub fn take_back(&self, addr: u64, holder: Holder, direction: Direction) -> Option<Frame> {
        let entry = self.book.get(usize::try_from(addr).ok()? / SMALL_CHUNK)?;
        // A plain load and store will do: only the holder's own thread changes this tag.
        if entry.load(Ordering::Relaxed) != holder.tag(direction) {
            return None;
        }
        entry.store(0, Ordering::Relaxed);
        self.arena.frame_at(addr)
    }

    /// Gives all frames of a closed socket back to the arena; how many.
    ///
    /// Only for [`super::socket::Socket`], after the kernel has let go of them.
    pub(super) fn sweep(&self, holder: Holder) -> usize {
        let mut pool = FramePool::new(self.arena.clone());
        let mut count = 0;
        for (index, entry) in self.book.iter().enumerate() {
            let tag = entry.load(Ordering::Relaxed);
            if tag >> 1 != holder.0 {
                continue;
            }
            entry.store(0, Ordering::Relaxed);
            if let Some(frame) = self.arena.frame_at((index * SMALL_CHUNK) as u64) {
                pool.free(frame);
                count += 1;
            }
        }
        count
    }

    /// Frames that the kernel has, of all sockets: a walk over the whole book.
    pub fn lent(&self) -> usize {
        self.book.iter().filter(|entry| entry.load(Ordering::Relaxed) != 0).count()
    }

    /// The sockets to share with. While the guard is held none of them is closed.
    pub(super) fn sharers(&self) -> MutexGuard<'_, Vec<Sharer>> {
        self.sharers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes a socket that others may be sharing with at this moment.
    pub(super) fn close(&self, fd: OwnedFd) {
        let mut sharers = self.sharers();
        sharers.retain(|sharer| sharer.fd != fd.as_raw_fd());
        drop(fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_once_to_its_holder_in_its_direction() {
        let umem = Umem::new(Arena::new(8, 0).unwrap());
        let mut pool = FramePool::new(umem.arena().clone());
        let (ours, other) = (umem.new_holder(), umem.new_holder());
        let addr = umem.lend(pool.alloc().unwrap(), ours, Direction::Rx);
        assert_eq!(umem.lent(), 1);
        assert!(umem.take_back(addr, other, Direction::Rx).is_none());
        assert!(umem.take_back(addr, ours, Direction::Tx).is_none());
        assert!(umem.take_back(addr ^ 4096, ours, Direction::Rx).is_none());
        assert!(umem.take_back(8 * 4096, ours, Direction::Rx).is_none());
        assert!(umem.take_back(u64::MAX, ours, Direction::Rx).is_none());
        let frame = umem.take_back(addr + 256, ours, Direction::Rx).unwrap();
        assert!(umem.take_back(addr, ours, Direction::Rx).is_none());
        pool.free(frame);
    }

    #[test]
    fn a_sweep_finds_all_frames_of_one_holder_and_no_other() {
        let umem = Umem::new(Arena::new(100, 0).unwrap());
        let mut pool = FramePool::new(umem.arena().clone());
        let (ours, other) = (umem.new_holder(), umem.new_holder());
        for _ in 0..30 {
            umem.lend(pool.alloc().unwrap(), ours, Direction::Rx);
            umem.lend(pool.alloc().unwrap(), ours, Direction::Tx);
            umem.lend(pool.alloc().unwrap(), other, Direction::Rx);
        }
        drop(pool);
        assert_eq!(umem.sweep(ours), 60);
        assert_eq!((umem.lent(), umem.arena().free_small()), (30, 70));
        assert_eq!((umem.sweep(ours), umem.sweep(other)), (0, 30));
        assert_eq!(umem.arena().free_small(), 100);
    }
}
