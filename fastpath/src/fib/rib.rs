//! The writer's book of prefixes: a path-compressed binary trie, one for each family.
//!
//! The lookup tables hold answers only. What lies under a prefix, and who owns an address once a
//! prefix is gone, is asked here. A [`View`] is a place in the trie: the part of it inside some
//! span of addresses, and the longest prefix that covers the whole span. Nodes live in one vector
//! and are named by index; depth is at most the family's number of bits.

use super::entry::Entry;
use crate::tables::TargetId;

/// No node.
pub(super) const NIL: u32 = u32::MAX;

/// An address of either family, as bits counted from the most significant one.
pub(super) trait Bits: Copy + Ord {
    /// Bit `at`, 0 or 1; there must be one.
    fn bit(self, at: u8) -> usize;
    /// Leading bits that both have in common.
    fn common(self, other: Self) -> u8;
    /// The address with all bits from `len` on cleared.
    fn first(self, len: u8) -> Self;
    /// The address with all bits from `len` on set.
    fn last(self, len: u8) -> Self;
    /// The next address; `None` after the last.
    fn next(self) -> Option<Self>;
    /// The address before; the last one before the first.
    fn previous(self) -> Self;
}

impl Bits for u32 {
    fn bit(self, at: u8) -> usize {
        (self >> (31 - at) & 1) as usize
    }

    fn common(self, other: u32) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    fn first(self, len: u8) -> u32 {
        self & !u32::MAX.checked_shr(len.into()).unwrap_or(0)
    }

    fn last(self, len: u8) -> u32 {
        self | u32::MAX.checked_shr(len.into()).unwrap_or(0)
    }

    fn next(self) -> Option<u32> {
        self.checked_add(1)
    }

    fn previous(self) -> u32 {
        self.wrapping_sub(1)
    }
}

impl Bits for u128 {
    fn bit(self, at: u8) -> usize {
        (self >> (127 - at) & 1) as usize
    }

    fn common(self, other: u128) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    fn first(self, len: u8) -> u128 {
        self & !u128::MAX.checked_shr(len.into()).unwrap_or(0)
    }

    fn last(self, len: u8) -> u128 {
        self | u128::MAX.checked_shr(len.into()).unwrap_or(0)
    }

    fn next(self) -> Option<u128> {
        self.checked_add(1)
    }

    fn previous(self) -> u128 {
        self.wrapping_sub(1)
    }
}

/// A prefix, or a mere fork: a node without a target has two children.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<K> {
    pub(super) key: K,
    pub(super) child: [u32; 2],
    pub(super) entry: Entry,
    pub(super) len: u8,
}

impl<K> Node<K> {
    /// True for a prefix, false for a fork.
    pub(super) fn is_prefix(&self) -> bool {
        self.entry.is_target()
    }

    pub(super) fn is_leaf(&self) -> bool {
        self.child == [NIL, NIL]
    }
}

/// What the trie says of a span of addresses (see [`Rib::narrow`]).
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// The topmost node in the span, its length at least the span's; `NIL` when no prefix is
    /// longer than the span.
    pub(super) node: u32,
    /// What the longest prefix that covers the span says; `NONE` without one.
    pub(super) entry: Entry,
    /// Length of that prefix, 0 without one.
    pub(super) owner_len: u8,
}

impl View {
    /// True when one answer holds for the whole span.
    pub(super) fn is_uniform(&self) -> bool {
        self.node == NIL
    }
}

/// The trie. It never holds the default route: a prefix has at least one bit.
#[derive(Debug)]
pub(super) struct Rib<K> {
    nodes: Vec<Node<K>>,
    free: Vec<u32>,
    root: u32,
    prefixes: usize,
}

impl<K: Bits> Rib<K> {
    pub(super) fn new() -> Rib<K> {
        Rib { nodes: Vec::new(), free: Vec::new(), root: NIL, prefixes: 0 }
    }

    /// Prefixes in the trie.
    pub(super) fn len(&self) -> usize {
        self.prefixes
    }

    /// The view of all addresses.
    pub(super) fn whole(&self) -> View {
        View { node: self.root, entry: Entry::NONE, owner_len: 0 }
    }

    pub(super) fn node(&self, at: u32) -> &Node<K> {
        &self.nodes[at as usize]
    }

    /// The view of `key/len`, which lies inside the span that `view` was narrowed to.
    #[inline]
    pub(super) fn narrow(&self, mut view: View, key: K, len: u8) -> View {
        while view.node != NIL {
            let node = self.node(view.node);
            if node.key.common(key) < node.len.min(len) {
                view.node = NIL;
                break;
            }
            if node.len > len {
                break;
            }
            if node.is_prefix() {
                view.entry = node.entry;
                view.owner_len = node.len;
            }
            if node.is_leaf() {
                view.node = NIL;
            } else if node.len == len {
                break;
            } else {
                view.node = node.child[key.bit(node.len)];
            }
        }
        view
    }

    /// Tops of the subtrees that hold the prefixes longer than `len` under a view of that length.
    pub(super) fn tops(&self, view: View, len: u8) -> [u32; 2] {
        match view.node {
            NIL => [NIL, NIL],
            at if self.node(at).len == len => self.node(at).child,
            at => [at, NIL],
        }
    }

    /// The target of exactly `key/len`.
    pub(super) fn get(&self, key: K, len: u8) -> Option<TargetId> {
        let view = self.narrow(self.whole(), key, len);
        (view.owner_len == len && view.entry.is_target()).then(|| view.entry.id())
    }

    /// Sets the target of `key/len`; the one it had before.
    pub(super) fn insert(&mut self, key: K, len: u8, target: TargetId) -> Option<TargetId> {
        let entry = Entry::target(target);
        let (mut parent, mut at) = (None, self.root);
        while at != NIL {
            let node = self.node(at);
            let common = node.key.common(key).min(node.len).min(len);
            if common < node.len {
                self.fork(parent, at, common, (key, len, entry));
                return None;
            }
            if node.len == len {
                let old = std::mem::replace(&mut self.nodes[at as usize].entry, entry);
                self.prefixes += usize::from(!old.is_target());
                return old.is_target().then(|| old.id());
            }
            let side = key.bit(node.len);
            parent = Some((at, side));
            at = node.child[side];
        }
        let leaf = self.add(Node { key, child: [NIL, NIL], entry, len });
        self.attach(parent, leaf);
        self.prefixes += 1;
        None
    }

    /// Puts a new prefix above or beside node `at`, with which it shares `common` bits only.
    fn fork(&mut self, parent: Option<(u32, usize)>, at: u32, common: u8, new: (K, u8, Entry)) {
        let (key, len, entry) = new;
        let old_side = self.node(at).key.bit(common);
        let mut child = [NIL, NIL];
        child[old_side] = at;
        let top = if common == len {
            self.add(Node { key, child, entry, len })
        } else {
            child[1 - old_side] = self.add(Node { key, child: [NIL, NIL], entry, len });
            self.add(Node { key: key.first(common), child, entry: Entry::NONE, len: common })
        };
        self.attach(parent, top);
        self.prefixes += 1;
    }

    /// Takes `key/len` out; the target it had.
    pub(super) fn remove(&mut self, key: K, len: u8) -> Option<TargetId> {
        let (mut above, mut parent, mut at) = (None, None, self.root);
        loop {
            if at == NIL {
                return None;
            }
            let node = self.node(at);
            if node.len > len || node.key.common(key) < node.len {
                return None;
            }
            if node.len == len {
                break;
            }
            let side = key.bit(node.len);
            above = parent;
            parent = Some((at, side));
            at = node.child[side];
        }
        let node = *self.node(at);
        if !node.is_prefix() {
            return None;
        }
        self.prefixes -= 1;
        match node.child {
            [NIL, NIL] => {
                self.attach(parent, NIL);
                self.release(at);
                self.dissolve_fork(above, parent);
            }
            [only, NIL] | [NIL, only] => {
                self.attach(parent, only);
                self.release(at);
            }
            _ => self.nodes[at as usize].entry = Entry::NONE,
        }
        Some(node.entry.id())
    }

    /// Replaces a fork that has lost a child by the other one.
    fn dissolve_fork(&mut self, above: Option<(u32, usize)>, fork: Option<(u32, usize)>) {
        let Some((at, side)) = fork else { return };
        let node = *self.node(at);
        if !node.is_prefix() {
            self.attach(above, node.child[1 - side]);
            self.release(at);
        }
    }

    fn add(&mut self, node: Node<K>) -> u32 {
        if let Some(at) = self.free.pop() {
            self.nodes[at as usize] = node;
            return at;
        }
        self.nodes.push(node);
        (self.nodes.len() - 1) as u32
    }

    fn attach(&mut self, parent: Option<(u32, usize)>, child: u32) {
        match parent {
            None => self.root = child,
            Some((at, side)) => self.nodes[at as usize].child[side] = child,
        }
    }

    fn release(&mut self, at: u32) {
        self.free.push(at);
    }

    /// Calls `each` with first and last address of each stretch of `key/len` that no longer prefix
    /// covers, in order. `view` is the view of that prefix.
    pub(super) fn gaps(&self, view: View, key: K, len: u8, each: &mut impl FnMut(K, K)) {
        let mut next = Some(key.first(len));
        for top in self.tops(view, len) {
            self.gaps_before(top, &mut next, each);
        }
        if let Some(first) = next.filter(|first| *first <= key.last(len)) {
            each(first, key.last(len));
        }
    }

    fn gaps_before(&self, at: u32, next: &mut Option<K>, each: &mut impl FnMut(K, K)) {
        if at == NIL {
            return;
        }
        let node = self.node(at);
        if !node.is_prefix() {
            node.child.into_iter().for_each(|child| self.gaps_before(child, next, each));
            return;
        }
        if let Some(first) = next.filter(|first| *first < node.key) {
            each(first, node.key.previous());
        }
        *next = node.key.last(node.len).next();
    }

    /// Prefixes under a view of length `len`, counted up to `most`.
    pub(super) fn count(&self, view: View, len: u8, most: usize) -> usize {
        let mut stack = Vec::from(self.tops(view, len));
        let mut count = 0;
        while let Some(at) = stack.pop() {
            if at == NIL {
                continue;
            }
            let node = self.node(at);
            count += usize::from(node.is_prefix());
            if count >= most {
                break;
            }
            stack.extend(node.child);
        }
        count
    }

    /// All prefixes, a shorter one before the longer ones it covers, else by address.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, u8, TargetId)> + '_ {
        let mut stack = vec![self.root];
        std::iter::from_fn(move || {
            loop {
                let at = stack.pop()?;
                if at == NIL {
                    continue;
                }
                let node = self.node(at);
                stack.extend([node.child[1], node.child[0]]);
                if node.is_prefix() {
                    return Some((node.key, node.len, node.entry.id()));
                }
            }
        })
    }
}
