//! Different bit vectors by number: each stands in its table once.
//!
//! Full pages are shared with all who read the table; the last one is copied for them.

use crate::classifier::{Shape, VECTORS_MAX};
use ahash::RandomState;
use hashbrown::HashTable;
use std::sync::Arc;

/// A table that knows its vectors.
#[derive(Debug)]
pub(super) struct Vectors {
    pages: Pages,
    known: HashTable<u16>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Pages {
    shape: Shape,
    count: usize,
    full: Vec<Arc<[u64]>>,
    last: Vec<u64>,
}

impl Vectors {
    pub(super) fn new(shape: Shape) -> Vectors {
        let pages = Pages { shape, count: 0, full: Vec::new(), last: Vec::new() };
        Vectors { pages, known: HashTable::new(), hasher: RandomState::new() }
    }

    /// The number of a vector, which is added if it is new; `None` when there are too many.
    pub(super) fn number(&mut self, vector: &[u64]) -> Option<u16> {
        let hash = self.hasher.hash_one(vector);
        let pages = &self.pages;
        if let Some(number) = self.known.find(hash, |number| pages.get(*number) == vector) {
            return Some(*number);
        }
        let number = u16::try_from(self.len()).ok()?;
        if usize::from(number) >= VECTORS_MAX {
            return None;
        }
        self.pages.push(vector);
        let (pages, hasher) = (&self.pages, &self.hasher);
        self.known.insert_unique(hash, number, |other| hasher.hash_one(pages.get(*other)));
        Some(number)
    }

    pub(super) fn len(&self) -> usize {
        self.pages.count
    }

    /// The pages as they are now.
    pub(super) fn pages(&self) -> Vec<Arc<[u64]>> {
        let last = (!self.pages.last.is_empty()).then(|| Arc::from(&*self.pages.last));
        self.pages.full.iter().cloned().chain(last).collect()
    }

    /// All words in one piece.
    pub(super) fn into_words(self) -> Arc<[u64]> {
        let Pages { full, last, .. } = self.pages;
        full.iter().flat_map(|page| page.iter()).chain(&last).copied().collect()
    }
}

impl Pages {
    fn get(&self, number: u16) -> &[u64] {
        let (page, at) = self.shape.place(number);
        let words = self.full.get(page).map_or(&*self.last, |page| page);
        &words[at..at + self.shape.stride()]
    }

    fn push(&mut self, vector: &[u64]) {
        self.last.extend_from_slice(vector);
        self.count += 1;
        if self.last.len() == self.shape.page_words() {
            self.full.push(std::mem::take(&mut self.last).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_counted_once_and_bounded() {
        let mut vectors = Vectors::new(Shape::of(64));
        for value in 0..VECTORS_MAX as u64 {
            assert_eq!(vectors.number(&[value]), Some(value as u16));
        }
        assert_eq!(vectors.number(&[5]), Some(5));
        assert_eq!(vectors.number(&[VECTORS_MAX as u64]), None);
        assert_eq!(vectors.len(), VECTORS_MAX);
        let pages = vectors.pages();
        assert_eq!(pages.iter().map(|page| page.len()).sum::<usize>(), VECTORS_MAX);
        assert!(pages.concat().iter().copied().eq(0..VECTORS_MAX as u64));
        assert_eq!(*vectors.into_words(), pages.concat());
    }
}
