//! Keeps a classifier up to date with the model.
//!
//! [`Compiler::apply`] takes changes, [`Compiler::commit`] makes a snapshot of them all at once.
//! Only what depends on a change is done again: a label moves addresses between classes, and only
//! programs that ask for sets of such a class are touched; a rule rebuilds the programs with its
//! policy. What comes out depends on the current state only, never on the way to it.

mod addresses;
mod classes;
mod code;
mod endpoints;
mod index;
mod lane;
mod members;
mod ports;
mod program;
mod programs;
mod sets;
mod slab;
mod space;
mod vectors;

#[cfg(test)]
mod tests;

pub use classes::CLASSES_MAX;
pub use lane::LANES_PER_RULE_MAX;

use crate::classifier::{AddressTable, Classifier, Handle, Trie};
use crate::model::{AddressSet, Excess, Model, PolicyKey, Update};
use ahash::AHashMap;
use classes::{V4, V6};
use code::{Code, Owner};
use endpoints::Endpoints;
use programs::Store;
use sets::{CodeId, Sets};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The model, and the classifier that follows from it.
#[derive(Debug)]
pub struct Compiler {
    model: Model,
    sets: Sets,
    endpoints: Endpoints,
    codes: AHashMap<CodeId, Code>,
    code_of: AHashMap<Owner, CodeId>,
    next_code: CodeId,
    store: Store,
    tries: [Trie; 2],
    tables: [AddressTable; 2],
    /// Policies whose code may be another one, or needed or not, now.
    changed: BTreeSet<PolicyKey>,
    /// The same for profiles.
    changed_profiles: BTreeSet<String>,
    settings_changed: bool,
    snapshot: Arc<Classifier>,
}

/// Counts of what a compiler holds beside its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Classes of addresses.
    pub classes: usize,
    /// Prefixes that are in any set.
    pub prefixes: usize,
    /// Policies and profiles that endpoints of this node use.
    pub codes: usize,
}

impl Default for Compiler {
    fn default() -> Compiler {
        Compiler::new()
    }
}

impl Compiler {
    /// A compiler without policy, endpoints and settings.
    pub fn new() -> Compiler {
        let tries = [V4, V6].map(Trie::uniform);
        let (programs, endpoints) = (Vec::new(), Vec::new());
        let tables = [0, 1].map(|family: usize| AddressTable::new(&tries[family]));
        let snapshot = Classifier { tables: tables.clone(), programs, endpoints };
        Compiler {
            model: Model::default(),
            sets: Sets::new(),
            endpoints: Endpoints::default(),
            codes: AHashMap::new(),
            code_of: AHashMap::new(),
            next_code: 0,
            store: Store::default(),
            tries,
            tables,
            changed: BTreeSet::new(),
            changed_profiles: BTreeSet::new(),
            settings_changed: false,
            snapshot: Arc::new(snapshot),
        }
    }

    /// The model as it is now.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The last snapshot.
    pub fn snapshot(&self) -> &Arc<Classifier> {
        &self.snapshot
    }

    /// How the classifier calls an endpoint of this node.
    pub fn handle(&self, endpoint: &str) -> Option<Handle> {
        self.endpoints.handle(endpoint).map(Handle)
    }

    /// Policies of which some program could not be compiled; it denies everything.
    pub fn faults(&self) -> impl Iterator<Item = &Excess> {
        self.store.faults()
    }

    /// Counts of what is held.
    pub fn counts(&self) -> Counts {
        Counts {
            classes: self.sets.classes.count(),
            prefixes: self.sets.prefixes(),
            codes: self.codes.len(),
        }
    }

    /// Takes a change in, which the next commit shows. What is beyond a limit is refused whole.
    pub fn apply(&mut self, update: Update) -> Result<(), Excess> {
        if self.is_known(&update) {
            return Ok(());
        }
        self.model.apply(update.clone())?;
        match update {
            Update::Tier(..) => self.endpoints.touch_all(),
            Update::Policy(key, policy) => {
                let policy = policy.filter(|policy| policy.staged.is_none());
                self.endpoints.set_policy(&key, policy.as_deref());
                self.changed.insert(key);
            }
            Update::Profile(name, _) => {
                self.endpoints.relabel(&name, &self.model, &mut self.sets);
                self.changed_profiles.insert(name);
            }
            Update::Endpoint(name, endpoint) => {
                self.endpoints.set_endpoint(&name, endpoint, &self.model, &mut self.sets);
            }
            Update::NetworkSet(name, set) => {
                self.endpoints.set_network_set(&name, set, &self.model, &mut self.sets);
            }
            Update::AddressSet(name, set) => self.sets.tell(&name, set.as_ref()),
            Update::Settings(_) => self.settings_changed = true,
        }
        Ok(())
    }

    /// True when an update says what is so already.
    fn is_known(&self, update: &Update) -> bool {
        let model = &self.model;
        match update {
            Update::Tier(name, tier) => model.tiers.get(name) == tier.as_ref(),
            Update::Policy(key, policy) => model.policies.get(key) == policy.as_ref(),
            Update::Profile(name, profile) => model.profiles.get(name) == profile.as_ref(),
            Update::Endpoint(name, endpoint) => model.endpoints.get(name) == endpoint.as_ref(),
            Update::NetworkSet(name, set) => model.network_sets.get(name) == set.as_ref(),
            Update::AddressSet(name, set) => model.address_sets.get(name) == set.as_ref(),
            Update::Settings(settings) => model.settings == *settings,
        }
    }

    /// Makes a snapshot of all changes. An error leaves the last one in force.
    pub fn commit(&mut self) -> Result<Arc<Classifier>, Excess> {
        if std::mem::take(&mut self.settings_changed) {
            self.store.set_settings(&self.model.settings, &mut self.sets);
            self.endpoints.touch_all();
        }
        let compiled = self.compile_codes();
        let (segments, turnover) = self.sets.settle(Arc::downgrade(&self.snapshot));
        for (family, segments) in segments.iter().enumerate() {
            let changed = self.tries[family].write(segments);
            self.tables[family].renew(&changed, &self.tries[family]);
        }
        for (handle, keys) in self.endpoints.changed_keys(&self.model, &self.code_of, &self.store) {
            self.store.assign(handle, keys);
        }
        self.store.update(&compiled, &self.codes, &self.sets.classes, &turnover);
        let classes = self.sets.classes.count();
        if classes > CLASSES_MAX {
            let (of, what) = ("all sets together".to_owned(), "address classes");
            return Err(Excess { of, what, count: classes, limit: CLASSES_MAX });
        }
        self.snapshot = Arc::new(Classifier {
            tables: self.tables.clone(),
            programs: self.store.programs(),
            endpoints: self.store.endpoints(),
        });
        Ok(self.snapshot.clone())
    }

    /// Compiles the policies and profiles that endpoints of this node use, and drops the others.
    /// The answer is what is to be built again.
    fn compile_codes(&mut self) -> BTreeSet<CodeId> {
        for code in self.sets.stirred() {
            match self.codes.get(&code).map(|code| &code.owner) {
                Some(Owner::Policy(key)) => drop(self.changed.insert((**key).clone())),
                Some(Owner::Profile(name)) => drop(self.changed_profiles.insert(name.to_string())),
                None => {}
            }
        }
        let mut compiled = BTreeSet::new();
        for key in std::mem::take(&mut self.changed) {
            let owner = Owner::Policy(Arc::new(key.clone()));
            let found = self.model.policies.get(&key).cloned();
            let policy = found.filter(|_| self.endpoints.picks(&key));
            let rules = policy.as_ref().map(|policy| {
                [&policy.ingress, &policy.egress].map(|rules| rules.as_deref().unwrap_or_default())
            });
            compiled.extend(self.compile_code(owner, rules));
        }
        for key in self.endpoints.take_activity() {
            let owner = Owner::Policy(Arc::new(key.clone()));
            if self.endpoints.picks(&key) == self.code_of.contains_key(&owner) {
                continue;
            }
            let found = self.model.policies.get(&key).cloned();
            let policy = found.filter(|_| self.endpoints.picks(&key));
            let rules = policy.as_ref().map(|policy| {
                [&policy.ingress, &policy.egress].map(|rules| rules.as_deref().unwrap_or_default())
            });
            compiled.extend(self.compile_code(owner, rules));
        }
        self.changed_profiles.append(&mut self.endpoints.take_profiles());
        for name in std::mem::take(&mut self.changed_profiles) {
            let found = self.model.profiles.get(&name).cloned();
            let profile = found.filter(|_| self.endpoints.uses_profile(&name));
            let rules = profile.as_ref().map(|profile| [&*profile.ingress, &*profile.egress]);
            compiled.extend(self.compile_code(Owner::Profile(name.as_str().into()), rules));
        }
        compiled
    }

    /// Compiles rules, or drops their code when there are none to have.
    fn compile_code(
        &mut self,
        owner: Owner,
        rules: Option<[&[crate::model::Rule]; 2]>,
    ) -> Option<CodeId> {
        let known = self.code_of.get(&owner).copied();
        let made = rules.map(|rules| {
            let id = known.unwrap_or(self.next_code);
            self.next_code = self.next_code.max(id + 1);
            let told: &BTreeMap<String, Arc<AddressSet>> = &self.model.address_sets;
            (id, Code::new(owner.clone(), rules, &mut self.sets, told, id))
        });
        // The old sets are given back after the new ones are taken, so that none comes and goes.
        let old = known.and_then(|id| Some((id, self.codes.remove(&id)?)));
        if let Some((id, old)) = old {
            old.holds.into_iter().for_each(|hold| self.sets.release(hold, id));
        }
        match made {
            Some((id, code)) => {
                self.code_of.insert(owner, id);
                self.codes.insert(id, code);
                Some(id)
            }
            None => {
                self.code_of.remove(&owner);
                None
            }
        }
    }
}
