//! Every kind, as YAML and as JSON, there and back; and what each kind does not allow.

use super::Store;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// One resource of every kind that `ctl` knows.
const ALL: &str = include_str!("kinds.yaml");

fn spec_of(resource: &Value) -> (String, Value) {
    let name = format!("{} {}", resource["kind"], resource["metadata"]["name"]);
    (name, resource["spec"].clone())
}

#[test]
fn every_kind_comes_back_in_yaml_and_in_json() {
    let first = Store::new();
    let count = ALL.split("\n---\n").count();
    let told = first.ok(&["apply", "-f", "-"], ALL);
    assert_eq!(told, format!("Successfully applied {count} resource(s)\n"));
    let shown = first.json(&["get", "-f", "tests/ctl/kinds.yaml", "-o", "json"]);
    let shown = shown.as_array().unwrap().clone();
    let kinds: BTreeSet<&str> = shown.iter().map(|one| one["kind"].as_str().unwrap()).collect();
    // The help of `get nonsense` names every kind.
    let help = first.fails(&["get", "nonsense"], "");
    let (_, known) = help.split_once("it is one of ").unwrap();
    assert_eq!(kinds, known.trim().split(", ").collect());
    for resource in &shown {
        let metadata = &resource["metadata"];
        assert!(metadata["uid"].is_string() && metadata["resourceVersion"].is_string());
        assert_eq!(resource["apiVersion"], "projectcalico.org/v3");
        let kind = resource["kind"].as_str().unwrap();
        for output in ["ps", "wide"] {
            let table = first.ok(&["get", kind, "-A", "-o", output], "");
            assert_eq!(table.trim_end().lines().count(), 2, "{kind}: {table}");
            assert!(!table.contains("null"), "{kind}: {table}");
        }
    }
    for output in ["yaml", "json"] {
        let text = first.ok(&["get", "-f", "tests/ctl/kinds.yaml", "-o", output, "--export"], "");
        let second = Store::new();
        let told = second.ok(&["create", "-f", "-"], &text);
        assert_eq!(told, format!("Successfully created {count} resource(s)\n"));
        let again = second.json(&["get", "-f", "tests/ctl/kinds.yaml", "-o", "json"]);
        let specs = |all: &[Value]| all.iter().map(spec_of).collect::<Vec<_>>();
        assert_eq!(specs(again.as_array().unwrap()), specs(&shown), "{output}");
        // With uid and revision it replaces itself, and nothing changes.
        let whole = first.ok(&["get", "-f", "tests/ctl/kinds.yaml", "-o", output], "");
        first.ok(&["replace", "-f", "-"], &whole);
        let now = first.json(&["get", "-f", "tests/ctl/kinds.yaml", "-o", "json"]);
        assert_eq!(specs(now.as_array().unwrap()), specs(&shown), "{output}");
    }
    let told = first.ok(&["delete", "-f", "tests/ctl/kinds.yaml"], "");
    assert_eq!(told, format!("Successfully deleted {count} resource(s)\n"));
}

/// Classes of bad input, each refused with the field's name (rules of calico's validator).
#[test]
fn what_a_kind_does_not_allow_is_named_by_field() {
    let store = Store::new();
    let rule = |rule: Value| json!({"ingress": [rule]});
    for (kind, name, spec, field) in [
        ("Node", "n", json!({"bgp": {"ipv4Address": "x"}}), "spec.bgp.ipv4Address"),
        ("Node", "N_1", json!({}), "metadata.name"),
        ("IPPool", "p", json!({"cidr": "10.0.0.1/8"}), "spec.cidr"),
        ("IPPool", "p", json!({"cidr": "10.0.0.0/16", "blockSize": 8}), "spec.blockSize"),
        ("IPPool", "p", json!({"cidr": "fd00::/64", "ipipMode": "Always"}), "spec.ipipMode"),
        ("IPPool", "p", json!({"cidr": "10.0.0.0/16", "vxlanMode": "x"}), "spec.vxlanMode"),
        (
            "BGPConfiguration",
            "default",
            json!({"communities": [{"name": "a", "value": "x"}]}),
            "spec.communities",
        ),
        ("BGPPeer", "p", json!({"peerIP": "x", "asNumber": 1}), "spec.peerIP"),
        ("BGPFilter", "f", json!({"exportV4": [{"action": "x"}]}), "spec.exportV4[0].action"),
        ("GlobalNetworkPolicy", "g", json!({"selector": "a =="}), "spec.selector"),
        ("GlobalNetworkPolicy", "g", json!({"doNotTrack": true}), "applyOnForward"),
        ("GlobalNetworkPolicy", "g", rule(json!({"action": "x"})), "spec.ingress[0].action"),
        (
            "GlobalNetworkPolicy",
            "g",
            rule(json!({"action": "Allow", "source": {"nets": ["x"]}})),
            "spec.ingress[0].source.nets",
        ),
        (
            "NetworkPolicy",
            "n",
            rule(json!({"action": "Allow", "destination": {"ports": [80]}})),
            "spec.ingress[0]: ports",
        ),
        ("Tier", "t", json!({"defaultAction": "x"}), "spec.defaultAction"),
        ("GlobalNetworkSet", "s", json!({"nets": ["10.0.0.0/99"]}), "spec.nets"),
        ("HostEndpoint", "h", json!({"interfaceName": "eth0"}), "spec.node"),
        ("HostEndpoint", "h", json!({"node": "n"}), "spec: neither interfaceName"),
        (
            "WorkloadEndpoint",
            "w",
            json!({"node": "n", "interfaceName": "c", "ipNetworks": ["x"]}),
            "spec.ipNetworks",
        ),
    ] {
        let resource = json!({"apiVersion": "projectcalico.org/v3", "kind": kind,
            "metadata": {"name": name}, "spec": spec});
        let errors = store.fails(&["apply", "-f", "-"], &resource.to_string());
        assert!(errors.contains(field), "{resource}: {errors}");
        assert!(errors.contains("error with field"), "{resource}: {errors}");
    }
}
