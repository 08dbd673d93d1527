//! Numbers for values: the same value keeps its number as long as it is in use.
//!
//! A number that falls out of use is free for another value only when the caller says that no
//! worker can know it any more.

use ahash::AHashMap;
use std::hash::Hash;

/// Values by number, and numbers by value.
#[derive(Debug, Clone)]
pub(crate) struct Ids<K> {
    numbers: AHashMap<K, u32>,
    slots: Vec<Slot<K>>,
    free: Vec<u32>,
    retired: Vec<u32>,
    grown: bool,
}

#[derive(Debug, Clone)]
struct Slot<K> {
    value: Option<K>,
    used: bool,
}

impl<K: Clone + Eq + Hash> Ids<K> {
    pub(crate) fn new() -> Ids<K> {
        Ids {
            numbers: AHashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            retired: Vec::new(),
            grown: false,
        }
    }

    /// Begins a round: what is not asked for before [`Ids::sweep`] is out of use.
    pub(crate) fn begin(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.used = false);
    }

    /// The number of a value.
    pub(crate) fn number(&mut self, value: &K) -> u32 {
        if let Some(number) = self.numbers.get(value) {
            self.slots[*number as usize].used = true;
            return *number;
        }
        let slot = Slot { value: Some(value.clone()), used: true };
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = slot;
                number
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        self.numbers.insert(value.clone(), number);
        self.grown = true;
        number
    }

    /// Whether numbers were given to new values since the last call.
    pub(crate) fn take_grown(&mut self) -> bool {
        std::mem::take(&mut self.grown)
    }

    /// Takes the values out that this round did not ask for; true when there were some. Their
    /// numbers stay empty until [`Ids::reuse`].
    pub(crate) fn sweep(&mut self) -> bool {
        let before = self.retired.len();
        for (number, slot) in self.slots.iter_mut().enumerate() {
            if slot.used {
                continue;
            }
            if let Some(value) = slot.value.take() {
                self.numbers.remove(&value);
                self.retired.push(number as u32);
            }
        }
        self.retired.len() > before
    }

    /// No worker knows swept numbers any more.
    pub(crate) fn reuse(&mut self) {
        self.free.append(&mut self.retired);
    }

    /// Values by number; `None` where a number is empty.
    pub(crate) fn values(&self) -> impl Iterator<Item = Option<&K>> {
        self.slots.iter().map(|slot| slot.value.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_kept_while_used_and_given_on_only_after_reuse() {
        let mut ids = Ids::new();
        let (a, b) = (ids.number(&"a"), ids.number(&"b"));
        assert_ne!(a, b);
        ids.begin();
        assert_eq!(ids.number(&"b"), b);
        assert!(ids.sweep());
        assert!(!ids.sweep());
        let c = ids.number(&"c");
        assert_ne!(c, a, "a worker may still know a's number");
        ids.reuse();
        assert_eq!(ids.number(&"d"), a);
        let values: Vec<Option<&&str>> = ids.values().collect();
        assert_eq!(values, [Some(&"d"), Some(&"b"), Some(&"c")]);
    }
}
