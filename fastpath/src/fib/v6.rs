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
//! Nodes of both kinds are in one table and named by its lines, so that a batch finds the line of
//! the next step without asking which kind it is.
//!
//! Boundaries never change under a reader: a bucket that needs other ones is written anew and
//! published with one store. Entries change in place.

mod batch;
mod cut;
mod writer;

use super::entry::Entry;
use super::fallback::Fallback;
use crate::sys::table::WordTable;
use crate::sys::walk::Walker;
use crate::tables::TargetId;
use std::net::Ipv6Addr;
use std::sync::atomic::Ordering;
pub(super) use writer::Writer6;

/// Intervals of a bucket. With 16, in two lines, a table of 160,147 prefixes took 13 MB instead of
/// 15, and a lookup 56 cycles instead of 50.
const INTERVALS: usize = 8;
/// Words of a line of the cache. A bucket is one: the lower bounds of its intervals, then their
/// entries.
const LINE: usize = 16;
/// Lines of a stride.
const STRIDE_LINES: u32 = 256 / LINE as u32;
/// Most strides of a table: an entry holds the number of a line.
pub(super) const STRIDES_MAX: u32 = 1 << 19;
/// Most buckets of a table.
pub(super) const BUCKETS_MAX: u32 = 1 << 22;

/// What readers see.
#[derive(Debug)]
pub(super) struct Table6 {
    root: WordTable,
    nodes: WordTable,
    /// The line of the first bucket: strides are before it.
    first_bucket: u32,
    walker: Option<Walker>,
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
    /// At most [`STRIDES_MAX`] and [`BUCKETS_MAX`].
    pub(super) fn new(strides: u32, buckets: u32) -> std::io::Result<Table6> {
        let first_bucket = strides * STRIDE_LINES;
        Ok(Table6 {
            root: WordTable::new(1 << 24)?,
            nodes: WordTable::new((first_bucket + buckets) as usize * LINE)?,
            first_bucket,
            walker: Walker::new(),
            fallback: Fallback::default(),
        })
    }

    pub(super) fn promote(&self) {
        self.root.promote();
        self.nodes.promote();
    }

    #[inline]
    fn root_entry(&self, slot: u32) -> Entry {
        Entry(self.root[slot as usize].load(Ordering::Acquire))
    }

    #[inline]
    fn entry(&self, at: usize) -> Entry {
        Entry(self.nodes[at].load(Ordering::Acquire))
    }

    /// The next entry on the way: `node` hangs at octet `depth`, which is moved on.
    #[inline]
    fn step(&self, node: Entry, key: &Key, depth: &mut usize) -> Entry {
        if node.is_stride() {
            *depth += 1;
            return self.entry(start(node) | usize::from(key.octets[(*depth - 1) & 15]));
        }
        let word = *depth / 4;
        *depth = word * 4 + 4;
        self.entry(
            start(node) + INTERVALS + self.nodes.reader().interval(start(node), key.word(word)),
        )
    }

    #[inline]
    fn find(&self, key: &Key, mut entry: Entry, mut depth: usize) -> Entry {
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
            let entry = self.find(&key, self.root_entry(key.word(0) >> 8), 3);
            if entry.is_target() {
                return entry.id();
            }
            if self.fallback.read() == before {
                return before.id();
            }
        }
    }
}

/// The place of a node's first word.
#[inline]
fn start(node: Entry) -> usize {
    node.number() as usize * LINE
}
