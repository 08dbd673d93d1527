//! A BPF array whose memory this process maps: both sides read and write it without system calls.
//!
//! Values are rows of 64-bit words. Each access is one atomic operation on one word, so the other
//! side sees a word whole; what belongs together in several words is the users' agreement.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::map::{Map, MapKind};

/// The kernel lets the array be mapped (Linux 5.5).
const MMAPABLE: u32 = 1 << 10;
const WORD: usize = size_of::<u64>();

/// A fixed number of rows of words, 0 at first.
#[derive(Debug)]
pub struct MappedArray {
    map: Map,
    start: NonNull<u8>,
    rows: u32,
    words: usize,
}

// SAFETY: the words are atomics in a mapping that this value owns; nothing belongs to a thread.
unsafe impl Send for MappedArray {}
// SAFETY: as above; all access through a shared reference is by atomics.
unsafe impl Sync for MappedArray {}

impl MappedArray {
    /// Makes an array of `rows` values of `words` words each, and maps it.
    pub fn new(name: &str, rows: u32, words: usize) -> io::Result<MappedArray> {
        let kind = (MapKind::Array, MMAPABLE);
        let map = Map::with_flags(kind, name, size_of::<u32>(), words * WORD, rows)?;
        let (access, fd) = (libc::PROT_READ | libc::PROT_WRITE, map.raw_fd());
        let length = rows as usize * words * WORD;
        // SAFETY: a new mapping of the map's own memory at an address that the kernel chooses.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, fd, 0) };
        match NonNull::new(start.cast::<u8>()).filter(|_| start != libc::MAP_FAILED) {
            Some(start) => Ok(MappedArray { map, start, rows, words }),
            None => Err(io::Error::last_os_error()),
        }
    }

    /// The map, for a program.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// How many rows there are.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// One word. Panics when it is not inside the array.
    #[inline]
    pub fn word(&self, row: u32, word: usize) -> &AtomicU64 {
        assert!(row < self.rows && word < self.words, "word {word} of row {row} is not there");
        let at = (row as usize * self.words + word) * WORD;
        // SAFETY: row and word were checked, so the address is inside the mapping.
        let place = unsafe { self.start.as_ptr().add(at) };
        // SAFETY: the mapping begins at a page and words are 8 bytes, so the address is aligned;
        // it lives as long as `self`; the kernel's programs write words as a whole.
        unsafe { AtomicU64::from_ptr(place.cast::<u64>()) }
    }

    /// Writes bytes from a word on, the last word filled up with zeros, as [`MappedArray::word`]
    /// would store them. Panics when they do not fit in the row.
    #[inline]
    pub fn write(&self, row: u32, word: usize, bytes: &[u8]) {
        let (whole, rest) = bytes.as_chunks::<WORD>();
        let words = whole.len() + usize::from(!rest.is_empty());
        assert!(row < self.rows && word + words <= self.words, "row {row} ends before that");
        let at = (row as usize * self.words + word) * WORD;
        let store = |number: usize, value: u64| {
            // SAFETY: row and words were checked, so the address is inside the mapping.
            let place = unsafe { self.start.as_ptr().add(at + number * WORD) };
            // SAFETY: as in `word`.
            let place = unsafe { AtomicU64::from_ptr(place.cast::<u64>()) };
            place.store(value, Ordering::Relaxed);
        };
        for (number, bytes) in whole.iter().enumerate() {
            store(number, u64::from_ne_bytes(*bytes));
        }
        if !rest.is_empty() {
            let mut last = [0; WORD];
            last[..rest.len()].copy_from_slice(rest);
            store(whole.len(), u64::from_ne_bytes(last));
        }
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        let length = self.rows as usize * self.words * WORD;
        // SAFETY: the mapping is this value's own, and no reference into it outlives the value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_memory_is_in_the_map() {
        let array = MappedArray::new("test", 3, 4).unwrap();
        assert_eq!((array.rows(), array.word(2, 3).load(Ordering::Relaxed)), (3, 0));
        array.word(2, 3).store(7, Ordering::Relaxed);
        let value = array.map().lookup(&2u32.to_ne_bytes()).unwrap().unwrap();
        assert_eq!(value[24..], 7u64.to_ne_bytes());
        array.map().update(&1u32.to_ne_bytes(), &[1; 32]).unwrap();
        assert_eq!(array.word(1, 0).load(Ordering::Relaxed), 0x0101_0101_0101_0101);
    }

    #[test]
    #[should_panic = "word 4 of row 0 is not there"]
    fn words_outside_are_refused() {
        MappedArray::new("test", 3, 4).unwrap().word(0, 4);
    }
}
