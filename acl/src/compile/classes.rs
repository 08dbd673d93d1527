//! Address classes: the different lists of atoms that addresses are in.
//!
//! An atom is a set of addresses that some rule asks for. Two addresses in the same atoms are one
//! class, and every program treats them alike. Atoms 0 and 1 stand for the address family.
//!
//! The number of a class that ends is given to another one only when no snapshot is left whose
//! tables have it. So what a program notes about a new class may be written where readers of older
//! snapshots look: none of them asks for it.

use crate::classifier::Classifier;
use ahash::{AHashMap, AHashSet, RandomState};
use hashbrown::HashTable;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Weak;

/// A set of addresses.
pub(super) type Atom = u32;
/// All IPv4 addresses, and the class of those in nothing else.
pub(super) const V4: Atom = 0;
/// All IPv6 addresses, and the class of those in nothing else.
pub(super) const V6: Atom = 1;
/// Most classes.
pub const CLASSES_MAX: usize = 1 << 20;

/// All classes.
#[derive(Debug)]
pub(super) struct Classes {
    entries: Vec<Class>,
    by_atoms: HashTable<u32>,
    hasher: RandomState,
    /// Classes of each atom.
    containing: Vec<AHashSet<u32>>,
    free: Vec<u32>,
    /// Made since the last sweep.
    added: Vec<u32>,
    /// Perhaps without users since the last sweep.
    idle: Vec<u32>,
    /// Ended, in order; never empty of a sweep whose predecessors are still there.
    ended: VecDeque<Ended>,
    count: usize,
}

/// Classes that a sweep has ended.
#[derive(Debug)]
struct Ended {
    /// The last snapshot that may have them.
    snapshot: Weak<Classifier>,
    classes: Vec<(u32, Box<[Atom]>)>,
}

#[derive(Debug, Default, Clone)]
struct Class {
    atoms: Box<[Atom]>,
    /// Prefixes that have it.
    users: u32,
    is_live: bool,
}

/// Classes that came and went.
#[derive(Debug, Default)]
pub(super) struct Turnover {
    pub(super) added: ByAtom,
    /// Those that no snapshot has any more.
    pub(super) removed: ByAtom,
}

/// Classes by each of their atoms.
#[derive(Debug, Default)]
pub(super) struct ByAtom(AHashMap<Atom, Vec<u32>>);

impl Turnover {
    pub(super) fn is_empty(&self) -> bool {
        self.added.0.is_empty() && self.removed.0.is_empty()
    }
}

impl ByAtom {
    fn add(&mut self, class: u32, atoms: &[Atom]) {
        for atom in atoms.iter().filter(|atom| **atom > V6) {
            self.0.entry(*atom).or_default().push(class);
        }
    }

    /// Those that are in some of the atoms.
    pub(super) fn within(&self, atoms: &BTreeSet<Atom>) -> BTreeSet<u32> {
        match atoms.len() < self.0.len() {
            true => atoms.iter().filter_map(|atom| self.0.get(atom)).flatten().copied().collect(),
            false => {
                let of = self.0.iter().filter(|(atom, _)| atoms.contains(atom));
                of.flat_map(|(_, classes)| classes).copied().collect()
            }
        }
    }
}

impl Classes {
    pub(super) fn new() -> Classes {
        let mut classes = Classes {
            entries: Vec::new(),
            by_atoms: HashTable::new(),
            hasher: RandomState::new(),
            containing: Vec::new(),
            free: Vec::new(),
            added: Vec::new(),
            idle: Vec::new(),
            ended: VecDeque::new(),
            count: 0,
        };
        // Class 0 is that of atom 0, and class 1 that of atom 1; their users never end.
        classes.acquire(&[V4]);
        classes.acquire(&[V6]);
        classes.added.clear();
        classes
    }

    pub(super) fn atoms(&self, class: u32) -> &[Atom] {
        &self.entries[class as usize].atoms
    }

    /// Classes that are in an atom.
    pub(super) fn containing(&self, atom: Atom) -> impl Iterator<Item = u32> + '_ {
        self.containing.get(atom as usize).into_iter().flatten().copied()
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The class of sorted atoms, with one user more.
    pub(super) fn acquire(&mut self, atoms: &[Atom]) -> u32 {
        let hash = self.hasher.hash_one(atoms);
        let entries = &self.entries;
        let same = |class: &u32| *entries[*class as usize].atoms == *atoms;
        if let Some(class) = self.by_atoms.find(hash, same).copied() {
            self.entries[class as usize].users += 1;
            return class;
        }
        let entry = Class { atoms: atoms.into(), users: 1, is_live: true };
        let class = match self.free.pop() {
            Some(class) => {
                self.entries[class as usize] = entry;
                class
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        let (entries, hasher) = (&self.entries, &self.hasher);
        let rehash = |class: &u32| hasher.hash_one(&*entries[*class as usize].atoms);
        self.by_atoms.insert_unique(hash, class, rehash);
        for atom in atoms.iter().map(|atom| *atom as usize).filter(|atom| *atom > V6 as usize) {
            if self.containing.len() <= atom {
                self.containing.resize_with(atom + 1, AHashSet::default);
            }
            self.containing[atom].insert(class);
        }
        self.added.push(class);
        self.count += 1;
        class
    }

    pub(super) fn release(&mut self, class: u32) {
        let entry = &mut self.entries[class as usize];
        entry.users -= 1;
        if entry.users == 0 {
            self.idle.push(class);
        }
    }

    /// Ends classes without users. `snapshot` is the last one that was made before.
    pub(super) fn sweep(&mut self, snapshot: Weak<Classifier>) -> Turnover {
        let mut turnover = Turnover::default();
        let mut ended = Vec::new();
        for class in std::mem::take(&mut self.idle) {
            let entry = &mut self.entries[class as usize];
            if entry.users > 0 || !entry.is_live {
                continue;
            }
            entry.is_live = false;
            let atoms = std::mem::take(&mut entry.atoms);
            let hash = self.hasher.hash_one(&*atoms);
            if let Ok(found) = self.by_atoms.find_entry(hash, |other| *other == class) {
                found.remove();
            }
            for atom in atoms.iter().filter(|atom| **atom > V6) {
                self.containing[*atom as usize].remove(&class);
            }
            self.count -= 1;
            ended.push((class, atoms));
        }
        for class in std::mem::take(&mut self.added) {
            let entry = &self.entries[class as usize];
            if entry.is_live {
                turnover.added.add(class, &entry.atoms);
            }
        }
        self.ended.push_back(Ended { snapshot, classes: ended });
        // A later one may be gone while somebody still has an earlier one.
        while let Some(ended) = self.ended.pop_front_if(|one| one.snapshot.strong_count() == 0) {
            for (class, atoms) in ended.classes {
                turnover.removed.add(class, &atoms);
                self.free.push(class);
            }
        }
        turnover
    }
}
