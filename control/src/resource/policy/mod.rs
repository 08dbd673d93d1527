//! From resources to policy's model: Calico's and Kubernetes' documents, one by one.
//!
//! Each resource becomes at most one update, whatever else there is; only the members of services
//! come from several ([`services`]). Namespaced selectors are rewritten as Calico does it, so that
//! nothing behind this knows of namespaces. ClusterNetworkPolicy is left out so far.

mod calico;
mod kubernetes;
mod places;
#[cfg(test)]
mod tests;

use margay_acl::model::{Kind, PolicyKey, Tier, TierAction, Update};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

pub use places::services;

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

/// A resource that says what the API does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The field, as in `spec.ingress[0].source.nets`.
    pub field: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.what)
    }
}

impl Fault {
    fn new(field: impl Into<String>, what: impl Into<String>) -> Fault {
        Fault { field: field.into(), what: what.into() }
    }
}

/// What all resources have.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    namespace: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct Object<S> {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: S,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Header {
    kind: String,
    metadata: Metadata,
    #[serde(rename = "apiVersion")]
    api_version: String,
}

/// What a resource says of policy on a node; nothing for kinds without meaning here.
pub fn update(document: &Value, node: &str) -> Result<Option<Update>, Fault> {
    let Header { kind, metadata, api_version } = read(document)?;
    let is_kubernetes = api_version.starts_with("networking.k8s.io");
    let policy_kind = match (kind.as_str(), is_kubernetes) {
        ("NetworkPolicy", true) => Kind::KubernetesNetworkPolicy,
        ("NetworkPolicy", false) => Kind::NetworkPolicy,
        ("GlobalNetworkPolicy", _) => Kind::GlobalNetworkPolicy,
        ("StagedNetworkPolicy", _) => Kind::StagedNetworkPolicy,
        ("StagedGlobalNetworkPolicy", _) => Kind::StagedGlobalNetworkPolicy,
        ("StagedKubernetesNetworkPolicy", _) => Kind::StagedKubernetesNetworkPolicy,
        ("Tier", _) => return tier(document).map(Some),
        _ => return places::update(&kind, document, node),
    };
    let key = PolicyKey {
        kind: policy_kind,
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: policy_name(&metadata, document),
    };
    let policy = match policy_kind {
        Kind::KubernetesNetworkPolicy | Kind::StagedKubernetesNetworkPolicy => {
            kubernetes::policy(document, &key)?
        }
        _ => calico::policy(document, &key)?,
    };
    Ok(Some(Update::Policy(key, Some(policy.into()))))
}

/// Tiers and profiles that exist without a resource.
pub fn built_in() -> Vec<Update> {
    let tier = |name: &str, order: f64, default_action| {
        Update::Tier(name.to_owned(), Some(Tier { order: Some(order), default_action }))
    };
    vec![
        tier("kube-admin", 1000.0, TierAction::Pass),
        tier("default", 1_000_000.0, TierAction::Deny),
        tier("kube-baseline", 10_000_000.0, TierAction::Pass),
        places::default_allow(),
    ]
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TierSpec {
    order: Option<f64>,
    default_action: Option<String>,
}

fn tier(document: &Value) -> Result<Update, Fault> {
    let Object { metadata, spec }: Object<TierSpec> = read(document)?;
    let default_action = match spec.default_action.as_deref() {
        None | Some("" | "Deny") => TierAction::Deny,
        Some("Pass") => TierAction::Pass,
        Some(other) => {
            return Err(Fault::new("spec.defaultAction", format!("'{other}': Deny or Pass")));
        }
    };
    Ok(Update::Tier(metadata.name, Some(Tier { order: spec.order, default_action })))
}

/// A policy's own name. Before 3.32 it is stored behind its tier's, and an annotation may tell it.
fn policy_name(metadata: &Metadata, document: &Value) -> String {
    let annotation = metadata.annotations.as_ref().and_then(|all| {
        let text = all.get("projectcalico.org/metadata")?;
        let value: Value = serde_json::from_str(text).ok()?;
        value.get("name")?.as_str().map(str::to_owned)
    });
    let tier = document.pointer("/spec/tier").and_then(Value::as_str).unwrap_or_default();
    let stripped = match tier {
        "" | "default" => metadata.name.strip_prefix("default."),
        _ => None,
    };
    annotation.unwrap_or_else(|| stripped.unwrap_or(&metadata.name).to_owned())
}

fn read<T: DeserializeOwned>(document: &Value) -> Result<T, Fault> {
    T::deserialize(document).map_err(|error| Fault::new("resource", error.to_string()))
}
