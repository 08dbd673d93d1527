//! WorkloadEndpoints in Pods: who has which address is in the Pod's annotations, all else follows
//! from the Pod.
//!
//! An endpoint is there while its Pod has addresses; to remove it is to empty the annotations. Left
//! out: floating addresses.

use crate::random;
use crate::resource::Key;
use crate::store::datastore::{Document, Revision};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use sha1::{Digest, Sha1};
use std::net::IpAddr;

const IP: &str = "cni.projectcalico.org/podIP";
const IPS: &str = "cni.projectcalico.org/podIPs";
const CONTAINER: &str = "cni.projectcalico.org/containerID";
const SOURCES: &str = "cni.projectcalico.org/allowedSourcePrefixes";
const AWS_IPS: &str = "vpc.amazonaws.com/pod-ips";
/// The one interface of a pod.
const ENDPOINT: &str = "eth0";
/// Longest value of a label.
const LABEL_MAX: usize = 63;

/// The endpoint that a Pod has; `None` where it has none.
pub(super) fn decode(pod: &Value) -> Result<Option<Document>, String> {
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
    let node = text(&spec["nodeName"]);
    let networks = networks(pod);
    if node.is_empty() || spec["hostNetwork"] == true || networks.is_empty() {
        return Ok(None);
    }
    let account = match text(&spec["serviceAccountName"]) {
        account if account.is_empty() => "default".to_owned(),
        account => account,
    };
    let mut labels = metadata["labels"].as_object().cloned().unwrap_or_default();
    let own = [
        ("namespace", namespace.as_str()),
        ("orchestrator", "k8s"),
        ("serviceaccount", account.as_str()),
    ];
    let own = own.into_iter().filter(|(_, value)| value.len() <= LABEL_MAX);
    labels.extend(own.map(|(name, value)| (format!("projectcalico.org/{name}"), json!(value))));
    let digest = Sha1::digest(format!("{namespace}.{name}"));
    let mut endpoint = json!({
        "orchestrator": "k8s", "node": node, "pod": name, "endpoint": ENDPOINT,
        "interfaceName": format!("cali{}", &random::hex(&digest)[..11]),
        "ipNetworks": networks, "serviceAccountName": account,
        "profiles": [format!("kns.{namespace}"), format!("ksa.{namespace}.{account}")],
    });
    let noted = |name: &str| metadata["annotations"].get(name).and_then(Value::as_str);
    if let Some(container) = noted(CONTAINER) {
        endpoint["containerID"] = json!(container);
    }
    if let Some(text) = noted(SOURCES) {
        let list: Vec<String> = serde_json::from_str(text)
            .map_err(|_| format!("annotation {SOURCES}: '{text}' is no list of text"))?;
        endpoint["allowSpoofedSourcePrefixes"] = json!(list);
    }
    let ports = ports(spec);
    if !ports.is_empty() {
        endpoint["ports"] = Value::Array(ports);
    }
    let mut own = Map::new();
    own.insert("name".to_owned(), json!(endpoint_name(&node, &name)));
    own.insert("namespace".to_owned(), json!(namespace));
    own.insert("labels".to_owned(), Value::Object(labels));
    for field in ["uid", "creationTimestamp", "annotations"] {
        if let Some(value) = metadata.get(field) {
            own.insert(field.to_owned(), value.clone());
        }
    }
    let value = json!({"kind": "WorkloadEndpoint", "apiVersion": super::kind::V3,
        "metadata": own, "spec": endpoint});
    let mut document = Document::new(value).map_err(|error| error.to_string())?;
    document.revision = metadata["resourceVersion"].as_str().map(|text| Revision(text.to_owned()));
    Ok(Some(document))
}

/// The addresses of a Pod that runs.
fn networks(pod: &Value) -> Vec<IpNet> {
    let (status, annotations) = (&pod["status"], &pod["metadata"]["annotations"]);
    let has_ended = ["Succeeded", "Failed"].contains(&status["phase"].as_str().unwrap_or_default());
    // What the plugin took away is gone, whatever the kubelet still says.
    if has_ended || annotations[IP] == "" {
        return Vec::new();
    }
    let parse = |text: &str| {
        let text = text.trim();
        text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    };
    let told = status["podIPs"].as_array().into_iter().flatten();
    let told = told.filter_map(|entry| entry["ip"].as_str()).map(str::to_owned).collect();
    let one = |value: &Value| value.as_str().into_iter().map(str::to_owned).collect();
    let list = |value: &Value| {
        value.as_str().into_iter().flat_map(|text| text.split(',')).map(str::to_owned).collect()
    };
    let sources: [Vec<String>; 5] = [
        told,
        one(&status["podIP"]),
        list(&annotations[IPS]),
        one(&annotations[IP]),
        list(&annotations[AWS_IPS]),
    ];
    let found = sources.iter().map(|texts| texts.iter().filter_map(|text| parse(text)).collect());
    found.into_iter().find(|nets: &Vec<IpNet>| !nets.is_empty()).unwrap_or_default()
}

/// Ports that have a name, or that the host forwards.
fn ports(spec: &Value) -> Vec<Value> {
    let containers = spec["containers"].as_array().into_iter().flatten();
    let all = containers.flat_map(|one| one["ports"].as_array().into_iter().flatten());
    let wanted = all.filter(|port| port["name"].is_string() || port["hostPort"].is_number());
    let entry = |port: &Value| {
        let mut entry = json!({
            "name": port["name"].as_str().unwrap_or_default(),
            "protocol": port["protocol"].as_str().unwrap_or("TCP"),
            "port": port["containerPort"],
        });
        for field in ["hostPort", "hostIP"] {
            if let Some(value) = port.get(field) {
                entry[field] = value.clone();
            }
        }
        entry
    };
    wanted.map(entry).collect()
}

/// Name of a pod's endpoint: segments joined by `-`, an inner `-` doubled.
fn endpoint_name(node: &str, pod: &str) -> String {
    [node, "k8s", pod, ENDPOINT].map(|segment| segment.replace('-', "--")).join("-")
}

/// The name of the Pod whose endpoint this is.
pub(super) fn name_of(key: &Key) -> Option<String> {
    let rest = key.name.strip_suffix(&format!("-{ENDPOINT}"))?;
    // Doubled hyphens are taken out first, so that single ones separate.
    let plain = rest.replace("--", "\0");
    let (_, pod) = plain.rsplit_once("-k8s-")?;
    let is_name = !pod.is_empty() && !pod.contains('-');
    is_name.then(|| pod.replace('\0', "-"))
}

/// What is to be changed of a Pod so that it has an endpoint.
pub(super) fn patch(document: &Document) -> Value {
    let spec = document.spec();
    let networks: Vec<&str> =
        spec["ipNetworks"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let container = spec["containerID"].as_str().unwrap_or_default();
    annotated(
        document.revision.as_ref(),
        json!({
            IP: networks.first().copied().unwrap_or_default(),
            IPS: networks.join(","),
            CONTAINER: container,
        }),
    )
}

/// The same, so that it has none.
pub(super) fn removal(revision: Option<&Revision>) -> Value {
    annotated(revision, json!({IP: "", IPS: ""}))
}

fn annotated(revision: Option<&Revision>, annotations: Value) -> Value {
    let mut metadata = json!({"annotations": annotations});
    if let Some(Revision(revision)) = revision {
        metadata["resourceVersion"] = json!(revision);
    }
    json!({"metadata": metadata})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({
            "metadata": {"name": "web-0", "namespace": "shop", "labels": {"app": "web"},
                "resourceVersion": "9", "annotations": {IP: "10.65.0.5/32",
                    IPS: "10.65.0.5/32,fd65::5/128", CONTAINER: "c0ffee"}},
            "spec": {"nodeName": "edge-1", "serviceAccountName": "seller", "containers": [
                {"ports": [{"name": "http", "containerPort": 80},
                    {"containerPort": 81}, {"containerPort": 82, "hostPort": 8082}]}]},
            "status": {"phase": "Running"}})
    }

    #[test]
    fn a_pod_with_addresses_is_an_endpoint() {
        let document = decode(&pod()).unwrap().unwrap();
        assert_eq!(document.key.name, "edge--1-k8s-web--0-eth0");
        assert_eq!(document.key.namespace, "shop");
        assert_eq!(name_of(&document.key).as_deref(), Some("web-0"));
        assert_eq!(document.revision, Some(Revision("9".into())));
        let spec = document.spec();
        assert_eq!(spec["ipNetworks"], json!(["10.65.0.5/32", "fd65::5/128"]));
        // printf shop.web-0 | sha1sum
        assert_eq!(spec["interfaceName"], "calia4fc3c48bd8");
        assert_eq!(spec["profiles"], json!(["kns.shop", "ksa.shop.seller"]));
        assert_eq!(spec["ports"].as_array().unwrap().len(), 2, "those without a name stay out");
        assert_eq!(
            document.value["metadata"]["labels"],
            json!({"app": "web",
            "projectcalico.org/namespace": "shop", "projectcalico.org/orchestrator": "k8s",
            "projectcalico.org/serviceaccount": "seller"})
        );
        let typed = crate::store::typed("WorkloadEndpoint", &Value::Object(document.value));
        assert!(typed.is_ok(), "{typed:?}");
    }

    #[test]
    fn the_kubelet_s_word_of_addresses_comes_first() {
        let mut told = pod();
        told["status"]["podIPs"] = json!([{"ip": "10.65.0.9"}]);
        let spec = decode(&told).unwrap().unwrap().spec();
        assert_eq!(spec["ipNetworks"], json!(["10.65.0.9/32"]));
        told["metadata"]["annotations"][IP] = json!("");
        assert_eq!(decode(&told), Ok(None), "the plugin has taken it away");
    }

    #[test]
    fn pods_without_an_interface_of_their_own_are_none() {
        for (at, value) in [
            ("/spec/hostNetwork", json!(true)),
            ("/spec/nodeName", json!("")),
            ("/status/phase", json!("Succeeded")),
            ("/status/phase", json!("Failed")),
            ("/metadata/annotations", json!({})),
        ] {
            let mut pod = pod();
            pod["spec"]["hostNetwork"] = json!(false);
            *pod.pointer_mut(at).unwrap() = value;
            assert_eq!(decode(&pod), Ok(None), "{at}");
        }
    }

    #[test]
    fn names_tell_the_pod() {
        let key = |name: &str| Key { name: name.into(), ..decode(&pod()).unwrap().unwrap().key };
        for (name, pod) in [
            ("n-k8s-a-eth0", Some("a")),
            ("n--k8s--x-k8s-a--k8s--b-eth0", Some("a-k8s-b")),
            ("n-cni-a-eth0", None),
            ("n-k8s-a-eth1", None),
            ("n-k8s--eth0", None),
        ] {
            assert_eq!(name_of(&key(name)).as_deref(), pod, "{name}");
        }
    }
}
