//! Calico's NetworkPolicy and GlobalNetworkPolicy, the staged ones, and the rules of profiles.

use super::{NAMESPACE, OF_ACCOUNT, OF_NAMESPACE, SERVICE_ACCOUNT};
use crate::resource::Invalid;
use ipnet::IpNet;
use margay_acl::model::{
    Action, Entity, Family, Icmp, Kind, Policy, PolicyKey, Port, Rule, Scope, StagedAction,
};
use margay_acl::packet::protocol;
use margay_acl::selector::Selector;
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PolicySpec {
    tier: Option<String>,
    order: Option<f64>,
    selector: Option<String>,
    namespace_selector: Option<String>,
    service_account_selector: Option<String>,
    types: Option<Vec<String>>,
    ingress: Option<Vec<RuleSpec>>,
    egress: Option<Vec<RuleSpec>>,
    do_not_track: bool,
    #[serde(rename = "preDNAT")]
    pre_dnat: bool,
    apply_on_forward: bool,
    staged_action: Option<String>,
}

/// A rule as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct RuleSpec {
    action: String,
    ip_version: Option<u8>,
    protocol: Option<Value>,
    not_protocol: Option<Value>,
    icmp: Option<IcmpSpec>,
    #[serde(rename = "notICMP")]
    not_icmp: Option<IcmpSpec>,
    source: EntitySpec,
    destination: EntitySpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct IcmpSpec {
    #[serde(rename = "type")]
    kind: Option<u8>,
    code: Option<u8>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EntitySpec {
    nets: Vec<String>,
    not_nets: Vec<String>,
    selector: Option<String>,
    not_selector: Option<String>,
    namespace_selector: Option<String>,
    ports: Vec<Value>,
    not_ports: Vec<Value>,
    service_accounts: Option<AccountsSpec>,
    services: Option<ServiceSpec>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct AccountsSpec {
    names: Vec<String>,
    selector: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ServiceSpec {
    name: String,
    namespace: Option<String>,
}

pub(super) fn policy(spec: PolicySpec, key: &PolicyKey) -> Result<Policy, Invalid> {
    let namespace = key.namespace.as_str();
    let scope = match (spec.do_not_track, spec.pre_dnat, spec.apply_on_forward) {
        (true, true, _) => {
            return Err(Invalid::new(
                "spec.preDNAT",
                "not together with doNotTrack",
                "keep one of them",
            ));
        }
        (true, _, false) | (_, true, false) => {
            let what = "doNotTrack and preDNAT need it";
            return Err(Invalid::new("spec.applyOnForward", what, "applyOnForward: true"));
        }
        (true, ..) => Scope::Untracked,
        (_, true, _) => Scope::PreDnat,
        (_, _, true) => Scope::Forward,
        _ => Scope::Local,
    };
    let has_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
    let has_ingress = spec.ingress.as_ref().is_some_and(|rules| !rules.is_empty());
    if scope == Scope::PreDnat && has_egress {
        let what = "a preDNAT policy has ingress rules only";
        return Err(Invalid::new("spec.egress", what, "another policy for egress"));
    }
    let [ingress, egress] = match spec.types.as_deref().unwrap_or_default() {
        [] => [has_ingress || !has_egress, has_egress],
        types => ["Ingress", "Egress"].map(|wanted| types.iter().any(|one| one == wanted)),
    };
    let rules = |field: &str, list: Option<Vec<RuleSpec>>| {
        rules(&format!("spec.{field}"), list.as_deref().unwrap_or_default(), namespace)
    };
    let (ingress_rules, egress_rules) =
        (rules("ingress", spec.ingress)?, rules("egress", spec.egress)?);
    Ok(Policy {
        tier: spec.tier.filter(|tier| !tier.is_empty()).unwrap_or_else(|| "default".to_owned()),
        order: spec.order,
        selector: Selector::all_of([
            selector("spec.selector", spec.selector.as_deref())?.unwrap_or(Selector::all()),
            match namespace {
                "" => namespaces("spec.namespaceSelector", spec.namespace_selector.as_deref())?
                    .unwrap_or(Selector::all()),
                name => Selector::equal(NAMESPACE, name),
            },
            selector("spec.serviceAccountSelector", spec.service_account_selector.as_deref())?
                .map_or(Selector::all(), |accounts| accounts.prefixed(OF_ACCOUNT)),
        ]),
        scope,
        staged: staged(key.kind, spec.staged_action.as_deref())?,
        ingress: ingress.then_some(ingress_rules),
        egress: egress.then_some(egress_rules),
    })
}

/// What a staged policy proposes; nothing for one in force.
pub(super) fn staged(kind: Kind, action: Option<&str>) -> Result<Option<StagedAction>, Invalid> {
    if kind.enforced() == kind {
        return Ok(None);
    }
    match action {
        None | Some("" | "Set") => Ok(Some(StagedAction::Set)),
        Some("Delete") => Ok(Some(StagedAction::Delete)),
        Some("Learn" | "Ignore") => Ok(Some(StagedAction::Ignore)),
        Some(other) => {
            let what = format!("'{other}' is unknown");
            Err(Invalid::new("spec.stagedAction", what, "Set, Delete, Learn or Ignore"))
        }
    }
}

/// Rules of a policy or profile; `namespace` is empty for those of the whole cluster.
pub(super) fn rules(field: &str, list: &[RuleSpec], namespace: &str) -> Result<Vec<Rule>, Invalid> {
    let numbered = list.iter().enumerate();
    numbered.map(|(index, spec)| rule(&format!("{field}[{index}]"), spec, namespace)).collect()
}

fn rule(field: &str, spec: &RuleSpec, namespace: &str) -> Result<Rule, Invalid> {
    let action = match spec.action.as_str() {
        "Allow" => Action::Allow,
        "Deny" => Action::Deny,
        "Pass" => Action::Pass,
        "Log" => Action::Log,
        other => {
            let what = format!("'{other}' is unknown");
            let mend = "Allow, Deny, Log or Pass";
            return Err(Invalid::new(format!("{field}.action"), what, mend));
        }
    };
    let family = match spec.ip_version {
        None => None,
        Some(4) => Some(Family::V4),
        Some(6) => Some(Family::V6),
        Some(other) => {
            let what = format!("{other} is no IP version");
            return Err(Invalid::new(format!("{field}.ipVersion"), what, "4 or 6"));
        }
    };
    let number = |name: &str, value: &Option<Value>| match value {
        None => Ok(None),
        Some(value) => protocol_number(&format!("{field}.{name}"), value).map(Some),
    };
    let (wanted, unwanted) =
        (number("protocol", &spec.protocol)?, number("notProtocol", &spec.not_protocol)?);
    let icmp = |name: &str, icmp: &Option<IcmpSpec>| match icmp {
        None | Some(IcmpSpec { kind: None, code: None }) => Ok(None),
        Some(IcmpSpec { kind: None, .. }) => {
            let field = format!("{field}.{name}");
            Err(Invalid::new(field, "a code without a type", "type and code"))
        }
        Some(_) if !wanted.is_some_and(protocol::is_icmp) => {
            let what = "needs protocol ICMP or ICMPv6";
            Err(Invalid::new(format!("{field}.{name}"), what, "protocol: ICMP"))
        }
        Some(IcmpSpec { kind: Some(kind), code }) => Ok(Some(Icmp { kind: *kind, code: *code })),
    };
    let rule = Rule {
        action,
        family,
        protocol: wanted,
        not_protocol: unwanted,
        icmp: icmp("icmp", &spec.icmp)?,
        not_icmp: icmp("notICMP", &spec.not_icmp)?,
        source: entity(&format!("{field}.source"), &spec.source, namespace, false)?,
        destination: entity(&format!("{field}.destination"), &spec.destination, namespace, true)?,
    };
    let sides = [&rule.source, &rule.destination];
    if sides.iter().any(|side| !side.ports.is_empty() || !side.not_ports.is_empty())
        && !wanted.is_some_and(protocol::has_ports)
    {
        let what = "ports need a protocol that has them";
        return Err(Invalid::new(field.to_owned(), what, "protocol TCP, UDP or SCTP"));
    }
    let mut nets = sides.iter().flat_map(|side| side.nets.iter().chain(&side.not_nets));
    if let Some(first) = nets.next().map(Family::of)
        && nets.any(|net| Family::of(net) != first)
    {
        let what = "IPv4 and IPv6 ranges in one rule";
        return Err(Invalid::new(field.to_owned(), what, "one rule for each family"));
    }
    Ok(rule)
}

fn entity(
    field: &str,
    spec: &EntitySpec,
    namespace: &str,
    is_destination: bool,
) -> Result<Entity, Invalid> {
    let at = |name: &str| format!("{field}.{name}");
    let own = selector(&at("selector"), spec.selector.as_deref())?;
    let not_selector = selector(&at("notSelector"), spec.not_selector.as_deref())?;
    let of_namespaces = namespaces(&at("namespaceSelector"), spec.namespace_selector.as_deref())?;
    let accounts = spec.service_accounts.clone().unwrap_or_default();
    let account_selector = selector(&at("serviceAccounts.selector"), accounts.selector.as_deref())?;
    let names = (!accounts.names.is_empty())
        .then(|| Selector::one_of(SERVICE_ACCOUNT, accounts.names.iter().map(String::as_str)));
    let has_accounts = names.is_some() || account_selector.is_some();
    let picks = own.is_some() || not_selector.is_some() || of_namespaces.is_some() || has_accounts;
    let place = match of_namespaces {
        Some(of_namespaces) => Some(of_namespaces),
        None if picks && !namespace.is_empty() => Some(Selector::equal(NAMESPACE, namespace)),
        None => None,
    };
    let account_selector = account_selector.map(|accounts| accounts.prefixed(OF_ACCOUNT));
    let parts: Vec<Selector> =
        [place, own, names, account_selector].into_iter().flatten().collect();
    let set = spec.services.as_ref().map(|service| {
        let namespace = service.namespace.as_deref().unwrap_or(namespace);
        super::places::service_set(namespace, &service.name, is_destination)
    });
    Ok(Entity {
        nets: nets(&at("nets"), &spec.nets)?,
        not_nets: nets(&at("notNets"), &spec.not_nets)?,
        selector: (!parts.is_empty()).then(|| Selector::all_of(parts)),
        not_selector,
        set,
        ports: ports(&at("ports"), &spec.ports)?,
        not_ports: ports(&at("notPorts"), &spec.not_ports)?,
    })
}

/// A selector that is there and not empty.
pub(super) fn selector(field: &str, text: Option<&str>) -> Result<Option<Selector>, Invalid> {
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    let parsed = Selector::parse(text).map(Some);
    parsed
        .map_err(|error| Invalid::new(field.to_owned(), error.to_string(), "such as role == 'web'"))
}

/// A selector of namespaces, as one of what is in them. `all()` and `global()` alone are about
/// being in any namespace or in none.
fn namespaces(field: &str, text: Option<&str>) -> Result<Option<Selector>, Invalid> {
    Ok(selector(field, text)?.map(|selector| match (selector.is_all(), selector.is_global()) {
        (true, _) => Selector::has(NAMESPACE),
        (_, true) => Selector::has(NAMESPACE).negated(),
        _ => selector.prefixed(OF_NAMESPACE),
    }))
}

pub(super) fn nets(field: &str, list: &[String]) -> Result<Vec<IpNet>, Invalid> {
    let parse = |text: &String| {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(|net| net.trunc()).map_err(|_| {
            let what = format!("'{text}' is no range");
            Invalid::new(field.to_owned(), what, "such as 10.0.0.0/8 or fd00::/64")
        })
    };
    list.iter().map(parse).collect()
}

/// A protocol's number, from its name or number.
pub(super) fn protocol_number(field: &str, value: &Value) -> Result<u8, Invalid> {
    let named = match value.as_str() {
        Some("TCP" | "tcp") => Some(protocol::TCP),
        Some("UDP" | "udp") => Some(protocol::UDP),
        Some("ICMP" | "icmp") => Some(protocol::ICMP),
        Some("ICMPv6" | "icmpv6") => Some(protocol::ICMP6),
        Some("SCTP" | "sctp") => Some(protocol::SCTP),
        Some("UDPLite" | "udplite") => Some(protocol::UDP_LITE),
        Some(text) => text.parse().ok(),
        None => value.as_u64().and_then(|number| u8::try_from(number).ok()),
    };
    named.filter(|number| *number > 0).ok_or_else(|| {
        let mend = "TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or 1 to 255";
        Invalid::new(field.to_owned(), format!("{value} is no protocol"), mend)
    })
}

fn ports(field: &str, list: &[Value]) -> Result<Vec<Port>, Invalid> {
    list.iter().map(|value| port(field, value)).collect()
}

/// A number, `first:last`, or a name.
pub(super) fn port(field: &str, value: &Value) -> Result<Port, Invalid> {
    let bad = || {
        let what = format!("{value} is no port");
        Invalid::new(field.to_owned(), what, "a port, first:last, or a name")
    };
    if let Some(number) = value.as_u64() {
        let number = u16::try_from(number).map_err(|_| bad())?;
        return Ok(Port::Range(number, number));
    }
    let text = value.as_str().ok_or_else(bad)?;
    if let Some((first, last)) = text.split_once(':') {
        let (first, last) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
        return if first <= last { Ok(Port::Range(first, last)) } else { Err(bad()) };
    }
    if let Ok(number) = text.parse() {
        return Ok(Port::Range(number, number));
    }
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    let is_name = (1..=128).contains(&text.len())
        && text.chars().all(allowed)
        && !text.chars().all(|letter| letter.is_ascii_digit());
    if is_name { Ok(Port::Named(text.to_owned())) } else { Err(bad()) }
}
