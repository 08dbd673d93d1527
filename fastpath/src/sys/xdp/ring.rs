//! The ring between two sides that share memory: this process and the kernel, or two halves of a
//! test.
//!
//! One side produces, the other consumes; each owns one index and reads the other's. Both count
//! on without wrapping to the ring's size, so their difference is the fill. The side's own index
//! is published with Release, the other's read with Acquire, once a batch; in between, cached
//! copies serve. The other side's index is never trusted: a difference beyond the ring's size
//! leaves the ring empty (or full) and is counted. Slots are read and written as relaxed atomics,
//! so that even a writer that breaks the protocol only gives wrong values, which the owner of the
//! ring checks.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Memory that holds a ring; unmapped or freed with its last user.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u64>,
    bytes: usize,
    plain: bool,
}

// SAFETY: a region is only reached through atomics, from any thread.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `bytes` of a socket's memory at `offset`, which names one of its rings.
    pub fn map(fd: BorrowedFd<'_>, bytes: usize, offset: i64) -> io::Result<Arc<Region>> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let fd = fd.as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Arc::new(Region { start, bytes, plain: false }))
    }

    /// The same in ordinary memory, zeroed.
    pub fn plain(bytes: usize) -> Arc<Region> {
        let words = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        let bytes = words.len() * 8;
        let start = NonNull::from(Box::leak(words)).cast();
        Arc::new(Region { start, bytes, plain: true })
    }

    fn index(&self, at: usize) -> Option<&AtomicU32> {
        if !at.is_multiple_of(4) || at.checked_add(4)? > self.bytes {
            return None;
        }
        // SAFETY: the offset was checked against the region.
        let place = unsafe { self.start.byte_add(at) };
        // SAFETY: inside the region and aligned, alive as long as `self`, which the returned
        // reference borrows; all sides use atomics there.
        Some(unsafe { place.cast::<AtomicU32>().as_ref() })
    }

    fn words(&self, at: usize, count: usize) -> Option<&[AtomicU64]> {
        let end = at.checked_add(count.checked_mul(8)?)?;
        if !at.is_multiple_of(8) || end > self.bytes {
            return None;
        }
        // SAFETY: the offset was checked against the region.
        let place = unsafe { self.start.byte_add(at) };
        // SAFETY: `count` aligned words from there lie in the region, alive as long as `self`;
        // all sides use atomics there.
        Some(unsafe { std::slice::from_raw_parts(place.cast::<AtomicU64>().as_ptr(), count) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.plain {
            let words = std::ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.bytes / 8);
            // SAFETY: `plain` leaked a box of exactly these words, and nobody uses it any more.
            drop(unsafe { Box::from_raw(words) });
        } else {
            // SAFETY: `map` made this mapping, and nobody uses it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }
}

/// What a ring holds.
pub trait Slot: Copy {
    /// 64-bit words of a slot.
    const WORDS: usize;
    /// Writes the slot's words.
    fn store(self, words: &[AtomicU64]);
    /// Reads them.
    fn load(words: &[AtomicU64]) -> Self;
}

/// A byte offset in the UMEM: a slot of the fill and completion rings.
impl Slot for u64 {
    const WORDS: usize = 1;

    #[inline]
    fn store(self, words: &[AtomicU64]) {
        words[0].store(self, Ordering::Relaxed);
    }

    #[inline]
    fn load(words: &[AtomicU64]) -> u64 {
        words[0].load(Ordering::Relaxed)
    }
}

/// The kernel's `struct xdp_desc`: a slot of the rx and tx rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desc {
    /// Where the bytes begin in the UMEM.
    pub addr: u64,
    /// How many there are.
    pub len: u32,
    /// Flags: [`Desc::CONTINUED`].
    pub options: u32,
}

impl Desc {
    /// The packet goes on in the next descriptor (XDP_PKT_CONTD).
    pub const CONTINUED: u32 = 1;
}

impl Slot for Desc {
    const WORDS: usize = 2;

    #[inline]
    fn store(self, words: &[AtomicU64]) {
        let [a, b, c, d] = self.len.to_ne_bytes();
        let [e, f, g, h] = self.options.to_ne_bytes();
        words[0].store(self.addr, Ordering::Relaxed);
        words[1].store(u64::from_ne_bytes([a, b, c, d, e, f, g, h]), Ordering::Relaxed);
    }

    #[inline]
    fn load(words: &[AtomicU64]) -> Desc {
        let addr = words[0].load(Ordering::Relaxed);
        let [a, b, c, d, e, f, g, h] = words[1].load(Ordering::Relaxed).to_ne_bytes();
        let len = u32::from_ne_bytes([a, b, c, d]);
        Desc { addr, len, options: u32::from_ne_bytes([e, f, g, h]) }
    }
}

/// Where the parts of a ring lie in its region, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The producer's index.
    pub producer: usize,
    /// The consumer's index.
    pub consumer: usize,
    /// The flags that the kernel sets.
    pub flags: usize,
    /// The first slot.
    pub slots: usize,
}

impl Layout {
    /// A layout for rings in plain memory.
    pub const PLAIN: Layout = Layout { producer: 0, consumer: 64, flags: 72, slots: 128 };

    /// Bytes of a region for a ring of `size` slots.
    pub fn bytes<T: Slot>(&self, size: u32) -> usize {
        self.slots + size as usize * T::WORDS * 8
    }
}

/// What both ends have: the memory, and addresses in it that were checked once.
#[derive(Debug)]
struct Shared {
    region: Arc<Region>,
    layout: Layout,
    size: u32,
    slot_words: usize,
}

impl Shared {
    fn new<T: Slot>(region: Arc<Region>, layout: Layout, size: u32) -> Option<Shared> {
        let whole = size.is_power_of_two()
            && region.index(layout.producer).is_some()
            && region.index(layout.consumer).is_some()
            && region.index(layout.flags).is_some()
            && region.words(layout.slots, size as usize * T::WORDS).is_some();
        whole.then_some(Shared { region, layout, size, slot_words: T::WORDS })
    }

    #[inline]
    fn index(&self, at: usize) -> &AtomicU32 {
        self.region.index(at).expect("checked when the ring was made")
    }

    #[inline]
    fn slot(&self, index: u32) -> &[AtomicU64] {
        let at = self.layout.slots + (index & (self.size - 1)) as usize * self.slot_words * 8;
        self.region.words(at, self.slot_words).expect("checked when the ring was made")
    }
}

/// The end that writes.
#[derive(Debug)]
pub struct Producer<T> {
    shared: Shared,
    next: u32,
    published: u32,
    consumer: u32,
    broken: u64,
    _slots: std::marker::PhantomData<T>,
}

impl<T: Slot> Producer<T> {
    /// The producing end of a ring of `size` slots, a power of two. `None` when the region is
    /// too small or the layout crooked.
    pub fn new(region: Arc<Region>, layout: Layout, size: u32) -> Option<Producer<T>> {
        let shared = Shared::new::<T>(region, layout, size)?;
        let next = shared.index(layout.producer).load(Ordering::Relaxed);
        let consumer = shared.index(layout.consumer).load(Ordering::Acquire);
        let _slots = std::marker::PhantomData;
        Some(Producer { shared, next, published: next, consumer, broken: 0, _slots })
    }

    /// Slots in all.
    pub fn size(&self) -> u32 {
        self.shared.size
    }

    /// Free slots; looks at the consumer's index only when fewer than `wanted` are known of.
    #[inline]
    pub fn free(&mut self, wanted: u32) -> u32 {
        let known = self.shared.size - self.next.wrapping_sub(self.consumer);
        if known >= wanted {
            return known;
        }
        self.refresh();
        self.shared.size - self.next.wrapping_sub(self.consumer)
    }

    fn refresh(&mut self) {
        let consumer = self.shared.index(self.shared.layout.consumer).load(Ordering::Acquire);
        if self.published.wrapping_sub(consumer) > self.shared.size
            || self.next.wrapping_sub(consumer) > self.shared.size
        {
            self.broken += 1;
            return;
        }
        self.consumer = consumer;
    }

    /// Writes one slot, unpublished; false when the ring is full.
    #[inline]
    pub fn push(&mut self, value: T) -> bool {
        if self.free(1) == 0 {
            return false;
        }
        value.store(self.shared.slot(self.next));
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Publishes what was pushed; how many slots.
    #[inline]
    pub fn publish(&mut self) -> u32 {
        let count = self.next.wrapping_sub(self.published);
        if count != 0 {
            self.published = self.next;
            let index = self.shared.index(self.shared.layout.producer);
            index.store(self.next, Ordering::Release);
        }
        count
    }

    /// Published slots that the consumer has not taken.
    pub fn pending(&mut self) -> u32 {
        self.refresh();
        self.published.wrapping_sub(self.consumer)
    }

    /// True when the kernel asks to be woken for what is in the ring (XDP_RING_NEED_WAKEUP).
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.shared.index(self.shared.layout.flags).load(Ordering::Relaxed) & 1 != 0
    }

    /// How often the consumer's index made no sense.
    pub fn broken(&self) -> u64 {
        self.broken
    }
}

/// The end that reads.
#[derive(Debug)]
pub struct Consumer<T> {
    shared: Shared,
    next: u32,
    released: u32,
    producer: u32,
    broken: u64,
    _slots: std::marker::PhantomData<T>,
}

impl<T: Slot> Consumer<T> {
    /// The consuming end; see [`Producer::new`].
    pub fn new(region: Arc<Region>, layout: Layout, size: u32) -> Option<Consumer<T>> {
        let shared = Shared::new::<T>(region, layout, size)?;
        let next = shared.index(layout.consumer).load(Ordering::Relaxed);
        let _slots = std::marker::PhantomData;
        Some(Consumer { shared, next, released: next, producer: next, broken: 0, _slots })
    }

    /// Slots in all.
    pub fn size(&self) -> u32 {
        self.shared.size
    }

    /// Slots ready to read; looks at the producer's index only when none are known of.
    #[inline]
    pub fn ready(&mut self) -> u32 {
        let known = self.producer.wrapping_sub(self.next);
        if known != 0 {
            return known;
        }
        let producer = self.shared.index(self.shared.layout.producer).load(Ordering::Acquire);
        if producer.wrapping_sub(self.released) > self.shared.size {
            self.broken += 1;
            return 0;
        }
        self.producer = producer;
        producer.wrapping_sub(self.next)
    }

    /// Takes one slot; its place is the producer's again after [`Consumer::release`].
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.ready() == 0 {
            return None;
        }
        let value = T::load(self.shared.slot(self.next));
        self.next = self.next.wrapping_add(1);
        Some(value)
    }

    /// Gives the places of all taken slots back.
    #[inline]
    pub fn release(&mut self) {
        if self.next != self.released {
            self.released = self.next;
            let index = self.shared.index(self.shared.layout.consumer);
            index.store(self.next, Ordering::Release);
        }
    }

    /// How often the producer's index made no sense.
    pub fn broken(&self) -> u64 {
        self.broken
    }
}

#[cfg(test)]
mod tests;
