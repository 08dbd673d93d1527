//! Kubernetes' NetworkPolicy: allow rules in tier `default`, at order 1000.
//!
//! A peer and the ports of one protocol make one rule. A port without protocol is TCP's; `from`
//! and `to` that are missing or empty mean everybody, a selector `{}` everything of its kind.

use super::calico::{nets, port, protocol_number, staged};
use super::{NAMESPACE, OF_NAMESPACE, ORCHESTRATOR};
use crate::resource::Invalid;
use margay_acl::model::{Action, Entity, Policy, PolicyKey, Port, Rule, Scope};
use margay_acl::packet::protocol;
use margay_acl::selector::Selector;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Where Kubernetes' policies stand among those of their tier.
const ORDER: f64 = 1000.0;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PolicySpec {
    pod_selector: LabelSelector,
    policy_types: Option<Vec<String>>,
    ingress: Option<Vec<RuleSpec>>,
    egress: Option<Vec<RuleSpec>>,
    staged_action: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct LabelSelector {
    match_labels: Option<BTreeMap<String, String>>,
    match_expressions: Option<Vec<Expression>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Expression {
    key: String,
    operator: String,
    values: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuleSpec {
    from: Option<Vec<Peer>>,
    to: Option<Vec<Peer>>,
    ports: Option<Vec<PortSpec>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Peer {
    pod_selector: Option<LabelSelector>,
    namespace_selector: Option<LabelSelector>,
    ip_block: Option<IpBlock>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IpBlock {
    cidr: String,
    except: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PortSpec {
    protocol: Option<Value>,
    port: Option<Value>,
    end_port: Option<u16>,
}

pub(super) fn policy(spec: PolicySpec, key: &PolicyKey) -> Result<Policy, Invalid> {
    let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
    let [ingress, egress] = match spec.policy_types.as_deref().unwrap_or_default() {
        [] => [true, has_egress],
        types => ["Ingress", "Egress"].map(|wanted| types.iter().any(|one| one == wanted)),
    };
    let all = |field: &str, list: Option<Vec<RuleSpec>>, is_ingress: bool| {
        let mut rules = Vec::new();
        for (index, spec) in list.unwrap_or_default().iter().enumerate() {
            let field = format!("spec.{field}[{index}]");
            rules.extend(expand(&field, spec, &key.namespace, is_ingress)?);
        }
        Ok(rules)
    };
    let ingress_rules = all("ingress", spec.ingress, true)?;
    let egress_rules = all("egress", spec.egress, false)?;
    Ok(Policy {
        tier: "default".to_owned(),
        order: Some(ORDER),
        selector: Selector::all_of([
            Selector::equal(ORCHESTRATOR, "k8s"),
            labels("spec.podSelector", &spec.pod_selector)?,
            Selector::equal(NAMESPACE, &key.namespace),
        ]),
        scope: Scope::Local,
        staged: staged(key.kind, spec.staged_action.as_deref())?,
        ingress: ingress.then_some(ingress_rules),
        egress: egress.then_some(egress_rules),
    })
}

fn expand(
    field: &str,
    spec: &RuleSpec,
    namespace: &str,
    is_ingress: bool,
) -> Result<Vec<Rule>, Invalid> {
    let (name, peers) = if is_ingress { ("from", &spec.from) } else { ("to", &spec.to) };
    let mut entities = Vec::new();
    for (index, one) in peers.as_deref().unwrap_or_default().iter().enumerate() {
        entities.push(peer(&format!("{field}.{name}[{index}]"), one, namespace)?);
    }
    if entities.is_empty() {
        entities.push(Entity::default());
    }
    let mut services: BTreeMap<Option<u8>, Vec<Port>> = BTreeMap::new();
    for (index, one) in spec.ports.as_deref().unwrap_or_default().iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        let number = match &one.protocol {
            None => protocol::TCP,
            Some(value) => protocol_number(&format!("{field}.protocol"), value)?,
        };
        // Without a port the whole protocol is meant.
        let port = match &one.port {
            None => Port::Range(0, u16::MAX),
            Some(value) => match (port(&format!("{field}.port"), value)?, one.end_port) {
                (Port::Range(first, _), Some(last)) if first <= last => Port::Range(first, last),
                (_, Some(last)) => {
                    let (field, what) =
                        (format!("{field}.endPort"), format!("{last} ends no range"));
                    return Err(Invalid::new(field, what, "not below port, which is a number"));
                }
                (port, None) => port,
            },
        };
        services.entry(Some(number)).or_default().push(port);
    }
    if services.is_empty() {
        services.insert(None, Vec::new());
    }
    let mut rules = Vec::new();
    for (number, ports) in &services {
        for entity in &entities {
            let mut rule = Rule::new(Action::Allow);
            rule.protocol = *number;
            match is_ingress {
                true => rule.source = entity.clone(),
                false => rule.destination = entity.clone(),
            }
            let is_whole = ports.contains(&Port::Range(0, u16::MAX));
            rule.destination.ports = if is_whole { Vec::new() } else { ports.clone() };
            rules.push(rule);
        }
    }
    Ok(rules)
}

fn peer(field: &str, peer: &Peer, namespace: &str) -> Result<Entity, Invalid> {
    if let Some(block) = &peer.ip_block {
        if peer.pod_selector.is_some() || peer.namespace_selector.is_some() {
            let what = "ipBlock stands beside a selector";
            return Err(Invalid::new(field.to_owned(), what, "one peer for each"));
        }
        return Ok(Entity {
            nets: nets(&format!("{field}.ipBlock.cidr"), std::slice::from_ref(&block.cidr))?,
            not_nets: nets(&format!("{field}.ipBlock.except"), &block.except)?,
            ..Entity::default()
        });
    }
    let everything = LabelSelector::default();
    let own = peer.pod_selector.as_ref().unwrap_or(&everything);
    let selector = match &peer.namespace_selector {
        None if peer.pod_selector.is_none() => {
            let mend = "podSelector, namespaceSelector or ipBlock";
            return Err(Invalid::new(field.to_owned(), "it says nothing", mend));
        }
        None => Selector::all_of([
            Selector::equal(ORCHESTRATOR, "k8s"),
            Selector::equal(NAMESPACE, namespace),
            labels(&format!("{field}.podSelector"), own)?,
        ]),
        Some(namespaces) => pods(field, namespaces, own)?,
    };
    Ok(Entity { selector: Some(selector), ..Entity::default() })
}

/// The pods with some labels in the namespaces with some labels.
pub(super) fn pods(
    field: &str,
    namespaces: &LabelSelector,
    own: &LabelSelector,
) -> Result<Selector, Invalid> {
    let place = match labels(&format!("{field}.namespaceSelector"), namespaces)? {
        all if all.is_all() => Selector::has(NAMESPACE),
        some => some.prefixed(OF_NAMESPACE),
    };
    let own = labels(&format!("{field}.podSelector"), own)?;
    Ok(Selector::all_of([Selector::equal(ORCHESTRATOR, "k8s"), place, own]))
}

fn labels(field: &str, selector: &LabelSelector) -> Result<Selector, Invalid> {
    let mut parts: Vec<Selector> = Vec::new();
    for (name, value) in selector.match_labels.iter().flatten() {
        parts.push(Selector::equal(name, value));
    }
    for Expression { key, operator, values } in selector.match_expressions.iter().flatten() {
        let values = values.iter().flatten().map(String::as_str);
        parts.push(match operator.as_str() {
            "In" => Selector::one_of(key, values),
            "NotIn" => Selector::one_of(key, values).negated(),
            "Exists" => Selector::has(key),
            "DoesNotExist" => Selector::has(key).negated(),
            other => {
                let what = format!("'{other}' is unknown");
                let mend = "In, NotIn, Exists or DoesNotExist";
                return Err(Invalid::new(format!("{field}.matchExpressions"), what, mend));
            }
        });
    }
    Ok(Selector::all_of(parts))
}
