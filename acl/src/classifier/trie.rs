//! The books of longest prefix match: a trie of 16-bit steps that changes cheaply.
//!
//! Addresses are keys of 128 bits, IPv4 in the upper 32. A node holds runs of equal values over
//! its 65,536 slots, so its size follows what is in it; the first step is cut into groups. A
//! change copies the nodes on its way and shares the rest. Equal contents give equal tries.
//! Packets are looked up in [`super::table`], which is written from here.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Marks a run's value as the place of a child; values are smaller.
pub(super) const CHILD: u32 = 1 << 31;
/// Slots of a node.
const SLOTS: u32 = 1 << 16;
/// From this many runs on, a node knows where each 256th slot's run is. No group has as many.
const INDEXED_RUNS: usize = 64;
/// Slots of the first step that lie in one node.
pub(super) const GROUP_SLOTS: usize = 64;
/// Nodes of the first step.
const GROUPS: usize = SLOTS as usize / GROUP_SLOTS;
/// Bits of a key within a group.
pub(super) const GROUP_SHIFT: u32 = 118;

/// From addresses to values.
#[derive(Debug, Clone)]
pub(crate) struct Trie {
    groups: Vec<Arc<Node>>,
}

/// Addresses that shall have one value, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) start: u128,
    pub(crate) end: u128,
    pub(crate) value: u32,
}

#[derive(Debug)]
pub(super) struct Node {
    /// First slots of the runs, the first one 0.
    starts: Box<[u16]>,
    /// A value, or [`CHILD`] and a place in `children`. Runs of children are one slot long.
    values: Box<[u32]>,
    children: Box<[Arc<Node>]>,
    /// The run of each 256th slot, and the last run.
    index: Option<Box<[u16; 257]>>,
}

/// What stands in a slot or in a whole node.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Value(u32),
    Child(Arc<Node>),
}

impl Trie {
    /// The same value for all addresses.
    pub(crate) fn uniform(value: u32) -> Trie {
        let node = Arc::new(Builder::of(value).into_node());
        Trie { groups: (0..GROUPS).map(|_| node.clone()).collect() }
    }

    /// Writes other values in some places, and tells the groups that they are in. The segments
    /// are in order, do not overlap, and begin and end where prefixes of the family can.
    pub(crate) fn write(&mut self, segments: &[Segment]) -> Vec<usize> {
        let mut parts: BTreeMap<usize, Vec<Segment>> = BTreeMap::new();
        for segment in segments {
            for group in group_of(segment.start)..=group_of(segment.end) {
                let first = (group as u128) << GROUP_SHIFT;
                let last = first | ((1 << GROUP_SHIFT) - 1);
                let (start, end) = (segment.start.max(first), segment.end.min(last));
                parts.entry(group).or_default().push(Segment { start, end, ..*segment });
            }
        }
        for (group, segments) in &parts {
            let slots = group * GROUP_SLOTS..(group + 1) * GROUP_SLOTS;
            let old = Content::Child(self.groups[*group].clone());
            let range = (slots.start as u32, slots.end as u32);
            self.groups[*group] = match write(&old, 112, range, segments) {
                Content::Child(node) => node,
                Content::Value(value) => Arc::new(Builder::of(value).into_node()),
            };
        }
        parts.into_keys().collect()
    }

    /// The nodes of the first step.
    pub(super) fn groups(&self) -> &[Arc<Node>] {
        &self.groups
    }

    #[cfg(test)]
    fn runs(&self) -> usize {
        self.groups.iter().map(|node| node.runs()).sum()
    }
}

impl Node {
    pub(super) fn run(&self, slot: u16) -> usize {
        let (from, to) = match &self.index {
            None => (0, self.starts.len() - 1),
            Some(index) => {
                let high = usize::from(slot >> 8);
                (usize::from(index[high]), usize::from(index[high + 1]))
            }
        };
        from + self.starts[from + 1..=to].partition_point(|start| *start <= slot)
    }

    /// First slots of the runs; that of the first run is of no account.
    pub(super) fn starts(&self) -> &[u16] {
        &self.starts
    }

    #[cfg(test)]
    fn runs(&self) -> usize {
        self.starts.len() + self.children.iter().map(|child| child.runs()).sum::<usize>()
    }

    pub(super) fn content(&self, run: usize) -> Content {
        match self.values[run] {
            value if value & CHILD == 0 => Content::Value(value),
            value => Content::Child(self.children[(value & !CHILD) as usize].clone()),
        }
    }
}

/// The runs of a node in the making.
struct Builder {
    starts: Vec<u16>,
    values: Vec<u32>,
    children: Vec<Arc<Node>>,
}

impl Builder {
    fn of(value: u32) -> Builder {
        Builder { starts: vec![0], values: vec![value], children: Vec::new() }
    }

    fn push(&mut self, slot: u32, content: Content) {
        let value = match content {
            Content::Value(value) if self.values.last() == Some(&value) => return,
            Content::Value(value) => value,
            Content::Child(node) => {
                self.children.push(node);
                CHILD | (self.children.len() - 1) as u32
            }
        };
        self.starts.push(slot as u16);
        self.values.push(value);
    }

    /// Takes slots of another content over; `to` is behind the last one.
    fn copy(&mut self, old: &Content, from: u32, to: u32) {
        if from >= to {
            return;
        }
        let node = match old {
            Content::Value(_) => return self.push(from, old.clone()),
            Content::Child(node) => node,
        };
        for run in node.run(from as u16)..node.starts.len() {
            let start = u32::from(node.starts[run]);
            if start >= to {
                break;
            }
            self.push(start.max(from), node.content(run));
        }
    }

    fn into_node(self) -> Node {
        let Builder { starts, values, children } = self;
        let index = (starts.len() > INDEXED_RUNS).then(|| {
            let last = (starts.len() - 1) as u16;
            let mut index = Box::new([last; 257]);
            for (high, place) in index[..256].iter_mut().enumerate() {
                let slot = (high << 8) as u16;
                *place = (starts.partition_point(|start| *start <= slot) - 1) as u16;
            }
            index
        });
        Node { starts: starts.into(), values: values.into(), children: children.into(), index }
    }

    fn into_content(self) -> Content {
        match self.children.is_empty() && self.values.len() == 1 {
            true => Content::Value(self.values[0]),
            false => Content::Child(Arc::new(self.into_node())),
        }
    }
}

/// The group of a key.
pub(super) fn group_of(key: u128) -> usize {
    (key >> GROUP_SHIFT) as usize
}

/// Writes segments over a slot's old content. `shift` is that of the node's slots, `range` says
/// which there are.
fn write(old: &Content, shift: u32, range: (u32, u32), segments: &[Segment]) -> Content {
    let slot = |key: u128| ((key >> shift) as u32) & (SLOTS - 1);
    let low = (1u128 << shift) - 1;
    let mut builder = Builder { starts: Vec::new(), values: Vec::new(), children: Vec::new() };
    let (mut next, mut at) = (range.0, 0);
    let mut resume = None;
    while let Some(segment) = segments.get(at) {
        let from = resume.take().unwrap_or(segment.start);
        let (first, last) = (slot(from), slot(segment.end));
        builder.copy(old, next, first);
        let whole_end = if segment.end & low == low { last + 1 } else { last };
        if from & low == 0 && whole_end > first {
            builder.push(first, Content::Value(segment.value));
            next = whole_end;
            match segment.end & low == low {
                true => at += 1,
                false => resume = Some(segment.end & !low),
            }
            continue;
        }
        // The slot is shared by several segments, or partly by none: one more level.
        let slot_end = from | low;
        let within = segments[at..].iter().take_while(|other| other.start <= slot_end).count();
        let mut inner = segments[at..at + within].to_vec();
        inner[0].start = from;
        let beyond = inner[within - 1].end > slot_end;
        inner[within - 1].end = inner[within - 1].end.min(slot_end);
        let inside = old_slot(old, first);
        builder.push(first, write(&inside, shift - 16, (0, SLOTS), &inner));
        next = first + 1;
        at += within - usize::from(beyond);
        resume = beyond.then(|| slot_end + 1);
    }
    builder.copy(old, next, range.1);
    builder.into_content()
}

fn old_slot(old: &Content, slot: u32) -> Content {
    match old {
        Content::Value(value) => Content::Value(*value),
        Content::Child(node) => node.content(node.run(slot as u16)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::AddressTable;
    use super::*;
    use proptest::prelude::*;

    fn segment(address: u128, length: u32, value: u32) -> Segment {
        let low = u128::MAX.checked_shr(length).unwrap_or(0);
        Segment { start: address & !low, end: address | low, value }
    }

    /// Few bits that vary, so that prefixes meet; at both ends and over the steps' borders.
    fn any_segment(longest: u32) -> impl Strategy<Value = Segment> {
        let bits = prop::collection::vec(any::<bool>(), 12);
        (bits, 0..=longest, 0u32..4).prop_map(|(bits, length, value)| {
            let places = [127, 126, 113, 112, 111, 110, 97, 96, 81, 80, 1, 0];
            let set = bits.iter().zip(places).filter(|(bit, _)| **bit);
            segment(set.map(|(_, place)| 1 << place).sum(), length, value)
        })
    }

    proptest! {
        #[test]
        fn a_trie_holds_what_was_written_last(
            writes in prop::collection::vec(any_segment(128), 1..40),
            probes in prop::collection::vec(any_segment(128), 40),
        ) {
            let mut trie = Trie::uniform(9);
            let mut table = AddressTable::new(&trie);
            for (at, write) in writes.iter().enumerate() {
                let before = table.clone();
                table.renew(&trie.write(&[*write]), &trie);
                let ends = writes.iter().chain(&probes).flat_map(|one| [one.start, one.end]);
                for key in ends {
                    let mut written = writes[..=at].iter().rev();
                    let last = written.find(|one| (one.start..=one.end).contains(&key));
                    prop_assert_eq!(table.find(key), last.map_or(9, |one| one.value));
                    let mut older = writes[..at].iter().rev();
                    let last = older.find(|one| (one.start..=one.end).contains(&key));
                    prop_assert_eq!(before.find(key), last.map_or(9, |one| one.value));
                }
            }
        }

        #[test]
        fn segments_at_once_are_as_one_by_one(
            writes in prop::collection::vec(any_segment(128), 1..30),
            first in any_segment(32),
        ) {
            let mut apart: Vec<Segment> = Vec::new();
            for write in &writes {
                if apart.iter().all(|one| one.end < write.start || write.end < one.start) {
                    apart.push(*write);
                }
            }
            let mut at_once = Trie::uniform(7);
            at_once.write(&[first]);
            let mut single = at_once.clone();
            apart.iter().for_each(|one| drop(single.write(&[*one])));
            apart.sort_by_key(|one| one.start);
            at_once.write(&apart);
            prop_assert_eq!(format!("{single:?}"), format!("{at_once:?}"));
        }
    }

    #[test]
    fn a_full_node_finds_every_slot() {
        let hosts: Vec<Segment> = (0..SLOTS)
            .map(|slot| segment((0x0a01_0000 + u128::from(slot)) << 96, 32, slot % 3))
            .collect();
        let mut trie = Trie::uniform(5);
        trie.write(&hosts);
        let table = AddressTable::new(&trie);
        for slot in 0..SLOTS {
            assert_eq!(table.find((0x0a01_0000 + u128::from(slot)) << 96 | 77), slot % 3);
        }
        assert_eq!(table.find(0x0a02_0000 << 96), 5);
        assert_eq!(table.find(0x0a00_ffff << 96), 5);
        trie.write(&[segment(0, 0, 5)]);
        assert_eq!((trie.runs(), AddressTable::new(&trie).find(0x0a01_0000 << 96)), (GROUPS, 5));
    }
}
