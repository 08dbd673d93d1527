//! What policy is, free of any store: tiers, policies, profiles, endpoints and sets.
//!
//! The meaning is Calico's (docs.tigera.io, "Network policy", "Host endpoints"). Names and
//! namespaces are resolved before: selectors in here already hold what a namespaced resource
//! implies, and services are sets of addresses. Limits are Calico's where it has one.

mod endpoint;
mod limits;
mod policy;
mod rule;

pub use endpoint::{
    AddressSet, Endpoint, Failsafe, Labels, NamedPort, NetworkSet, Place, Settings, inherit,
};
pub use limits::{
    ADDRESSES_MAX, Excess, NETS_MAX, PORTS_MAX, PROFILES_MAX, RULES_MAX, SET_MAX, check,
};
pub use policy::{
    Kind, Policy, PolicyKey, Profile, Scope, StagedAction, Tier, TierAction, compare_policies,
    compare_tiers,
};
pub use rule::{Action, Entity, Family, Icmp, Port, Rule};

use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything that policy depends on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    /// Tiers by name.
    pub tiers: BTreeMap<String, Tier>,
    /// Policies, staged ones too.
    pub policies: BTreeMap<PolicyKey, Arc<Policy>>,
    /// Profiles by name.
    pub profiles: BTreeMap<String, Arc<Profile>>,
    /// Endpoints by name, those of other nodes too.
    pub endpoints: BTreeMap<String, Arc<Endpoint>>,
    /// Network sets by name, which is one name space with no other.
    pub network_sets: BTreeMap<String, Arc<NetworkSet>>,
    /// Sets that rules call by name.
    pub address_sets: BTreeMap<String, Arc<AddressSet>>,
    /// What holds for the whole node.
    pub settings: Settings,
}

/// One change of a [`Model`]; `None` removes.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// A tier.
    Tier(String, Option<Tier>),
    /// A policy.
    Policy(PolicyKey, Option<Arc<Policy>>),
    /// A profile.
    Profile(String, Option<Arc<Profile>>),
    /// An endpoint, here or on another node.
    Endpoint(String, Option<Arc<Endpoint>>),
    /// A network set.
    NetworkSet(String, Option<Arc<NetworkSet>>),
    /// A set that rules call by name.
    AddressSet(String, Option<Arc<AddressSet>>),
    /// The node's settings.
    Settings(Settings),
}

impl Model {
    /// Takes a change in, or refuses it whole when it is beyond a limit.
    pub fn apply(&mut self, update: Update) -> Result<(), Excess> {
        check(&update)?;
        match update {
            Update::Tier(name, tier) => put(&mut self.tiers, name, tier),
            Update::Policy(key, policy) => put(&mut self.policies, key, policy),
            Update::Profile(name, profile) => put(&mut self.profiles, name, profile),
            Update::Endpoint(name, endpoint) => put(&mut self.endpoints, name, endpoint),
            Update::NetworkSet(name, set) => put(&mut self.network_sets, name, set),
            Update::AddressSet(name, set) => put(&mut self.address_sets, name, set),
            Update::Settings(settings) => self.settings = settings,
        }
        Ok(())
    }

    /// An endpoint's labels, with those that its profiles give it.
    pub fn labels(&self, own: &Labels, profiles: &[String]) -> Labels {
        let found = profiles.iter().filter_map(|name| self.profiles.get(name));
        inherit(own, found.map(|profile| &profile.labels))
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}
