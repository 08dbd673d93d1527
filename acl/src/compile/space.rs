//! Prefixes, the atoms that they are in, and the class that follows.
//!
//! A prefix is in its own atoms and in those of every prefix around it. Changes are collected;
//! [`Space::settle`] finds the new classes of the prefixes concerned and of those inside them, and
//! says which ranges of addresses have which class.

use super::classes::{Atom, Classes, V4, V6};
use crate::classifier::{Segment, key};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Address and length in bits.
type Prefix = (u128, u8);

/// Prefixes of one family.
#[derive(Debug)]
pub(super) struct Space {
    /// Class of addresses outside all prefixes.
    outside: u32,
    entries: BTreeMap<Prefix, Entry>,
    /// Entries of each length.
    lengths: [u32; 129],
    changed: BTreeSet<Prefix>,
}

#[derive(Debug)]
struct Entry {
    /// Sorted; with how many members each of them has this prefix.
    own: Vec<(Atom, u32)>,
    /// `None` before it is settled the first time.
    class: Option<u32>,
}

/// A range as address and length.
pub(super) fn prefix(net: &IpNet) -> Prefix {
    (key(net.network()), net.prefix_len())
}

/// A single address as a prefix.
pub(super) fn host(address: IpAddr) -> Prefix {
    (key(address), if address.is_ipv4() { 32 } else { 128 })
}

fn end(prefix: Prefix) -> u128 {
    prefix.0 | u128::MAX.checked_shr(u32::from(prefix.1)).unwrap_or(0)
}

impl Space {
    pub(super) fn new(is_v6: bool) -> Space {
        Space {
            outside: if is_v6 { V6 } else { V4 },
            entries: BTreeMap::new(),
            lengths: [0; 129],
            changed: BTreeSet::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn add(&mut self, prefix: Prefix, atom: Atom) {
        let entry = self.entries.entry(prefix).or_insert_with(|| {
            self.lengths[usize::from(prefix.1)] += 1;
            Entry { own: Vec::new(), class: None }
        });
        match entry.own.binary_search_by_key(&atom, |(atom, _)| *atom) {
            Ok(at) => entry.own[at].1 += 1,
            Err(at) => {
                entry.own.insert(at, (atom, 1));
                self.changed.insert(prefix);
            }
        }
    }

    pub(super) fn remove(&mut self, prefix: Prefix, atom: Atom) {
        let Some(entry) = self.entries.get_mut(&prefix) else { return };
        let Ok(at) = entry.own.binary_search_by_key(&atom, |(atom, _)| *atom) else { return };
        entry.own[at].1 -= 1;
        if entry.own[at].1 == 0 {
            entry.own.remove(at);
            self.changed.insert(prefix);
        }
    }

    /// The ranges whose class may have changed, in order, with their classes.
    pub(super) fn settle(&mut self, classes: &mut Classes) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut done: Option<u128> = None;
        for changed in std::mem::take(&mut self.changed) {
            if done.is_none_or(|done| done < changed.0) {
                self.settle_range(changed, classes, &mut segments);
                done = Some(end(changed));
            }
        }
        segments
    }

    fn settle_range(&mut self, range: Prefix, classes: &mut Classes, out: &mut Vec<Segment>) {
        let around = self.class_around(range);
        let mut open = vec![(end(range), around)];
        let mut from = Some(range.0);
        let mut emptied = Vec::new();
        for (prefix, entry) in self.entries.range_mut(range..) {
            if prefix.0 > end(range) {
                break;
            }
            close(&mut open, &mut from, Some(prefix.0), out);
            let parent = open.last().map_or(around, |(_, class)| *class);
            let class = match entry.own.is_empty() {
                true => {
                    emptied.push((*prefix, entry.class));
                    continue;
                }
                false => classes.acquire(&joined(classes.atoms(parent), &entry.own)),
            };
            if let Some(old) = entry.class.replace(class) {
                classes.release(old);
            }
            open.push((end(*prefix), class));
        }
        close(&mut open, &mut from, None, out);
        for (prefix, class) in emptied {
            self.entries.remove(&prefix);
            self.lengths[usize::from(prefix.1)] -= 1;
            class.into_iter().for_each(|class| classes.release(class));
        }
    }

    /// The class of the longest prefix that is around another one.
    fn class_around(&self, (address, length): Prefix) -> u32 {
        for shorter in (0..length).rev().filter(|at| self.lengths[usize::from(*at)] > 0) {
            let mask = !u128::MAX.checked_shr(u32::from(shorter)).unwrap_or(0);
            if let Some(entry) = self.entries.get(&(address & mask, shorter))
                && let Some(class) = entry.class
            {
                return class;
            }
        }
        self.outside
    }
}

/// Says the classes of the addresses before `until`, or of all that are left, and leaves the
/// ranges that end there.
fn close(
    open: &mut Vec<(u128, u32)>,
    from: &mut Option<u128>,
    until: Option<u128>,
    out: &mut Vec<Segment>,
) {
    while let Some((end, class)) = open.last().copied() {
        let ends = until.is_none_or(|until| end < until);
        // Nothing is before the first address of a range.
        let last = match (ends, until) {
            (false, Some(until)) => until.checked_sub(1),
            _ => Some(end),
        };
        if let (Some(start), Some(last)) = (*from, last)
            && start <= last
        {
            out.push(Segment { start, end: last, value: class });
            *from = last.checked_add(1);
        }
        if !ends {
            return;
        }
        open.pop();
    }
}

/// Sorted atoms, each once.
fn joined(parent: &[Atom], own: &[(Atom, u32)]) -> Vec<Atom> {
    let mut atoms = Vec::with_capacity(parent.len() + own.len());
    atoms.extend_from_slice(parent);
    atoms.extend(own.iter().map(|(atom, _)| *atom));
    atoms.sort_unstable();
    atoms.dedup();
    atoms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::{AddressTable, Trie};
    use proptest::prelude::*;
    use std::sync::Weak;

    const NETS: [&str; 10] = [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.0.0/17",
        "10.1.128.0/17",
        "10.1.1.1/32",
        "10.1.1.2/32",
        "10.1.255.255/32",
        "255.255.255.255/32",
        "0.0.0.0/32",
    ];

    proptest! {
        #[test]
        fn an_address_has_the_atoms_of_all_prefixes_around_it(
            batches in prop::collection::vec(
                prop::collection::vec((0usize..10, 2u32..6, any::<bool>()), 1..8), 1..12),
        ) {
            let (mut space, mut classes) = (Space::new(false), Classes::new());
            let mut trie = Trie::uniform(V4);
            let mut table = AddressTable::new(&trie);
            let mut members: Vec<(usize, Atom)> = Vec::new();
            for batch in batches {
                for (net, atom, adds) in batch {
                    let place = members.iter().position(|one| *one == (net, atom));
                    let range = prefix(&NETS[net].parse().unwrap());
                    match (adds, place) {
                        (false, Some(place)) => {
                            members.swap_remove(place);
                            space.remove(range, atom);
                        }
                        (false, None) => {}
                        (true, _) => {
                            members.push((net, atom));
                            space.add(range, atom);
                        }
                    }
                }
                let segments = space.settle(&mut classes);
                prop_assert!(segments.windows(2).all(|two| two[0].end < two[1].start));
                table.renew(&trie.write(&segments), &trie);
                classes.sweep(Weak::new());
                let probes = NETS.iter().flat_map(|net| {
                    let net: IpNet = net.parse().unwrap();
                    [net.network(), net.broadcast()]
                });
                for address in probes {
                    let around = members.iter().filter(|(net, _)| {
                        NETS[*net].parse::<IpNet>().unwrap().contains(&address)
                    });
                    let expected: BTreeSet<Atom> =
                        around.map(|(_, atom)| *atom).chain([V4]).collect();
                    let class = table.find(key(address));
                    let atoms: BTreeSet<Atom> = classes.atoms(class).iter().copied().collect();
                    prop_assert_eq!(atoms, expected, "{}", address);
                }
                let distinct: BTreeSet<usize> = members.iter().map(|(net, _)| *net).collect();
                prop_assert_eq!(space.len(), distinct.len());
            }
        }
    }
}
