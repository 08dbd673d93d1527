//! IPv6: 24 bits at once, then 8, then what fits: strides of 8 bits where prefixes are dense,
//! buckets of sorted boundaries where they are not.
//!
//! An address is four words of 32 bits. The first word goes as in IPv4: an entry for each /24, a
//! stride of 256 entries under it where there are longer prefixes. Below, each word is one
//! bucket, or up to four levels of strides with buckets under them. A bucket cuts the word's
//! values into at most 16 intervals, a line of bounds and a line of entries. It spans to the end of its word whatever the depth it hangs at, so that a
//! bucket can be split into strides, or strides be joined, without touching the next word's nodes.
//! A /48 out of the Internet's table takes two to four dependent loads, out of few megabytes.
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

/// Intervals of a bucket.
const INTERVALS: usize = 16;
/// Words of a bucket: the lower bounds of its intervals, the first one unused, then their entries.
const BUCKET_WORDS: usize = 2 * INTERVALS;
/// Addresses that a batch has on their way at once.
const LANES: usize = 32;

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
    fn root_index(key: &Key) -> usize {
        (key.word(0) >> 8) as usize
    }

    /// The next entry on the way: `node` hangs at octet `depth`, which is moved on.
    #[inline]
    fn step(&self, node: Entry, key: &Key, depth: &mut usize) -> Entry {
        if node.is_stride() {
            let octet = usize::from(key.octets[*depth & 15]);
            *depth += 1;
            return Entry(self.strides[stride_start(node) | octet].load(Ordering::Acquire));
        }
        let start = bucket_start(node);
        let interval = self.interval(start, key.word(*depth / 4));
        *depth = (*depth / 4 + 1) * 4;
        Entry(self.buckets[start + INTERVALS + interval].load(Ordering::Acquire))
    }

    /// Which interval of the bucket at `start` a word falls into: one of four quarters, then one
    /// of four in it. Unused bounds are the greatest word, and their entries repeat the last one.
    #[inline]
    fn interval(&self, start: usize, word: u32) -> usize {
        let bounds = &self.buckets[start..start + INTERVALS];
        let reached = |at: usize| usize::from(bounds[at].load(Ordering::Relaxed) <= word);
        let quarter = 4 * (reached(4) + reached(8) + reached(12));
        quarter + reached(quarter + 1) + reached(quarter + 2) + reached(quarter + 3)
    }

    #[inline]
    fn find(&self, key: &Key) -> Entry {
        let mut entry = Entry(self.root[Self::root_index(key)].load(Ordering::Acquire));
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

    /// Some addresses at a time, in lockstep: each level asks for the lines of the next.
    pub(super) fn lookup_batch(&self, addresses: &[Ipv6Addr], out: &mut [TargetId]) {
        for (addresses, out) in addresses.chunks(LANES).zip(out.chunks_mut(LANES)) {
            self.lookup_lanes(addresses, out);
        }
    }

    fn lookup_lanes(&self, addresses: &[Ipv6Addr], out: &mut [TargetId]) {
        let mut lanes =
            [Lane { key: Key { octets: [0; 16] }, entry: Entry::NONE, depth: 3 }; LANES];
        for (address, lane) in addresses.iter().zip(&mut lanes) {
            lane.key.octets = address.octets();
            self.root.prefetch(Self::root_index(&lane.key));
        }
        let lanes = &mut lanes[..addresses.len()];
        let before = self.fallback.read();
        let (mut open, mut count) = ([0u8; LANES], 0);
        for (number, lane) in lanes.iter_mut().enumerate() {
            lane.entry = Entry(self.root[Self::root_index(&lane.key)].load(Ordering::Acquire));
            open[count] = number as u8;
            count += usize::from(self.prefetch(lane));
        }
        while count > 0 {
            let mut still = 0;
            for at in 0..count {
                let lane = &mut lanes[usize::from(open[at])];
                lane.entry = self.step(lane.entry, &lane.key, &mut lane.depth);
                open[still] = open[at];
                still += usize::from(self.prefetch(lane));
            }
            count = still;
        }
        for ((address, lane), out) in addresses.iter().zip(lanes).zip(out) {
            *out = match lane.entry.is_target() {
                true => lane.entry.id(),
                false if self.fallback.read() == before => before.id(),
                false => self.lookup(*address),
            };
        }
    }

    /// Asks for what the lane's next step reads; false when it is at its end.
    #[inline]
    fn prefetch(&self, lane: &Lane) -> bool {
        if !lane.entry.is_node() || lane.depth >= 16 {
            return false;
        }
        if lane.entry.is_stride() {
            let octet = usize::from(lane.key.octets[lane.depth]);
            self.strides.prefetch(stride_start(lane.entry) | octet);
        } else {
            self.buckets.prefetch(bucket_start(lane.entry));
            self.buckets.prefetch(bucket_start(lane.entry) + INTERVALS);
        }
        true
    }
}

/// One address of a batch on its way.
#[derive(Debug, Clone, Copy)]
struct Lane {
    key: Key,
    entry: Entry,
    depth: usize,
}

#[inline]
fn stride_start(node: Entry) -> usize {
    (node.number() as usize) << 8
}

#[inline]
fn bucket_start(node: Entry) -> usize {
    node.number() as usize * BUCKET_WORDS
}
