//! Cutting a word's values into intervals, each with one owner.
//!
//! Where the cuts lie depends on the prefixes only, never on their targets: so a new target, or a
//! new prefix that covers a whole bucket, changes entries and never bounds.

use super::INTERVALS;
use crate::fib::entry::Entry;
use crate::fib::rib::{Bits, NIL, Rib, View};

/// A span of addresses: those that share the first `depth` bits of `key`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) key: u128,
    pub(super) depth: u8,
}

impl Span {
    /// Bits before the end of the word that the span's next octet lies in.
    pub(super) fn word_end(&self) -> u8 {
        (self.depth / 32 + 1) * 32
    }

    /// The value of the word that follows the span's bits, in an address inside it.
    pub(super) fn word(&self, address: u128) -> u32 {
        (address >> (128 - self.word_end())) as u32
    }

    /// The part of the span whose word has one value.
    pub(super) fn slot(&self, word: u32) -> Span {
        let depth = self.word_end();
        let key = self.key.first(depth - 32) | u128::from(word) << (128 - depth);
        Span { key, depth }
    }

    /// The part of the span whose next octet has one value.
    pub(super) fn octet(&self, octet: u8) -> Span {
        Span { key: self.key | u128::from(octet) << (120 - self.depth), depth: self.depth + 8 }
    }
}

/// One interval, up to the next one's start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) start: u32,
    /// What the owner says.
    pub(super) entry: Entry,
    /// Prefixes that go on in the next word: then the interval is one value wide.
    pub(super) deeper: Option<View>,
}

/// The intervals of one span, at most a bucket's number of them.
#[derive(Debug)]
pub(super) struct Parts {
    parts: [Part; INTERVALS],
    len: usize,
    span: Span,
    last: u32,
}

/// More intervals than a bucket has.
struct TooMany;

impl Parts {
    /// Cuts `span`, seen as `view`; `None` when it takes more intervals than a bucket has.
    pub(super) fn cut(rib: &Rib<u128>, span: Span, view: View) -> Option<Parts> {
        let first = Part { start: span.word(span.key), entry: view.entry, deeper: None };
        let last = span.word(span.key.last(span.depth));
        let mut parts = Parts { parts: [first; INTERVALS], len: 1, span, last };
        for top in rib.tops(view, span.depth) {
            parts.visit(rib, top, view).ok()?;
        }
        Some(parts)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Part> {
        self.parts[..self.len].iter()
    }

    /// The number of the interval that holds `word`, a value inside the span.
    pub(super) fn covering(&self, word: u32) -> usize {
        self.iter().take_while(|part| part.start <= word).count().max(1) - 1
    }

    fn begin(&mut self, part: Part) -> Result<(), TooMany> {
        if self.parts[self.len - 1].start != part.start {
            if self.len == INTERVALS {
                return Err(TooMany);
            }
            self.len += 1;
        }
        self.parts[self.len - 1] = part;
        Ok(())
    }

    /// After an inner prefix has ended at `word`, its owner goes on, unless the span ends too.
    fn resume(&mut self, word: u32, outer: View) -> Result<(), TooMany> {
        if word == self.last {
            return Ok(());
        }
        self.begin(Part { start: word + 1, entry: outer.entry, deeper: None })
    }

    fn visit(&mut self, rib: &Rib<u128>, at: u32, outer: View) -> Result<(), TooMany> {
        if at == NIL {
            return Ok(());
        }
        let node = rib.node(at);
        let end = self.span.word_end();
        let start = self.span.word(node.key);
        if node.len > end || (node.len == end && !node.is_leaf()) {
            let slot = rib.narrow(View { node: at, ..outer }, node.key, end);
            self.begin(Part { start, entry: slot.entry, deeper: Some(slot) })?;
            return self.resume(start, outer);
        }
        let mut inner = outer;
        if node.is_prefix() {
            inner = View { node: NIL, entry: node.entry, owner_len: node.len };
            self.begin(Part { start, entry: node.entry, deeper: None })?;
        }
        for child in node.child {
            self.visit(rib, child, inner)?;
        }
        if node.is_prefix() {
            self.resume(self.span.word(node.key.last(node.len)), outer)?;
        }
        Ok(())
    }
}
