//! Policy as it would be with the staged policies in force: compiled beside, while there are any.
//!
//! A staged policy takes the place of the one of the same name (Set), or takes it away (Delete);
//! with Ignore nothing is said. So the same classifier tells what would be decided, at the same
//! cost, and its origins name staged policies.

use margay_acl::classifier::{Classifier, Handle};
use margay_acl::compile::Compiler;
use margay_acl::model::{Excess, Kind, Model, Policy, PolicyKey, StagedAction, Update};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The second compiler.
#[derive(Debug, Default)]
pub(super) struct Staged {
    compiler: Option<Compiler>,
    /// Staged policies that would change something.
    keys: BTreeSet<PolicyKey>,
    fault: Option<Excess>,
}

impl Staged {
    /// Follows an update that the model has taken.
    pub(super) fn follow(&mut self, model: &Model, update: &Update) {
        if let Update::Policy(key, policy) = update {
            let staged = policy.as_ref().and_then(|policy| policy.staged);
            match staged.is_some_and(|action| action != StagedAction::Ignore) {
                true => drop(self.keys.insert(key.clone())),
                false => drop(self.keys.remove(key)),
            }
        }
        if self.keys.is_empty() {
            self.compiler = None;
            self.fault = None;
            return;
        }
        let updates = match (&self.compiler, update) {
            (None, _) => everything(model),
            (Some(_), Update::Policy(key, _)) => both(model, key).to_vec(),
            (Some(_), other) => vec![other.clone()],
        };
        let compiler = self.compiler.get_or_insert_default();
        for update in updates {
            // The first compiler has held it against the same limits.
            if let Err(excess) = compiler.apply(update) {
                self.fault = Some(excess);
            }
        }
    }

    /// Compiles what has changed.
    pub(super) fn commit(&mut self) {
        if let Some(compiler) = &mut self.compiler {
            self.fault = compiler.commit().err();
        }
    }

    /// The classifier of the last commit.
    pub(super) fn classifier(&self) -> Option<&Arc<Classifier>> {
        self.compiler.as_ref().map(Compiler::snapshot)
    }

    /// How it calls an endpoint of this node.
    pub(super) fn handle(&self, endpoint: &str) -> Option<Handle> {
        self.compiler.as_ref()?.handle(endpoint)
    }

    /// Why it does not say what it should.
    pub(super) fn fault(&self) -> Option<String> {
        let fault = self.fault.as_ref()?;
        Some(format!("policy: {fault}: what staged policies would do is told wrongly"))
    }
}

/// All that a model is, with the staged policies in force.
fn everything(model: &Model) -> Vec<Update> {
    let mut all = vec![Update::Settings(model.settings.clone())];
    let tiers = model.tiers.iter();
    all.extend(tiers.map(|(name, tier)| Update::Tier(name.clone(), Some(tier.clone()))));
    let profiles = model.profiles.iter();
    all.extend(profiles.map(|(name, one)| Update::Profile(name.clone(), Some(one.clone()))));
    let sets = model.address_sets.iter();
    all.extend(sets.map(|(name, set)| Update::AddressSet(name.clone(), Some(set.clone()))));
    let sets = model.network_sets.iter();
    all.extend(sets.map(|(name, set)| Update::NetworkSet(name.clone(), Some(set.clone()))));
    let endpoints = model.endpoints.iter();
    all.extend(endpoints.map(|(name, one)| Update::Endpoint(name.clone(), Some(one.clone()))));
    all.extend(model.policies.keys().flat_map(|key| both(model, key)));
    all
}

/// What a policy and its staged one come to.
fn both(model: &Model, key: &PolicyKey) -> [Update; 2] {
    let of_kind = |kind| PolicyKey { kind, ..key.clone() };
    let real = of_kind(key.kind.enforced());
    let Some(kind) = staged_kind(real.kind) else {
        let policy = model.policies.get(&real).cloned();
        return [Update::Policy(real.clone(), policy.clone()), Update::Policy(real, policy)];
    };
    let staged = of_kind(kind);
    let found = model.policies.get(&staged);
    let action = found.and_then(|policy| policy.staged);
    let set = found.filter(|_| action == Some(StagedAction::Set));
    let set = set.map(|policy| Arc::new(Policy { staged: None, ..(**policy).clone() }));
    let stays = matches!(action, None | Some(StagedAction::Ignore));
    let kept = model.policies.get(&real).filter(|_| stays).cloned();
    [Update::Policy(staged, set), Update::Policy(real, kept)]
}

/// The kind that stages policies of a kind.
fn staged_kind(kind: Kind) -> Option<Kind> {
    match kind {
        Kind::GlobalNetworkPolicy => Some(Kind::StagedGlobalNetworkPolicy),
        Kind::NetworkPolicy => Some(Kind::StagedNetworkPolicy),
        Kind::KubernetesNetworkPolicy => Some(Kind::StagedKubernetesNetworkPolicy),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policies;
    use margay_acl::model::Settings;
    use margay_acl::packet::{Packet, Transport, protocol};
    use margay_acl::reference;
    use margay_acl::{Direction, Stage};
    use std::collections::BTreeMap;

    const ENDPOINTS: [(&str, &str); 3] = [("a", "web"), ("b", "db"), ("c", "none")];
    const ACTIONS: [Option<StagedAction>; 3] =
        [Some(StagedAction::Set), Some(StagedAction::Delete), Some(StagedAction::Ignore)];

    /// Updates for a policy that lets TCP to one port into endpoints of a kind.
    fn policy(kind: Kind, name: &str, (app, port): (&str, u16), at: usize) -> Update {
        use margay_acl::model::{Action, Port, Rule, Scope};
        let key = PolicyKey { kind, namespace: String::new(), name: name.to_owned() };
        let mut rule = Rule::new(Action::Allow);
        rule.protocol = Some(protocol::TCP);
        rule.destination.ports = vec![Port::Range(port, port)];
        let selector = margay_acl::selector::Selector::parse(&format!("app == '{app}'")).unwrap();
        let staged = (kind != kind.enforced()).then_some(ACTIONS[at % 3]).flatten();
        let policy = Policy {
            tier: "default".to_owned(),
            order: None,
            selector,
            scope: Scope::Local,
            staged,
            ingress: Some(vec![rule]),
            egress: None,
        };
        Update::Policy(key, Some(Arc::new(policy)))
    }

    fn endpoints() -> Vec<Update> {
        use margay_acl::model::{Endpoint, Place};
        let endpoint = |(at, (name, app)): (usize, &(&str, &str))| {
            let endpoint = Endpoint {
                labels: [("app".to_owned(), (*app).to_owned())].into(),
                addresses: vec![[10, 0, 0, at as u8 + 1].into()],
                ports: Vec::new(),
                profiles: vec!["projectcalico-default-allow".to_owned()],
                place: Place::Workload,
            };
            Update::Endpoint((*name).to_owned(), Some(Arc::new(endpoint)))
        };
        ENDPOINTS.iter().enumerate().map(endpoint).collect()
    }

    /// The model with staged policies in force, one by one.
    fn in_force(model: &Model) -> Model {
        let is_replaced = |key: &PolicyKey| {
            model.policies.iter().any(|(other, policy)| {
                let same_name = (&other.namespace, &other.name) == (&key.namespace, &key.name);
                let stages_it = other.kind != key.kind && other.kind.enforced() == key.kind;
                same_name && stages_it && policy.staged != Some(StagedAction::Ignore)
            })
        };
        let mut changed = Model { policies: BTreeMap::new(), ..model.clone() };
        for (key, policy) in &model.policies {
            match policy.staged {
                None if is_replaced(key) => {}
                None | Some(StagedAction::Set) => {
                    let policy = Policy { staged: None, ..(**policy).clone() };
                    changed.policies.insert(key.clone(), Arc::new(policy));
                }
                Some(_) => {}
            }
        }
        changed
    }

    /// What the second compiler says is what the slow evaluation says of policy as it would be.
    fn agrees(policies: &Policies) {
        let Some(staged) = policies.staged_classifier() else { return };
        let model = in_force(policies.model());
        for ((name, _), port) in ENDPOINTS.iter().flat_map(|one| [80, 81, 82].map(|p| (one, p))) {
            let packet = Packet {
                source: [198, 51, 100, 1].into(),
                destination: [10, 0, 0, 1].into(),
                protocol: protocol::TCP,
                transport: Transport::Ports { source: 4000, destination: port },
            };
            let (stage, direction) = (Stage::Normal, Direction::Ingress);
            let slow = reference::evaluate(&model, name, stage, direction, &packet);
            let handle = policies.staged_handle(name).unwrap();
            let outcome = staged.classify(handle, stage, direction, &packet);
            let found = (outcome.verdict, staged.origin(&outcome));
            assert_eq!(found, (slow.verdict, &slow.origin), "{name}");
        }
    }

    #[test]
    fn staged_policies_come_change_and_go() {
        let mut policies = Policies::new(Some("node"), Settings::default());
        let own = crate::resource::Key {
            kind: "Test".to_owned(),
            namespace: String::new(),
            name: String::new(),
        };
        let names = ["one", "two", "three"];
        let mut updates = endpoints();
        for (at, name) in names.iter().enumerate() {
            let what = (ENDPOINTS[at].1, 80 + at as u16);
            updates.push(policy(Kind::GlobalNetworkPolicy, name, what, 0));
            let what = (ENDPOINTS[at].1, 81);
            updates.push(policy(Kind::StagedGlobalNetworkPolicy, name, what, at));
        }
        // Another action for each, then the real ones go, then the staged ones.
        for (at, name) in names.iter().enumerate() {
            updates.push(policy(Kind::StagedGlobalNetworkPolicy, name, ("web", 82), at + 1));
        }
        for kind in [Kind::GlobalNetworkPolicy, Kind::StagedGlobalNetworkPolicy] {
            updates.extend(names.map(|name| {
                let (namespace, name) = (String::new(), name.to_owned());
                Update::Policy(PolicyKey { kind, namespace, name }, None)
            }));
        }
        for update in updates {
            policies.update(&own, update);
            policies.commit();
            agrees(&policies);
        }
        assert!(policies.staged_classifier().is_none(), "nothing is staged any more");
        assert!(policies.faults().is_empty());
    }
}
