//! Resources of Calico's API v1, as calicoctl 1.x wrote them, in the form of v3.
//!
//! As Calico's own upgrade does it: names become those of v3 (a name that had to be changed ends in
//! the beginning of its SHA-1), tags become labels and selectors, actions and protocols get their
//! capitals. Left out: WorkloadEndpoint, which CNI plugins write.

use crate::random;
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use sha1::{Digest, Sha1};
use std::net::IpAddr;

/// What a rule's protocols are called in v3.
const PROTOCOLS: [&str; 6] = ["TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite"];
/// Labels that v1 had for Kubernetes' sake, and what they are in v3.
const LABELS: [(&str, &str); 2] =
    [("calico/k8s_ns", "projectcalico.org/namespace"), ("k8s_ns/label/", "pcns.")];
const TIER: &str = "default";

/// The v3 form of a resource; an error names the field.
pub fn to_v3(old: &Value) -> Result<Value, String> {
    let kind = old["kind"].as_str().unwrap_or_default();
    if old["apiVersion"] != "v1" {
        return Err(format!("{kind}: apiVersion is not v1: there is nothing to convert"));
    }
    let (kind, metadata, spec) = match kind.to_lowercase().as_str() {
        "node" => node(old),
        "hostendpoint" => host_endpoint(old),
        "profile" => profile(old),
        "policy" => policy(old),
        "ippool" => pool(old),
        "bgppeer" => peer(old),
        _ => Err(format!("conversion for the resource type '{kind}' is not supported")),
    }
    .map_err(|error| format!("{kind}: {error}"))?;
    Ok(json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata,
        "spec": spec}))
}

type Parts = Result<(&'static str, Value, Value), String>;

/// A field's text; an error where there is none.
fn text<'a>(value: &'a Value, path: &str) -> Result<&'a str, String> {
    let found = path.split('.').fold(value, |value, name| &value[name]);
    let text = found.as_str().filter(|text| !text.is_empty());
    text.ok_or_else(|| format!("{path} is missing, or no text"))
}

/// Copies fields that are there.
fn copied(from: &Value, names: &[(&str, &str)]) -> Map<String, Value> {
    let found = names.iter().filter(|(old, _)| !from[*old].is_null());
    found.map(|(old, new)| ((*new).to_owned(), from[*old].clone())).collect()
}

fn node(old: &Value) -> Parts {
    let (bgp, name) = (&old["spec"]["bgp"], normal(text(old, "metadata.name")?));
    let mut spec = copied(&old["spec"], &[("orchRefs", "orchRefs")]);
    if bgp.is_object() {
        let names = ["ipv4Address", "ipv6Address", "asNumber"].map(|name| (name, name));
        let own = copied(bgp, &names);
        if !own.contains_key("ipv4Address") && !own.contains_key("ipv6Address") {
            return Err("spec.bgp has neither ipv4Address nor ipv6Address".to_owned());
        }
        spec.insert("bgp".to_owned(), Value::Object(own));
    }
    Ok(("Node", json!({"name": name}), Value::Object(spec)))
}

fn host_endpoint(old: &Value) -> Parts {
    let node = normal(text(old, "metadata.node")?);
    let name = qualified(&format!("{node}.{}", text(old, "metadata.name")?), false);
    let mut metadata = copied(&old["metadata"], &[("labels", "labels")]);
    metadata.insert("name".to_owned(), json!(name));
    let names = ["interfaceName", "expectedIPs"].map(|name| (name, name));
    let mut spec = copied(&old["spec"], &names);
    spec.insert("node".to_owned(), json!(node));
    if let Some(profiles) = old["spec"]["profiles"].as_array() {
        let profiles = profiles.iter().filter_map(Value::as_str).map(profile_name);
        spec.insert("profiles".to_owned(), profiles.collect());
    }
    if let Some(ports) = old["spec"]["ports"].as_array() {
        let port = |port: &Value| {
            let mut port = port.clone();
            port["protocol"] = protocol(&port["protocol"]);
            port
        };
        spec.insert("ports".to_owned(), ports.iter().map(port).collect());
    }
    Ok(("HostEndpoint", Value::Object(metadata), Value::Object(spec)))
}

fn profile(old: &Value) -> Parts {
    let name = profile_name(text(old, "metadata.name")?);
    let mut labels = old["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    for tag in old["metadata"]["tags"].as_array().into_iter().flatten() {
        let tag = tag.as_str().ok_or("metadata.tags has what is no text")?;
        if labels.insert(tag.to_owned(), json!("")).is_some() {
            return Err(format!("metadata.tags: '{tag}' is the name of a label too"));
        }
    }
    let mut spec = json!({"ingress": rules(&old["spec"], "ingress")?,
        "egress": rules(&old["spec"], "egress")?});
    if !labels.is_empty() {
        spec["labelsToApply"] = Value::Object(labels);
    }
    Ok(("Profile", json!({"name": name}), spec))
}

fn policy(old: &Value) -> Parts {
    let name = format!("{TIER}.{}", qualified(text(old, "metadata.name")?, true));
    let mut metadata = copied(&old["metadata"], &[("annotations", "annotations")]);
    metadata.insert("name".to_owned(), json!(name));
    let before = &old["spec"];
    let names = ["order", "doNotTrack", "preDNAT"].map(|name| (name, name));
    let mut spec = copied(before, &names);
    spec.insert("tier".to_owned(), json!(TIER));
    spec.insert("selector".to_owned(), json!(selector(before["selector"].as_str())));
    if before["doNotTrack"] == true || before["preDNAT"] == true {
        spec.insert("applyOnForward".to_owned(), json!(true));
    }
    let (ingress, egress) = (rules(before, "ingress")?, rules(before, "egress")?);
    let types: Vec<Value> = match before["types"].as_array() {
        Some(types) if !types.is_empty() => {
            let known = |of: &Value| match of.as_str().unwrap_or_default().to_lowercase().as_str() {
                "ingress" => Ok(json!("Ingress")),
                "egress" => Ok(json!("Egress")),
                _ => Err(format!("spec.types: invalid policy type: {of}")),
            };
            types.iter().map(known).collect::<Result<_, String>>()?
        }
        _ => match (ingress.is_empty(), egress.is_empty()) {
            (_, true) => vec![json!("Ingress")],
            (true, false) => vec![json!("Egress")],
            (false, false) => vec![json!("Ingress"), json!("Egress")],
        },
    };
    spec.insert("types".to_owned(), Value::Array(types));
    spec.insert("ingress".to_owned(), Value::Array(ingress));
    spec.insert("egress".to_owned(), Value::Array(egress));
    Ok(("GlobalNetworkPolicy", Value::Object(metadata), Value::Object(spec)))
}

fn pool(old: &Value) -> Parts {
    let cidr = net(&old["metadata"]["cidr"], "metadata.cidr")?;
    let ipip = &old["spec"]["ipip"];
    let mode = match (ipip["enabled"] == true, ipip["mode"].as_str().unwrap_or_default()) {
        (false, _) => "Never",
        (true, mode) if mode.eq_ignore_ascii_case("cross-subnet") => "CrossSubnet",
        (true, _) => "Always",
    };
    let name = format!("{}-{}", of_address(cidr.addr()), cidr.prefix_len());
    let spec = json!({"cidr": cidr.to_string(), "ipipMode": mode, "vxlanMode": "Never",
        "natOutgoing": old["spec"]["nat-outgoing"] == true,
        "disabled": old["spec"]["disabled"] == true, "nodeSelector": "all()",
        "allowedUses": ["Workload", "Tunnel"],
        "blockSize": if cidr.addr().is_ipv4() { 26 } else { 122 }});
    Ok(("IPPool", json!({"name": name}), spec))
}

fn peer(old: &Value) -> Parts {
    let ip: IpAddr = text(old, "metadata.peerIP")?
        .parse()
        .map_err(|_| format!("metadata.peerIP: {} is no address", old["metadata"]["peerIP"]))?;
    let mut spec = copied(&old["spec"], &[("asNumber", "asNumber")]);
    spec.insert("peerIP".to_owned(), json!(ip.to_string()));
    let node = old["metadata"]["node"].as_str().filter(|node| !node.is_empty());
    let name = match (text(old, "metadata.scope")?, node) {
        ("global", None) => of_address(ip),
        ("node", Some(node)) => {
            let node = normal(node);
            spec.insert("node".to_owned(), json!(node));
            format!("{node}.{}", of_address(ip))
        }
        ("global", Some(_)) => return Err("metadata.node: of a peer of scope global".to_owned()),
        ("node", None) => return Err("metadata.node is missing".to_owned()),
        (other, _) => return Err(format!("metadata.scope: '{other}' is neither global nor node")),
    };
    Ok(("BGPPeer", json!({"name": name}), Value::Object(spec)))
}

fn net(value: &Value, field: &str) -> Result<IpNet, String> {
    let text = value.as_str().unwrap_or_default();
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let net = text.parse::<IpNet>().or_else(|_| address());
    net.map(|net| net.trunc()).map_err(|_| format!("{field}: {value} is no network"))
}

fn rules(spec: &Value, direction: &str) -> Result<Vec<Value>, String> {
    let rules = spec[direction].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |(at, old): (usize, &Value)| rule(old, &format!("spec.{direction}[{at}]"));
    rules.iter().enumerate().map(of).collect()
}

fn rule(old: &Value, field: &str) -> Result<Value, String> {
    let action = match old["action"].as_str().unwrap_or_default().to_lowercase().as_str() {
        "" | "allow" => "Allow",
        "deny" => "Deny",
        "log" => "Log",
        "pass" | "next-tier" => "Pass",
        other => return Err(format!("{field}.action: '{other}' is unknown")),
    };
    let names = ["ipVersion", "icmp"].map(|name| (name, name));
    let mut rule = copied(old, &names);
    rule.extend(copied(old, &[("!icmp", "notICMP"), ("notICMP", "notICMP")]));
    rule.insert("action".to_owned(), json!(action));
    for (from, to) in
        [("protocol", "protocol"), ("!protocol", "notProtocol"), ("notProtocol", "notProtocol")]
    {
        if !old[from].is_null() {
            rule.insert(to.to_owned(), protocol(&old[from]));
        }
    }
    for side in ["source", "destination"] {
        let entity = entity(&old[side], &format!("{field}.{side}"))?;
        if !entity.is_empty() {
            rule.insert(side.to_owned(), Value::Object(entity));
        }
    }
    Ok(Value::Object(rule))
}

/// One side of a rule. v1 wrote a negation as `!name`, later as `notName`.
fn entity(old: &Value, field: &str) -> Result<Map<String, Value>, String> {
    let mut entity = copied(old, &[("ports", "ports")]);
    entity.extend(copied(old, &[("!ports", "notPorts"), ("notPorts", "notPorts")]));
    for (names, to) in
        [(&["net", "nets"][..], "nets"), (&["!net", "!nets", "notNet", "notNets"][..], "notNets")]
    {
        let mut nets = Vec::new();
        for name in names {
            let one = std::slice::from_ref(&old[*name]);
            let values = old[*name].as_array().map_or(one, Vec::as_slice);
            for value in values.iter().filter(|value| !value.is_null()) {
                nets.push(json!(net(value, &format!("{field}.{name}"))?.to_string()));
            }
        }
        if !nets.is_empty() {
            entity.insert(to.to_owned(), Value::Array(nets));
        }
    }
    let any = |names: [&str; 2]| names.into_iter().find_map(|name| old[name].as_str());
    for (expression, tag, to) in [
        (old["selector"].as_str(), old["tag"].as_str(), "selector"),
        (any(["!selector", "notSelector"]), any(["!tag", "notTag"]), "notSelector"),
    ] {
        let text = match (selector(expression), tag.unwrap_or_default()) {
            (expression, "") => expression,
            (expression, tag) if expression.is_empty() => format!("{tag} == ''"),
            (expression, tag) => format!("({expression}) && {tag} == ''"),
        };
        if !text.is_empty() {
            entity.insert(to.to_owned(), json!(text));
        }
    }
    Ok(entity)
}

fn selector(old: Option<&str>) -> String {
    let old = old.unwrap_or_default().to_owned();
    LABELS.iter().fold(old, |text, (old, new)| text.replace(old, new))
}

fn protocol(old: &Value) -> Value {
    let known = |name: &str| PROTOCOLS.into_iter().find(|known| known.eq_ignore_ascii_case(name));
    old.as_str().and_then(known).map_or_else(|| old.clone(), |name| json!(name))
}

/// Lower case, `/` to `.`, what else is no name to `-`, and no run of dots and dashes with a dot.
fn normal(name: &str) -> String {
    let mut clean = String::new();
    for c in name.to_lowercase().replace('/', ".").chars() {
        match c {
            c if c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c) => clean.push(c),
            _ if clean.ends_with('\u{0}') => {}
            _ => clean.push('\u{0}'),
        }
    }
    let (mut text, mut run) = (String::new(), String::new());
    for c in clean.replace('\u{0}', "-").chars().chain(['\n']) {
        match c {
            '-' | '.' => run.push(c),
            c => {
                text.push_str(if run.contains('.') { "." } else { &run });
                run.clear();
                text.push(c);
            }
        }
    }
    text.trim_matches(['-', '.', '\n']).to_owned()
}

/// A name of v3; where that is another one, with the beginning of the old one's digest.
fn qualified(old: &str, without_dots: bool) -> String {
    let name = normal(old);
    let name = if without_dots { name.replace('.', "-") } else { name };
    match name == old {
        true => name,
        false => format!("{name}-{}", &random::hex(&Sha1::digest(old))[..8]),
    }
}

fn profile_name(old: &str) -> String {
    match old.strip_prefix("k8s_ns.") {
        Some(namespace) => qualified(&format!("kns.{namespace}"), false),
        None => qualified(old, false),
    }
}

/// An address as part of a name; IPv6 with all its zeros.
fn of_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string().replace('.', "-"),
        IpAddr::V6(v6) => v6.segments().map(|part| format!("{part:04x}")).join("-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_those_of_v3() {
        for (old, expected) in [
            ("edge-1", "edge-1"),
            ("Edge/1", "edge.1"),
            ("-a__b..-c-", "a-b.c"),
            ("a.-.b", "a.b"),
            ("\u{fc}bel", "bel"),
        ] {
            assert_eq!(normal(old), expected, "{old}");
        }
        assert_eq!(qualified("fine.name", false), "fine.name");
        // The first 32 bits of `printf '%s' My_Policy | sha1sum`.
        assert_eq!(qualified("My_Policy", true), "my-policy-25c5e100");
        assert!(qualified("a.b", true).starts_with("a-b-"));
        assert_eq!(profile_name("k8s_ns.default"), "kns.default");
        assert_eq!(
            of_address("fd00::1".parse().unwrap()),
            "fd00-0000-0000-0000-0000-0000-0000-0001"
        );
    }

    #[test]
    fn rules_tags_and_pools_of_v1() {
        let policy = json!({"apiVersion": "v1", "kind": "policy", "metadata": {"name": "web"},
            "spec": {"order": 10, "selector": "calico/k8s_ns == 'a'", "ingress": [
                {"action": "allow", "protocol": "tcp", "source": {"tag": "db",
                    "selector": "x == 'y' || z == 'w'", "net": "10.0.0.1/8"},
                 "destination": {"ports": [80, "1:2"]}},
                {"action": "pass", "!protocol": "icmp", "source": {"!net": "fd00::1"}}]}});
        let new = to_v3(&policy).unwrap();
        assert_eq!(new["kind"], "GlobalNetworkPolicy");
        assert_eq!(new["metadata"]["name"], "default.web");
        let expected = json!({"order": 10, "tier": "default", "types": ["Ingress"], "egress": [],
            "selector": "projectcalico.org/namespace == 'a'", "ingress": [
                {"action": "Allow", "protocol": "TCP", "source": {
                    "selector": "(x == 'y' || z == 'w') && db == ''", "nets": ["10.0.0.0/8"]},
                 "destination": {"ports": [80, "1:2"]}},
                {"action": "Pass", "notProtocol": "ICMP",
                 "source": {"notNets": ["fd00::1/128"]}}]});
        assert_eq!(new["spec"], expected);

        let pool = json!({"apiVersion": "v1", "kind": "ipPool",
            "metadata": {"cidr": "10.1.0.0/16"},
            "spec": {"ipip": {"enabled": true, "mode": "cross-subnet"}, "nat-outgoing": true}});
        let new = to_v3(&pool).unwrap();
        assert_eq!(new["metadata"]["name"], "10-1-0-0-16");
        let spec = &new["spec"];
        assert_eq!(
            (&spec["ipipMode"], &spec["natOutgoing"]),
            (&json!("CrossSubnet"), &json!(true))
        );

        let profile = json!({"apiVersion": "v1", "kind": "profile",
            "metadata": {"name": "p", "tags": ["db"], "labels": {"a": "b"}}, "spec": {}});
        assert_eq!(to_v3(&profile).unwrap()["spec"]["labelsToApply"], json!({"a": "b", "db": ""}));
    }

    #[test]
    fn peers_nodes_and_host_endpoints_of_v1() {
        let of = |kind: &str, metadata: Value, spec: Value| {
            to_v3(&json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec}))
        };
        let peer = json!({"scope": "node", "node": "Edge-1", "peerIP": "192.0.2.1"});
        let new = of("bgpPeer", peer, json!({"asNumber": 64513})).unwrap();
        assert_eq!(new["metadata"]["name"], "edge-1.192-0-2-1");
        let expected = json!({"asNumber": 64513, "node": "edge-1", "peerIP": "192.0.2.1"});
        assert_eq!(new["spec"], expected);
        let node = of("node", json!({"name": "n"}), json!({"bgp": {"ipv4Address": "10.0.0.1/24"}}));
        assert_eq!(node.unwrap()["spec"]["bgp"]["ipv4Address"], "10.0.0.1/24");
        let host = of(
            "hostEndpoint",
            json!({"name": "eth0", "node": "n", "labels": {"a": "b"}}),
            json!({"interfaceName": "eth0", "profiles": ["p"],
                "ports": [{"name": "w", "protocol": "tcp", "port": 80}]}),
        );
        let host = host.unwrap();
        assert_eq!(host["metadata"], json!({"name": "n.eth0", "labels": {"a": "b"}}));
        assert_eq!(host["spec"]["ports"][0]["protocol"], "TCP");
        for (kind, metadata, spec, words) in [
            ("tier", json!({}), json!({}), "'tier' is not supported"),
            (
                "bgpPeer",
                json!({"scope": "node", "peerIP": "192.0.2.1"}),
                json!({}),
                "metadata.node",
            ),
            ("bgpPeer", json!({"scope": "global", "peerIP": "x"}), json!({}), "metadata.peerIP"),
            ("ipPool", json!({"cidr": "x"}), json!({}), "metadata.cidr"),
            ("policy", json!({}), json!({}), "metadata.name"),
            (
                "policy",
                json!({"name": "p"}),
                json!({"ingress": [{"action": "x"}]}),
                "spec.ingress[0].action",
            ),
            ("policy", json!({"name": "p"}), json!({"types": ["x"]}), "spec.types"),
            ("node", json!({"name": "n"}), json!({"bgp": {}}), "spec.bgp"),
        ] {
            let error = of(kind, metadata, spec).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let new = to_v3(&json!({"apiVersion": "projectcalico.org/v3", "kind": "Node"}));
        assert!(new.unwrap_err().contains("nothing to convert"));
    }
}
