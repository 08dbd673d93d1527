//! The sets that rules ask for, with their members, as atoms of the address space.
//!
//! Equal sets are one, whoever asks for them. A set whose members have ports is several atoms,
//! one for each protocol and port among its members: a rule with it becomes a lane for each. When
//! those protocols and ports change, the rules that depend on the set are compiled anew.

use super::classes::{Atom, Classes, Turnover, V4, V6};
use super::index::Index;
use super::members::{add, place, remove};
use super::slab::Slab;
use super::space::Space;
use crate::classifier::{Classifier, Segment};
use crate::model::{AddressSet, Labels, NamedPort};
use crate::selector::Selector;
use ahash::AHashMap;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

/// Compiled rules of a policy or profile; never used twice.
pub(super) type CodeId = u64;
/// Protocol and port; `None` for whole addresses.
pub(super) type Service = Option<(u8, u16)>;

/// All sets in use.
#[derive(Debug)]
pub(super) struct Sets {
    pub(super) classes: Classes,
    pub(super) spaces: [Space; 2],
    pub(super) atoms: Slab<()>,
    pub(super) index: Index,
    pub(super) items: AHashMap<u32, Members>,
    /// By the index's number of the selector.
    pub(super) selected: AHashMap<u32, Selected>,
    by_selector: AHashMap<Selector, u32>,
    nets: AHashMap<Vec<IpNet>, (Atom, u32)>,
    pub(super) services: Slab<Services>,
    by_source: AHashMap<Source, u32>,
    /// Sets of services whose protocols and ports are others now.
    pub(super) stirred: BTreeSet<u32>,
}

/// What an endpoint or network set brings to the sets that it is in.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Members {
    pub(super) nets: Vec<IpNet>,
    pub(super) ports: Vec<NamedPort>,
}

/// A selector that rules use.
#[derive(Debug, Default)]
pub(super) struct Selected {
    /// For the addresses alone, and how often that is used.
    pub(super) atom: Option<(Atom, u32)>,
    /// Sets of named ports that it filters.
    pub(super) services: BTreeSet<u32>,
}

/// Where a set of services comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// Ports of this name and protocol at the items that a selector picks.
    Named(u32, String, u8),
    /// Members that are told.
    Told(String),
}

#[derive(Debug)]
pub(super) struct Services {
    pub(super) source: Source,
    pub(super) told: Option<Arc<AddressSet>>,
    pub(super) atoms: BTreeMap<Service, (Atom, u32)>,
    /// Codes that use it, and how often.
    users: BTreeMap<CodeId, u32>,
}

/// One use of a set.
#[derive(Debug)]
pub(super) enum Hold {
    Selector(u32),
    Nets(Vec<IpNet>),
    Services(u32),
}

impl Sets {
    pub(super) fn new() -> Sets {
        let mut atoms = Slab::default();
        let families = [atoms.insert(()), atoms.insert(())];
        debug_assert_eq!(families, [V4, V6]);
        Sets {
            classes: Classes::new(),
            spaces: [Space::new(false), Space::new(true)],
            atoms,
            index: Index::default(),
            items: AHashMap::new(),
            selected: AHashMap::new(),
            by_selector: AHashMap::new(),
            nets: AHashMap::new(),
            services: Slab::default(),
            by_source: AHashMap::new(),
            stirred: BTreeSet::new(),
        }
    }

    /// The atom of what a selector picks.
    pub(super) fn select(&mut self, selector: &Selector) -> (Atom, Hold) {
        let number = self.selected(selector);
        let held = self.selected.entry(number).or_default();
        if let Some((atom, users)) = &mut held.atom {
            *users += 1;
            return (*atom, Hold::Selector(number));
        }
        let atom = self.atoms.insert(());
        held.atom = Some((atom, 1));
        for item in self.index.picks(number) {
            for net in self.items.get(&item).into_iter().flat_map(|item| &item.nets) {
                add(&mut self.spaces, place(net), atom);
            }
        }
        (atom, Hold::Selector(number))
    }

    /// The atom of ranges.
    pub(super) fn ranges(&mut self, nets: &[IpNet]) -> (Atom, Hold) {
        let mut nets: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
        nets.sort_unstable();
        nets.dedup();
        if let Some((atom, users)) = self.nets.get_mut(&nets) {
            *users += 1;
            return (*atom, Hold::Nets(nets));
        }
        let atom = self.atoms.insert(());
        nets.iter().for_each(|net| add(&mut self.spaces, place(net), atom));
        self.nets.insert(nets.clone(), (atom, 1));
        (atom, Hold::Nets(nets))
    }

    /// The ports of a name and protocol at what a selector picks, for a code.
    pub(super) fn named(
        &mut self,
        selector: &Selector,
        name: &str,
        protocol: u8,
        code: CodeId,
    ) -> Hold {
        let number = self.selected(selector);
        let source = Source::Named(number, name.to_owned(), protocol);
        let services = self.services_of(source, None, code);
        if self.selected.entry(number).or_default().services.insert(services) {
            for item in self.index.picks(number).collect::<Vec<_>>() {
                self.count_services(services, item, true);
            }
            // The only code that has it is in the making.
            self.stirred.remove(&services);
        }
        Hold::Services(services)
    }

    /// A set by its name, for a code.
    pub(super) fn told(
        &mut self,
        name: &str,
        told: Option<&Arc<AddressSet>>,
        code: CodeId,
    ) -> Hold {
        let source = Source::Told(name.to_owned());
        Hold::Services(self.services_of(source, told.cloned(), code))
    }

    /// The protocols and ports of a held set, and the atoms of their addresses.
    pub(super) fn services(&self, hold: &Hold) -> Vec<(Service, Atom)> {
        let Hold::Services(number) = hold else { return Vec::new() };
        let found = self.services.get(*number).into_iter();
        found.flat_map(|set| set.atoms.iter().map(|(key, (atom, _))| (*key, *atom))).collect()
    }

    /// Gives a use back.
    pub(super) fn release(&mut self, hold: Hold, code: CodeId) {
        match hold {
            Hold::Selector(number) => self.release_selector(number),
            Hold::Nets(nets) => self.release_ranges(nets),
            Hold::Services(number) => self.release_services(number, code),
        }
    }

    /// Other members for a set with a name.
    pub(super) fn tell(&mut self, name: &str, told: Option<&Arc<AddressSet>>) {
        let Some(number) = self.by_source.get(&Source::Told(name.to_owned())).copied() else {
            return;
        };
        self.count_told(number, false);
        if let Some(services) = self.services.get_mut(number) {
            services.told = told.cloned();
        }
        self.count_told(number, true);
    }

    /// Adds an item without labels and members.
    pub(super) fn add_item(&mut self) -> u32 {
        let (item, change) = self.index.add_item();
        self.items.insert(item, Members::default());
        self.apply(item, &change);
        item
    }

    /// Other labels for an item.
    pub(super) fn relabel(&mut self, item: u32, labels: Labels) {
        let change = self.index.set_labels(item, labels);
        self.apply(item, &change);
    }

    /// Other labels and members for an item.
    pub(super) fn set_item(&mut self, item: u32, labels: Labels, members: Members) {
        if self.items.get(&item) == Some(&members) {
            return self.relabel(item, labels);
        }
        let before: Vec<u32> = self.index.picked_by(item).collect();
        before.into_iter().for_each(|selector| self.count(selector, item, false));
        self.items.insert(item, members);
        self.index.set_labels(item, labels);
        let now: Vec<u32> = self.index.picked_by(item).collect();
        now.into_iter().for_each(|selector| self.count(selector, item, true));
    }

    /// Removes an item.
    pub(super) fn remove_item(&mut self, item: u32) {
        let change = self.index.remove_item(item);
        self.apply(item, &change);
        self.items.remove(&item);
    }

    /// Codes that depend on sets whose protocols and ports have changed.
    pub(super) fn stirred(&mut self) -> BTreeSet<CodeId> {
        let mut codes = BTreeSet::new();
        for number in std::mem::take(&mut self.stirred) {
            let Some(services) = self.services.get_mut(number) else { continue };
            codes.extend(services.users.keys());
            let (atoms, all) = (&mut self.atoms, &mut services.atoms);
            all.retain(|_, (atom, members)| {
                if *members == 0 {
                    atoms.remove(*atom);
                }
                *members > 0
            });
        }
        codes
    }

    /// Finds the classes of all addresses anew where that is needed.
    pub(super) fn settle(&mut self, last: Weak<Classifier>) -> ([Vec<Segment>; 2], Turnover) {
        let classes = &mut self.classes;
        let segments = [false, true].map(|is_v6| self.spaces[usize::from(is_v6)].settle(classes));
        (segments, self.classes.sweep(last))
    }

    /// Prefixes in any set.
    pub(super) fn prefixes(&self) -> usize {
        self.spaces.iter().map(Space::len).sum()
    }

    fn selected(&mut self, selector: &Selector) -> u32 {
        if let Some(number) = self.by_selector.get(selector) {
            return *number;
        }
        let number = self.index.add_selector(selector.clone());
        self.by_selector.insert(selector.clone(), number);
        number
    }

    fn services_of(&mut self, source: Source, told: Option<Arc<AddressSet>>, code: CodeId) -> u32 {
        let number = match self.by_source.get(&source) {
            Some(number) => *number,
            None => {
                let (atoms, users) = (BTreeMap::new(), BTreeMap::new());
                let services = Services { source: source.clone(), told, atoms, users };
                let number = self.services.insert(services);
                self.by_source.insert(source, number);
                self.count_told(number, true);
                // The only code that has it is in the making.
                self.stirred.remove(&number);
                number
            }
        };
        if let Some(services) = self.services.get_mut(number) {
            *services.users.entry(code).or_default() += 1;
        }
        number
    }

    fn release_selector(&mut self, number: u32) {
        let Some(held) = self.selected.get_mut(&number) else { return };
        let Some((atom, users)) = &mut held.atom else { return };
        *users -= 1;
        if *users > 0 {
            return;
        }
        let atom = *atom;
        held.atom = None;
        for item in self.index.picks(number) {
            for net in self.items.get(&item).into_iter().flat_map(|item| &item.nets) {
                remove(&mut self.spaces, place(net), atom);
            }
        }
        self.atoms.remove(atom);
        self.forget_selector(number);
    }

    fn release_ranges(&mut self, nets: Vec<IpNet>) {
        let Some((atom, users)) = self.nets.get_mut(&nets) else { return };
        *users -= 1;
        if *users > 0 {
            return;
        }
        nets.iter().for_each(|net| remove(&mut self.spaces, place(net), *atom));
        self.atoms.remove(*atom);
        self.nets.remove(&nets);
    }

    fn release_services(&mut self, number: u32, code: CodeId) {
        let Some(services) = self.services.get_mut(number) else { return };
        if let Some(uses) = services.users.get_mut(&code) {
            *uses -= 1;
            if *uses == 0 {
                services.users.remove(&code);
            }
        }
        if !services.users.is_empty() {
            return;
        }
        let source = services.source.clone();
        match &source {
            Source::Told(_) => self.count_told(number, false),
            Source::Named(selector, ..) => {
                for item in self.index.picks(*selector).collect::<Vec<_>>() {
                    self.count_services(number, item, false);
                }
                if let Some(held) = self.selected.get_mut(selector) {
                    held.services.remove(&number);
                }
                self.forget_selector(*selector);
            }
        }
        self.by_source.remove(&source);
        self.stirred.remove(&number);
        let removed = self.services.remove(number);
        for (atom, _) in removed.iter().flat_map(|services| services.atoms.values()) {
            self.atoms.remove(*atom);
        }
    }

    /// Ends a selector that nothing uses.
    fn forget_selector(&mut self, number: u32) {
        let is_used = |held: &Selected| held.atom.is_some() || !held.services.is_empty();
        if self.selected.get(&number).is_some_and(is_used) {
            return;
        }
        self.selected.remove(&number);
        if let Some(selector) = self.index.remove_selector(number) {
            self.by_selector.remove(&selector);
        }
    }
}
