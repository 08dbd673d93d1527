//! The writer of the IPv6 table: rewrites the nodes on a changed prefix's way.
//!
//! A change goes down from the root to the nodes whose answers it may alter. New nodes are
//! complete before one store makes them visible; nodes that fall out of use keep their contents
//! until [`Writer6::reclaim`]. Taking a prefix away needs no new node, so it never fails.

use super::cut::{Part, Parts, Span};
use super::{INTERVALS, Key, LINE, STRIDE_LINES, Table6, start};
use crate::fib::entry::Entry;
use crate::fib::rib::{Bits, Rib, View};
use crate::fib::slots::Slots;
use crate::fib::{FibError, Resource};
use crate::sys::table::{bound, bound_of};
use crate::tables::TargetId;
use std::sync::atomic::Ordering;

/// Most strides that one insertion can take: one under the root, and one for each octet of the
/// word whose bucket it splits.
pub(super) const STRIDES_AN_INSERT: usize = 8;
/// Most buckets that one insertion can take: a split bucket's intervals with two more cuts, and
/// one for each further word.
pub(super) const BUCKETS_AN_INSERT: usize = 24;
/// A stride with no more prefixes than this under it becomes a bucket again. Half of what makes a
/// bucket a stride, so that one prefix that comes and goes does not move both ways each time.
const JOIN_AT: usize = 2;

/// Node numbers of the table.
#[derive(Debug)]
pub(in crate::fib) struct Writer6 {
    pub(in crate::fib) rib: Rib<u128>,
    pub(in crate::fib) strides: Slots,
    pub(in crate::fib) buckets: Slots,
}

impl Writer6 {
    pub(in crate::fib) fn new(strides: u32, buckets: u32) -> Writer6 {
        let (strides, buckets) = (Slots::new(strides), Slots::new(buckets));
        Writer6 { rib: Rib::new(), strides, buckets }
    }

    pub(in crate::fib) fn insert(
        &mut self,
        table: &Table6,
        (key, len): (u128, u8),
        target: TargetId,
    ) -> Result<Option<TargetId>, FibError> {
        if len > 24 && self.is_short() && self.rib.get(key, len).is_none() {
            let strides_left = self.strides.available() >= STRIDES_AN_INSERT;
            let resource = if strides_left { Resource::BucketsV6 } else { Resource::StridesV6 };
            return Err(FibError::Full(resource));
        }
        let old = self.rib.insert(key, len, target);
        if old != Some(target) {
            self.update(table, Change { key, len, removed: false });
        }
        Ok(old)
    }

    pub(in crate::fib) fn remove(
        &mut self,
        table: &Table6,
        key: u128,
        len: u8,
    ) -> Option<TargetId> {
        let old = self.rib.remove(key, len)?;
        self.update(table, Change { key, len, removed: true });
        Some(old)
    }

    fn is_short(&self) -> bool {
        self.strides.available() < STRIDES_AN_INSERT || self.buckets.available() < BUCKETS_AN_INSERT
    }

    fn update(&mut self, table: &Table6, change: Change) {
        let Writer6 { rib, strides, buckets } = self;
        Update { rib, table, strides, buckets, change }.publish();
    }
}

/// A prefix that has come, gone, or got another target.
#[derive(Debug, Clone, Copy)]
struct Change {
    key: u128,
    len: u8,
    removed: bool,
}

impl Change {
    /// False when nothing inside the span, seen as `view`, can have another answer than before.
    fn touches(&self, span: Span, view: View) -> bool {
        self.key.common(span.key) >= self.len.min(span.depth) && view.owner_len <= self.len
    }
}

/// One change on its way through the table.
struct Update<'a> {
    rib: &'a Rib<u128>,
    table: &'a Table6,
    strides: &'a mut Slots,
    buckets: &'a mut Slots,
    change: Change,
}

impl Update<'_> {
    fn publish(&mut self) {
        let Change { key, len, .. } = self.change;
        if len > 24 {
            return self.rewrite_root(key >> 104);
        }
        let rib = self.rib;
        let view = rib.narrow(rib.whole(), key, len);
        let mut rewritten = None;
        rib.gaps(view, key, len, &mut |first, last| {
            for slot in first >> 104..=last >> 104 {
                let whole = slot << 104 >= first && (slot << 104).last(24) <= last;
                if whole {
                    self.table.root[slot as usize].store(view.entry.0, Ordering::Release);
                } else if rewritten != Some(slot) {
                    self.rewrite_root(slot);
                    rewritten = Some(slot);
                }
            }
        });
    }

    fn rewrite_root(&mut self, slot: u128) {
        let span = Span { key: slot << 104, depth: 24 };
        let view = self.rib.narrow(self.rib.whole(), span.key, span.depth);
        let word = &self.table.root[slot as usize];
        let old = Entry(word.load(Ordering::Relaxed));
        let new = self.rewrite(old, span, view);
        word.store(new.0, Ordering::Release);
    }

    /// The entry for `span` after the change, when it was `old` before.
    fn rewrite(&mut self, old: Entry, span: Span, view: View) -> Entry {
        if view.is_uniform() {
            self.retire(old, span.depth, u8::MAX);
            view.entry
        } else if old.is_stride() {
            self.rewrite_stride(old, span, view)
        } else if old.is_bucket() {
            self.rewrite_bucket(old, span, view)
        } else {
            self.build(span, view, None)
        }
    }

    fn rewrite_stride(&mut self, old: Entry, span: Span, view: View) -> Entry {
        let Change { key, len, removed } = self.change;
        let at = |address: u128| (address >> (120 - span.depth)) as u8;
        let (first, last) = match len > span.depth {
            true => (at(key), at(key.last(len))),
            false => (0, u8::MAX),
        };
        for octet in first..=last {
            let part = span.octet(octet);
            let inner = self.rib.narrow(view, part.key, part.depth);
            if self.change.touches(part, inner) {
                let word = &self.table.nodes[start(old) | usize::from(octet)];
                let new = self.rewrite(Entry(word.load(Ordering::Relaxed)), part, inner);
                word.store(new.0, Ordering::Release);
            }
        }
        let joins = removed
            && span.depth >= 32
            && self.buckets.available() > 0
            && self.rib.count(view, span.depth, JOIN_AT + 1) <= JOIN_AT;
        if !joins {
            return old;
        }
        let new = self.build(span, view, Some((old, span)));
        self.retire(old, span.depth, span.word_end());
        new
    }

    fn rewrite_bucket(&mut self, old: Entry, span: Span, view: View) -> Entry {
        let Some(parts) = Parts::cut(self.rib, span, view) else {
            let new = self.build_stride(span, view, Some((old, span)));
            self.buckets.retire(old.number() - self.table.first_bucket);
            return new;
        };
        let entries = self.entries(&parts, span, Some((old, span)));
        let table = self.table;
        let words = &table.nodes[start(old)..][..LINE];
        let bounds = &words[1..INTERVALS];
        let has_bound = |part: &Part| {
            bounds.iter().any(|word| bound_of(word.load(Ordering::Relaxed)) == part.start)
        };
        if !parts.iter().skip(1).all(has_bound) {
            let new = self.write_bucket(&parts, &entries);
            self.buckets.retire(old.number() - self.table.first_bucket);
            return new;
        }
        let mut previous = Entry::NONE;
        for interval in 0..INTERVALS {
            let part = match interval {
                0 => 0,
                _ => parts.covering(bound_of(words[interval].load(Ordering::Relaxed))),
            };
            let word = &words[INTERVALS + interval];
            let before = Entry(word.load(Ordering::Relaxed));
            word.store(entries[part].0, Ordering::Release);
            if before.is_node() && !entries[part].is_node() && before != previous {
                self.retire(before, span.word_end(), u8::MAX);
            }
            previous = before;
        }
        old
    }

    /// A node for a span that has had none. `from` is a node, with its span, that held the same
    /// prefixes before: what hangs at the end of its word is taken over.
    fn build(&mut self, span: Span, view: View, from: Option<(Entry, Span)>) -> Entry {
        let parts = if span.depth < 32 { None } else { Parts::cut(self.rib, span, view) };
        let Some(parts) = parts else { return self.build_stride(span, view, from) };
        let entries = self.entries(&parts, span, from);
        self.write_bucket(&parts, &entries)
    }

    fn build_stride(&mut self, span: Span, view: View, from: Option<(Entry, Span)>) -> Entry {
        let number = self.strides.alloc().expect("insert has seen to free strides");
        let stride = Entry::stride(number * STRIDE_LINES);
        for octet in 0..=u8::MAX {
            let part = span.octet(octet);
            let inner = self.rib.narrow(view, part.key, part.depth);
            let entry = if inner.is_uniform() {
                inner.entry
            } else if part.depth == span.word_end() {
                self.deeper(part, inner, from)
            } else {
                self.build(part, inner, from)
            };
            let word = &self.table.nodes[start(stride) | usize::from(octet)];
            word.store(entry.0, Ordering::Relaxed);
        }
        stride
    }

    /// The entries of a bucket for these intervals; the last one's repeated to the end.
    fn entries(
        &mut self,
        parts: &Parts,
        span: Span,
        from: Option<(Entry, Span)>,
    ) -> [Entry; INTERVALS] {
        let mut entries = [Entry::NONE; INTERVALS];
        let mut count = 0;
        for part in parts.iter() {
            entries[count] = match part.deeper {
                None => part.entry,
                Some(view) => self.deeper(span.slot(part.start), view, from),
            };
            count += 1;
        }
        let last = entries[count - 1];
        entries[count..].fill(last);
        entries
    }

    /// The entry at the end of a word, from where prefixes go on in the next one.
    fn deeper(&mut self, slot: Span, view: View, from: Option<(Entry, Span)>) -> Entry {
        let old = from.map_or(Entry::NONE, |(node, span)| self.descend(node, span, slot));
        if !old.is_node() {
            self.build(slot, view, None)
        } else if self.change.touches(slot, view) {
            self.rewrite(old, slot, view)
        } else {
            old
        }
    }

    /// What `node`, which hangs at `span`, holds for `slot` at the end of the word.
    fn descend(&self, node: Entry, span: Span, slot: Span) -> Entry {
        let key = Key { octets: slot.key.to_be_bytes() };
        let (mut entry, mut depth) = (node, usize::from(span.depth / 8));
        while entry.is_node() && depth < usize::from(slot.depth / 8) {
            entry = self.table.step(entry, &key, &mut depth);
        }
        entry
    }

    fn write_bucket(&mut self, parts: &Parts, entries: &[Entry; INTERVALS]) -> Entry {
        let number = self.buckets.alloc().expect("insert has seen to free buckets");
        let bucket = Entry::bucket(self.table.first_bucket + number);
        let (bounds, values) = self.table.nodes[start(bucket)..][..LINE].split_at(INTERVALS);
        let starts = parts.iter().map(|part| part.start).chain(std::iter::repeat(u32::MAX));
        for (word, start) in bounds.iter().zip(starts) {
            word.store(bound(start), Ordering::Relaxed);
        }
        for (word, entry) in values.iter().zip(entries) {
            word.store(entry.0, Ordering::Relaxed);
        }
        bucket
    }

    /// Takes `node` at `depth` out of use, and what hangs under it above the depth `end`.
    fn retire(&mut self, node: Entry, depth: u8, end: u8) {
        if !node.is_node() || depth >= end {
            return;
        }
        let table = self.table;
        let (words, below) = match node.is_stride() {
            true => (&table.nodes[start(node)..][..256], depth + 8),
            false => (&table.nodes[start(node) + INTERVALS..][..INTERVALS], depth / 32 * 32 + 32),
        };
        let mut previous = Entry::NONE;
        for word in words {
            let entry = Entry(word.load(Ordering::Relaxed));
            if entry != previous {
                self.retire(entry, below, end);
            }
            previous = entry;
        }
        match node.is_stride() {
            true => self.strides.retire(node.number() / STRIDE_LINES),
            false => self.buckets.retire(node.number() - table.first_bucket),
        }
    }
}
