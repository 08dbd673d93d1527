//! Large tables of 32-bit words that one writer changes under readers: the memory of the FIB, and
//! of the index of flows.
//!
//! The mapping begins as zeros that no page stands behind: an untouched word costs nothing, and
//! reading it costs no memory either. [`WordTable::promote`] asks for huge pages once a table has
//! grown so far that misses in the TLB cost more than half-used pages; who may not stop for that
//! asks with [`WordTable::prefer_huge_pages`] while it is empty.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// A fixed number of words, 0 at first.
#[derive(Debug)]
pub struct WordTable {
    start: NonNull<u8>,
    words: usize,
    bytes: usize,
}

// SAFETY: the words are atomics in a mapping that this value owns; nothing belongs to a thread.
unsafe impl Send for WordTable {}
// SAFETY: as above; all shared access goes through atomics.
unsafe impl Sync for WordTable {}

const HUGE_PAGE: usize = 2 << 20;

impl WordTable {
    /// Maps `words` words. Errors come from mmap: no address space.
    pub fn new(words: usize) -> std::io::Result<WordTable> {
        let bytes = (words * size_of::<AtomicU32>()).next_multiple_of(HUGE_PAGE);
        let start = super::memory::map(bytes, libc::MAP_NORESERVE)?;
        Ok(WordTable { start, words, bytes })
    }

    /// Takes huge pages from now on. False when the kernel has none.
    pub fn prefer_huge_pages(&self) -> bool {
        // SAFETY: the range is this value's own mapping; the advice changes no byte of it.
        unsafe { libc::madvise(self.start.as_ptr().cast(), self.bytes, libc::MADV_HUGEPAGE) == 0 }
    }

    /// Moves what is there to huge pages, and takes huge ones from now on. Readers and the writer
    /// may go on meanwhile. False when the kernel refuses; then the table stays as it is.
    pub fn promote(&self) -> bool {
        let advised = self.prefer_huge_pages();
        let start = self.start.as_ptr().cast();
        // Parts with no page at all make the call fail after it has done the others, and kernels
        // before 6.1 don't know it: the kernel's own collapsing follows in both cases.
        // SAFETY: the range is this value's own mapping; collapsing keeps the contents.
        unsafe { libc::madvise(start, self.bytes, libc::MADV_COLLAPSE) };
        advised
    }

    /// The words for one who reads many: after an acquiring load the compiler would find out
    /// anew each time where they are.
    #[inline]
    pub fn reader(&self) -> Reader<'_> {
        Reader(self)
    }

    /// Asks the processor to load the line of word `index` soon. Nothing happens outside the table.
    #[inline]
    pub fn prefetch(&self, index: usize) {
        self.reader().prefetch(index);
    }
}

/// The words of a [`WordTable`].
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [AtomicU32]);

impl Reader<'_> {
    /// The word `index`, and all that was stored before it. Panics when there is none.
    #[inline(always)]
    pub fn load(self, index: usize) -> u32 {
        self.0[index].load(Ordering::Acquire)
    }

    /// Which of the eight intervals that begin at these words, ascending [`bound`]s of which the
    /// first counts as reached, `value` falls into. Panics when they are not all in the table.
    #[inline(always)]
    pub fn interval(self, start: usize, value: u32) -> usize {
        let bounds: &[AtomicU32; 8] = self.0[start..].first_chunk().expect("bounds in the table");
        interval(bounds, value)
    }

    /// As [`WordTable::prefetch`].
    #[inline(always)]
    pub fn prefetch(self, index: usize) {
        // Outside the table the address is nobody's, which a prefetch may have.
        prefetch_line(self.0.as_ptr().wrapping_add(index).cast());
    }
}

/// A number as [`WordTable::interval`] has it in a table: in the order of signed numbers, which is
/// what the processor compares.
#[inline]
pub fn bound(value: u32) -> u32 {
    value ^ 1 << 31
}

/// The number of a [`bound`].
#[inline]
pub fn bound_of(bound: u32) -> u32 {
    bound ^ 1 << 31
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn interval(bounds: &[AtomicU32; 8], value: u32) -> usize {
    use std::arch::x86_64::__m128i;
    let (low, high): (__m128i, __m128i);
    // In assembly, because Rust knows no atomic load of more than one word. The processor loads
    // each aligned word whole, as a relaxed load would, and a writer changes no bounds that a
    // reader may see.
    // SAFETY: both loads are inside of the array; registers are all that changes.
    unsafe {
        std::arch::asm!(
            "movdqu {low}, [{bounds}]",
            "movdqu {high}, [{bounds} + 16]",
            bounds = in(reg) bounds,
            low = out(xmm_reg) low,
            high = out(xmm_reg) high,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    // SAFETY: every x86-64 has SSE2.
    let beyond = unsafe { beyond(low, high, bound(value) as i32) };
    // Two bits for each bound; the first one is always reached, and the last interval has no end.
    let beyond = beyond & !0b11 | 1 << 16;
    beyond.trailing_zeros() as usize / 2 - 1
}

/// Two bits for each of eight numbers that is greater than `value`, from the lowest one on.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn beyond(low: std::arch::x86_64::__m128i, high: std::arch::x86_64::__m128i, value: i32) -> i32 {
    use std::arch::x86_64::{_mm_cmpgt_epi32, _mm_movemask_epi8, _mm_packs_epi32, _mm_set1_epi32};
    let value = _mm_set1_epi32(value);
    let beyond = _mm_packs_epi32(_mm_cmpgt_epi32(low, value), _mm_cmpgt_epi32(high, value));
    _mm_movemask_epi8(beyond)
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn interval(bounds: &[AtomicU32; 8], value: u32) -> usize {
    let reached = |word: &AtomicU32| bound_of(word.load(Ordering::Relaxed)) <= value;
    bounds[1..].iter().filter(|word| reached(word)).count()
}

/// Asks for huge pages behind a list, its unused capacity included: parts that nobody has touched
/// still take none. An empty list gives small pages back that are of the memory's last user: they
/// would stay small. Without effect where the kernel has no huge pages.
pub(crate) fn prefer_huge_pages<T>(list: &Vec<T>) {
    const PAGE: usize = 4096;
    let start = list.as_ptr().cast::<libc::c_void>().cast_mut();
    let skipped = start.align_offset(PAGE);
    let bytes = (list.capacity() * size_of::<T>()).saturating_sub(skipped) / PAGE * PAGE;
    if bytes < HUGE_PAGE {
        return;
    }
    let start = start.wrapping_byte_add(skipped);
    if list.is_empty() {
        // SAFETY: the whole pages from there on are inside the list's own allocation, none of whose
        // bytes has a value.
        unsafe { libc::madvise(start, bytes, libc::MADV_DONTNEED) };
    }
    // SAFETY: the pages are the list's as above, and the advice changes no byte of them.
    unsafe { libc::madvise(start, bytes, libc::MADV_HUGEPAGE) };
}

/// Asks the processor to load the first line of a value soon.
#[inline]
pub(crate) fn prefetch<T: ?Sized>(value: &T) {
    prefetch_line(std::ptr::from_ref(value).cast());
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn prefetch_line(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch never faults and changes nothing that a program can see.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn prefetch_line(_address: *const u8) {}

impl Deref for WordTable {
    type Target = [AtomicU32];

    #[inline]
    fn deref(&self) -> &[AtomicU32] {
        let start = self.start.cast::<AtomicU32>().as_ptr();
        // SAFETY: the mapping is page-aligned, holds `words` zeroed words, lives as long as
        // `self`, and is only ever reached through these atomics.
        unsafe { std::slice::from_raw_parts(start, self.words) }
    }
}

impl Drop for WordTable {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping made in `new`, and no borrow of it is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_as_zero_and_survive_promotion() {
        let table = WordTable::new(3 << 20).unwrap();
        assert_eq!(table.len(), 3 << 20);
        let places: Vec<usize> = (0..table.len()).step_by(9_973).collect();
        for (number, &at) in places.iter().enumerate() {
            assert_eq!(table[at].swap(number as u32, Ordering::Relaxed), 0);
            table.prefetch(at);
        }
        table.promote();
        table.prefetch(usize::MAX);
        for (number, &at) in places.iter().enumerate() {
            assert_eq!(table[at].load(Ordering::Relaxed), number as u32);
        }
    }

    #[test]
    fn intervals_are_found_by_their_bounds() {
        let table = WordTable::new(1 << 10).unwrap();
        let bounds = [7, 9, 10, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, u32::MAX, u32::MAX];
        for (word, one) in table[16..].iter().zip(bounds) {
            word.store(bound(one), Ordering::Relaxed);
            assert_eq!(bound_of(bound(one)), one);
        }
        for (value, wanted) in [
            (0, 0),
            (7, 0),
            (8, 0),
            (9, 1),
            (10, 2),
            (11, 2),
            (0x7fff_fffe, 2),
            (0x7fff_ffff, 3),
            (0x8000_0000, 4),
            (0xffff_fffd, 4),
            (0xffff_fffe, 5),
            (u32::MAX, 7),
        ] {
            assert_eq!(table.reader().interval(16, value), wanted, "{value:#x}");
        }
    }

    #[test]
    fn a_list_with_huge_pages_keeps_its_bytes() {
        let mut list = Vec::with_capacity(3 << 20);
        list.extend(0..9u64);
        prefer_huge_pages(&list);
        list.extend(9..3 << 20);
        assert!(list.iter().copied().eq(0..3 << 20));
        prefer_huge_pages(&Vec::<u64>::new());
    }

    #[test]
    fn a_list_in_used_memory_takes_values_and_leaves_its_neighbours_alone() {
        // Small enough to come from the heap, between others that are in use.
        let mut lists: Vec<Vec<u64>> = (0..8).map(|at| vec![at; 1 << 19]).collect();
        lists[3] = Vec::new();
        let mut list = Vec::with_capacity(1 << 19);
        prefer_huge_pages(&list);
        list.extend(0..1 << 19);
        assert!(list.iter().copied().eq(0..1 << 19));
        let is_kept = |(at, list): (usize, &Vec<u64>)| list.iter().all(|word| *word == at as u64);
        assert!(lists.iter().enumerate().all(is_kept));
    }

    #[test]
    fn more_than_the_address_space_is_an_error() {
        assert!(WordTable::new(1 << 50).is_err());
    }
}
