//! Endpoints, sets and profiles: who has which labels and addresses.
//!
//! Namespaces and service accounts are profiles, as in Calico: `kns.NAME` allows all, and both
//! give labels. Labels that only those may give are taken from pods.

use super::calico::{self, RuleSpec, nets, protocol_number};
use super::{NAMESPACE, OF_ACCOUNT, OF_NAMESPACE, ORCHESTRATOR, Part, SERVICE_ACCOUNT};
use crate::resource::{Header, Invalid, Metadata, Object};
use margay_acl::model::{Action, Labels, NamedPort, NetworkSet, Profile, Rule};
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;

/// The profile that allows everything and is never stored.
pub(crate) const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

/// The spec of a profile.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ProfileSpec {
    labels_to_apply: Option<Labels>,
    ingress: Option<Vec<RuleSpec>>,
    egress: Option<Vec<RuleSpec>>,
}

/// The document of a network set of either kind.
#[derive(Debug, Deserialize)]
pub(crate) struct SetDocument {
    kind: String,
    metadata: Metadata,
    spec: Option<SetSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SetSpec {
    nets: Option<Vec<String>>,
}

/// A port of an endpoint, as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PortSpec {
    name: String,
    protocol: Value,
    port: u16,
}

/// Rules for everything in both directions, and these labels.
pub(crate) fn allow_all(labels: Labels) -> Profile {
    let allow = vec![Rule::new(Action::Allow)];
    Profile { labels, ingress: allow.clone(), egress: allow }
}

/// The profile that a namespace is.
pub(crate) fn of_namespace(name: &str, own: Option<Labels>) -> (String, Profile) {
    (format!("kns.{name}"), allow_all(prefixed(name, own, OF_NAMESPACE)))
}

/// The profile that a service account is.
pub(crate) fn of_account(namespace: &str, name: &str, own: Option<Labels>) -> (String, Profile) {
    let labels = prefixed(name, own, OF_ACCOUNT);
    (format!("ksa.{namespace}.{name}"), Profile { labels, ..Profile::default() })
}

/// The name of a service's set: its addresses alone, or with protocol and port.
pub(crate) fn service_set(namespace: &str, name: &str, has_ports: bool) -> String {
    format!("{} of service {namespace}/{name}", if has_ports { "ports" } else { "addresses" })
}

/// Labels of a namespace or service account as its endpoints have them.
fn prefixed(name: &str, own: Option<Labels>, prefix: &str) -> Labels {
    let own = own.into_iter().flatten();
    let mut labels: Labels = own.map(|(name, value)| (format!("{prefix}{name}"), value)).collect();
    labels.insert(format!("{prefix}projectcalico.org/name"), name.to_owned());
    labels
}

impl TryFrom<Object<Option<ProfileSpec>>> for Part {
    type Error = Invalid;

    fn try_from(object: Object<Option<ProfileSpec>>) -> Result<Part, Invalid> {
        let spec = object.spec.unwrap_or_default();
        let rules = |field: &str, list: Option<Vec<RuleSpec>>| {
            calico::rules(&format!("spec.{field}"), list.as_deref().unwrap_or_default(), "")
        };
        let profile = Profile {
            labels: spec.labels_to_apply.unwrap_or_default(),
            ingress: rules("ingress", spec.ingress)?,
            egress: rules("egress", spec.egress)?,
        };
        Ok(Part::Profile(profile.into()))
    }
}

/// Namespaces and service accounts, which only their metadata matters of.
impl TryFrom<Header> for Part {
    type Error = Invalid;

    fn try_from(Header { kind, metadata, .. }: Header) -> Result<Part, Invalid> {
        let namespace = metadata.namespace.unwrap_or_default();
        let (_, profile) = match kind.as_str() {
            "Namespace" => of_namespace(&metadata.name, metadata.labels),
            _ => of_account(&namespace, &metadata.name, metadata.labels),
        };
        Ok(Part::Profile(profile.into()))
    }
}

impl TryFrom<SetDocument> for Part {
    type Error = Invalid;

    fn try_from(document: SetDocument) -> Result<Part, Invalid> {
        let SetDocument { kind, metadata, spec } = document;
        let mut labels = metadata.labels.unwrap_or_default();
        let namespace = metadata.namespace.filter(|_| kind == "NetworkSet");
        if let Some(namespace) = &namespace {
            labels.insert(NAMESPACE.to_owned(), namespace.clone());
        }
        let profiles = namespace.iter().map(|namespace| format!("kns.{namespace}")).collect();
        let list = spec.and_then(|spec| spec.nets).unwrap_or_default();
        let set = NetworkSet { labels, profiles, nets: nets("spec.nets", &list)? };
        Ok(Part::NetworkSet(set.into()))
    }
}

/// What selectors see of a workload.
pub(crate) fn workload_labels(
    namespace: &str,
    own: &Labels,
    orchestrator: Option<&str>,
    account: Option<&str>,
) -> Labels {
    let mut labels = own.clone();
    // Only namespaces and service accounts may give these.
    labels.retain(|name, _| !name.starts_with(OF_NAMESPACE) && !name.starts_with(OF_ACCOUNT));
    labels.insert(NAMESPACE.to_owned(), namespace.to_owned());
    if let Some(orchestrator) = orchestrator {
        labels.insert(ORCHESTRATOR.to_owned(), orchestrator.to_owned());
    }
    match account.filter(|name| !name.is_empty()) {
        Some(account) => drop(labels.insert(SERVICE_ACCOUNT.to_owned(), account.to_owned())),
        None => drop(labels.remove(SERVICE_ACCOUNT)),
    }
    labels
}

/// Addresses, also where they are written as ranges.
pub(crate) fn addresses(field: &'static str, list: &[String]) -> Result<Vec<IpAddr>, Invalid> {
    Ok(nets(field, list)?.iter().map(ipnet::IpNet::addr).collect())
}

/// Ranges, and single addresses.
pub(crate) fn ranges(field: &'static str, list: &[String]) -> Result<Vec<ipnet::IpNet>, Invalid> {
    nets(field, list)
}

/// Ports that have a name.
pub(crate) fn ports(list: &[PortSpec]) -> Result<Vec<NamedPort>, Invalid> {
    let named = list.iter().filter(|port| !port.name.is_empty());
    let port = |port: &PortSpec| {
        let protocol = protocol_number("spec.ports", &port.protocol)?;
        Ok(NamedPort { name: port.name.clone(), protocol, port: port.port })
    };
    named.map(port).collect()
}
