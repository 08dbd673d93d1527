//! Endpoints, sets and profiles: who has which labels and addresses.
//!
//! Namespaces and service accounts are profiles, as in Calico: `kns.NAME` allows all, and both
//! give labels. Labels that only those may give are taken from pods.

use super::calico::{self, RuleSpec, nets, protocol_number};
use super::{
    Fault, Header, Metadata, NAMESPACE, OF_ACCOUNT, OF_NAMESPACE, ORCHESTRATOR, Object,
    SERVICE_ACCOUNT, read,
};
use margay_acl::model::{
    Action, AddressSet, Endpoint, Labels, NamedPort, NetworkSet, Place, Profile, Rule, Update,
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The profile that allows everything and is never stored.
const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ProfileSpec {
    labels_to_apply: Option<Labels>,
    ingress: Option<Vec<RuleSpec>>,
    egress: Option<Vec<RuleSpec>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SetSpec {
    nets: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WorkloadSpec {
    node: String,
    orchestrator: Option<String>,
    service_account_name: Option<String>,
    ip_networks: Vec<String>,
    profiles: Vec<String>,
    ports: Vec<PortSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct HostSpec {
    node: String,
    interface_name: String,
    #[serde(rename = "expectedIPs")]
    expected_ips: Vec<String>,
    profiles: Vec<String>,
    ports: Vec<PortSpec>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PortSpec {
    name: String,
    protocol: Value,
    port: u16,
}

/// What a resource that is no policy says.
pub(super) fn update(kind: &str, document: &Value, node: &str) -> Result<Option<Update>, Fault> {
    Ok(Some(match kind {
        "Profile" => profile(document)?,
        "Namespace" => {
            let Header { metadata, .. } = read(document)?;
            let allow = vec![Rule::new(Action::Allow)];
            let labels = prefixed(&metadata, OF_NAMESPACE);
            let profile = Profile { labels, ingress: allow.clone(), egress: allow };
            Update::Profile(format!("kns.{}", metadata.name), Some(Arc::new(profile)))
        }
        "ServiceAccount" => {
            let Header { metadata, .. } = read(document)?;
            let profile = Profile { labels: prefixed(&metadata, OF_ACCOUNT), ..Profile::default() };
            let namespace = metadata.namespace.unwrap_or_default();
            let name = format!("ksa.{namespace}.{}", metadata.name);
            Update::Profile(name, Some(Arc::new(profile)))
        }
        "GlobalNetworkSet" | "NetworkSet" => network_set(kind, document)?,
        "WorkloadEndpoint" => workload(document, node)?,
        "HostEndpoint" => host(document, node)?,
        _ => return Ok(None),
    }))
}

pub(super) fn default_allow() -> Update {
    let allow = vec![Rule::new(Action::Allow)];
    let profile = Profile { labels: Labels::new(), ingress: allow.clone(), egress: allow };
    Update::Profile(DEFAULT_ALLOW.to_owned(), Some(Arc::new(profile)))
}

/// The name of a service's set: its addresses alone, or with protocol and port.
pub(super) fn service_set(namespace: &str, name: &str, has_ports: bool) -> String {
    format!("{} of service {namespace}/{name}", if has_ports { "ports" } else { "addresses" })
}

fn profile(document: &Value) -> Result<Update, Fault> {
    let Object { metadata, spec }: Object<ProfileSpec> = read(document)?;
    let rules = |field: &str, list: Option<Vec<RuleSpec>>| {
        calico::rules(&format!("spec.{field}"), list.as_deref().unwrap_or_default(), "")
    };
    let profile = Profile {
        labels: spec.labels_to_apply.unwrap_or_default(),
        ingress: rules("ingress", spec.ingress)?,
        egress: rules("egress", spec.egress)?,
    };
    Ok(Update::Profile(metadata.name, Some(Arc::new(profile))))
}

/// Labels of a namespace or service account as its endpoints have them.
fn prefixed(metadata: &Metadata, prefix: &str) -> Labels {
    let own = metadata.labels.iter().flatten();
    let mut labels: Labels =
        own.map(|(name, value)| (format!("{prefix}{name}"), value.clone())).collect();
    labels.insert(format!("{prefix}projectcalico.org/name"), metadata.name.clone());
    labels
}

fn network_set(kind: &str, document: &Value) -> Result<Update, Fault> {
    let Object { metadata, spec }: Object<SetSpec> = read(document)?;
    let mut labels = metadata.labels.unwrap_or_default();
    let namespace = metadata.namespace.filter(|_| kind == "NetworkSet");
    if let Some(namespace) = &namespace {
        labels.insert(NAMESPACE.to_owned(), namespace.clone());
    }
    let profiles = namespace.iter().map(|namespace| format!("kns.{namespace}")).collect();
    let set = NetworkSet { labels, profiles, nets: nets("spec.nets", &spec.nets)? };
    let place = namespace.map_or_else(String::new, |namespace| format!("{namespace}/"));
    Ok(Update::NetworkSet(format!("{kind} {place}{}", metadata.name), Some(Arc::new(set))))
}

fn workload(document: &Value, node: &str) -> Result<Update, Fault> {
    let Object { metadata, spec }: Object<WorkloadSpec> = read(document)?;
    let namespace = metadata.namespace.unwrap_or_default();
    let mut labels = metadata.labels.unwrap_or_default();
    // Only namespaces and service accounts may give these.
    labels.retain(|name, _| !name.starts_with(OF_NAMESPACE) && !name.starts_with(OF_ACCOUNT));
    labels.insert(NAMESPACE.to_owned(), namespace.clone());
    if let Some(orchestrator) = spec.orchestrator {
        labels.insert(ORCHESTRATOR.to_owned(), orchestrator);
    }
    match spec.service_account_name.filter(|name| !name.is_empty()) {
        Some(account) => drop(labels.insert(SERVICE_ACCOUNT.to_owned(), account)),
        None => drop(labels.remove(SERVICE_ACCOUNT)),
    }
    let endpoint = Endpoint {
        labels,
        addresses: addresses("spec.ipNetworks", &spec.ip_networks)?,
        ports: ports(&spec.ports)?,
        profiles: spec.profiles,
        place: if spec.node == node { Place::Workload } else { Place::Elsewhere },
    };
    Ok(Update::Endpoint(format!("{namespace}/{}", metadata.name), Some(Arc::new(endpoint))))
}

fn host(document: &Value, node: &str) -> Result<Update, Fault> {
    let Object { metadata, spec }: Object<HostSpec> = read(document)?;
    let every_interface = spec.interface_name == "*";
    let endpoint = Endpoint {
        labels: metadata.labels.unwrap_or_default(),
        addresses: addresses("spec.expectedIPs", &spec.expected_ips)?,
        ports: ports(&spec.ports)?,
        profiles: spec.profiles,
        place: match spec.node == node {
            true => Place::Host { every_interface },
            false => Place::Elsewhere,
        },
    };
    Ok(Update::Endpoint(metadata.name, Some(Arc::new(endpoint))))
}

fn addresses(field: &str, list: &[String]) -> Result<Vec<IpAddr>, Fault> {
    Ok(nets(field, list)?.iter().map(ipnet::IpNet::addr).collect())
}

fn ports(list: &[PortSpec]) -> Result<Vec<NamedPort>, Fault> {
    let named = list.iter().filter(|port| !port.name.is_empty());
    let port = |port: &PortSpec| {
        let protocol = protocol_number("spec.ports", &port.protocol)?;
        Ok(NamedPort { name: port.name.clone(), protocol, port: port.port })
    };
    named.map(port).collect()
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Slice {
    metadata: Metadata,
    endpoints: Option<Vec<SliceEndpoint>>,
    ports: Option<Vec<SlicePort>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SliceEndpoint {
    addresses: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SlicePort {
    protocol: Option<Value>,
    port: Option<u16>,
}

/// The sets of all services, from all their EndpointSlices.
pub fn services<'a>(slices: impl IntoIterator<Item = &'a Value>) -> Result<Vec<Update>, Fault> {
    type Members = (Vec<ipnet::IpNet>, Vec<(IpAddr, u8, u16)>);
    let mut all: BTreeMap<(String, String), Members> = BTreeMap::new();
    for slice in slices {
        let Slice { metadata, endpoints, ports } = read(slice)?;
        let labels = metadata.labels.unwrap_or_default();
        let Some(service) = labels.get("kubernetes.io/service-name") else { continue };
        let key = (metadata.namespace.unwrap_or_default(), service.clone());
        let (nets, members) = all.entry(key).or_default();
        for endpoint in endpoints.iter().flatten() {
            for address in addresses("endpoints.addresses", &endpoint.addresses)? {
                nets.push(address.into());
                for port in ports.iter().flatten() {
                    let tcp = Value::from("TCP");
                    let protocol = port.protocol.as_ref().unwrap_or(&tcp);
                    let number = protocol_number("ports.protocol", protocol)?;
                    members.extend(port.port.map(|port| (address, number, port)));
                }
            }
        }
    }
    let updates = all.into_iter().flat_map(|((namespace, name), (nets, ports))| {
        let set = |has_ports, set| {
            Update::AddressSet(service_set(&namespace, &name, has_ports), Some(Arc::new(set)))
        };
        [set(false, AddressSet::Nets(nets)), set(true, AddressSet::Ports(ports))]
    });
    Ok(updates.collect())
}
