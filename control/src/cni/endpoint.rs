//! The WorkloadEndpoint of a pod, and names that both ends of a call must make alike.

use super::plugin::Pod;
use crate::random;
use crate::resource::Key;
use crate::store::datastore::{Document, StoreError};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use std::net::IpAddr;

/// Beginning of the host's devices.
const PREFIX: &str = "cali";
/// Hexadecimal digits, or letters of a container's identifier, behind it.
const DIGITS: usize = 11;

/// Name of the host's device: a hash of the pod's name, or the container's identifier.
pub(super) fn host_device(pod: &Pod, container: &str) -> String {
    match &pod.kubernetes {
        Some((namespace, name)) => {
            let digest = Sha1::digest(format!("{namespace}.{name}"));
            format!("{PREFIX}{}", &random::hex(&digest)[..DIGITS])
        }
        None => PREFIX.chars().chain(container.chars().take(DIGITS)).collect(),
    }
}

/// Name of the resource: segments joined by `-`, an inner `-` doubled.
pub(super) fn key(node: &str, pod: &Pod, container: &str, ifname: &str) -> Key {
    let (namespace, segments) = match &pod.kubernetes {
        Some((namespace, name)) => (namespace.as_str(), [node, "k8s", name, ifname]),
        None => ("default", [node, "cni", container, ifname]),
    };
    Key {
        kind: "WorkloadEndpoint".to_owned(),
        namespace: namespace.to_owned(),
        name: segments.map(|segment| segment.replace('-', "--")).join("-"),
    }
}

/// What the resource says.
pub(super) struct Facts<'a> {
    pub(super) key: &'a Key,
    pub(super) node: &'a str,
    pub(super) network: &'a str,
    pub(super) container: &'a str,
    pub(super) ifname: &'a str,
    pub(super) device: &'a str,
    pub(super) mac: &'a str,
    pub(super) addresses: &'a [IpAddr],
}

/// The resource.
pub(super) fn document(pod: &Pod, facts: &Facts) -> Result<Document, StoreError> {
    let networks: Vec<String> =
        facts.addresses.iter().map(|ip| ipnet::IpNet::from(*ip).to_string()).collect();
    let mut labels = pod.labels.clone();
    let mut spec = json!({
        "node": facts.node, "containerID": facts.container, "endpoint": facts.ifname,
        "interfaceName": facts.device, "mac": facts.mac, "ipNetworks": networks,
    });
    match &pod.kubernetes {
        Some((namespace, name)) => {
            let account = pod.service_account.as_deref().unwrap_or("default");
            spec["orchestrator"] = json!("k8s");
            spec["pod"] = json!(name);
            spec["profiles"] =
                json!([format!("kns.{namespace}"), format!("ksa.{namespace}.{account}")]);
            spec["serviceAccountName"] = json!(account);
            labels.insert("projectcalico.org/serviceaccount".to_owned(), account.to_owned());
        }
        None => {
            spec["orchestrator"] = json!("cni");
            spec["workload"] = json!(facts.container);
            spec["profiles"] = json!([facts.network]);
        }
    }
    Document::new(json!({
        "kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": facts.key.name, "namespace": facts.key.namespace, "labels": labels},
        "spec": spec,
    }))
}

/// The profile of a network without an orchestrator: its members reach each other, and everybody
/// else.
pub(super) fn profile(network: &str) -> Value {
    json!({
        "kind": "Profile", "apiVersion": "projectcalico.org/v3", "metadata": {"name": network},
        "spec": {
            "labelsToApply": {network: ""},
            "egress": [{"action": "Allow"}],
            "ingress": [{"action": "Allow", "source": {"selector": format!("has({network})")}}],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_calico_s() {
        let pod = Pod::named("ns", "web-0");
        let key = key("edge-1", &pod, "c0ffee", "eth0");
        assert_eq!((key.namespace.as_str(), key.name.as_str()), ("ns", "edge--1-k8s-web--0-eth0"));
        // printf ns.web-0 | sha1sum
        assert_eq!(host_device(&pod, "c0ffee"), "cali91fb42d0bf1");
        let other = Pod::default();
        assert_eq!(host_device(&other, "0123456789abcdef"), "cali0123456789a");
        let key = super::key("edge-1", &other, "c0ffee", "eth0");
        assert_eq!(
            (key.namespace.as_str(), key.name.as_str()),
            ("default", "edge--1-cni-c0ffee-eth0")
        );
    }
}
