//! Policy as the datastore says it, compiled: events go in, a classifier comes out.
//!
//! Each event changes the model by one update; only the members of services and the profiles of
//! namespaces come from several resources. A namespace or service account that endpoints name but
//! the store does not have is taken for one without labels, since in Kubernetes it exists.

mod profiles;
mod services;
mod staged;
#[cfg(test)]
mod tests;

use crate::resource::policy::{Part, built_in_tiers, policy_key};
use crate::resource::{Key, Resource};
use crate::store::Event;
use margay_acl::classifier::{Classifier, Handle};
use margay_acl::compile::Compiler;
use margay_acl::model::{Excess, Model, Place, Settings, Update};
use profiles::Profiles;
use services::Services;
use staged::Staged;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kinds whose resources change nothing but policy.
const OWN_KINDS: [&str; 14] = [
    "GlobalNetworkPolicy",
    "GlobalNetworkSet",
    "HostEndpoint",
    "KubernetesClusterNetworkPolicy",
    "KubernetesNetworkPolicy",
    "Namespace",
    "NetworkPolicy",
    "NetworkSet",
    "Profile",
    "ServiceAccount",
    "StagedGlobalNetworkPolicy",
    "StagedKubernetesNetworkPolicy",
    "StagedNetworkPolicy",
    "Tier",
];

/// True when a change of such a resource has no meaning beyond policy.
pub fn is_own_kind(kind: &str) -> bool {
    OWN_KINDS.contains(&kind)
}

/// All policy of a node.
#[derive(Debug)]
pub struct Policies {
    /// Endpoints of this node are those that policy is compiled for; `None` for those of all.
    node: Option<String>,
    compiler: Compiler,
    staged: Staged,
    profiles: Profiles,
    services: Services,
    /// Updates that are beyond a limit, by their resources.
    refused: BTreeMap<Key, Excess>,
    /// Why the last commit failed.
    fault: Option<Excess>,
    changed: bool,
}

impl Policies {
    /// Without any resource. With no node the workloads of all nodes count as local ones.
    pub fn new(node: Option<&str>, settings: Settings) -> Policies {
        let mut policies = Policies {
            node: node.map(str::to_owned),
            compiler: Compiler::new(),
            staged: Staged::default(),
            profiles: Profiles::default(),
            services: Services::default(),
            refused: BTreeMap::new(),
            fault: None,
            changed: true,
        };
        let tiers = built_in_tiers().into_iter();
        let tiers = tiers.map(|(name, tier)| Update::Tier(name.to_owned(), Some(tier)));
        let own =
            Key { kind: "Settings".to_owned(), namespace: String::new(), name: "".to_owned() };
        for update in tiers.chain([Profiles::default_allow(), Update::Settings(settings)]) {
            policies.update(&own, update);
        }
        policies
    }

    /// Takes a change of the store in, which the next commit shows.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Put(key, resource) => self.put(key, Some(resource)),
            Event::Remove(key) => self.put(key, None),
        }
    }

    fn put(&mut self, key: &Key, resource: Option<&Resource>) {
        let part = match resource {
            Some(Resource::Policy(part)) => Some(part),
            _ => None,
        };
        match key.kind.as_str() {
            "Tier" => {
                let built_in = built_in_tiers().into_iter().find(|(name, _)| *name == key.name);
                let tier = match part {
                    Some(Part::Tier(tier)) => Some(tier.clone()),
                    _ => built_in.map(|(_, tier)| tier),
                };
                self.update(key, Update::Tier(key.name.clone(), tier));
            }
            "Profile" | "Namespace" | "ServiceAccount" => {
                let profile = match part {
                    Some(Part::Profile(profile)) => Some(profile.clone()),
                    _ => None,
                };
                let update = self.profiles.put(key, profile);
                self.update(key, update);
            }
            "NetworkSet" | "GlobalNetworkSet" => {
                let set = match part {
                    Some(Part::NetworkSet(set)) => Some(set.clone()),
                    _ => None,
                };
                let name = format!("{} {}", key.kind, place(key));
                let old = self.model().network_sets.get(&name).map(|set| set.profiles.clone());
                let new = set.as_ref().map(|set| set.profiles.clone());
                self.update(key, Update::NetworkSet(name, set));
                self.name_profiles(key, old, new);
            }
            "WorkloadEndpoint" | "HostEndpoint" => self.put_endpoint(key, resource),
            "EndpointSlice" => {
                let slice = match resource {
                    Some(Resource::EndpointSlice(slice)) => Some(&**slice),
                    _ => None,
                };
                let updates = self.services.put(key, slice);
                updates.into_iter().for_each(|update| self.update(key, update));
            }
            _ => {
                let Some(policy) = policy_key(key) else { return };
                let found = match part {
                    Some(Part::Policy(found)) => Some(found.clone()),
                    _ => None,
                };
                self.update(key, Update::Policy(policy, found));
            }
        }
    }

    fn put_endpoint(&mut self, key: &Key, resource: Option<&Resource>) {
        let endpoint = match resource {
            Some(Resource::WorkloadEndpoint(endpoint)) => {
                let node = self.node.as_deref().unwrap_or(&endpoint.node);
                Some(endpoint.member(&key.namespace, node))
            }
            Some(Resource::HostEndpoint(endpoint)) => {
                let node = self.node.as_deref().unwrap_or(&endpoint.node);
                Some(endpoint.member(node))
            }
            _ => None,
        };
        let name = endpoint_name(key);
        let old = self.model().endpoints.get(&name).map(|endpoint| endpoint.profiles.clone());
        let new = endpoint.as_ref().map(|endpoint| endpoint.profiles.clone());
        self.update(key, Update::Endpoint(name, endpoint.map(Arc::new)));
        self.name_profiles(key, old, new);
    }

    /// Endpoints and sets name other profiles now: those that Kubernetes implies come and go.
    fn name_profiles(&mut self, key: &Key, old: Option<Vec<String>>, new: Option<Vec<String>>) {
        if old != new {
            let updates = self.profiles.rename(&old.unwrap_or_default(), &new.unwrap_or_default());
            updates.into_iter().for_each(|update| self.update(key, update));
        }
    }

    fn update(&mut self, key: &Key, update: Update) {
        self.changed = true;
        match self.compiler.apply(update.clone()) {
            Ok(()) => {
                self.staged.follow(self.compiler.model(), &update);
                self.refused.remove(key);
            }
            Err(excess) => drop(self.refused.insert(key.clone(), excess)),
        }
    }

    /// Compiles what has changed; true when there is a new classifier.
    pub fn commit(&mut self) -> bool {
        if !std::mem::take(&mut self.changed) {
            return false;
        }
        self.fault = self.compiler.commit().err();
        self.staged.commit();
        self.fault.is_none()
    }

    /// The model, changes that are not committed included.
    pub fn model(&self) -> &Model {
        self.compiler.model()
    }

    /// The classifier of the last commit.
    pub fn classifier(&self) -> &Arc<Classifier> {
        self.compiler.snapshot()
    }

    /// How the classifier calls an endpoint of this node.
    pub fn handle(&self, endpoint: &str) -> Option<Handle> {
        self.compiler.handle(endpoint)
    }

    /// The classifier with staged policies in force; `None` while there are none.
    pub fn staged_classifier(&self) -> Option<&Arc<Classifier>> {
        self.staged.classifier()
    }

    /// How that classifier calls an endpoint of this node.
    pub fn staged_handle(&self, endpoint: &str) -> Option<Handle> {
        self.staged.handle(endpoint)
    }

    /// True for an endpoint of another node, whose policy is not compiled here.
    pub fn is_elsewhere(&self, endpoint: &str) -> bool {
        let found = self.model().endpoints.get(endpoint);
        found.is_some_and(|found| found.place == Place::Elsewhere)
    }

    /// What is not in force as written, and why.
    pub fn faults(&self) -> Vec<String> {
        let refused = self.refused.iter().map(|(key, excess)| {
            format!("policy: {key}: {excess}; what it said before stays in force")
        });
        let denied = self.compiler.faults().map(|excess| {
            format!("policy: {excess}: the endpoints that it is for drop everything")
        });
        let whole = self
            .fault
            .iter()
            .map(|excess| format!("policy: {excess}; the last policy that fitted stays in force"));
        refused.chain(denied).chain(whole).chain(self.staged.fault()).collect()
    }
}

/// How policy calls the endpoint of a resource: host endpoints have no namespace.
pub fn endpoint_name(key: &Key) -> String {
    match key.kind.as_str() {
        "HostEndpoint" => key.name.clone(),
        _ => format!("{}/{}", key.namespace, key.name),
    }
}

/// A name behind its namespace, if it has one.
fn place(key: &Key) -> String {
    match key.namespace.is_empty() {
        true => key.name.clone(),
        false => format!("{}/{}", key.namespace, key.name),
    }
}
