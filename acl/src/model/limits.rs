//! Limits of single resources, and the error that names the one beyond.

use super::{AddressSet, Entity, Rule, Update};
use std::fmt;

/// Most rules of a policy or profile in one direction (Calico's limit).
pub const RULES_MAX: usize = 1024;
/// Most ranges in one list of a rule (Calico's limit).
pub const NETS_MAX: usize = 256;
/// Most ports in one list of a rule (Calico's limit is 50), or named ports of an endpoint.
pub const PORTS_MAX: usize = 256;
/// Most addresses of an endpoint.
pub const ADDRESSES_MAX: usize = 64;
/// Most profiles of an endpoint.
pub const PROFILES_MAX: usize = 64;
/// Most members of a set (Felix's `maxIpsetSize`).
pub const SET_MAX: usize = 1 << 20;

/// A resource that is beyond a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excess {
    /// The resource, as in `name/namespace/kind` for policies.
    pub of: String,
    /// What there is too much of.
    pub what: &'static str,
    /// How many there are.
    pub count: usize,
    /// How many may be.
    pub limit: usize,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Excess { of, what, count, limit } = self;
        write!(f, "{of}: {count} {what}, at most {limit}")
    }
}

impl std::error::Error for Excess {}

type Count = (&'static str, usize, usize);

/// Refuses what is beyond a limit.
pub fn check(update: &Update) -> Result<(), Excess> {
    let (of, counts): (String, Vec<Count>) = match update {
        Update::Policy(key, Some(policy)) => {
            let directions = [&policy.ingress, &policy.egress].into_iter().flatten();
            (key.to_string(), directions.flat_map(|rules| count_rules(rules)).collect())
        }
        Update::Profile(name, Some(profile)) => {
            let directions = [&profile.ingress, &profile.egress];
            (name.clone(), directions.into_iter().flat_map(|rules| count_rules(rules)).collect())
        }
        Update::Endpoint(name, Some(endpoint)) => {
            let counts = vec![
                ("addresses", endpoint.addresses.len(), ADDRESSES_MAX),
                ("named ports", endpoint.ports.len(), PORTS_MAX),
                ("profiles", endpoint.profiles.len(), PROFILES_MAX),
            ];
            (name.clone(), counts)
        }
        Update::NetworkSet(name, Some(set)) => {
            let profiles = ("profiles", set.profiles.len(), PROFILES_MAX);
            (name.clone(), vec![("ranges", set.nets.len(), SET_MAX), profiles])
        }
        Update::AddressSet(name, Some(set)) => {
            let members = match &**set {
                AddressSet::Nets(nets) => nets.len(),
                AddressSet::Ports(ports) => ports.len(),
            };
            (name.clone(), vec![("members", members, SET_MAX)])
        }
        Update::Settings(settings) => {
            let counts = [&settings.failsafe_in, &settings.failsafe_out]
                .map(|ports| ("failsafe ports", ports.len(), RULES_MAX));
            ("settings".to_owned(), counts.to_vec())
        }
        _ => return Ok(()),
    };
    match counts.into_iter().find(|(_, count, limit)| count > limit) {
        Some((what, count, limit)) => Err(Excess { of, what, count, limit }),
        None => Ok(()),
    }
}

fn count_rules(rules: &[Rule]) -> Vec<Count> {
    let mut counts = vec![("rules in one direction", rules.len(), RULES_MAX)];
    let sides = rules.iter().flat_map(|rule| [&rule.source, &rule.destination]);
    for Entity { nets, not_nets, ports, not_ports, .. } in sides {
        let lists = [nets, not_nets].map(|list| ("ranges in one list", list.len(), NETS_MAX));
        counts.extend(lists);
        let lists = [ports, not_ports].map(|list| ("ports in one list", list.len(), PORTS_MAX));
        counts.extend(lists);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::*;
    use crate::selector::Selector;
    use std::sync::Arc;

    fn policy(rules: Vec<Rule>) -> Update {
        let key = PolicyKey {
            kind: Kind::GlobalNetworkPolicy,
            namespace: String::new(),
            name: "p".to_owned(),
        };
        let policy = Policy {
            tier: "default".to_owned(),
            order: None,
            selector: Selector::all(),
            scope: Scope::Local,
            staged: None,
            ingress: Some(rules),
            egress: None,
        };
        Update::Policy(key, Some(Arc::new(policy)))
    }

    #[test]
    fn rules_of_a_policy_are_bounded_and_the_error_names_it() {
        let mut model = Model::default();
        let rules = |count| vec![Rule::new(Action::Allow); count];
        assert_eq!(model.apply(policy(rules(RULES_MAX))), Ok(()));
        let before = model.clone();
        let error = model.apply(policy(rules(RULES_MAX + 1))).unwrap_err();
        let text = "p//GlobalNetworkPolicy: 1025 rules in one direction, at most 1024";
        assert_eq!(error.to_string(), text);
        assert_eq!(model, before);
    }

    #[test]
    fn lists_of_a_rule_are_bounded() {
        let net: ipnet::IpNet = "10.0.0.0/8".parse().unwrap();
        let mut rule = Rule::new(Action::Allow);
        rule.source.nets = vec![net; NETS_MAX];
        rule.destination.ports = vec![Port::Range(1, 1); PORTS_MAX];
        assert_eq!(check(&policy(vec![rule.clone()])), Ok(()));
        rule.source.nets.push(net);
        assert_eq!(check(&policy(vec![rule.clone()])).unwrap_err().limit, NETS_MAX);
        rule.source.nets.clear();
        rule.destination.ports.push(Port::Range(1, 1));
        assert_eq!(check(&policy(vec![rule])).unwrap_err().what, "ports in one list");
    }

    #[test]
    fn members_of_a_set_are_bounded() {
        let net: ipnet::IpNet = "10.0.0.0/8".parse().unwrap();
        let set = |count| {
            let set = NetworkSet { nets: vec![net; count], ..NetworkSet::default() };
            Update::NetworkSet("n".to_owned(), Some(Arc::new(set)))
        };
        assert_eq!(check(&set(SET_MAX)), Ok(()));
        assert_eq!(check(&set(SET_MAX + 1)).unwrap_err().count, SET_MAX + 1);
    }
}
