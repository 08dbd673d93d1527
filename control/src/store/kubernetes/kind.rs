//! Where Kubernetes keeps each kind, and in which form.
//!
//! Calico's own kinds are custom resources. Nodes and endpoints of pods are seen in Kubernetes'
//! Nodes and Pods; what else the daemon reads of Kubernetes is taken as it is.

use crate::resource::Key;
use crate::store::etcd::key::KINDS;

/// Group of IPAM's documents, as IPAM itself writes it.
pub(super) const CRD: &str = "crd.projectcalico.org/v1";
/// Group of the resources that people see.
pub(super) const V3: &str = "projectcalico.org/v3";
const CORE: &str = "v1";
const NETWORKING: &str = "networking.k8s.io/v1";
const DISCOVERY: &str = "discovery.k8s.io/v1";
const POLICY: &str = "policy.networking.k8s.io/v1alpha2";

/// IPAM's kinds, none of which has a namespace: kind, plural, and plural where resources of
/// `projectcalico.org/v3` are stored as they are.
const IPAM: [(&str, &str, &str); 4] = [
    ("IPAMBlock", "ipamblocks", "ipamblocks"),
    ("BlockAffinity", "blockaffinities", "blockaffinities"),
    ("IPAMHandle", "ipamhandles", "ipamhandles"),
    ("IPAMConfig", "ipamconfigs", "ipamconfigurations"),
];

/// Kinds of Kubernetes that are taken as they are: kind here, kind there, group, plural, and
/// whether it has a namespace.
const PLAIN: [(&str, &str, &str, &str, bool); 8] = [
    ("Pod", "Pod", CORE, "pods", true),
    ("Namespace", "Namespace", CORE, "namespaces", false),
    ("ServiceAccount", "ServiceAccount", CORE, "serviceaccounts", true),
    ("Service", "Service", CORE, "services", true),
    ("Secret", "Secret", CORE, "secrets", true),
    ("EndpointSlice", "EndpointSlice", DISCOVERY, "endpointslices", true),
    ("KubernetesNetworkPolicy", "NetworkPolicy", NETWORKING, "networkpolicies", true),
    (CLUSTER_POLICY, "ClusterNetworkPolicy", POLICY, "clusternetworkpolicies", false),
];
/// ClusterNetworkPolicy, which not every cluster has.
const CLUSTER_POLICY: &str = "KubernetesClusterNetworkPolicy";

/// What the daemon follows. Handles cannot be watched; of Secrets only those are read that BGP's
/// resources name.
pub(super) const FOLLOWED: [&str; 23] = [
    "ClusterInformation",
    "Node",
    "IPPool",
    "BlockAffinity",
    "IPAMBlock",
    "BGPConfiguration",
    "BGPPeer",
    "BGPFilter",
    "Tier",
    "GlobalNetworkPolicy",
    "NetworkPolicy",
    "KubernetesNetworkPolicy",
    CLUSTER_POLICY,
    "StagedGlobalNetworkPolicy",
    "StagedNetworkPolicy",
    "StagedKubernetesNetworkPolicy",
    "GlobalNetworkSet",
    "NetworkSet",
    "HostEndpoint",
    "Namespace",
    "ServiceAccount",
    "Service",
    "EndpointSlice",
];
/// Followed too, last: what is judged by all of them.
pub(super) const ENDPOINTS: &str = "WorkloadEndpoint";

/// How documents of a kind are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As a custom resource that holds its own metadata in an annotation.
    Wrapped,
    /// As a custom resource.
    Native,
    /// In the annotations of a Node.
    Node,
    /// In those of a Pod.
    Pod,
    /// As it is, to be read only.
    Plain,
}

/// A kind, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The kind of documents.
    pub(super) kind: &'static str,
    /// The kind of what is stored.
    pub(super) stored: &'static str,
    /// Group and version of what is stored.
    pub(super) api: &'static str,
    pub(super) plural: &'static str,
    pub(super) namespaced: bool,
    pub(super) form: Form,
}

/// The place of a kind; none where Kubernetes keeps no such kind. `native` says that Calico's
/// resources are in the group `projectcalico.org/v3`.
pub(super) fn place(kind: &str, native: bool) -> Option<Place> {
    let (api, form) = if native { (V3, Form::Native) } else { (CRD, Form::Wrapped) };
    if let Some(&(kind, stored, api, plural, namespaced)) =
        PLAIN.iter().find(|(known, ..)| *known == kind)
    {
        return Some(Place { kind, stored, api, plural, namespaced, form: Form::Plain });
    }
    if let Some(&(kind, plural, own)) = IPAM.iter().find(|(known, ..)| *known == kind) {
        let plural = if native { own } else { plural };
        let stored = if native && kind == "IPAMConfig" { "IPAMConfiguration" } else { kind };
        return Some(Place { kind, stored, api, plural, namespaced: false, form });
    }
    let &(kind, plural, namespaced) = KINDS.iter().find(|(known, ..)| *known == kind)?;
    let own = Place { kind, stored: kind, api, plural, namespaced, form };
    Some(match kind {
        "Node" => Place { api: CORE, form: Form::Node, ..own },
        "WorkloadEndpoint" => {
            Place { stored: "Pod", api: CORE, plural: "pods", form: Form::Pod, ..own }
        }
        // Kubernetes keeps one object for both.
        "IPAMConfiguration" if !native => {
            Place { stored: "IPAMConfig", plural: "ipamconfigs", ..own }
        }
        // Namespaces and service accounts are the profiles.
        "Profile" => return None,
        _ => own,
    })
}

impl Place {
    /// calico-node may be without the right to it: it counts as not there then.
    pub(super) fn is_optional(&self) -> bool {
        matches!(self.kind, "Secret" | CLUSTER_POLICY)
    }

    /// Path of all objects.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", root(self.api), self.plural)
    }

    /// Path of those of one namespace, where new ones are sent to.
    pub(super) fn path_in(&self, namespace: &str) -> String {
        match self.namespaced {
            true => format!("{}/namespaces/{}/{}", root(self.api), escaped(namespace), self.plural),
            false => self.path(),
        }
    }

    /// Path of one.
    pub(super) fn path_of(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.path_in(namespace), escaped(name))
    }

    /// Names that the object of a document may have, the likely one first. Policies were stored
    /// behind their tier's name before Calico 3.32.
    pub(super) fn names(&self, key: &Key) -> Vec<String> {
        match self.kind {
            "IPAMHandle" => vec![key.name.to_lowercase()],
            kind if self.form == Form::Wrapped && super::custom::is_policy(kind) => {
                vec![key.name.clone(), format!("default.{}", key.name)]
            }
            _ => vec![key.name.clone()],
        }
    }
}

/// Path of a group and version.
pub(super) fn root(api: &str) -> String {
    match api.contains('/') {
        true => format!("/apis/{api}"),
        false => format!("/api/{api}"),
    }
}

/// What stands between a path, which may have a query, and more of a query.
pub(super) fn joint(path: &str) -> char {
    if path.contains('?') { '&' } else { '?' }
}

/// As one segment of a path.
pub(super) fn escaped(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escaped = text.bytes().map(|byte| match keep(byte) {
        true => (byte as char).to_string(),
        false => format!("%{byte:02X}"),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, name: &str) -> Key {
        Key { kind: String::new(), namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn paths_are_those_of_the_api() {
        let path =
            |kind, native, namespace, name| place(kind, native).unwrap().path_of(namespace, name);
        let crd = "/apis/crd.projectcalico.org/v1";
        for (kind, native, expected) in [
            ("IPPool", false, format!("{crd}/ippools/n")),
            ("IPPool", true, "/apis/projectcalico.org/v3/ippools/n".to_owned()),
            ("NetworkPolicy", false, format!("{crd}/namespaces/s/networkpolicies/n")),
            ("IPAMConfiguration", false, format!("{crd}/ipamconfigs/n")),
            ("IPAMConfig", false, format!("{crd}/ipamconfigs/n")),
            ("Node", false, "/api/v1/nodes/n".to_owned()),
            ("WorkloadEndpoint", false, "/api/v1/namespaces/s/pods/n".to_owned()),
            (
                "KubernetesNetworkPolicy",
                true,
                "/apis/networking.k8s.io/v1/namespaces/s/networkpolicies/n".to_owned(),
            ),
        ] {
            assert_eq!(path(kind, native, "s", "n"), expected, "{kind}");
        }
        assert_eq!(place("Profile", false), None);
        assert_eq!(place("Deployment", false), None);
        assert_eq!(path("IPPool", false, "", "a/../b?"), format!("{crd}/ippools/a%2F..%2Fb%3F"));
        for kind in FOLLOWED.into_iter().chain([ENDPOINTS]) {
            assert!(place(kind, false).is_some(), "{kind}");
        }
    }

    #[test]
    fn names_of_old_policies_and_of_handles() {
        let names = |kind| place(kind, false).unwrap().names(&key("", "Foo"));
        assert_eq!(names("GlobalNetworkPolicy"), ["Foo", "default.Foo"]);
        assert_eq!(names("IPAMHandle"), ["foo"]);
        assert_eq!(names("IPPool"), ["Foo"]);
    }
}
