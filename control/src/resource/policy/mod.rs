//! The resources that policy is made of: Calico's and Kubernetes' documents, one by one, as
//! [`margay_acl::model`] has them.
//!
//! Each resource becomes one [`Part`], whatever else there is. Namespaced selectors are rewritten
//! as Calico does it, so that nothing behind this knows of namespaces.

mod calico;
mod cluster;
mod kubernetes;
pub(crate) mod places;

use super::{Invalid, Key, Metadata, Object};
use margay_acl::model::{Kind, NetworkSet, Policy, PolicyKey, Profile, Tier, TierAction};
use serde::Deserialize;
use std::sync::Arc;

/// Label of a namespaced thing.
const NAMESPACE: &str = "projectcalico.org/namespace";
/// Label that says who made an endpoint.
const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
/// Label with an endpoint's service account.
const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
/// Before names of a namespace's labels.
const OF_NAMESPACE: &str = "pcns.";
/// Before names of a service account's labels.
const OF_ACCOUNT: &str = "pcsa.";

/// One resource of policy.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// A policy, in force or staged, of any kind.
    Policy(Arc<Policy>),
    /// A tier.
    Tier(Tier),
    /// A profile, or the one that a namespace or service account is.
    Profile(Arc<Profile>),
    /// A network set.
    NetworkSet(Arc<NetworkSet>),
}

/// What the kind of a document is called here: both NetworkPolicies have names of their own.
pub(crate) fn kind_of(api_version: &str, kind: String) -> String {
    match kind.as_str() {
        "NetworkPolicy" if api_version.starts_with("networking.k8s.io") => {
            Kind::KubernetesNetworkPolicy.as_str().to_owned()
        }
        "ClusterNetworkPolicy" if api_version.starts_with("policy.networking.k8s.io") => {
            Kind::KubernetesClusterNetworkPolicy.as_str().to_owned()
        }
        _ => kind,
    }
}

/// The policy that a resource is; `None` for other kinds.
pub fn policy_key(key: &Key) -> Option<PolicyKey> {
    let kinds = [
        Kind::GlobalNetworkPolicy,
        Kind::NetworkPolicy,
        Kind::KubernetesNetworkPolicy,
        Kind::KubernetesClusterNetworkPolicy,
        Kind::StagedGlobalNetworkPolicy,
        Kind::StagedNetworkPolicy,
        Kind::StagedKubernetesNetworkPolicy,
    ];
    let kind = kinds.into_iter().find(|kind| kind.as_str() == key.kind)?;
    let (namespace, name) = (key.namespace.clone(), key.name.clone());
    Some(PolicyKey { kind, namespace, name })
}

/// A resource's own name. Policies of Calico before 3.32 are stored behind their tier's name, and
/// an annotation may tell it.
pub(crate) fn own_name(kind: &str, metadata: &Metadata, tier: Option<&str>) -> String {
    if !matches!(kind, "GlobalNetworkPolicy" | "NetworkPolicy") && !kind.starts_with("Staged") {
        return metadata.name.clone();
    }
    let annotation = metadata.annotation("projectcalico.org/metadata").and_then(|text| {
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        value.get("name")?.as_str().map(str::to_owned)
    });
    let stripped = match tier.unwrap_or_default() {
        "" | "default" => metadata.name.strip_prefix("default."),
        _ => None,
    };
    annotation.unwrap_or_else(|| stripped.unwrap_or(&metadata.name).to_owned())
}

/// Tiers that exist without a resource.
pub fn built_in_tiers() -> [(&'static str, Tier); 3] {
    let tier = |order: f64, default_action| Tier { order: Some(order), default_action };
    [
        ("kube-admin", tier(1000.0, TierAction::Pass)),
        ("default", tier(1_000_000.0, TierAction::Deny)),
        ("kube-baseline", tier(10_000_000.0, TierAction::Pass)),
    ]
}

/// The document of a policy of Calico's.
#[derive(Debug, Deserialize)]
pub(crate) struct PolicyDocument {
    kind: String,
    metadata: Metadata,
    spec: Option<calico::PolicySpec>,
}

/// The document of a policy of Kubernetes'.
#[derive(Debug, Deserialize)]
pub(crate) struct KubernetesDocument {
    kind: String,
    metadata: Metadata,
    spec: Option<kubernetes::PolicySpec>,
}

/// The document of a ClusterNetworkPolicy.
#[derive(Debug, Deserialize)]
pub(crate) struct ClusterDocument {
    spec: cluster::ClusterSpec,
}

fn key(kind: &str, metadata: Metadata) -> Option<PolicyKey> {
    let namespace = metadata.namespace.unwrap_or_default();
    policy_key(&Key { kind: kind.to_owned(), namespace, name: metadata.name })
}

fn unknown(kind: &str) -> Invalid {
    Invalid::new("kind", format!("'{kind}' is no policy"), "such as NetworkPolicy")
}

impl TryFrom<PolicyDocument> for Part {
    type Error = Invalid;

    fn try_from(document: PolicyDocument) -> Result<Part, Invalid> {
        let PolicyDocument { kind, metadata, spec } = document;
        let key = key(&kind, metadata).ok_or_else(|| unknown(&kind))?;
        Ok(Part::Policy(calico::policy(spec.unwrap_or_default(), &key)?.into()))
    }
}

impl TryFrom<KubernetesDocument> for Part {
    type Error = Invalid;

    fn try_from(document: KubernetesDocument) -> Result<Part, Invalid> {
        let KubernetesDocument { kind, metadata, spec } = document;
        let kind = match kind.as_str() {
            "NetworkPolicy" => Kind::KubernetesNetworkPolicy.as_str(),
            other => other,
        };
        let key = key(kind, metadata).ok_or_else(|| unknown(kind))?;
        Ok(Part::Policy(kubernetes::policy(spec.unwrap_or_default(), &key)?.into()))
    }
}

impl TryFrom<ClusterDocument> for Part {
    type Error = Invalid;

    fn try_from(document: ClusterDocument) -> Result<Part, Invalid> {
        Ok(Part::Policy(cluster::policy(document.spec)?.into()))
    }
}

/// The spec of a tier.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct TierSpec {
    order: Option<f64>,
    default_action: Option<String>,
}

impl TryFrom<Object<Option<TierSpec>>> for Part {
    type Error = Invalid;

    fn try_from(object: Object<Option<TierSpec>>) -> Result<Part, Invalid> {
        let spec = object.spec.unwrap_or_default();
        let default_action = match spec.default_action.as_deref() {
            None | Some("" | "Deny") => TierAction::Deny,
            Some("Pass") => TierAction::Pass,
            Some(other) => {
                let what = format!("'{other}' is unknown");
                return Err(Invalid::new("spec.defaultAction", what, "Deny or Pass"));
            }
        };
        Ok(Part::Tier(Tier { order: spec.order, default_action }))
    }
}
