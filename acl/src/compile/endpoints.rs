//! Endpoints and network sets: their labels and members, and which policies are for them.

use super::code::Owner;
use super::index::{Change, Index};
use super::program::ProgramKey;
use super::programs::{Keys, Store};
use super::sets::{CodeId, Members, Sets};
use super::slab::Slab;
use crate::model::{
    Endpoint, Labels, Model, NetworkSet, Place, Policy, PolicyKey, Scope, Tier, TierAction,
    compare_policies, compare_tiers,
};
use crate::{Direction, Stage};
use ahash::AHashMap;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    endpoints: AHashMap<String, Member>,
    /// Numbers in the sets, and profiles.
    network_sets: AHashMap<String, (u32, Vec<String>)>,
    /// Endpoints of this node, by handle.
    locals: Slab<Local>,
    /// Policies against endpoints of this node.
    scope: Index,
    selector_of: AHashMap<PolicyKey, u32>,
    policy_of: AHashMap<u32, PolicyKey>,
    handle_of: AHashMap<u32, u32>,
    /// Who has the labels of a profile.
    labelled: AHashMap<String, BTreeSet<Labelled>>,
    /// How many endpoints of this node name a profile.
    uses: AHashMap<String, u32>,
    /// Handles whose programs may be others now.
    touched: BTreeSet<u32>,
    /// Policies that perhaps pick nobody any more, or somebody now.
    activity: BTreeSet<PolicyKey>,
    /// Profiles whose use has begun or ended.
    profiles: BTreeSet<String>,
}

type Policies<'a> = Vec<(&'a PolicyKey, &'a Policy)>;

#[derive(Debug)]
struct Member {
    /// Number in the sets.
    item: u32,
    handle: Option<u32>,
    profiles: Vec<String>,
}

#[derive(Debug)]
struct Local {
    /// Number in the scope.
    item: u32,
    endpoint: Arc<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Labelled {
    Endpoint(String),
    NetworkSet(String),
}

impl Endpoints {
    pub(super) fn handle(&self, name: &str) -> Option<u32> {
        self.endpoints.get(name)?.handle
    }

    /// True when a policy is for some endpoint of this node.
    pub(super) fn picks(&self, key: &PolicyKey) -> bool {
        let selector = self.selector_of.get(key);
        selector.is_some_and(|selector| self.scope.picks(*selector).next().is_some())
    }

    pub(super) fn uses_profile(&self, name: &str) -> bool {
        self.uses.contains_key(name)
    }

    pub(super) fn take_activity(&mut self) -> BTreeSet<PolicyKey> {
        std::mem::take(&mut self.activity)
    }

    pub(super) fn take_profiles(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.profiles)
    }

    pub(super) fn touch_all(&mut self) {
        self.touched.extend(self.locals.iter().map(|(handle, _)| handle));
    }

    /// Another selector for a policy, or none.
    pub(super) fn set_policy(&mut self, key: &PolicyKey, policy: Option<&Policy>) {
        if let Some(selector) = self.selector_of.remove(key) {
            self.touch_picked(selector);
            self.scope.remove_selector(selector);
            self.policy_of.remove(&selector);
        }
        if let Some(policy) = policy {
            let selector = self.scope.add_selector(policy.selector.clone());
            self.selector_of.insert(key.clone(), selector);
            self.policy_of.insert(selector, key.clone());
            self.touch_picked(selector);
        }
    }

    fn touch_picked(&mut self, selector: u32) {
        let handles = self.scope.picks(selector).filter_map(|item| self.handle_of.get(&item));
        self.touched.extend(handles);
    }

    /// Gives everybody with a profile the labels that it has now.
    pub(super) fn relabel(&mut self, profile: &str, model: &Model, sets: &mut Sets) {
        for who in self.labelled.get(profile).cloned().unwrap_or_default() {
            match who {
                Labelled::Endpoint(name) => {
                    let Some(endpoint) = model.endpoints.get(&name) else { continue };
                    let Some(member) = self.endpoints.get(&name) else { continue };
                    let labels = model.labels(&endpoint.labels, &endpoint.profiles);
                    let (item, handle) = (member.item, member.handle);
                    sets.relabel(item, labels.clone());
                    handle
                        .into_iter()
                        .for_each(|handle| self.relabel_local(handle, labels.clone()));
                }
                Labelled::NetworkSet(name) => {
                    let Some(set) = model.network_sets.get(&name) else { continue };
                    let labels = model.labels(&set.labels, &set.profiles);
                    let Some((item, _)) = self.network_sets.get(&name) else { continue };
                    sets.relabel(*item, labels);
                }
            }
        }
    }

    fn relabel_local(&mut self, handle: u32, labels: Labels) {
        let Some(local) = self.locals.get(handle) else { return };
        let change = self.scope.set_labels(local.item, labels);
        self.note(&change);
        self.touched.insert(handle);
    }

    fn note(&mut self, change: &Change) {
        let selectors = change.started.iter().chain(&change.stopped);
        let keys = selectors.filter_map(|selector| self.policy_of.get(selector));
        self.activity.extend(keys.cloned());
    }

    /// Notes who has the labels of profiles, or has them no more.
    fn label(&mut self, who: &Labelled, profiles: &[String], begins: bool) {
        for profile in profiles {
            let labelled = self.labelled.entry(profile.clone()).or_default();
            match begins {
                true => labelled.insert(who.clone()),
                false => labelled.remove(who),
            };
            if labelled.is_empty() {
                self.labelled.remove(profile);
            }
        }
    }

    /// Another network set of this name, or none.
    pub(super) fn set_network_set(
        &mut self,
        name: &str,
        set: Option<Arc<NetworkSet>>,
        model: &Model,
        sets: &mut Sets,
    ) {
        let who = Labelled::NetworkSet(name.to_owned());
        let old = self.network_sets.remove(name);
        self.label(&who, old.as_ref().map_or(&[], |(_, profiles)| profiles), false);
        let item = old.map(|(item, _)| item);
        let Some(set) = set else {
            item.into_iter().for_each(|item| sets.remove_item(item));
            return;
        };
        self.label(&who, &set.profiles, true);
        let item = item.unwrap_or_else(|| sets.add_item());
        self.network_sets.insert(name.to_owned(), (item, set.profiles.clone()));
        let labels = model.labels(&set.labels, &set.profiles);
        let mut nets: Vec<IpNet> = set.nets.iter().map(IpNet::trunc).collect();
        nets.sort_unstable();
        nets.dedup();
        sets.set_item(item, labels, Members { nets, ports: Vec::new() });
    }

    /// Another endpoint of this name, or none.
    pub(super) fn set_endpoint(
        &mut self,
        name: &str,
        endpoint: Option<Arc<Endpoint>>,
        model: &Model,
        sets: &mut Sets,
    ) {
        let old = self.endpoints.remove(name);
        let who = Labelled::Endpoint(name.to_owned());
        self.label(&who, old.as_ref().map_or(&[], |old| &old.profiles), false);
        let (item, handle) = old.map_or((None, None), |old| (Some(old.item), old.handle));
        let Some(endpoint) = endpoint else {
            item.into_iter().for_each(|item| sets.remove_item(item));
            handle.into_iter().for_each(|handle| self.remove_local(handle));
            return;
        };
        self.label(&who, &endpoint.profiles, true);
        let item = item.unwrap_or_else(|| sets.add_item());
        let labels = model.labels(&endpoint.labels, &endpoint.profiles);
        let mut nets: Vec<IpNet> = endpoint.addresses.iter().map(|one| IpNet::from(*one)).collect();
        nets.sort_unstable();
        nets.dedup();
        let mut ports = endpoint.ports.clone();
        ports.sort_unstable_by(|a, b| {
            (&a.name, a.protocol, a.port).cmp(&(&b.name, b.protocol, b.port))
        });
        ports.dedup();
        sets.set_item(item, labels.clone(), Members { nets, ports });
        let profiles = endpoint.profiles.clone();
        let handle = match (handle, endpoint.place) {
            (None, Place::Elsewhere) => None,
            (Some(handle), Place::Elsewhere) => {
                self.remove_local(handle);
                None
            }
            (handle, _) => Some(self.set_local(handle, endpoint, labels)),
        };
        self.endpoints.insert(name.to_owned(), Member { item, handle, profiles });
    }

    fn set_local(&mut self, handle: Option<u32>, endpoint: Arc<Endpoint>, labels: Labels) -> u32 {
        endpoint.profiles.iter().for_each(|profile| self.count_use(profile, true));
        let handle = match handle {
            Some(handle) => {
                if let Some(local) = self.locals.get_mut(handle) {
                    let old = std::mem::replace(&mut local.endpoint, endpoint);
                    old.profiles.iter().for_each(|profile| self.count_use(profile, false));
                }
                handle
            }
            None => {
                let (item, change) = self.scope.add_item();
                self.note(&change);
                let handle = self.locals.insert(Local { item, endpoint });
                self.handle_of.insert(item, handle);
                handle
            }
        };
        self.relabel_local(handle, labels);
        handle
    }

    fn remove_local(&mut self, handle: u32) {
        let Some(local) = self.locals.remove(handle) else { return };
        local.endpoint.profiles.iter().for_each(|profile| self.count_use(profile, false));
        self.handle_of.remove(&local.item);
        let change = self.scope.remove_item(local.item);
        self.note(&change);
        self.touched.insert(handle);
    }

    fn count_use(&mut self, profile: &str, begins: bool) {
        let uses = self.uses.entry(profile.to_owned()).or_default();
        match begins {
            true => *uses += 1,
            false => *uses -= 1,
        }
        let (is_new, is_unused) = (*uses == 1 && begins, *uses == 0);
        if is_unused {
            self.uses.remove(profile);
        }
        if is_new || is_unused {
            self.profiles.insert(profile.to_owned());
        }
    }

    /// The keys of programs that may be others now, of endpoints that are gone first.
    pub(super) fn changed_keys(
        &mut self,
        model: &Model,
        codes: &AHashMap<Owner, CodeId>,
        store: &Store,
    ) -> Vec<(u32, Keys)> {
        let touched = std::mem::take(&mut self.touched);
        let keys = touched.into_iter().map(|handle| {
            let local = self.locals.get(handle);
            (handle, local.map(|local| self.keys(local, model, codes, store)))
        });
        keys.collect()
    }

    fn keys(
        &self,
        local: &Local,
        model: &Model,
        codes: &AHashMap<Owner, CodeId>,
        store: &Store,
    ) -> [[ProgramKey; 2]; 4] {
        let picked = self.scope.picked_by(local.item);
        let keys = picked.filter_map(|selector| self.policy_of.get(&selector));
        let mut policies: Policies =
            keys.filter_map(|key| Some((key, &**model.policies.get(key)?))).collect();
        policies.sort_by(|a, b| compare_policies(*a, *b));
        let mut tiers: BTreeMap<&str, Policies> = BTreeMap::new();
        for (key, policy) in policies {
            tiers.entry(&policy.tier).or_default().push((key, policy));
        }
        let mut tiers: Vec<(&str, Option<&Tier>, Policies)> = tiers
            .into_iter()
            .map(|(name, policies)| (name, model.tiers.get(name), policies))
            .collect();
        tiers.sort_by(|a, b| compare_tiers((a.0, a.1), (b.0, b.1)));
        let place = local.endpoint.place;
        Stage::ALL.map(|stage| {
            Direction::ALL.map(|direction| {
                let code = |(key, policy): &(&PolicyKey, &Policy)| {
                    let speaks = speaks(policy, place, stage, direction);
                    let owner = speaks.then(|| Owner::Policy(Arc::new((*key).clone())))?;
                    codes.get(&owner).copied()
                };
                let tiers = tiers.iter().filter_map(|(name, tier, policies)| {
                    let default = tier.map_or(TierAction::Deny, |tier| tier.default_action);
                    let codes: Vec<CodeId> = policies.iter().filter_map(code).collect();
                    (!codes.is_empty()).then(|| (Arc::from(*name), default, codes))
                });
                let names = local.endpoint.profiles.iter().filter(|_| stage == Stage::Normal);
                let profile = |name: &String| {
                    let name: Arc<str> = name.as_str().into();
                    let code = codes.get(&Owner::Profile(name.clone())).copied();
                    (name, code)
                };
                ProgramKey {
                    stage,
                    direction,
                    is_host: place != Place::Workload,
                    epoch: store.epoch,
                    tiers: tiers.collect(),
                    profiles: names.map(profile).collect(),
                }
            })
        })
    }
}

/// True when a policy that picks an endpoint speaks of a stage and direction.
fn speaks(policy: &Policy, place: Place, stage: Stage, direction: Direction) -> bool {
    let is_host = place != Place::Workload;
    let in_stage = match stage {
        Stage::Normal => matches!(policy.scope, Scope::Local | Scope::Forward),
        Stage::Forward => is_host && policy.scope == Scope::Forward,
        Stage::PreDnat => {
            is_host && policy.scope == Scope::PreDnat && direction == Direction::Ingress
        }
        Stage::Untracked => {
            policy.scope == Scope::Untracked && place == Place::Host { every_interface: false }
        }
    };
    let rules = match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    };
    in_stage && rules.is_some()
}
