//! Kubernetes' ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2), in the tiers `kube-admin`
//! and `kube-baseline`, by priority.
//!
//! What is not understood of a rule fails closed, as the API wants it: such a rule with Accept
//! matches nothing, one with Deny or Pass becomes Deny for all. Of peers, nodes and domain names
//! are not supported.

use super::calico::nets;
use super::kubernetes::{LabelSelector, pods};
use crate::resource::Invalid;
use ipnet::IpNet;
use margay_acl::model::{Action, Entity, Policy, Port, Rule, Scope};
use margay_acl::packet::protocol;
use margay_acl::selector::Selector;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Largest priority.
const PRIORITY_MAX: u32 = 1000;
const WITH_NAMED_PORTS: [u8; 3] = [protocol::TCP, protocol::UDP, protocol::SCTP];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ClusterSpec {
    tier: String,
    priority: u32,
    subject: Subject,
    ingress: Option<Vec<RuleSpec>>,
    egress: Option<Vec<RuleSpec>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Subject {
    namespaces: Option<LabelSelector>,
    pods: Option<NamespacedPod>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NamespacedPod {
    namespace_selector: LabelSelector,
    pod_selector: LabelSelector,
}

/// Peers and protocols are read one by one, since they may be of a newer API.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuleSpec {
    action: String,
    from: Vec<Map<String, Value>>,
    to: Vec<Map<String, Value>>,
    protocols: Option<Vec<Map<String, Value>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct ProtocolSpec {
    destination_port: Option<PortSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortSpec {
    number: Option<u16>,
    range: Option<Range>,
}

/// A protocol, and the port to which; `None` for all.
type Service = (u8, Option<Port>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    start: u16,
    end: u16,
}

pub(super) fn policy(spec: ClusterSpec) -> Result<Policy, Invalid> {
    let tier = match spec.tier.as_str() {
        "Admin" => "kube-admin",
        "Baseline" => "kube-baseline",
        other => {
            let what = format!("'{other}' is unknown");
            return Err(Invalid::new("spec.tier", what, "Admin or Baseline"));
        }
    };
    if spec.priority > PRIORITY_MAX {
        let what = format!("{} is too large", spec.priority);
        return Err(Invalid::new("spec.priority", what, "0 to 1000"));
    }
    let subject = match (&spec.subject.namespaces, &spec.subject.pods) {
        (Some(namespaces), None) => pods("spec.subject", namespaces, &LabelSelector::default())?,
        (None, Some(both)) => pods("spec.subject", &both.namespace_selector, &both.pod_selector)?,
        _ => {
            let what = "it does not say which pods";
            return Err(Invalid::new("spec.subject", what, "either namespaces or pods"));
        }
    };
    // Without rules for a direction nothing is said of it.
    let rules = |field: &str, specs: Option<Vec<RuleSpec>>, is_ingress: bool| {
        let specs = specs.unwrap_or_default();
        let rules = specs.iter().enumerate().map(|(at, spec)| {
            let field = format!("spec.{field}[{at}]");
            expand(&field, spec, is_ingress)
        });
        let rules = rules.collect::<Result<Vec<_>, Invalid>>()?;
        Ok((!specs.is_empty()).then(|| rules.into_iter().flatten().collect()))
    };
    Ok(Policy {
        tier: tier.to_owned(),
        order: Some(f64::from(spec.priority)),
        selector: subject,
        scope: Scope::Local,
        staged: None,
        ingress: rules("ingress", spec.ingress, true)?,
        egress: rules("egress", spec.egress, false)?,
    })
}

fn expand(field: &str, spec: &RuleSpec, is_ingress: bool) -> Result<Vec<Rule>, Invalid> {
    let action = match spec.action.as_str() {
        "Accept" => Action::Allow,
        "Deny" => Action::Deny,
        "Pass" => Action::Pass,
        other => {
            let what = format!("'{other}' is unknown");
            return Err(Invalid::new(format!("{field}.action"), what, "Accept, Deny or Pass"));
        }
    };
    let peers = if is_ingress { &spec.from } else { &spec.to };
    let entities: Option<Vec<Vec<Entity>>> =
        peers.iter().map(|one| peer(field, one, is_ingress)).collect();
    let protocols: Option<Vec<Vec<Service>>> =
        spec.protocols.iter().flatten().map(protocol).collect();
    let (Some(entities), Some(protocols)) = (entities.filter(|all| !all.is_empty()), protocols)
    else {
        let deny = Rule::new(Action::Deny);
        return Ok(if action == Action::Allow { Vec::new() } else { vec![deny] });
    };
    let any = [(None, None)];
    let services: Vec<(Option<u8>, Option<Port>)> = match &spec.protocols {
        None => any.to_vec(),
        Some(_) => {
            let all = protocols.into_iter().flatten();
            all.map(|(number, port)| (Some(number), port)).collect()
        }
    };
    let mut rules = Vec::new();
    for entity in entities.into_iter().flatten() {
        for (number, port) in &services {
            let mut rule = Rule::new(action);
            rule.protocol = *number;
            match is_ingress {
                true => rule.source = entity.clone(),
                false => rule.destination = entity.clone(),
            }
            rule.destination.ports = port.iter().cloned().collect();
            rules.push(rule);
        }
    }
    Ok(rules)
}

/// The entities that a peer is; `None` for one that is not understood.
fn peer(field: &str, peer: &Map<String, Value>, is_ingress: bool) -> Option<Vec<Entity>> {
    let mut fields = peer.iter();
    let (Some((name, value)), None) = (fields.next(), fields.next()) else { return None };
    let of_pods = |selector: Result<Selector, Invalid>| {
        Some(vec![Entity { selector: Some(selector.ok()?), ..Entity::default() }])
    };
    match name.as_str() {
        "namespaces" => {
            let namespaces = LabelSelector::deserialize(value).ok()?;
            of_pods(pods(field, &namespaces, &LabelSelector::default()))
        }
        "pods" => {
            let both = NamespacedPod::deserialize(value).ok()?;
            of_pods(pods(field, &both.namespace_selector, &both.pod_selector))
        }
        "networks" if !is_ingress => {
            let list = Vec::<String>::deserialize(value).ok()?;
            let all = nets(field, &list).ok().filter(|all| !all.is_empty())?;
            // A rule with ranges of both families would be none of Calico's.
            let (v4, v6): (Vec<IpNet>, Vec<IpNet>) =
                all.into_iter().partition(|net| net.addr().is_ipv4());
            let families = [v4, v6].into_iter().filter(|nets| !nets.is_empty());
            Some(families.map(|nets| Entity { nets, ..Entity::default() }).collect())
        }
        _ => None,
    }
}

/// Protocols with a port; `None` for what is not understood.
fn protocol(spec: &Map<String, Value>) -> Option<Vec<Service>> {
    let mut fields = spec.iter();
    let (Some((name, value)), None) = (fields.next(), fields.next()) else { return None };
    let number = match name.as_str() {
        "tcp" => protocol::TCP,
        "udp" => protocol::UDP,
        "sctp" => protocol::SCTP,
        "destinationNamedPort" => {
            let name = value.as_str().filter(|name| !name.is_empty())?;
            let named = |number| (number, Some(Port::Named(name.to_owned())));
            return Some(WITH_NAMED_PORTS.map(named).to_vec());
        }
        _ => return None,
    };
    let port = match ProtocolSpec::deserialize(value).ok()?.destination_port {
        None => None,
        Some(PortSpec { number: Some(port), range: None }) => Some(Port::Range(port, port)),
        Some(PortSpec { number: None, range: Some(Range { start, end }) }) if start <= end => {
            Some(Port::Range(start, end))
        }
        Some(_) => return None,
    };
    Some(vec![(number, port)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Policy, Invalid> {
        policy(ClusterSpec::deserialize(value).unwrap())
    }

    fn ingress(rules: Value) -> Vec<Rule> {
        let spec = json!({
            "tier": "Admin", "priority": 7, "subject": {"namespaces": {}}, "ingress": rules,
        });
        read(spec).unwrap().ingress.unwrap()
    }

    #[test]
    fn tiers_priorities_and_directions_are_taken_over() {
        let spec = json!({
            "tier": "Baseline", "priority": 1000,
            "subject": {"pods": {
                "namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}},
            }},
            "egress": [{"action": "Pass", "to": [{"networks": ["10.0.0.0/8", "fd00::/8"]}]}],
        });
        let policy = read(spec).unwrap();
        assert_eq!((policy.tier.as_str(), policy.order), ("kube-baseline", Some(1000.0)));
        assert_eq!((policy.ingress.is_none(), policy.egress.unwrap().len()), (true, 2));
        let labels = |name: &str| match name {
            "a" => Some("b"),
            "projectcalico.org/orchestrator" => Some("k8s"),
            "projectcalico.org/namespace" => Some("n"),
            _ => None,
        };
        assert!(policy.selector.matches(labels));
        assert!(!policy.selector.matches(|name| labels(name).filter(|_| name != "a")));
        for (field, wrong) in [
            ("spec.tier", json!({"tier": "Other", "subject": {"namespaces": {}}})),
            ("spec.subject", json!({"tier": "Admin"})),
            ("spec.priority", json!({"tier": "Admin", "priority": 1001})),
        ] {
            assert_eq!(read(wrong).unwrap_err().field, field);
        }
    }

    #[test]
    fn each_protocol_of_each_peer_is_a_rule() {
        let rules = ingress(json!([{
            "action": "Accept",
            "from": [{"namespaces": {}}, {"pods": {"namespaceSelector": {}, "podSelector": {}}}],
            "protocols": [
                {"tcp": {"destinationPort": {"number": 80}}},
                {"udp": {"destinationPort": {"range": {"start": 5, "end": 9}}}},
                {"sctp": {}},
                {"destinationNamedPort": "web"},
            ],
        }]));
        assert_eq!(rules.len(), 2 * 6);
        assert_eq!(rules[0].destination.ports, [Port::Range(80, 80)]);
        assert_eq!((rules[1].protocol, rules[2].destination.ports.len()), (Some(17), 0));
        assert_eq!(rules[1].destination.ports, [Port::Range(5, 9)]);
    }

    #[test]
    fn what_is_not_understood_fails_closed() {
        for rule in [
            json!({"from": [{"namespaces": {}}, {"nodes": {}}]}),
            json!({"from": [{}]}),
            json!({"from": []}),
            json!({"from": [{"networks": ["10.0.0.0/8"]}]}),
            json!({"from": [{"namespaces": {}}], "protocols": [{"quic": {}}]}),
            json!({"from": [{"namespaces": {}}], "protocols": [{"tcp": {"flags": 1}}]}),
        ] {
            for (action, expected) in [
                ("Accept", vec![]),
                ("Deny", vec![Rule::new(Action::Deny)]),
                ("Pass", vec![Rule::new(Action::Deny)]),
            ] {
                let mut rule = rule.clone();
                rule["action"] = action.into();
                assert_eq!(ingress(json!([rule])), expected, "{rule}");
            }
        }
    }
}
