//! Different bit vectors by number: each stands in its table once.

use crate::classifier::{Shape, Table, VECTORS_MAX};
use ahash::RandomState;
use hashbrown::HashTable;

/// A table that knows its vectors.
#[derive(Debug)]
pub(super) struct Vectors {
    pub(super) table: Table,
    known: HashTable<u16>,
    hasher: RandomState,
}

impl Vectors {
    pub(super) fn new(shape: Shape) -> Vectors {
        Vectors {
            table: Table::new(shape.stride()),
            known: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    /// The number of a vector, which is added if it is new; `None` when there are too many.
    pub(super) fn number(&mut self, vector: &[u64]) -> Option<u16> {
        let hash = self.hasher.hash_one(vector);
        let table = &self.table;
        if let Some(number) = self.known.find(hash, |number| table.get(*number) == vector) {
            return Some(*number);
        }
        let number = u16::try_from(self.table.len()).ok()?;
        if usize::from(number) >= VECTORS_MAX {
            return None;
        }
        self.table.push(vector);
        let (table, hasher) = (&self.table, &self.hasher);
        self.known.insert_unique(hash, number, |other| hasher.hash_one(table.get(*other)));
        Some(number)
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
        assert_eq!(vectors.table.len(), VECTORS_MAX);
    }
}
