//! The ring by which io_uring is given buffers to read into: a page shared with the kernel.

use super::uring::MAX_BUFFERS;
use io_uring::types::BufRingEntry;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// A ring of [`MAX_BUFFERS`] entries.
pub(super) struct BufferRing {
    base: NonNull<BufRingEntry>,
    tail: u16,
}

// SAFETY: the page is reached through this value only, and by the kernel.
unsafe impl Send for BufferRing {}

const PAGE: usize = 4096;

impl BufferRing {
    pub(super) fn new() -> io::Result<BufferRing> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: an anonymous mapping at an address of the kernel's choice.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(page.cast()).ok_or_else(|| io::Error::other("page at 0"))?;
        Ok(BufferRing { base, tail: 0 })
    }

    /// Address for `register_buf_ring`.
    pub(super) fn address(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    /// Provides `room` under `number`. The caller keeps the room untouched until the kernel has
    /// named the number; at most [`MAX_BUFFERS`] are provided at a time.
    pub(super) fn push(&mut self, room: &mut [u8], number: u16) {
        let place = usize::from(self.tail) % MAX_BUFFERS;
        // SAFETY: MAX_BUFFERS entries fit in the page, and the place is below that.
        let entry = unsafe { self.base.add(place) };
        // SAFETY: the kernel reads entries below the tail only, and this one is not; so this is
        // the only reference. Zero bytes are a valid entry.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(room.as_mut_ptr().expose_provenance() as u64);
        entry.set_len(room.len() as u32);
        entry.set_bid(number);
        self.tail = self.tail.wrapping_add(1);
        self.publish();
    }

    /// Takes the buffer that was provided last away again, and gives its number. Only while no
    /// read is under way, and no more often than there are buffers that the kernel has not used.
    pub(super) fn retract(&mut self) -> u16 {
        self.tail = self.tail.wrapping_sub(1);
        self.publish();
        let place = usize::from(self.tail) % MAX_BUFFERS;
        // SAFETY: MAX_BUFFERS entries fit in the page, and the place is below that.
        let entry = unsafe { self.base.add(place) };
        // SAFETY: the entry was written by `push`, and the kernel never writes entries.
        unsafe { &*entry.as_ptr() }.bid()
    }

    fn publish(&self) {
        // SAFETY: the base is the first entry of a live ring.
        let tail = unsafe { BufRingEntry::tail(self.base.as_ptr()) };
        // SAFETY: the tail is an aligned u16 in the page, which only we write.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: the page was mapped by `new` and nothing borrows it any more; the kernel holds
        // its own reference to the page.
        unsafe { libc::munmap(self.base.as_ptr().cast(), PAGE) };
    }
}
