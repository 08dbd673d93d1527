//! The kinds that are served, and how kubectl finds them.

use serde_json::{Value, json};

/// A kind: its group and version, plural, whether it has a namespace, and short names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) api: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) namespaced: bool,
    pub(crate) short: &'static [&'static str],
}

const CRD: &str = "crd.projectcalico.org/v1";
const V3: &str = "projectcalico.org/v3";
const POLICY: &str = "policy.networking.k8s.io/v1alpha2";

const fn kind(
    api: &'static str,
    kind: &'static str,
    plural: &'static str,
    namespaced: bool,
    short: &'static [&'static str],
) -> Kind {
    Kind { api, kind, plural, namespaced, short }
}

/// Kubernetes' own.
const CORE: [Kind; 10] = [
    kind("v1", "Namespace", "namespaces", false, &["ns"]),
    kind("v1", "Node", "nodes", false, &["no"]),
    kind("v1", "Pod", "pods", true, &["po"]),
    kind("v1", "Service", "services", true, &["svc"]),
    kind("v1", "ServiceAccount", "serviceaccounts", true, &["sa"]),
    kind("v1", "Secret", "secrets", true, &[]),
    kind("v1", "ConfigMap", "configmaps", true, &["cm"]),
    kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", true, &["netpol"]),
    kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", true, &[]),
    kind(POLICY, "ClusterNetworkPolicy", "clusternetworkpolicies", false, &["cnp"]),
];

/// Calico's, in either of its groups.
const CALICO: [(&str, &str, bool); 22] = [
    ("BGPConfiguration", "bgpconfigurations", false),
    ("BGPFilter", "bgpfilters", false),
    ("BGPPeer", "bgppeers", false),
    ("BlockAffinity", "blockaffinities", false),
    ("CalicoNodeStatus", "caliconodestatuses", false),
    ("ClusterInformation", "clusterinformations", false),
    ("FelixConfiguration", "felixconfigurations", false),
    ("GlobalNetworkPolicy", "globalnetworkpolicies", false),
    ("GlobalNetworkSet", "globalnetworksets", false),
    ("HostEndpoint", "hostendpoints", false),
    ("IPAMBlock", "ipamblocks", false),
    ("IPAMConfig", "ipamconfigs", false),
    ("IPAMHandle", "ipamhandles", false),
    ("IPPool", "ippools", false),
    ("IPReservation", "ipreservations", false),
    ("KubeControllersConfiguration", "kubecontrollersconfigurations", false),
    ("NetworkPolicy", "networkpolicies", true),
    ("NetworkSet", "networksets", true),
    ("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies", false),
    ("StagedKubernetesNetworkPolicy", "stagedkubernetesnetworkpolicies", true),
    ("StagedNetworkPolicy", "stagednetworkpolicies", true),
    ("Tier", "tiers", false),
];

/// All kinds; `native` says that Calico's are in the new group.
pub(crate) fn all(native: bool) -> Vec<Kind> {
    let mut kinds = CORE.to_vec();
    for (name, plural, namespaced) in CALICO {
        let (name, plural) = match (native, name) {
            (true, "IPAMConfig") => ("IPAMConfiguration", "ipamconfigurations"),
            _ => (name, plural),
        };
        kinds.push(kind(if native { V3 } else { CRD }, name, plural, namespaced, &[]));
    }
    kinds
}

impl Kind {
    /// Calico's are custom resources, which are written over a known state only.
    pub(crate) fn is_custom(&self) -> bool {
        self.api == CRD || self.api == V3
    }

    pub(crate) fn group(&self) -> &'static str {
        self.api.split_once('/').map_or("", |(group, _)| group)
    }
}

/// The answer to a path of discovery.
pub(crate) fn discovery(kinds: &[Kind], path: &str) -> Option<Value> {
    let groups = {
        let mut apis: Vec<&str> = kinds.iter().map(|kind| kind.api).collect();
        apis.retain(|api| api.contains('/'));
        apis.dedup();
        apis
    };
    match path {
        "/version" => Some(json!({"major": "1", "minor": "30", "gitVersion": "v1.30.0"})),
        "/api" => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
        "/apis" => {
            let group = |api: &&str| {
                let (name, version) = api.split_once('/').unwrap_or_default();
                let version = json!({"groupVersion": api, "version": version});
                json!({"name": name, "versions": [version], "preferredVersion": version})
            };
            let groups: Vec<Value> = groups.iter().map(group).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        _ => {
            let api = path.strip_prefix("/apis/").or(path.strip_prefix("/api/"))?;
            let own: Vec<&Kind> = kinds.iter().filter(|kind| kind.api == api).collect();
            (!own.is_empty()).then(|| {
                json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api,
                    "resources": own.into_iter().flat_map(resources).collect::<Vec<Value>>()})
            })
        }
    }
}

fn resources(kind: &Kind) -> [Value; 2] {
    let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
    [
        json!({"name": kind.plural, "singularName": kind.kind.to_lowercase(), "kind": kind.kind,
            "namespaced": kind.namespaced, "shortNames": kind.short, "verbs": verbs}),
        json!({"name": format!("{}/status", kind.plural), "singularName": "", "kind": kind.kind,
            "namespaced": kind.namespaced, "verbs": ["get", "patch", "update"]}),
    ]
}
