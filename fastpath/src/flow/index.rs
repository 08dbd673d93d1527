//! From a hash to numbers: cache-line buckets of ten 16-bit tags with their numbers.
//!
//! A look-up reads one line, and compares keys only where the tag fits (one wrong one in about
//! 6,500). A full bucket passes entries on to the next one, and counts them, so that a look-up
//! that misses ends there. The size is fixed when it is made; memory that is never touched is
//! never used.

use crate::sys::table::WordTable;
use std::sync::atomic::Ordering;

/// Words of a bucket: ten numbers, five with two tags each, and the count of those passed on.
const WORDS: usize = 16;
/// Entries of a bucket.
const WAYS: usize = 10;
const TAGS: usize = WAYS;
const PASSED_ON: usize = 15;
/// Buckets that an entry is tried in at most.
const MAX_PROBES: usize = 64;
/// Of 16 places at most this many are used, on average.
const LOAD_OF_16: usize = 13;

/// An index with room for a number of entries that is fixed.
#[derive(Debug)]
pub(super) struct Index {
    words: WordTable,
    mask: usize,
}

impl Index {
    /// For `entries` entries. Errors when there is no address space.
    pub(super) fn new(entries: usize) -> std::io::Result<Index> {
        let buckets = (entries * 16).div_ceil(LOAD_OF_16 * WAYS).next_power_of_two();
        let words = WordTable::new(buckets * WORDS)?;
        // From the first entry on: a table that is moved to them once it is full enough stops the
        // worker for half a second.
        words.prefer_huge_pages();
        Ok(Index { words, mask: buckets - 1 })
    }

    /// Places in all.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        (self.mask + 1) * WAYS
    }

    /// Bytes that it takes when all of it is in use.
    pub(super) fn bytes(&self) -> usize {
        self.words.len() * size_of::<u32>()
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        hash as usize & self.mask
    }

    /// Never 0, which is a free place.
    #[inline]
    fn tag_of(hash: u64) -> u32 {
        ((hash >> 48) as u32).max(1)
    }

    #[inline]
    fn load(&self, bucket: usize, word: usize) -> u32 {
        self.words[bucket * WORDS + word].load(Ordering::Relaxed)
    }

    #[inline]
    fn store(&mut self, bucket: usize, word: usize, value: u32) {
        self.words[bucket * WORDS + word].store(value, Ordering::Relaxed);
    }

    #[inline]
    fn tag(&self, bucket: usize, way: usize) -> u32 {
        self.load(bucket, TAGS + way / 2) >> (16 * (way % 2)) & 0xffff
    }

    fn set_tag(&mut self, bucket: usize, way: usize, tag: u32) {
        let shift = 16 * (way % 2);
        let word = self.load(bucket, TAGS + way / 2) & !(0xffff << shift) | tag << shift;
        self.store(bucket, TAGS + way / 2, word);
    }

    /// Brings the bucket of a hash into the cache.
    #[inline]
    pub(super) fn prefetch(&self, hash: u64) {
        self.words.prefetch(self.home(hash) * WORDS);
    }

    /// The ways of a bucket whose tag is this one, four of 16 bits in each number. Above a way that
    /// fits there may be others that do not.
    #[inline(always)]
    fn fitting(&self, bucket: usize, tag: u32) -> [u64; 3] {
        const LOW: u64 = 0x0001_0001_0001_0001;
        const HIGH: u64 = LOW << 15;
        let wanted = u64::from(tag) * LOW;
        let word = |at: usize| u64::from(self.load(bucket, TAGS + at));
        let four = [word(0) | word(1) << 32, word(2) | word(3) << 32, word(4)];
        let zero = four.map(|tags| {
            let differ = tags ^ wanted;
            differ.wrapping_sub(LOW) & !differ & HIGH
        });
        // The last number has two ways only.
        [zero[0], zero[1], zero[2] & 0xffff_ffff]
    }

    /// The first number with this hash's tag: probably the one, to be prefetched.
    #[inline]
    pub(super) fn hint(&self, hash: u64) -> Option<u32> {
        let bucket = self.home(hash);
        let fitting = self.fitting(bucket, Self::tag_of(hash));
        let at = fitting.iter().position(|ways| *ways != 0)?;
        Some(self.load(bucket, at * 4 + fitting[at].trailing_zeros() as usize / 16))
    }

    /// The number with this hash for which `is_it` holds.
    #[inline]
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let (bucket, way) = self.place(hash, is_it)?;
        Some(self.load(bucket, way))
    }

    #[inline]
    fn place(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<(usize, usize)> {
        let (mut at, tag) = (self.home(hash), Self::tag_of(hash));
        for _ in 0..MAX_PROBES {
            for (first, mut ways) in self.fitting(at, tag).into_iter().enumerate() {
                while ways != 0 {
                    let way = first * 4 + ways.trailing_zeros() as usize / 16;
                    if self.tag(at, way) == tag && is_it(self.load(at, way)) {
                        return Some((at, way));
                    }
                    ways &= ways - 1;
                }
            }
            if self.load(at, PASSED_ON) == 0 {
                return None;
            }
            at = (at + 1) & self.mask;
        }
        None
    }

    /// Puts a number in; false, with nothing changed, when there is no room near its place.
    pub(super) fn insert(&mut self, hash: u64, number: u32) -> bool {
        let home = self.home(hash);
        let free = (0..MAX_PROBES.min(self.mask + 1)).find_map(|step| {
            let at = (home + step) & self.mask;
            let free = self.fitting(at, 0);
            let four = free.iter().position(|ways| *ways != 0)?;
            Some((step, at, four * 4 + free[four].trailing_zeros() as usize / 16))
        });
        let Some((steps, at, way)) = free else { return false };
        for step in 0..steps {
            let passed = (home + step) & self.mask;
            self.store(passed, PASSED_ON, self.load(passed, PASSED_ON) + 1);
        }
        self.set_tag(at, way, Self::tag_of(hash));
        self.store(at, way, number);
        true
    }

    /// Takes a number out; false when it is not there.
    pub(super) fn remove(&mut self, hash: u64, number: u32) -> bool {
        let Some((found, way)) = self.place(hash, |other| other == number) else { return false };
        let mut at = self.home(hash);
        while at != found {
            self.store(at, PASSED_ON, self.load(at, PASSED_ON) - 1);
            at = (at + 1) & self.mask;
        }
        self.set_tag(found, way, 0);
        true
    }

    /// Puts another number in the place of one; false when it is not there.
    pub(super) fn replace(&mut self, hash: u64, number: u32, by: u32) -> bool {
        let Some((at, way)) = self.place(hash, |other| other == number) else { return false };
        self.store(at, way, by);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Few different hashes, so that buckets overflow: compared with a map of all entries.
        #[test]
        fn it_answers_as_a_map_does(steps in proptest::collection::vec(
            (0u64..6, 0u32..60, 0u8..3), 0..600)
        ) {
            let mut index = Index::new(40).unwrap();
            let mut oracle: BTreeMap<u32, u64> = BTreeMap::new();
            for (hash, number, what) in steps {
                let hash = hash << 48 | (hash % 3);
                match (what, oracle.get(&number).copied()) {
                    (0, None) => {
                        if index.insert(hash, number) {
                            oracle.insert(number, hash);
                        } else {
                            prop_assert!(oracle.len() >= index.places());
                        }
                    }
                    (1, Some(known)) => {
                        prop_assert!(index.remove(known, number));
                        oracle.remove(&number);
                    }
                    (2, Some(known)) => {
                        prop_assert!(index.replace(known, number, number));
                    }
                    (_, None) => prop_assert!(!index.remove(hash, number)),
                    _ => {}
                }
                for (number, hash) in &oracle {
                    prop_assert_eq!(index.find(*hash, |other| other == *number), Some(*number));
                }
            }
            for (number, hash) in oracle {
                prop_assert!(index.remove(hash, number));
            }
            let is_free = |at: usize| {
                index.load(at, PASSED_ON) == 0 && (0..WAYS).all(|way| index.tag(at, way) == 0)
            };
            prop_assert!((0..=index.mask).all(is_free));
        }
    }

    #[test]
    fn a_full_index_refuses_and_keeps_what_it_has() {
        let mut index = Index::new(8).unwrap();
        let room = index.places();
        for number in 0..room as u32 {
            assert!(index.insert(0, number));
        }
        assert!(!index.insert(0, 9999));
        assert!((0..room as u32).all(|number| index.find(0, |at| at == number).is_some()));
    }
}
