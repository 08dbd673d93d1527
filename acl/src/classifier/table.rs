//! From addresses to classes, laid out so that a lookup touches few cache lines.
//!
//! Keys are those of [`super::trie`]. The first 10 bits choose a group: one allocation that begins
//! with the words of its 64 slots and goes on with its nodes, each of which answers 16 bits more.
//! A group is written anew as a whole when something in it changes, so equal contents give equal
//! cells. A short node lies in one or two cache lines and is searched without a branch.

use super::trie::{CHILD, Content, GROUP_SLOTS, Node, Trie, group_of};
use std::sync::Arc;

/// From this many runs on, a node knows where each 256th slot's run is.
const INDEXED_RUNS: usize = 33;
/// Cells of that index.
const INDEX: usize = 257;

/// Longest prefix match.
#[derive(Debug, Clone)]
pub(crate) struct AddressTable {
    groups: Vec<Arc<[u16]>>,
}

/// A lookup that has come as far as a node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    cells: &'a [u16],
    value: u32,
}

impl AddressTable {
    /// The table of a trie.
    pub(crate) fn new(trie: &Trie) -> AddressTable {
        let groups = trie.groups().iter().enumerate();
        AddressTable { groups: groups.map(|(number, node)| group(number, node)).collect() }
    }

    /// Takes over groups of a trie that have changed.
    pub(crate) fn renew(&mut self, groups: &[usize], trie: &Trie) {
        for number in groups {
            self.groups[*number] = group(*number, &trie.groups()[*number]);
        }
    }

    /// The value of a key.
    #[inline]
    pub(crate) fn find(&self, key: u128) -> u32 {
        self.begin(key).finish(key)
    }

    /// The first step of a lookup.
    #[inline]
    pub(super) fn begin(&self, key: u128) -> Cursor<'_> {
        let cells = &*self.groups[group_of(key)];
        Cursor { cells, value: wide(cells, (key >> 112) as usize % GROUP_SLOTS) }
    }

    /// Bytes of all groups.
    pub(crate) fn bytes(&self) -> usize {
        self.groups.iter().map(|cells| size_of_val(cells) + cells.len() * 2).sum()
    }
}

impl<'a> Cursor<'a> {
    pub(super) const NOWHERE: Cursor<'static> = Cursor { cells: &[], value: 0 };

    /// Reads what the next step needs, so that it is in the cache then.
    #[inline]
    pub(super) fn touch(self) -> u16 {
        match self.value & CHILD {
            0 => 0,
            _ => self.cells[(self.value & !CHILD) as usize],
        }
    }

    #[inline]
    pub(super) fn finish(self, key: u128) -> u32 {
        let Cursor { cells, mut value } = self;
        let mut rest = key;
        while value & CHILD != 0 {
            rest <<= 16;
            value = look_up(&cells[(value & !CHILD) as usize..], (rest >> 112) as u16);
        }
        value
    }
}

/// A value of two cells.
#[inline]
fn wide(cells: &[u16], at: usize) -> u32 {
    u32::from(cells[at * 2]) | u32::from(cells[at * 2 + 1]) << 16
}

/// The value of a slot in the node that begins with the cells: the number of its last run, the
/// index if there is one, the first slots of all runs, and their values.
#[inline]
fn look_up(node: &[u16], slot: u16) -> u32 {
    let runs = usize::from(node[0]) + 1;
    if runs < INDEXED_RUNS {
        let starts = &node[1..=runs];
        let run = starts[1..].iter().map(|start| u16::from(*start <= slot)).sum::<u16>();
        return wide(&node[1 + runs..], usize::from(run));
    }
    let index = &node[1..=INDEX];
    let starts = &node[1 + INDEX..1 + INDEX + runs];
    let high = usize::from(slot >> 8);
    let (from, to) = (usize::from(index[high]), usize::from(index[high + 1]));
    let run = from + starts[from + 1..=to].partition_point(|start| *start <= slot);
    wide(&node[1 + INDEX + runs..], run)
}

fn group(number: usize, node: &Node) -> Arc<[u16]> {
    let mut cells = vec![0; GROUP_SLOTS * 2];
    let (mut last, mut value) = (usize::MAX, 0);
    for slot in 0..GROUP_SLOTS {
        let run = node.run((number * GROUP_SLOTS + slot) as u16);
        if run != last {
            (last, value) = (run, encode(&node.content(run), &mut cells));
        }
        set_wide(&mut cells[slot * 2..], value);
    }
    cells.into()
}

/// The value of what stands in a slot; nodes are added to the cells.
fn encode(content: &Content, cells: &mut Vec<u16>) -> u32 {
    let node = match content {
        Content::Value(value) => return *value,
        Content::Child(node) => node,
    };
    let offset = cells.len();
    let starts = node.starts();
    cells.push((starts.len() - 1) as u16);
    if starts.len() >= INDEXED_RUNS {
        let runs = (0..256u16).map(|high| node.run(high << 8) as u16);
        cells.extend(runs.chain([(starts.len() - 1) as u16]));
    }
    cells.extend(starts);
    let values = cells.len();
    cells.resize(values + starts.len() * 2, 0);
    for run in 0..starts.len() {
        let value = encode(&node.content(run), cells);
        set_wide(&mut cells[values + run * 2..], value);
    }
    CHILD | offset as u32
}

fn set_wide(cells: &mut [u16], value: u32) {
    cells[0] = value as u16;
    cells[1] = (value >> 16) as u16;
}
