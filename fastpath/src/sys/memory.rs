//! Packet memory: one arena of chunks a process, and the tokens that own them.
//!
//! An [`Arena`] is one mapping, in huge pages when the system has them free. Its first part is cut
//! into small chunks (the part that AF_XDP registers as UMEM), the rest into large ones that hold
//! a whole super-packet from a TAP. A [`Frame`] is a chunk's token: it cannot be cloned, so a
//! chunk has one owner at a time, and every chunk is in a free list, in a ring of the kernel, or
//! in the hands of a worker. Each worker has a [`FramePool`], a cache in front of the arena's
//! free lists, which are locked once a batch.
//!
//! The first [`LINK_SPACE`] bytes of a chunk hold the link to the packet's next chunk; packet
//! bytes never begin before them.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

mod pool;

pub use pool::FramePool;

/// Size of a small chunk, in bytes; also the UMEM chunk size.
pub const SMALL_CHUNK: usize = 4096;
/// Size of a large chunk, in bytes: 64 KiB of packet and room in front.
pub const LARGE_CHUNK: usize = 72 * 1024;
/// Bytes at the head of a chunk that packet bytes never touch.
pub const LINK_SPACE: usize = 64;
/// Where packet bytes begin in a chunk that a driver fills: the kernel's XDP_PACKET_HEADROOM.
pub const HEADROOM: usize = 256;
/// Chunks moved at once between a pool and the arena.
pub const BATCH: usize = 64;

const LARGE_TAG: usize = 1;

/// Frames dropped without being returned to a pool, over all arenas: 0 in a right program.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Frames lost since the process started: dropped where they should have been freed.
pub fn lost_frames() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Owns one chunk. Give it back with [`FramePool::free`]; dropping it counts a lost frame.
#[derive(Debug)]
pub struct Frame(NonNull<u8>);

// SAFETY: a frame is the only owner of its chunk's bytes, like a `Box<[u8]>`, and the arena keeps
// the mapping alive as long as a frame is out.
unsafe impl Send for Frame {}

/// The link at the head of a chunk to the packet's next one.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Link {
    next: usize,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

impl Frame {
    fn tagged(&self) -> usize {
        self.0.as_ptr().addr()
    }

    fn base(&self) -> *mut u8 {
        self.0.as_ptr().map_addr(|addr| addr & !LARGE_TAG)
    }

    /// True for a chunk of [`LARGE_CHUNK`] bytes.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.tagged() & LARGE_TAG != 0
    }

    /// Bytes in the chunk, its head included.
    #[inline]
    pub fn capacity(&self) -> usize {
        if self.is_large() { LARGE_CHUNK } else { SMALL_CHUNK }
    }

    /// Address of the chunk's first byte.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.base()
    }

    /// The bytes `offset..offset + len`. Panics when they are not inside the chunk's packet space.
    #[inline]
    pub fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        self.check(offset, len);
        // SAFETY: `check` keeps the offset inside the chunk.
        let start = unsafe { self.base().add(offset) };
        // SAFETY: the range lies in a live, initialised mapping; `&self` keeps writers out.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// As [`Frame::bytes`], to write.
    #[inline]
    pub fn bytes_mut(&mut self, offset: usize, len: usize) -> &mut [u8] {
        self.check(offset, len);
        // SAFETY: `check` keeps the offset inside the chunk.
        let start = unsafe { self.base().add(offset) };
        // SAFETY: as in `bytes`; `&mut self` makes this the only reference to the chunk.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// As [`Frame::bytes`] for a fixed number; `None` where they would reach beyond the packet
    /// space of a small chunk. Takes one comparison.
    #[inline]
    pub fn array<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        if !is_in_small::<N>(offset) {
            return None;
        }
        // SAFETY: the offset is inside the chunk, of which no size is below that of a small one.
        let start = unsafe { self.base().add(offset) };
        // SAFETY: as in `bytes`; an array of bytes has no alignment.
        Some(unsafe { &*start.cast::<[u8; N]>() })
    }

    /// As [`Frame::array`], to write.
    #[inline]
    pub fn array_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        if !is_in_small::<N>(offset) {
            return None;
        }
        // SAFETY: as in `array`.
        let start = unsafe { self.base().add(offset) };
        // SAFETY: as in `array`; `&mut self` makes this the only reference to the chunk.
        Some(unsafe { &mut *start.cast::<[u8; N]>() })
    }

    #[inline]
    fn check(&self, offset: usize, len: usize) {
        let capacity = self.capacity();
        if offset < LINK_SPACE || offset > capacity || len > capacity - offset {
            outside(offset, len, capacity);
        }
    }

    /// Ties `next` behind this frame, where its bytes are `offset..offset + len`.
    pub(crate) fn link(&mut self, next: Option<Frame>, offset: u32, len: u32) {
        let next = next.map_or(0, |frame| frame.into_token());
        let place = self.base().cast::<Link>();
        // SAFETY: chunks are page-aligned and LINK_SPACE holds a Link; `&mut self` is exclusive.
        unsafe { place.write(Link { next, offset, len }) };
    }

    /// The link written by [`Frame::link`]; nonsense, but harmless, if there was none.
    pub(crate) fn read_link(&self) -> Link {
        // SAFETY: as in `link`; any bytes make a Link, and the mapping is initialised.
        unsafe { self.base().cast::<Link>().read() }
    }

    /// The frame linked behind this one, taken out of the link.
    ///
    /// The caller must have linked it: [`crate::packet::Packet`] counts its segments.
    pub(crate) fn take_next(&mut self) -> Option<Frame> {
        let Link { next, offset, len } = self.read_link();
        self.link(None, offset, len);
        Frame::from_token(next)
    }

    /// A shared look at the frame linked behind this one.
    pub(crate) fn peek_next(&self) -> Option<std::mem::ManuallyDrop<Frame>> {
        Frame::from_token(self.read_link().next).map(std::mem::ManuallyDrop::new)
    }

    /// Gives up ownership for a plain number, for a ring's side table. See [`Frame::from_token`].
    pub(crate) fn into_token(self) -> usize {
        let token = self.0.as_ptr().expose_provenance();
        std::mem::forget(self);
        token
    }

    /// The inverse of [`Frame::into_token`]; `None` for 0. Crate-private because a number used
    /// twice would make two owners.
    pub(crate) fn from_token(token: usize) -> Option<Frame> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(token)).map(Frame)
    }
}

/// True when `offset..offset + N` is in the packet space of a small chunk.
#[inline]
fn is_in_small<const N: usize>(offset: usize) -> bool {
    const { assert!(N <= SMALL_CHUNK - LINK_SPACE) };
    offset.wrapping_sub(LINK_SPACE) <= SMALL_CHUNK - LINK_SPACE - N
}

#[cold]
fn outside(offset: usize, len: usize, capacity: usize) -> ! {
    panic!("bytes {offset}+{len} outside a chunk of {capacity}");
}

impl Drop for Frame {
    fn drop(&mut self) {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// The bytes of `frame`, which is linked into `packet`, for as long as the packet is borrowed.
pub(crate) fn linked_bytes<'a>(
    _packet: &'a crate::packet::Packet,
    frame: &Frame,
    link: Link,
) -> &'a [u8] {
    let bytes = frame.bytes(link.offset as usize, link.len as usize);
    // SAFETY: the packet owns the chunk behind the token and is borrowed for 'a, so the bytes
    // neither move nor change that long; the range was checked by `bytes`.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) }
}

/// Why an arena could not be made.
#[derive(Debug, thiserror::Error)]
#[error("packet memory of {bytes} bytes: {source}")]
pub struct ArenaError {
    bytes: usize,
    source: std::io::Error,
}

/// One mapping of packet memory, cut into chunks.
#[derive(Debug)]
pub struct Arena {
    base: NonNull<u8>,
    bytes: usize,
    small_count: usize,
    large_count: usize,
    huge_pages: bool,
    free_small: Mutex<Vec<Frame>>,
    free_large: Mutex<Vec<Frame>>,
    free_small_len: AtomicUsize,
}

// SAFETY: the base pointer is only used for address arithmetic; chunks are reached through frames.
unsafe impl Send for Arena {}
// SAFETY: as above, and the free lists are behind mutexes.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps room for `small` chunks of [`SMALL_CHUNK`] and `large` ones of [`LARGE_CHUNK`] bytes.
    /// Reserved huge pages are tried first; when none are free the kernel is asked to make
    /// transparent ones, and normal pages take their place where it has none.
    pub fn new(small: usize, large: usize) -> Result<Arc<Arena>, ArenaError> {
        let bytes = (small * SMALL_CHUNK + large * LARGE_CHUNK).next_multiple_of(2 << 20);
        let (base, huge_pages) = match map(bytes, libc::MAP_HUGETLB) {
            Ok(base) => (base, true),
            Err(_) => {
                let base = map(bytes, 0).map_err(|source| ArenaError { bytes, source })?;
                // SAFETY: the range is the new mapping; the advice changes no byte of it.
                unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
                (base, false)
            }
        };
        let chunk = |at: usize, tag: usize| {
            // SAFETY: `at` is below the length of the mapping.
            let start = unsafe { base.add(at) };
            Frame(start.map_addr(|addr| addr | tag))
        };
        let large_base = small * SMALL_CHUNK;
        let free_small = (0..small).rev().map(|index| chunk(index * SMALL_CHUNK, 0)).collect();
        let free_large =
            (0..large).map(|index| chunk(large_base + index * LARGE_CHUNK, LARGE_TAG)).collect();
        Ok(Arc::new(Arena {
            base,
            bytes,
            small_count: small,
            large_count: large,
            huge_pages,
            free_small: Mutex::new(free_small),
            free_large: Mutex::new(free_large),
            free_small_len: AtomicUsize::new(small),
        }))
    }

    /// First byte of the small chunks: what AF_XDP registers.
    pub fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Small chunks in all.
    pub fn small_count(&self) -> usize {
        self.small_count
    }

    /// Large chunks in all.
    pub fn large_count(&self) -> usize {
        self.large_count
    }

    /// True when the mapping is of reserved huge pages.
    pub fn has_huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Small chunks in the arena's own free list; pools hold more.
    pub fn free_small(&self) -> usize {
        self.free_small_len.load(Ordering::Relaxed)
    }

    /// Large chunks in the arena's own free list.
    pub fn free_large(&self) -> usize {
        self.free_large.lock().map_or(0, |list| list.len())
    }

    /// Index of a small frame, 0 to `small_count`.
    #[inline]
    pub fn index(&self, frame: &Frame) -> usize {
        (frame.base().addr() - self.base.as_ptr().addr()) / SMALL_CHUNK
    }

    /// Byte offset of `frame` in the UMEM.
    #[inline]
    pub fn umem_offset(&self, frame: &Frame) -> u64 {
        (frame.base().addr() - self.base.as_ptr().addr()) as u64
    }

    /// The token of the small chunk that holds UMEM byte `offset`; `None` outside the arena.
    /// Crate-private: the caller (an AF_XDP socket) proves by its own books that it gave this
    /// chunk to the kernel and has not had it back.
    #[inline]
    pub(crate) fn frame_at(&self, offset: u64) -> Option<Frame> {
        let index = usize::try_from(offset).ok()? / SMALL_CHUNK;
        if index >= self.small_count {
            return None;
        }
        // SAFETY: the index was checked against the chunks of the mapping.
        Some(Frame(unsafe { self.base.add(index * SMALL_CHUNK) }))
    }

    fn list(&self, large: bool) -> &Mutex<Vec<Frame>> {
        if large { &self.free_large } else { &self.free_small }
    }

    fn take(&self, large: bool, into: &mut Vec<Frame>, count: usize) {
        let Ok(mut list) = self.list(large).lock() else { return };
        let keep = list.len().saturating_sub(count);
        into.extend(list.drain(keep..));
        if !large {
            self.free_small_len.store(list.len(), Ordering::Relaxed);
        }
    }

    fn give(&self, large: bool, from: &mut Vec<Frame>, keep: usize) {
        let Ok(mut list) = self.list(large).lock() else { return };
        list.extend(from.drain(keep.min(from.len())..));
        if !large {
            self.free_small_len.store(list.len(), Ordering::Relaxed);
        }
    }
}

impl Drop for Arena {
    /// Unmaps the memory when every chunk is home. A chunk that is still out keeps all of it
    /// mapped, because its frame holds no reference to the arena.
    fn drop(&mut self) {
        let home = |list: &mut Mutex<Vec<Frame>>| {
            let frames = list.get_mut().map(std::mem::take).unwrap_or_default();
            frames.into_iter().map(std::mem::forget).count()
        };
        let (small, large) = (home(&mut self.free_small), home(&mut self.free_large));
        if (small, large) == (self.small_count, self.large_count) {
            // SAFETY: `map` gave exactly this range, and no frame points into it any more: each
            // chunk's only token was in a free list and has just been forgotten.
            unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
        }
    }
}

pub(super) fn map(bytes: usize, flags: i32) -> Result<NonNull<u8>, std::io::Error> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| std::io::Error::other("mapped at address 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_handed_out_once_and_comes_back() {
        let arena = Arena::new(200, 3).unwrap();
        let mut pool = FramePool::new(arena.clone());
        let mut frames: Vec<Frame> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!(frames.len(), 200);
        let mut indices: Vec<usize> = frames.iter().map(|frame| arena.index(frame)).collect();
        indices.sort_unstable();
        assert_eq!(indices, (0..200).collect::<Vec<_>>());
        frames.extend(std::iter::from_fn(|| pool.alloc_large()));
        assert_eq!(frames.len(), 203);
        for (at, frame) in frames.iter_mut().enumerate() {
            let last = frame.capacity() - 8;
            frame.bytes_mut(last, 8).copy_from_slice(&(at as u64).to_be_bytes());
        }
        for (at, frame) in frames.iter().enumerate() {
            assert_eq!(frame.bytes(frame.capacity() - 8, 8), (at as u64).to_be_bytes());
        }
        frames.into_iter().for_each(|frame| pool.free(frame));
        drop(pool);
        assert_eq!((arena.free_small(), arena.free_large()), (200, 3));
    }

    #[test]
    fn arrays_are_inside_of_the_packet_space() {
        let mut pool = FramePool::new(Arena::new(1, 1).unwrap());
        for mut frame in [pool.alloc().unwrap(), pool.alloc_large().unwrap()] {
            let last = SMALL_CHUNK - 64;
            for (offset, fits) in [
                (0, false),
                (LINK_SPACE - 1, false),
                (LINK_SPACE, true),
                (last, true),
                (last + 1, false),
                (usize::MAX, false),
            ] {
                assert_eq!(frame.array::<64>(offset).is_some(), fits, "{offset}");
                if let Some(array) = frame.array_mut::<64>(offset) {
                    *array = [7; 64];
                    assert_eq!(frame.bytes(offset, 64), [7; 64]);
                }
            }
            pool.free(frame);
        }
    }

    #[test]
    fn a_burst_has_as_many_frames_as_there_are() {
        let arena = Arena::new(200, 0).unwrap();
        let mut pool = FramePool::new(arena.clone());
        let mut frames: Vec<Frame> = Vec::new();
        for wanted in [64, 64, 64, 8, 0] {
            let burst = pool.alloc_burst(64);
            assert_eq!(burst.len(), wanted);
            frames.extend(burst);
        }
        let mut indices: Vec<usize> = frames.iter().map(|frame| arena.index(frame)).collect();
        indices.sort_unstable();
        assert_eq!(indices, (0..200).collect::<Vec<_>>());
        frames.into_iter().for_each(|frame| pool.free(frame));
    }

    #[test]
    #[should_panic(expected = "outside a chunk")]
    fn bytes_beyond_the_chunk_are_refused() {
        let arena = Arena::new(1, 0).unwrap();
        let mut pool = FramePool::new(arena);
        let frame = std::mem::ManuallyDrop::new(pool.alloc().unwrap());
        frame.bytes(4000, 97);
    }
}
