//! Calico's resources, as far as margay acts on them: parsed, defaulted, and checked.
//!
//! Field names, defaults and limits are those of Calico's v3 API (projectcalico.org/v3, or the
//! crd.projectcalico.org/v1 form where IPAM lives). Fields without meaning here are ignored.

pub mod bgp_configuration;
pub mod bgp_filter;
pub mod bgp_peer;
pub mod block;
pub(crate) mod cluster_information;
pub mod field;
pub mod host_endpoint;
pub mod ip_pool;
pub mod node;
pub mod policy;
pub mod qos;
pub mod secret;
pub mod service;
pub mod v1;
pub mod workload_endpoint;

use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Kind, namespace and name: what makes a resource one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// As written in `kind:`.
    pub kind: String,
    /// Empty for resources without a namespace.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Key {
    /// Before the names of NetworkPolicies of Kubernetes, as Calico shows them.
    pub const OF_KUBERNETES: &str = "knp.default.";

    /// The name in Kubernetes of a policy that is its own; `None` for all other resources.
    pub fn kubernetes_policy(&self) -> Option<&str> {
        let name = self.name.strip_prefix(Self::OF_KUBERNETES);
        name.filter(|_| self.kind == "NetworkPolicy")
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.is_empty() {
            true => write!(f, "{} {}", self.kind, self.name),
            false => write!(f, "{} {}/{}", self.kind, self.namespace, self.name),
        }
    }
}

/// A resource that margay understands.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    /// A Calico node.
    Node(node::Node),
    /// A pool that addresses are taken from.
    IpPool(ip_pool::IpPool),
    /// A node's claim of a block.
    BlockAffinity(block::BlockAffinity),
    /// A block, with the owner that counts.
    IpamBlock(block::IpamBlock),
    /// A pod's interface.
    WorkloadEndpoint(Box<workload_endpoint::WorkloadEndpoint>),
    /// What holds for all BGP sessions, or those of one node.
    BgpConfiguration(Box<bgp_configuration::BgpConfiguration>),
    /// Who peers with whom.
    BgpPeer(Box<bgp_peer::BgpPeer>),
    /// Rules for routes of sessions.
    BgpFilter(Box<bgp_filter::BgpFilter>),
    /// A Kubernetes service.
    Service(Box<service::Service>),
    /// Endpoints of a service.
    EndpointSlice(Box<service::EndpointSlice>),
    /// Passwords.
    Secret(secret::Secret),
    /// An interface of a node itself.
    HostEndpoint(Box<host_endpoint::HostEndpoint>),
    /// Rules, tiers, profiles and sets of policy.
    Policy(policy::Part),
    /// Whether the cluster's data may be acted on.
    ClusterInformation {
        /// False while it is locked.
        ready: bool,
    },
    /// A kind that has no meaning here yet.
    Other,
}

/// A field whose value the API does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The field, as in `spec.cidr`.
    pub field: Cow<'static, str>,
    /// What is wrong with it.
    pub what: String,
    /// What would be right.
    pub mend: &'static str,
}

impl Invalid {
    pub(crate) fn new(
        field: impl Into<Cow<'static, str>>,
        what: impl Into<String>,
        mend: &'static str,
    ) -> Invalid {
        Invalid { field: field.into(), what: what.into(), mend }
    }
}

/// The part of `metadata` that counts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
}

impl Metadata {
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }

    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels.as_ref()?.get(name).map(String::as_str)
    }
}

/// Any resource, for its identity.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    #[serde(default)]
    pub(crate) api_version: String,
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) metadata: Metadata,
    #[serde(default)]
    pub(crate) spec: Option<Tiered>,
}

/// What of a spec belongs to a resource's identity.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Tiered {
    #[serde(default)]
    pub(crate) tier: Option<serde_json::Value>,
}

/// A resource of spec `S`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Object<S> {
    #[serde(default)]
    pub(crate) metadata: Metadata,
    pub(crate) spec: S,
}

/// Most bytes of a name (a DNS-1123 subdomain).
pub const NAME_MAX: usize = 253;

pub(crate) fn check_name(name: &str) -> Result<(), Invalid> {
    let mend = "lower-case letters, digits, '-' and '.', at most 253";
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() {
        return Err(Invalid::new("metadata.name", "it is missing", mend));
    }
    if name.len() > NAME_MAX || !name.chars().all(allowed) {
        return Err(Invalid::new("metadata.name", format!("'{name}' is no name"), mend));
    }
    Ok(())
}
