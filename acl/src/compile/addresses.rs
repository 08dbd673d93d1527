//! One address dimension of a program: which lanes each class of addresses allows.
//!
//! Demands are kept apart by the first atom that they want, so that a class asks only those that
//! it can meet. Classes in none of the program's atoms share a default for each family; only the
//! others have an entry. The entry of a class that no snapshot has is written in place.

use super::classes::{Atom, Classes, Turnover, V4, V6};
use super::lane::{Lane, Where};
use super::vectors::Vectors;
use crate::classifier::{CLASS_PAGE, Shape, Side};
use ahash::AHashMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// Classes by which a page of vector numbers grows at least.
const CLASSES_STEP: usize = 256;

/// A dimension in the making, and as long as it lives.
#[derive(Debug)]
pub(super) struct Addresses {
    shape: Shape,
    demands: Vec<Demand>,
    /// Demands by the first atom that they want.
    by_atom: AHashMap<Atom, Vec<u32>>,
    /// Demands that want no atom, but some not to be.
    unwanting: Vec<u32>,
    /// Lanes that demand nothing, for each family.
    base: [Vec<u64>; 2],
    /// Atoms that the dimension depends on.
    pub(super) atoms: BTreeSet<Atom>,
    vectors: Vectors,
    /// Classes of each vector.
    users: Vec<u32>,
    /// Vector of IPv6 classes that have no entry; that of IPv4's is 0.
    default_v6: u16,
    /// Vector numbers from 1 on by class, and 0 for the default.
    numbers: Vec<Arc<[AtomicU16]>>,
    is_trivial: bool,
}

#[derive(Debug)]
struct Demand {
    place: Where,
    lanes: Vec<u32>,
}

/// There are more different vectors than [`crate::classifier::VECTORS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany(pub(super) usize);

impl Addresses {
    /// The dimension of lanes, with all classes that there are.
    pub(super) fn new<'a>(
        shape: Shape,
        lanes: impl Iterator<Item = (u32, &'a Where)>,
        classes: &Classes,
    ) -> Result<Addresses, TooMany> {
        let mut dimension = Addresses::without_classes(shape, lanes);
        // A bit for each class: there are too many for a tree.
        let mut concerned: Vec<u64> = Vec::new();
        for class in dimension.atoms.iter().flat_map(|atom| classes.containing(*atom)) {
            let word = class as usize / 64;
            concerned.resize(concerned.len().max(word + 1), 0);
            concerned[word] |= 1 << (class % 64);
        }
        let mut numbers: Vec<u16> = vec![0; concerned.len() * 64];
        for (word, mut bits) in concerned.into_iter().enumerate() {
            while bits != 0 {
                let class = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let vector = dimension.vector_of(classes.atoms(class as u32));
                numbers[class] = dimension.count(&vector)?;
            }
        }
        let page = |numbers: &[u16]| numbers.iter().copied().map(AtomicU16::new).collect();
        dimension.numbers = numbers.chunks(CLASS_PAGE).map(page).collect();
        dimension.is_trivial = dimension.vectors.len() == 1 && dimension.is_unconditional();
        Ok(dimension)
    }

    fn without_classes<'a>(
        shape: Shape,
        lanes: impl Iterator<Item = (u32, &'a Where)>,
    ) -> Addresses {
        let mut demands: Vec<Demand> = Vec::new();
        let mut known: AHashMap<&Where, usize> = AHashMap::new();
        for (lane, place) in lanes {
            let at = *known.entry(place).or_insert_with(|| {
                demands.push(Demand { place: place.clone(), lanes: Vec::new() });
                demands.len() - 1
            });
            demands[at].lanes.push(lane);
        }
        let mut dimension = Addresses {
            shape,
            by_atom: AHashMap::new(),
            unwanting: Vec::new(),
            base: [shape.empty(), shape.empty()],
            atoms: BTreeSet::new(),
            vectors: Vectors::new(shape),
            users: Vec::new(),
            default_v6: 0,
            numbers: Vec::new(),
            is_trivial: false,
            demands,
        };
        dimension.file();
        dimension
    }

    fn file(&mut self) {
        for (number, demand) in self.demands.iter().enumerate() {
            let Where { all, none } = &demand.place;
            let atoms = all.iter().chain(none).copied().filter(|atom| *atom > V6);
            self.atoms.extend(atoms);
            match all.iter().find(|atom| **atom > V6) {
                Some(first) => self.by_atom.entry(*first).or_default().push(number as u32),
                None if !none.is_empty() => self.unwanting.push(number as u32),
                None => {}
            }
            for (family, base) in [V4, V6].iter().zip(&mut self.base) {
                if none.is_empty() && all.iter().all(|atom| atom == family) {
                    demand.lanes.iter().for_each(|lane| self.shape.set(base, *lane));
                }
            }
        }
        // Two vectors are within every limit; the first one is number 0.
        for family in [V4, V6] {
            let vector = self.vector_of(&[family]);
            self.default_v6 = self.vectors.number(&vector).unwrap_or(0);
        }
        self.users = vec![1; self.vectors.len()];
    }

    /// True when all lanes are allowed everywhere.
    fn is_unconditional(&self) -> bool {
        let free = |demand: &Demand| demand.place.all.is_empty() && demand.place.none.is_empty();
        self.demands.iter().all(free)
    }

    /// The lanes of a class with these atoms.
    fn vector_of(&self, atoms: &[Atom]) -> Vec<u64> {
        let is_v6 = atoms.first() == Some(&V6);
        let mut vector = self.base[usize::from(is_v6)].clone();
        let of_atoms = atoms.iter().filter_map(|atom| self.by_atom.get(atom)).flatten();
        for number in of_atoms.chain(&self.unwanting) {
            let demand = &self.demands[*number as usize];
            if demand.place.holds(atoms) {
                demand.lanes.iter().for_each(|lane| self.shape.set(&mut vector, *lane));
            }
        }
        vector
    }

    /// Notes that a class has a vector; its number from 1 on.
    fn count(&mut self, vector: &[u64]) -> Result<u16, TooMany> {
        let number = self.vectors.number(vector).ok_or(TooMany(self.vectors.len()))?;
        self.users.resize(self.vectors.len(), 0);
        self.users[usize::from(number)] += 1;
        Ok(number + 1)
    }

    /// Takes classes out that are gone, and new ones in. The answer is true when the dimension for
    /// packets is another one now, and not only has entries that nobody asked for before.
    pub(super) fn patch(
        &mut self,
        classes: &Classes,
        turnover: &Turnover,
    ) -> Result<bool, TooMany> {
        for class in turnover.removed.within(&self.atoms) {
            let page = self.numbers.get(class as usize / CLASS_PAGE);
            let entry = page.and_then(|page| page.get(class as usize % CLASS_PAGE));
            let number = entry.map_or(0, |entry| entry.swap(0, Ordering::Relaxed));
            if let Some(number) = number.checked_sub(1) {
                self.users[usize::from(number)] -= 1;
            }
        }
        let (vectors, mut is_other) = (self.vectors.len(), false);
        for class in turnover.added.within(&self.atoms) {
            let vector = self.vector_of(classes.atoms(class));
            let number = self.count(&vector)?;
            is_other |= self.set(class as usize, number);
        }
        Ok(is_other || self.vectors.len() != vectors)
    }

    /// Writes an entry; true when its page had to grow.
    fn set(&mut self, class: usize, number: u16) -> bool {
        let (page, at) = (class / CLASS_PAGE, class % CLASS_PAGE);
        self.numbers.resize_with(self.numbers.len().max(page + 1), Arc::default);
        let page = &mut self.numbers[page];
        let grows = page.len() <= at;
        if grows {
            let entry = |number: &AtomicU16| AtomicU16::new(number.load(Ordering::Relaxed));
            // By an eighth, so that growing is rare however many classes come.
            let length = (at + 1 + at / 8).next_multiple_of(CLASSES_STEP).min(CLASS_PAGE);
            let more = std::iter::repeat_with(AtomicU16::default);
            *page = page.iter().map(entry).chain(more).take(length).collect();
        }
        page[at].store(number, Ordering::Relaxed);
        grows
    }

    /// The dimension for packets, as it is now.
    pub(super) fn side(&self) -> Side {
        Side::new(&self.numbers, self.vectors.pages(), self.default_v6, self.is_trivial)
    }

    /// True when most vectors have no user any more.
    pub(super) fn is_wasteful(&self) -> bool {
        let used = self.users.iter().filter(|users| **users > 0).count();
        self.users.len() > 64 && used * 2 < self.users.len()
    }
}

impl Where {
    fn holds(&self, atoms: &[Atom]) -> bool {
        let has = |atom: &Atom| atoms.binary_search(atom).is_ok();
        self.all.iter().all(has) && !self.none.iter().any(has)
    }
}

/// The place demands of lanes on one side.
pub(super) fn places(lanes: &[&Lane], is_source: bool) -> Vec<(u32, Where)> {
    let side = |lane: &&Lane| match is_source {
        true => lane.source.clone(),
        false => lane.destination.clone(),
    };
    lanes.iter().enumerate().map(|(number, lane)| (number as u32, side(lane))).collect()
}
