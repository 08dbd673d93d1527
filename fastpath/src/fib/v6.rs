//! IPv6: 24 bits at once, then 8, then what fits: strides of 8 bits where prefixes are dense,
//! buckets of sorted boundaries where they are not.
//!
//! An address is four words of 32 bits. The first word goes as in IPv4: an entry for each /24, a
//! stride of 256 entries under it where there are longer prefixes. Below, each word is one
//! bucket, or up to four levels of strides with buckets under them. A bucket cuts the word's
//! values into at most 8 intervals: bounds and entries are one line. It spans to the end of its
//! word whatever the depth it hangs at, so that a bucket can be split into strides, or strides be
//! joined, without touching the next word's nodes.
//!
//! Boundaries never change under a reader: a bucket that needs other ones is written anew and
//! published with one store. Entries change in place.

mod cut;
mod writer;

use super::entry::Entry;
use super::fallback::Fallback;
use crate::sys::table::WordTable;
use crate::tables::TargetId;
use std::net::Ipv6Addr;
use std::sync::atomic::Ordering;
pub(super) use writer::Writer6;

/// Intervals of a bucket. With 16, in two lines, a table of 160,147 prefixes took 13 MB instead of
/// 15, and a lookup 56 cycles instead of 50.
const INTERVALS: usize = 8;
/// Words of a bucket: the lower bounds of its intervals, the first one unused, then their entries.
const BUCKET_WORDS: usize = 2 * INTERVALS;
/// Addresses that a batch has on their way at once.
const LANES: usize = 64;

/// What readers see.
#[derive(Debug)]
pub(super) struct Table6 {
    root: WordTable,
    strides: WordTable,
    buckets: WordTable,
    pub(super) fallback: Fallback,
}

/// An address, as the tables cut it.
#[derive(Debug, Clone, Copy)]
struct Key {
    octets: [u8; 16],
}

impl Key {
    #[inline]
    fn word(&self, at: usize) -> u32 {
        let at = at % 4 * 4;
        let octets = &self.octets;
        u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
    }
}

impl Table6 {
    pub(super) fn new(strides: u32, buckets: u32) -> std::io::Result<Table6> {
        Ok(Table6 {
            root: WordTable::new(1 << 24)?,
            strides: WordTable::new(strides as usize * 256)?,
            buckets: WordTable::new(buckets as usize * BUCKET_WORDS)?,
            fallback: Fallback::default(),
        })
    }

    pub(super) fn promote(&self) {
        self.root.promote();
        self.strides.promote();
        self.buckets.promote();
    }

    #[inline]
    fn root_entry(&self, key: &Key) -> Entry {
        Entry(self.root[(key.word(0) >> 8) as usize].load(Ordering::Acquire))
    }

    #[inline]
    fn stride_entry(&self, stride: Entry, octet: u8) -> Entry {
        Entry(self.strides[stride_start(stride) | usize::from(octet)].load(Ordering::Acquire))
    }

    #[inline]
    fn bucket_entry(&self, bucket: Entry, word: u32) -> Entry {
        let start = bucket_start(bucket);
        let interval = self.interval(start, word);
        Entry(self.buckets[start + INTERVALS + interval].load(Ordering::Acquire))
    }

    /// Which interval of the bucket at `start` a word falls into. Unused bounds are the greatest
    /// word, and their entries repeat the last one.
    #[inline]
    fn interval(&self, start: usize, word: u32) -> usize {
        let bounds = &self.buckets[start..start + INTERVALS];
        let reached = |at: usize| usize::from(bounds[at].load(Ordering::Relaxed) <= word);
        reached(1) + reached(2) + reached(3) + reached(4) + reached(5) + reached(6) + reached(7)
    }

    /// The next entry on the way: `node` hangs at octet `depth`, which is moved on.
    #[inline]
    fn step(&self, node: Entry, key: &Key, depth: &mut usize) -> Entry {
        if node.is_stride() {
            *depth += 1;
            return self.stride_entry(node, key.octets[(*depth - 1) & 15]);
        }
        let word = *depth / 4;
        *depth = word * 4 + 4;
        self.bucket_entry(node, key.word(word))
    }

    #[inline]
    fn find(&self, key: &Key) -> Entry {
        let mut entry = self.root_entry(key);
        let mut depth = 3;
        while entry.is_node() && depth < 16 {
            entry = self.step(entry, key, &mut depth);
        }
        entry
    }

    #[inline]
    pub(super) fn lookup(&self, address: Ipv6Addr) -> TargetId {
        let key = Key { octets: address.octets() };
        loop {
            let before = self.fallback.read();
            let entry = self.find(&key);
            if entry.is_target() {
                return entry.id();
            }
            if self.fallback.read() == before {
                return before.id();
            }
        }
    }

    /// Some addresses at a time, level by level, so that the loads of one level don't wait for
    /// each other.
    pub(super) fn lookup_batch(&self, addresses: &[Ipv6Addr], out: &mut [TargetId]) {
        for (addresses, out) in addresses.chunks(LANES).zip(out.chunks_mut(LANES)) {
            let before = self.fallback.read();
            let entries = Batch::new(self, addresses).find();
            for ((address, entry), out) in addresses.iter().zip(entries).zip(out) {
                *out = match entry.is_target() {
                    true => entry.id(),
                    false if self.fallback.read() == before => before.id(),
                    false => self.lookup(*address),
                };
            }
        }
    }
}

/// Up to [`LANES`] addresses on their way. Those at strides and those at buckets are in lists of
/// their own, so that no pass has a branch that is hard to predict.
struct Batch<'a> {
    table: &'a Table6,
    keys: [Key; LANES],
    entries: [Entry; LANES],
    strides: List,
    buckets: List,
    /// At the next word, at a node of either kind.
    deeper: List,
}

impl<'a> Batch<'a> {
    /// `addresses` are at most [`LANES`].
    #[inline]
    fn new(table: &'a Table6, addresses: &[Ipv6Addr]) -> Batch<'a> {
        let mut batch = Batch {
            table,
            keys: [Key { octets: [0; 16] }; LANES],
            entries: [Entry::NONE; LANES],
            strides: List::EMPTY,
            buckets: List::EMPTY,
            deeper: List::EMPTY,
        };
        for (lane, address) in addresses.iter().enumerate() {
            batch.keys[lane].octets = address.octets();
            batch.entries[lane] = table.root_entry(&batch.keys[lane]);
            // Under the root are strides only.
            batch.strides.push_if(lane, batch.entries[lane].is_node());
        }
        batch
    }

    #[inline]
    fn find(mut self) -> [Entry; LANES] {
        for depth in 3..16 {
            if depth % 4 == 0 {
                let deeper = self.deeper.take();
                deeper.iter().for_each(|lane| self.sort(lane));
            }
            let (strides, buckets) = (self.strides.take(), self.buckets.take());
            // Without the prefetches an address took 65 cycles instead of 40.
            for lane in buckets.iter() {
                self.table.buckets.prefetch(bucket_start(self.entries[lane]));
            }
            for lane in strides.iter() {
                let octet = usize::from(self.keys[lane].octets[depth]);
                self.table.strides.prefetch(stride_start(self.entries[lane]) | octet);
            }
            for lane in buckets.iter() {
                let word = self.keys[lane].word(depth / 4);
                self.entries[lane] = self.table.bucket_entry(self.entries[lane], word);
                self.deeper.push_if(lane, self.entries[lane].is_node());
            }
            for lane in strides.iter() {
                let octet = self.keys[lane].octets[depth];
                self.entries[lane] = self.table.stride_entry(self.entries[lane], octet);
                match depth % 4 {
                    3 => self.deeper.push_if(lane, self.entries[lane].is_node()),
                    _ => self.sort(lane),
                }
            }
            if self.strides.len + self.buckets.len + self.deeper.len == 0 {
                break;
            }
        }
        self.entries
    }

    #[inline]
    fn sort(&mut self, lane: usize) {
        let entry = self.entries[lane];
        self.strides.push_if(lane, entry.is_stride());
        self.buckets.push_if(lane, entry.is_bucket());
    }
}

/// Lanes of a batch, each at most once.
#[derive(Clone, Copy)]
struct List {
    lanes: [u8; LANES],
    len: usize,
}

impl List {
    const EMPTY: List = List { lanes: [0; LANES], len: 0 };

    /// Adds a lane without a branch: the place is written in any case, and kept or not.
    #[inline]
    fn push_if(&mut self, lane: usize, keep: bool) {
        self.lanes[self.len % LANES] = lane as u8;
        self.len += usize::from(keep);
    }

    #[inline]
    fn take(&mut self) -> List {
        std::mem::replace(self, List::EMPTY)
    }

    #[inline]
    fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        let List { lanes, len } = *self;
        lanes.into_iter().take(len).map(|lane| usize::from(lane) % LANES)
    }
}

#[inline]
fn stride_start(node: Entry) -> usize {
    (node.number() as usize) << 8
}

#[inline]
fn bucket_start(node: Entry) -> usize {
    node.number() as usize * BUCKET_WORDS
}
