//! Kubernetes Service and EndpointSlice, as far as advertising and serving their addresses needs
//! them.

use super::{Invalid, Metadata};
use serde::Deserialize;
use std::net::IpAddr;

/// A service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Its type has addresses of the cluster: ClusterIP, NodePort or LoadBalancer.
    pub has_addresses: bool,
    /// Its type is LoadBalancer.
    pub is_load_balancer: bool,
    /// Addresses inside the cluster.
    pub cluster_ips: Vec<IpAddr>,
    /// External addresses.
    pub external_ips: Vec<IpAddr>,
    /// Addresses that a load balancer has given, of the status.
    pub load_balancer_ips: Vec<IpAddr>,
    /// The address asked of a load balancer.
    pub wanted_load_balancer_ip: Option<IpAddr>,
    /// externalTrafficPolicy is Local.
    pub is_local: bool,
    /// The port on which load balancers ask whether this node has endpoints of it: for type
    /// LoadBalancer with externalTrafficPolicy Local.
    pub health_check_node_port: Option<u16>,
    /// internalTrafficPolicy is Local.
    pub is_internal_local: bool,
    /// With sessionAffinity ClientIP, for how long a client keeps its endpoint, in seconds.
    pub affinity_s: Option<u32>,
    /// Its families are IPv4, IPv6.
    pub families: [bool; 2],
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a service, or of the endpoints of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where a service has only one.
    pub name: String,
    /// Protocol number of IP.
    pub protocol: u8,
    /// The number.
    pub port: u16,
    /// The port of nodes' own addresses that stands for it, if it has one.
    pub node_port: Option<u16>,
}

/// Addresses of one endpoint, and how it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// They stand for the same.
    pub addresses: Vec<IpAddr>,
    /// Its node.
    pub node: Option<String>,
    /// It takes new flows.
    pub ready: bool,
    /// It answers.
    pub serving: bool,
    /// It is about to end.
    pub terminating: bool,
}

/// A part of a service's endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Name of its service, in its namespace; empty for slices of none.
    pub service: String,
    /// Its addresses are IPv6.
    pub is_v6: bool,
    /// An endpoint without a node is ready.
    pub ready_elsewhere: bool,
    /// Nodes with a ready endpoint, sorted, each once.
    pub ready_nodes: Vec<String>,
    /// All its endpoints whose addresses are any.
    pub endpoints: Vec<SliceEndpoint>,
    /// Their ports.
    pub ports: Vec<ServicePort>,
}

/// The document of a service.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ServiceDocument {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: ServiceSpec,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    #[serde(rename = "loadBalancerIP")]
    load_balancer_ip: Option<String>,
    external_traffic_policy: Option<String>,
    health_check_node_port: Option<u16>,
    internal_traffic_policy: Option<String>,
    session_affinity: Option<String>,
    session_affinity_config: Option<AffinityConfig>,
    ip_families: Option<Vec<String>>,
    ports: Option<Vec<PortDocument>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClientIp {
    timeout_seconds: Option<u32>,
}

/// How long a client keeps its endpoint where nothing else is said, in seconds.
const AFFINITY_S: u32 = 10_800;
/// The longest that the Kubernetes API takes.
const AFFINITY_MAX_S: u32 = 86_400;

impl ServiceSpec {
    fn affinity_s(&self) -> Result<Option<u32>, Invalid> {
        if self.session_affinity.as_deref() != Some("ClientIP") {
            return Ok(None);
        }
        let config = self.session_affinity_config.as_ref().and_then(|all| all.client_ip.as_ref());
        let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY_S);
        if (1..=AFFINITY_MAX_S).contains(&seconds) {
            return Ok(Some(seconds));
        }
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let right = "from 1 to 86400";
        Err(Invalid::new(field, format!("{seconds} seconds are too short or too long"), right))
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PortDocument {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<u16>,
    node_port: Option<u16>,
}

/// Ports that have a number; TCP where nothing is said (Kubernetes' default). Protocols that
/// Kubernetes does not know are left out.
fn ports(documents: Option<Vec<PortDocument>>) -> Vec<ServicePort> {
    let port = |document: PortDocument| {
        let protocol = match document.protocol.as_deref() {
            None | Some("" | "TCP") => 6,
            Some("UDP") => 17,
            Some("SCTP") => 132,
            Some(_) => return None,
        };
        let name = document.name.unwrap_or_default();
        let node_port = document.node_port.filter(|port| *port != 0);
        Some(ServicePort { name, protocol, port: document.port?, node_port })
    };
    documents.unwrap_or_default().into_iter().filter_map(port).collect()
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    load_balancer: Option<Ingresses>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Ingresses {
    ingress: Option<Vec<Ingress>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Ingress {
    ip: Option<String>,
}

impl TryFrom<ServiceDocument> for Service {
    type Error = Invalid;

    fn try_from(document: ServiceDocument) -> Result<Service, Invalid> {
        super::check_name(&document.metadata.name)?;
        let spec = document.spec;
        let affinity_s = spec.affinity_s()?;
        let cluster = match spec.cluster_ips.filter(|list| !list.is_empty()) {
            Some(list) => list,
            None => spec.cluster_ip.into_iter().collect(),
        };
        let cluster: Vec<String> =
            cluster.into_iter().filter(|text| !text.is_empty() && text != "None").collect();
        let cluster_ips = addresses("spec.clusterIPs", &cluster)?;
        let status = document.status.and_then(|status| status.load_balancer).unwrap_or_default();
        let given: Vec<String> =
            status.ingress.unwrap_or_default().into_iter().filter_map(|one| one.ip).collect();
        let wanted: Vec<String> = spec.load_balancer_ip.into_iter().collect();
        let is_local = match spec.external_traffic_policy.as_deref() {
            Some("Local") => true,
            None | Some("" | "Cluster") => false,
            Some(text) => {
                let what = format!("'{text}' is no policy");
                return Err(Invalid::new("spec.externalTrafficPolicy", what, "Cluster or Local"));
            }
        };
        let families = match spec.ip_families.filter(|list| !list.is_empty()) {
            Some(list) => ["IPv4", "IPv6"].map(|name| list.iter().any(|one| one == name)),
            None => {
                [cluster_ips.iter().any(IpAddr::is_ipv4), cluster_ips.iter().any(IpAddr::is_ipv6)]
            }
        };
        let kind = spec.kind.unwrap_or_else(|| "ClusterIP".to_owned());
        Ok(Service {
            has_addresses: ["ClusterIP", "NodePort", "LoadBalancer"].contains(&kind.as_str()),
            is_load_balancer: kind == "LoadBalancer",
            cluster_ips,
            external_ips: addresses("spec.externalIPs", &spec.external_ips.unwrap_or_default())?,
            load_balancer_ips: addresses("status.loadBalancer.ingress", &given)?,
            wanted_load_balancer_ip: addresses("spec.loadBalancerIP", &wanted)?.pop(),
            is_local,
            health_check_node_port: spec
                .health_check_node_port
                .filter(|port| *port != 0 && is_local && kind == "LoadBalancer"),
            is_internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            affinity_s,
            families,
            ports: ports(spec.ports),
        })
    }
}

fn addresses(field: &'static str, list: &[String]) -> Result<Vec<IpAddr>, Invalid> {
    let present = list.iter().filter(|text| !text.is_empty());
    let parsed = present.map(|text| {
        text.parse().map_err(|_| {
            Invalid::new(field, format!("'{text}' is no address"), "IPv4 or IPv6 addresses")
        })
    });
    parsed.collect()
}

/// The document of an endpoint slice.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SliceDocument {
    #[serde(default)]
    metadata: Metadata,
    address_type: String,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<PortDocument>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Endpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<Conditions>,
    node_name: Option<String>,
}

impl Endpoint {
    /// What says nothing of its readiness is ready, and what is ready serves.
    fn checked(&self) -> SliceEndpoint {
        let known = self.conditions.clone().unwrap_or_default();
        let ready = known.ready.unwrap_or(true);
        let texts = self.addresses.iter().flatten();
        SliceEndpoint {
            addresses: texts.filter_map(|text| text.parse().ok()).collect(),
            node: self.node_name.clone(),
            ready,
            serving: known.serving.unwrap_or(ready),
            terminating: known.terminating.unwrap_or(false),
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

impl TryFrom<SliceDocument> for EndpointSlice {
    type Error = Invalid;

    fn try_from(document: SliceDocument) -> Result<EndpointSlice, Invalid> {
        super::check_name(&document.metadata.name)?;
        // An endpoint that says nothing of its readiness is ready.
        let is_ready = |endpoint: &Endpoint| {
            endpoint.conditions.as_ref().and_then(|known| known.ready).unwrap_or(true)
        };
        let mut slice = EndpointSlice {
            service: document.metadata.label("kubernetes.io/service-name").unwrap_or("").to_owned(),
            is_v6: document.address_type == "IPv6",
            endpoints: document.endpoints.iter().flatten().map(Endpoint::checked).collect(),
            ports: ports(document.ports),
            ..EndpointSlice::default()
        };
        for endpoint in document.endpoints.unwrap_or_default().into_iter().filter(is_ready) {
            match endpoint.node_name {
                Some(node) => slice.ready_nodes.push(node),
                None => slice.ready_elsewhere = true,
            }
        }
        slice.ready_nodes.sort();
        slice.ready_nodes.dedup();
        Ok(slice)
    }
}
