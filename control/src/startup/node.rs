//! What this node's Node resource must say. Pure.
//!
//! Only what calico-node writes is touched: the addresses, the AS, and the name in Kubernetes. An
//! empty `bgp` is not allowed, so it is left out.

use crate::config::{OwnAddress, StartupSettings};
use crate::startup::autodetect::{self, Host};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// Type of the addresses in `spec.addresses` that are written here.
const OWN_TYPE: &str = "CalicoNodeIP";

/// The spec as it must be.
pub(super) fn spec(now: Value, settings: &StartupSettings, host: &Host) -> Value {
    let mut spec = match now {
        Value::Object(spec) => spec,
        _ => Map::new(),
    };
    let mut bgp = match spec.remove("bgp") {
        Some(Value::Object(bgp)) => bgp,
        _ => Map::new(),
    };
    let nets = [
        address(settings, host, &bgp, true).map(|net| net.to_string()),
        address(settings, host, &bgp, false).map(|net| net.to_string()),
    ];
    for (field, net) in [FIELD_V4, FIELD_V6].into_iter().zip(&nets) {
        match net {
            Some(net) => drop(bgp.insert(field.to_owned(), json!(net))),
            None => drop(bgp.remove(field)),
        }
    }
    if let Some(number) = settings.as_number {
        bgp.insert("asNumber".to_owned(), json!(number));
    }
    if !bgp.is_empty() {
        spec.insert("bgp".to_owned(), Value::Object(bgp));
    }
    let mut addresses = list(&mut spec, "addresses");
    addresses.retain(|entry| entry["type"] != OWN_TYPE);
    let own = nets.iter().flatten().map(|net| json!({"address": net, "type": OWN_TYPE}));
    let addresses: Vec<Value> = own.chain(addresses).collect();
    if !addresses.is_empty() {
        spec.insert("addresses".to_owned(), Value::Array(addresses));
    }
    let mut references = list(&mut spec, "orchRefs");
    if let Some(name) = &settings.kubernetes_node {
        let own = json!({"nodeName": name, "orchestrator": "k8s"});
        if !references.contains(&own) {
            references.push(own);
        }
    }
    if !references.is_empty() {
        spec.insert("orchRefs".to_owned(), Value::Array(references));
    }
    Value::Object(spec)
}

const FIELD_V4: &str = "ipv4Address";
const FIELD_V6: &str = "ipv6Address";

fn list(spec: &mut Map<String, Value>, field: &str) -> Vec<Value> {
    match spec.remove(field) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

/// The node's address of one family. One that cannot be found at the moment stays what it was.
fn address(
    settings: &StartupSettings,
    host: &Host,
    bgp: &Map<String, Value>,
    v4: bool,
) -> Option<IpNet> {
    let (own, method, field) = match v4 {
        true => (settings.ip, &settings.ip_autodetection_method, FIELD_V4),
        false => (settings.ip6, &settings.ip6_autodetection_method, FIELD_V6),
    };
    let stored = net_of(bgp.get(field)).filter(|net| net.addr().is_ipv4() == v4);
    match own {
        OwnAddress::None => None,
        OwnAddress::Given(net, true) => Some(net),
        OwnAddress::Given(net, false) => {
            let nets = host.interfaces.iter().flat_map(|interface| &interface.addresses);
            Some(nets.copied().find(|other| other.addr() == net.addr()).unwrap_or(net))
        }
        OwnAddress::Stored if stored.is_some() || !v4 => stored,
        OwnAddress::Stored | OwnAddress::Autodetect => {
            autodetect::detect(method, v4, host).or(stored)
        }
    }
}

/// An address with or without a prefix length.
fn net_of(value: Option<&Value>) -> Option<IpNet> {
    let text = value?.as_str()?;
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// The addresses that a Node has for BGP.
pub(super) fn addresses(spec: &Value) -> impl Iterator<Item = IpAddr> {
    let of = |field| net_of(spec["bgp"].get(field)).map(|net| net.addr());
    [of(FIELD_V4), of(FIELD_V6)].into_iter().flatten()
}

/// What Kubernetes says are the node's addresses.
pub(super) fn internal(node: &Value) -> Vec<IpAddr> {
    let lists = [&node["spec"]["addresses"], &node["status"]["addresses"]];
    let entries = lists.into_iter().filter_map(Value::as_array).flatten();
    let internal = entries.filter(|entry| entry["type"] == "InternalIP");
    internal.filter_map(|entry| entry["address"].as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::startup::autodetect::Interface;

    fn made(now: Value, settings: &StartupSettings) -> Value {
        let addresses = ["10.0.0.7/24", "2001:db8::7/64"].map(|text| text.parse().unwrap());
        let interfaces = [Interface { name: "eth0".to_owned(), addresses: addresses.to_vec() }];
        let none = |_: &str, _: bool| None;
        let host =
            Host { interfaces: &interfaces, never: &[], internal: &[], source_towards: &none };
        spec(now, settings, &host)
    }

    #[test]
    fn a_new_node_has_the_ipv4_address_that_is_found() {
        let spec = made(json!({}), &StartupSettings::default());
        let addresses = json!([{"address": "10.0.0.7/24", "type": "CalicoNodeIP"}]);
        assert_eq!(spec, json!({"bgp": {"ipv4Address": "10.0.0.7/24"}, "addresses": addresses}));
        assert_eq!(made(spec.clone(), &StartupSettings::default()), spec, "and keeps it");
    }

    #[test]
    fn what_is_stored_stays_and_unknown_fields_too() {
        let now = json!({"bgp": {"ipv4Address": "10.9.9.9/8", "routeReflectorClusterID": "1.0.0.1"},
            "ipv4VXLANTunnelAddr": "10.65.0.1",
            "addresses": [{"address": "10.9.9.9/8", "type": "CalicoNodeIP"},
                {"address": "10.9.9.9", "type": "InternalIP"}]});
        assert_eq!(made(now.clone(), &StartupSettings::default()), now);
        let settings = StartupSettings {
            ip: OwnAddress::Autodetect,
            ip6: OwnAddress::Autodetect,
            as_number: Some(64_513),
            kubernetes_node: Some("n1".to_owned()),
            ..StartupSettings::default()
        };
        let spec = made(now, &settings);
        assert_eq!(spec["bgp"]["ipv4Address"], "10.0.0.7/24");
        assert_eq!(spec["bgp"]["ipv6Address"], "2001:db8::7/64");
        assert_eq!(spec["bgp"]["routeReflectorClusterID"], "1.0.0.1");
        assert_eq!(spec["bgp"]["asNumber"], 64_513);
        assert_eq!(spec["addresses"].as_array().unwrap().len(), 3);
        assert_eq!(spec["orchRefs"], json!([{"nodeName": "n1", "orchestrator": "k8s"}]));
        assert_eq!(made(spec.clone(), &settings), spec, "a second time changes nothing");
    }

    #[test]
    fn given_addresses_have_the_length_of_their_link() {
        let own = |text: &str| StartupSettings {
            ip: text.parse().unwrap(),
            ..StartupSettings::default()
        };
        let of = |text: &str| made(json!({}), &own(text))["bgp"]["ipv4Address"].clone();
        assert_eq!(of("10.0.0.7"), "10.0.0.7/24");
        assert_eq!(of("10.0.0.8"), "10.0.0.8/32");
        assert_eq!(of("10.0.0.8/30"), "10.0.0.8/30");
        let now = json!({"bgp": {"ipv4Address": "10.0.0.7/24"}});
        assert_eq!(made(now, &own("none")), json!({}), "no empty bgp is left");
    }
}
