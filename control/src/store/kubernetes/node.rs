//! Calico's Node in the annotations of Kubernetes' one.
//!
//! A Node cannot be made or removed here; a change writes annotations only, by way of the Node's
//! status, which is what calico-node may write. Labels that people gave Calico's Node, and
//! Kubernetes' does not have, are in an annotation too. Left out: Wireguard's public keys.

use crate::store::datastore::{Document, Revision};
use serde_json::{Map, Value, json};

const PREFIX: &str = "projectcalico.org/";
/// Annotation, and where it stands in the resource.
const FIELDS: [(&str, &str, &str); 11] = [
    ("IPv4Address", "bgp", "ipv4Address"),
    ("IPv6Address", "bgp", "ipv6Address"),
    ("IPv4IPIPTunnelAddr", "bgp", "ipv4IPIPTunnelAddr"),
    ("RouteReflectorClusterID", "bgp", "routeReflectorClusterID"),
    ("ASNumber", "bgp", "asNumber"),
    ("IPv4WireguardInterfaceAddr", "wireguard", "interfaceIPv4Address"),
    ("IPv6WireguardInterfaceAddr", "wireguard", "interfaceIPv6Address"),
    ("IPv4VXLANTunnelAddr", "", "ipv4VXLANTunnelAddr"),
    ("VXLANTunnelMACAddr", "", "vxlanTunnelMACAddr"),
    ("IPv6VXLANTunnelAddr", "", "ipv6VXLANTunnelAddr"),
    ("VXLANTunnelMACAddrV6", "", "vxlanTunnelMACAddrV6"),
];
/// Labels, and annotations, of Calico's Node alone.
const OWN: [(&str, &str); 2] = [("labels", "labels"), ("annotations", "annotations")];
/// Type of addresses that BGP uses.
const OWN_TYPE: &str = "CalicoNodeIP";

/// The resource that a Node is.
pub(super) fn decode(node: &Value) -> Result<Document, String> {
    let metadata = &node["metadata"];
    let noted = |name: &str| {
        let text = metadata["annotations"].get(format!("{PREFIX}{name}"))?.as_str()?;
        (!text.is_empty()).then_some(text)
    };
    let mut spec = Map::new();
    for (name, part, field) in FIELDS {
        let Some(text) = noted(name) else { continue };
        let value = match (name, text.parse::<u32>()) {
            ("ASNumber", Ok(number)) => json!(number),
            _ => json!(text),
        };
        match part {
            "" => drop(spec.insert(field.to_owned(), value)),
            part => spec.entry(part).or_insert_with(|| json!({}))[field] = value,
        }
    }
    if let Some(Ok(interfaces)) = noted("Interfaces").map(serde_json::from_str::<Value>) {
        spec.insert("interfaces".to_owned(), interfaces);
    }
    let own = ["IPv4Address", "IPv6Address"].into_iter().filter_map(noted);
    let own = own.map(|address| json!({"address": address, "type": OWN_TYPE}));
    let known = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
    let known = known.into_iter().filter(|entry| {
        ["InternalIP", "ExternalIP"].contains(&entry["type"].as_str().unwrap_or_default())
    });
    let addresses: Vec<Value> = own.chain(known).collect();
    if !addresses.is_empty() {
        spec.insert("addresses".to_owned(), Value::Array(addresses));
    }
    let name = metadata["name"].as_str().unwrap_or_default();
    spec.insert("orchRefs".to_owned(), json!([{"nodeName": name, "orchestrator": "k8s"}]));
    let mut own = json!({"name": name});
    for field in ["uid", "creationTimestamp"] {
        if let Some(value) = metadata.get(field) {
            own[field] = value.clone();
        }
    }
    for (field, name) in OWN {
        let mut all = metadata[field].as_object().cloned().unwrap_or_default();
        all.retain(|name, _| field == "labels" || !name.starts_with(PREFIX));
        let more = noted(name).map(serde_json::from_str::<Map<String, Value>>);
        all.extend(more.and_then(Result::ok).into_iter().flatten());
        if !all.is_empty() {
            own[field] = Value::Object(all);
        }
    }
    let ranges = &node["spec"]["podCIDRs"];
    let mut value = json!({"kind": "Node", "apiVersion": super::kind::V3, "metadata": own,
        "spec": spec});
    if ranges.is_array() {
        value["status"] = json!({"podCIDRs": ranges});
    }
    let mut document = Document::new(value).map_err(|error| error.to_string())?;
    document.revision = metadata["resourceVersion"].as_str().map(|text| Revision(text.to_owned()));
    Ok(document)
}

/// The Node with what a resource says.
pub(super) fn encode(document: &Document, mut node: Value) -> Value {
    let spec = document.spec();
    let metadata = document.value.get("metadata").cloned().unwrap_or_default();
    let mut annotations = node["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    for (name, part, field) in FIELDS {
        let value = if part.is_empty() { &spec[field] } else { &spec[part][field] };
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        set(&mut annotations, name, text);
    }
    if spec["interfaces"].is_array() {
        set(&mut annotations, "Interfaces", spec["interfaces"].to_string());
    }
    for (field, name) in OWN {
        let given = metadata[field].as_object().cloned().unwrap_or_default();
        let now = &node["metadata"][field];
        let own: Map<String, Value> =
            given.into_iter().filter(|(name, value)| now.get(name) != Some(value)).collect();
        let text = if own.is_empty() { String::new() } else { Value::Object(own).to_string() };
        set(&mut annotations, name, text);
    }
    node["metadata"]["annotations"] = Value::Object(annotations);
    node
}

fn set(annotations: &mut Map<String, Value>, name: &str, text: String) {
    let name = format!("{PREFIX}{name}");
    match text.is_empty() {
        true => drop(annotations.remove(&name)),
        false => drop(annotations.insert(name, json!(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Value {
        json!({"kind": "Node", "apiVersion": "v1",
            "metadata": {"name": "n1", "uid": "u", "resourceVersion": "7",
                "labels": {"zone": "a"},
                "annotations": {"other": "kept", "projectcalico.org/IPv4Address": "10.0.0.7/24",
                    "projectcalico.org/ASNumber": "64513",
                    "projectcalico.org/labels": "{\"rack\":\"b\"}"}},
            "spec": {"podCIDRs": ["10.1.0.0/24"], "unschedulable": true},
            "status": {"addresses": [{"type": "Hostname", "address": "n1"},
                {"type": "InternalIP", "address": "10.0.0.7"}]}})
    }

    #[test]
    fn annotations_are_fields() {
        let document = decode(&node()).unwrap();
        assert_eq!(
            document.spec(),
            json!({
            "bgp": {"ipv4Address": "10.0.0.7/24", "asNumber": 64513},
            "addresses": [{"address": "10.0.0.7/24", "type": "CalicoNodeIP"},
                {"type": "InternalIP", "address": "10.0.0.7"}],
            "orchRefs": [{"nodeName": "n1", "orchestrator": "k8s"}]})
        );
        let metadata = &document.value["metadata"];
        assert_eq!(metadata["labels"], json!({"zone": "a", "rack": "b"}));
        assert_eq!(metadata["annotations"], json!({"other": "kept"}));
        assert_eq!(document.value["status"], json!({"podCIDRs": ["10.1.0.0/24"]}));
        assert_eq!(document.revision, Some(Revision("7".into())));
    }

    #[test]
    fn what_did_not_change_is_written_as_it_was() {
        let document = decode(&node()).unwrap();
        assert_eq!(encode(&document, node()), node());
        let mut spec = document.spec();
        spec["bgp"] = json!({"ipv4Address": "10.0.0.8/24"});
        spec["ipv4VXLANTunnelAddr"] = json!("10.65.0.1");
        let mut document = document.with_spec(spec);
        document.value["metadata"]["labels"]["zone"] = json!("c");
        let written = encode(&document, node());
        assert_eq!(
            written["metadata"]["annotations"],
            json!({"other": "kept",
            "projectcalico.org/IPv4Address": "10.0.0.8/24",
            "projectcalico.org/IPv4VXLANTunnelAddr": "10.65.0.1",
            "projectcalico.org/labels": "{\"rack\":\"b\",\"zone\":\"c\"}"})
        );
        assert_eq!(written["metadata"]["labels"], json!({"zone": "a"}), "those are the kubelet's");
        assert_eq!(decode(&written).unwrap().value["metadata"]["labels"]["zone"], "c");
    }
}
