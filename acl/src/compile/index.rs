//! Which selector picks which labelled item, kept up to date from both sides.
//!
//! A selector is filed under the rarest label that it demands, and an item under each of its
//! labels: a change asks only those that can be concerned. Selectors that demand no label are
//! tried on everything.

use super::slab::Slab;
use crate::model::Labels;
use crate::selector::{Anchor, Selector};
use ahash::AHashMap;
use std::collections::BTreeSet;

/// Items and selectors, by numbers that their adder gets.
#[derive(Debug, Default)]
pub(super) struct Index {
    items: Slab<Item>,
    selectors: Slab<Entry>,
    /// Items by label.
    with: AHashMap<Box<str>, Named>,
    /// Selectors by the label that they demand.
    demanding: AHashMap<Box<str>, Demands>,
    /// Selectors that demand none.
    loose: BTreeSet<u32>,
}

#[derive(Debug)]
struct Item {
    labels: Labels,
    picked_by: BTreeSet<u32>,
}

#[derive(Debug)]
struct Entry {
    selector: Selector,
    anchor: Option<Anchor>,
    picks: BTreeSet<u32>,
}

#[derive(Debug, Default)]
struct Named {
    all: BTreeSet<u32>,
    by_value: AHashMap<Box<str>, BTreeSet<u32>>,
}

#[derive(Debug, Default)]
struct Demands {
    of_any_value: BTreeSet<u32>,
    by_value: AHashMap<Box<str>, BTreeSet<u32>>,
}

/// What changed for an item.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Selectors that pick it now and did not before.
    pub(super) started: Vec<u32>,
    /// Selectors that do not pick it any more.
    pub(super) stopped: Vec<u32>,
}

impl Index {
    /// Adds a selector.
    pub(super) fn add_selector(&mut self, selector: Selector) -> u32 {
        let anchors = selector.anchors();
        let anchor = anchors.into_iter().min_by_key(|anchor| self.rarity(anchor));
        let candidates = self.candidates(anchor.as_ref());
        let picks: BTreeSet<u32> = candidates
            .into_iter()
            .filter(|item| self.items.get(*item).is_some_and(|item| item.is_picked(&selector)))
            .collect();
        let entry = Entry { selector, anchor: anchor.clone(), picks: picks.clone() };
        let number = self.selectors.insert(entry);
        for item in picks {
            if let Some(item) = self.items.get_mut(item) {
                item.picked_by.insert(number);
            }
        }
        self.file(number, anchor.as_ref(), true);
        number
    }

    /// Removes a selector.
    pub(super) fn remove_selector(&mut self, number: u32) -> Option<Selector> {
        let entry = self.selectors.remove(number)?;
        for item in &entry.picks {
            if let Some(item) = self.items.get_mut(*item) {
                item.picked_by.remove(&number);
            }
        }
        self.file(number, entry.anchor.as_ref(), false);
        Some(entry.selector)
    }

    /// The items that a selector picks.
    pub(super) fn picks(&self, selector: u32) -> impl Iterator<Item = u32> + '_ {
        self.selectors.get(selector).into_iter().flat_map(|entry| entry.picks.iter().copied())
    }

    /// The selectors that pick an item.
    pub(super) fn picked_by(&self, item: u32) -> impl Iterator<Item = u32> + '_ {
        self.items.get(item).into_iter().flat_map(|item| item.picked_by.iter().copied())
    }

    /// Adds an item without labels.
    pub(super) fn add_item(&mut self) -> (u32, Change) {
        let item = Item { labels: Labels::new(), picked_by: BTreeSet::new() };
        let number = self.items.insert(item);
        let change = self.relabel(number);
        (number, change)
    }

    /// Gives an item other labels.
    pub(super) fn set_labels(&mut self, number: u32, labels: Labels) -> Change {
        self.unfile(number);
        let Some(item) = self.items.get_mut(number) else { return Change::default() };
        item.labels = labels;
        let Some(item) = self.items.get(number) else { return Change::default() };
        for (name, value) in &item.labels {
            let named = self.with.entry(name.as_str().into()).or_default();
            named.all.insert(number);
            named.by_value.entry(value.as_str().into()).or_default().insert(number);
        }
        self.relabel(number)
    }

    /// Removes an item.
    pub(super) fn remove_item(&mut self, number: u32) -> Change {
        self.unfile(number);
        let Some(item) = self.items.remove(number) else { return Change::default() };
        for selector in &item.picked_by {
            if let Some(entry) = self.selectors.get_mut(*selector) {
                entry.picks.remove(&number);
            }
        }
        Change { started: Vec::new(), stopped: item.picked_by.into_iter().collect() }
    }

    /// Finds the selectors of an item anew.
    fn relabel(&mut self, number: u32) -> Change {
        let Some(item) = self.items.get(number) else { return Change::default() };
        let mut now: BTreeSet<u32> = BTreeSet::new();
        let mut consider = |selectors: &BTreeSet<u32>| {
            let picks = |selector: &&u32| {
                let entry = self.selectors.get(**selector);
                entry.is_some_and(|entry| item.is_picked(&entry.selector))
            };
            now.extend(selectors.iter().filter(picks));
        };
        consider(&self.loose);
        for (name, value) in &item.labels {
            if let Some(demands) = self.demanding.get(name.as_str()) {
                consider(&demands.of_any_value);
                demands.by_value.get(value.as_str()).into_iter().for_each(&mut consider);
            }
        }
        let change = Change {
            started: now.difference(&item.picked_by).copied().collect(),
            stopped: item.picked_by.difference(&now).copied().collect(),
        };
        for (selectors, is_picked) in [(&change.started, true), (&change.stopped, false)] {
            for selector in selectors {
                let Some(entry) = self.selectors.get_mut(*selector) else { continue };
                match is_picked {
                    true => entry.picks.insert(number),
                    false => entry.picks.remove(&number),
                };
            }
        }
        if let Some(item) = self.items.get_mut(number) {
            item.picked_by = now;
        }
        change
    }

    fn unfile(&mut self, number: u32) {
        let Some(item) = self.items.get(number) else { return };
        for (name, value) in &item.labels {
            let Some(named) = self.with.get_mut(name.as_str()) else { continue };
            named.all.remove(&number);
            if let Some(items) = named.by_value.get_mut(value.as_str()) {
                items.remove(&number);
                if items.is_empty() {
                    named.by_value.remove(value.as_str());
                }
            }
            if named.all.is_empty() {
                self.with.remove(name.as_str());
            }
        }
    }

    /// How many items a demand leaves.
    fn rarity(&self, anchor: &Anchor) -> usize {
        let Some(named) = self.with.get(&anchor.name) else { return 0 };
        match &anchor.values {
            None => named.all.len(),
            Some(values) => {
                values.iter().filter_map(|value| named.by_value.get(value)).map(BTreeSet::len).sum()
            }
        }
    }

    fn candidates(&self, anchor: Option<&Anchor>) -> Vec<u32> {
        let Some(anchor) = anchor else {
            return self.items.iter().map(|(number, _)| number).collect();
        };
        let Some(named) = self.with.get(&anchor.name) else { return Vec::new() };
        match &anchor.values {
            None => named.all.iter().copied().collect(),
            Some(values) => {
                let found = values.iter().filter_map(|value| named.by_value.get(value));
                found.flatten().copied().collect()
            }
        }
    }

    /// Files a selector under its demand, or takes it out.
    fn file(&mut self, number: u32, anchor: Option<&Anchor>, is_new: bool) {
        let put = |places: &mut BTreeSet<u32>| match is_new {
            true => places.insert(number),
            false => places.remove(&number),
        };
        let Some(Anchor { name, values }) = anchor else {
            put(&mut self.loose);
            return;
        };
        let demands = self.demanding.entry(name.clone()).or_default();
        match values {
            None => drop(put(&mut demands.of_any_value)),
            Some(values) => {
                for value in values {
                    let places = demands.by_value.entry(value.clone()).or_default();
                    put(places);
                    if places.is_empty() {
                        demands.by_value.remove(value);
                    }
                }
            }
        }
        if demands.of_any_value.is_empty() && demands.by_value.is_empty() {
            self.demanding.remove(name);
        }
    }
}

impl Item {
    fn is_picked(&self, selector: &Selector) -> bool {
        selector.matches(|name| self.labels.get(name).map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SELECTORS: [&str; 9] = [
        "all()",
        "a == '1'",
        "a in {'1','2'} && has(b)",
        "!has(a)",
        "a != '1'",
        "has(b) || b == '2'",
        "a == '1' || b == '1'",
        "b starts with '1' && a == '2'",
        "a not in {'1'}",
    ];

    proptest! {
        #[test]
        fn picks_are_those_of_trying_all(
            steps in prop::collection::vec(
                (0usize..12, 0u8..3, prop::collection::btree_map("a|b", "[12]", 0..3)), 1..60),
        ) {
            let mut index = Index::default();
            let mut items: Vec<(u32, Labels)> = Vec::new();
            let mut selectors: Vec<(u32, Selector)> = Vec::new();
            for (which, what, labels) in steps {
                match what {
                    0 if which < 9 => {
                        let selector = Selector::parse(SELECTORS[which]).unwrap();
                        selectors.push((index.add_selector(selector.clone()), selector));
                    }
                    0 if !selectors.is_empty() => {
                        let at = which % selectors.len();
                        index.remove_selector(selectors.swap_remove(at).0);
                    }
                    1 if !items.is_empty() && which < 3 => {
                        let at = which % items.len();
                        index.remove_item(items.swap_remove(at).0);
                    }
                    _ if !items.is_empty() && which < 9 => {
                        let at = which % items.len();
                        index.set_labels(items[at].0, labels.clone());
                        items[at].1 = labels;
                    }
                    _ => {
                        let (number, _) = index.add_item();
                        index.set_labels(number, labels.clone());
                        items.push((number, labels));
                    }
                }
                for (number, selector) in &selectors {
                    let fits = |labels: &Labels| {
                        selector.matches(|name| labels.get(name).map(String::as_str))
                    };
                    let expected: BTreeSet<u32> =
                        items.iter().filter(|item| fits(&item.1)).map(|item| item.0).collect();
                    let picks: BTreeSet<u32> = index.picks(*number).collect();
                    prop_assert_eq!(&picks, &expected, "{}", selector);
                    for (item, _) in &items {
                        let is_picked = index.picked_by(*item).any(|one| one == *number);
                        prop_assert_eq!(is_picked, picks.contains(item));
                    }
                }
            }
        }
    }
}
