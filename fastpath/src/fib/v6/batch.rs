//! Many addresses at a time, level by level, so that the loads of one level don't wait for each
//! other.
//!
//! A step is the same for both kinds of nodes: which line of the node decides, whether its bounds
//! count or the address's octet, and which of its words is next, is chosen without a branch. So
//! there is one set of addresses on their way, and nothing that is hard to predict. The few that
//! go on behind the second word (/64) finish one by one.

use super::{INTERVALS, Key, LINE, Table6};
use crate::fib::entry::{BUCKET, Entry, NUMBER, STRIDE};
use crate::fib::fallback::Seen;
use crate::sys::table::Reader;
use crate::sys::walk::{GROUP, GROUPS, Naming, Walker, walk};
use crate::tables::TargetId;
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicU32, Ordering};

/// Addresses that a batch has on their way at once.
const LANES: usize = GROUP * GROUPS;
/// Fewer are looked up one by one.
const FEW: usize = 3;

/// What the words of the tables mean.
const NAMING: Naming =
    Naming { stride: STRIDE, end: BUCKET, number: NUMBER, shift: LINE.trailing_zeros() };

/// All ones for a stride, 0 for a bucket.
#[inline(always)]
fn stride_mask(entry: Entry) -> usize {
    usize::from(entry.is_stride()).wrapping_neg()
}

/// Where in the table the line of `node` is that decides about an address with this octet next.
#[inline(always)]
fn line(node: Entry, octet: usize) -> usize {
    super::start(node) + (octet & stride_mask(node) & !(LINE - 1))
}

/// Octet `depth` of an address that begins with `head`.
#[inline(always)]
fn octet(head: u64, depth: usize) -> usize {
    (head >> (56 - 8 * depth)) as usize & 255
}

/// Up to [`LANES`] addresses on their way through two words.
struct Batch {
    heads: [u64; LANES],
    entries: [u32; LANES],
}

/// Lanes of a batch, a bit for each.
type Lanes = u64;

impl Table6 {
    /// As [`Table6::lookup`] for many.
    pub(in crate::fib) fn lookup_batch(&self, addresses: &[Ipv6Addr], out: &mut [TargetId]) {
        self.lookup_batch_by(self.walker, addresses, out);
    }

    /// The same by one of the two ways, which give the same answers.
    pub(in crate::fib) fn lookup_batch_by(
        &self,
        walker: Option<Walker>,
        addresses: &[Ipv6Addr],
        out: &mut [TargetId],
    ) {
        for (addresses, out) in addresses.chunks(LANES).zip(out.chunks_mut(LANES)) {
            if addresses.len() <= FEW {
                for (address, out) in addresses.iter().zip(out) {
                    *out = self.lookup(*address);
                }
                continue;
            }
            let before = self.fallback.read();
            // Of 8 addresses the loads for one by one take two thirds of the gathers' time.
            let found = match walker.filter(|_| addresses.len() > GROUP) {
                Some(walker) => self.gather(walker, addresses),
                None => self.find_all(addresses),
            };
            let mut all = u32::MAX;
            for (entry, out) in found.iter().zip(out.iter_mut()) {
                *out = Entry(*entry).id();
                all &= entry;
            }
            if addresses.len() < LANES || !Entry(all).is_target() {
                self.finish(before, addresses, &found, out);
            }
        }
    }

    /// What two words lead to, without anything that not every processor has.
    #[inline(always)]
    fn find_all(&self, addresses: &[Ipv6Addr]) -> [u32; LANES] {
        let mut batch = Batch { heads: [0; LANES], entries: [0; LANES] };
        batch.find(self, addresses);
        batch.entries
    }

    /// The same with the strides of sixteen addresses gathered at once, and then all buckets.
    #[inline(always)]
    fn gather(&self, walker: Walker, addresses: &[Ipv6Addr]) -> [u32; LANES] {
        let (mut first, mut second) = ([[0; GROUP]; GROUPS], [[0; GROUP]; GROUPS]);
        let words = first.as_flattened_mut().iter_mut().zip(second.as_flattened_mut());
        for (address, (first, second)) in addresses.iter().zip(words) {
            let head = (address.to_bits() >> 64) as u64;
            (*first, *second) = ((head >> 32) as u32, head as u32);
        }
        let tables = (&self.root, &self.nodes);
        let mut lanes = walk(walker, tables, NAMING, (&mut first, &second), addresses.len());
        let (mut found, words) = ([0; LANES], second.as_flattened());
        found.copy_from_slice(first.as_flattened());
        let nodes = self.nodes.reader();
        while lanes != 0 {
            let lane = lanes.trailing_zeros() as usize % LANES;
            lanes &= lanes - 1;
            let start = super::start(Entry(found[lane]));
            let interval = nodes.interval(start, words[lane]);
            found[lane] = nodes.load(start + INTERVALS + interval);
        }
        found
    }

    /// Lets addresses go on behind the second word, and gives those without a prefix the default
    /// route.
    fn finish(&self, before: Seen, addresses: &[Ipv6Addr], found: &[u32], out: &mut [TargetId]) {
        for ((address, entry), out) in addresses.iter().zip(found).zip(out) {
            if Entry(*entry).is_target() {
                continue;
            }
            let entry = self.find(&Key { octets: address.octets() }, Entry(*entry), 8);
            *out = match entry.is_target() {
                true => entry.id(),
                false if self.fallback.read() == before => before.id(),
                false => self.lookup(*address),
            };
        }
    }
}

impl Batch {
    #[inline(always)]
    fn find(&mut self, table: &Table6, addresses: &[Ipv6Addr]) {
        let (nodes, mut lanes): (Reader<'_>, Lanes) = (table.nodes.reader(), 0);
        let root: &[AtomicU32] = &table.root;
        for (lane, address) in addresses.iter().enumerate().take(LANES) {
            let head = (address.to_bits() >> 64) as u64;
            let entry = Entry(root[(head >> 40) as usize].load(Ordering::Acquire));
            (self.heads[lane], self.entries[lane]) = (head, entry.0);
            // Under the root are strides only.
            lanes |= u64::from(entry.is_node()) << lane;
            nodes.prefetch(super::start(entry) + octet(head, 3));
        }
        lanes = self.step::<3>(nodes, lanes);
        lanes = self.step::<4>(nodes, lanes);
        lanes = self.step::<5>(nodes, lanes);
        lanes = self.step::<6>(nodes, lanes);
        self.step::<7>(nodes, lanes);
    }

    /// One level: from `lanes` at nodes that hang at octet `DEPTH` to those at the next one. In
    /// bits rather than in a list, since a store to a place that is not known yet holds up the
    /// loads behind it.
    #[inline(always)]
    fn step<const DEPTH: usize>(&mut self, nodes: Reader<'_>, mut lanes: Lanes) -> Lanes {
        let mut next = 0;
        while lanes != 0 {
            let (lane, bit) =
                (lanes.trailing_zeros() as usize % LANES, lanes & lanes.wrapping_neg());
            lanes ^= bit;
            let (node, head) = (Entry(self.entries[lane]), self.heads[lane]);
            let octet_here = octet(head, DEPTH);
            let place = if DEPTH == 3 {
                super::start(node) + octet_here
            } else {
                let line = line(node, octet_here);
                let interval = INTERVALS + nodes.interval(line, head as u32);
                let is_stride = stride_mask(node);
                line + ((octet_here % LINE) & is_stride | interval & !is_stride)
            };
            let entry = Entry(nodes.load(place));
            self.entries[lane] = entry.0;
            if DEPTH < 7 {
                // A bucket is the last step of its word.
                let goes_on = node.is_stride() & entry.is_node();
                next |= bit & u64::from(goes_on).wrapping_neg();
                nodes.prefetch(line(entry, octet(head, DEPTH + 1)));
            }
        }
        next
    }
}
