//! Kubernetes' NetworkPolicies as Calico shows them: NetworkPolicy `knp.default.NAME`, to be read
//! only. What enforces them reads Kubernetes' own form.

use super::Kubernetes;
use super::kind::V3;
use crate::resource::Key;
use crate::store::datastore::{Document, Listing, StoreError};
use serde_json::{Map, Value, json};

/// The kind of policies in Kubernetes' own form.
const STORED: &str = "KubernetesNetworkPolicy";
/// Order of all of them.
const ORDER: u32 = 1000;
const PODS: &str = "projectcalico.org/orchestrator == 'k8s'";

impl Kubernetes {
    /// All NetworkPolicies, Calico's and Kubernetes'.
    pub(super) async fn list_policies(&self) -> Result<Listing, StoreError> {
        let mut listing = self.list_placed("NetworkPolicy").await?;
        let more = self.list_placed(STORED).await?;
        for found in &more.documents {
            listing.documents.push(policy(found)?);
        }
        listing.documents.sort_by(|one, other| one.key.cmp(&other.key));
        listing.faults.extend(more.faults);
        Ok(listing)
    }

    /// One, by Calico's name.
    pub(super) async fn get_knp(&self, key: &Key, name: &str) -> Result<Document, StoreError> {
        let (kind, name) = (STORED.to_owned(), name.to_owned());
        let wanted = Key { kind, namespace: key.namespace.clone(), name };
        match self.get_placed(&wanted).await {
            Err(StoreError::NotFound(_)) => Err(StoreError::NotFound(key.clone())),
            outcome => policy(&outcome?),
        }
    }
}

/// Calico's form of a policy.
fn policy(found: &Document) -> Result<Document, StoreError> {
    let spec = found.spec();
    let has = |direction: &str| spec[direction].as_array().is_some_and(|rules| !rules.is_empty());
    let types = match spec["policyTypes"].as_array() {
        Some(types) if !types.is_empty() => Value::Array(types.clone()),
        _ if has("egress") => json!(["Ingress", "Egress"]),
        _ => json!(["Ingress"]),
    };
    let mut shown = json!({"order": ORDER, "tier": "default", "types": types,
        "selector": pods(&spec["podSelector"])});
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = spec[direction].as_array().into_iter().flatten();
        let rules: Vec<Value> = rules.flat_map(|rule| expand(rule, peers)).collect();
        if !rules.is_empty() {
            shown[direction] = Value::Array(rules);
        }
    }
    let mut metadata = json!({"name": format!("{}{}", Key::OF_KUBERNETES, found.key.name),
        "namespace": found.key.namespace});
    for field in ["uid", "creationTimestamp"] {
        if let Some(value) = found.value.get("metadata").and_then(|metadata| metadata.get(field)) {
            metadata[field] = value.clone();
        }
    }
    let mut document = Document::new(json!({"kind": "NetworkPolicy", "apiVersion": V3,
        "metadata": metadata, "spec": shown}))?;
    document.revision.clone_from(&found.revision);
    Ok(document)
}

/// One rule for each peer and protocol.
fn expand(rule: &Value, peers: &str) -> Vec<Value> {
    let list = |name: &str| rule[name].as_array().cloned().unwrap_or_default();
    let entities: Vec<Value> = list(peers).iter().map(entity).collect();
    let entities = if entities.is_empty() { vec![json!({})] } else { entities };
    let mut protocols: Vec<(Option<String>, Vec<Value>)> = Vec::new();
    for port in list("ports") {
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        let number = match (&port["port"], &port["endPort"]) {
            (Value::Null, _) => None,
            (first, Value::Null) => Some(first.clone()),
            (first, last) => Some(json!(format!("{first}:{last}"))),
        };
        match protocols.iter_mut().find(|(known, _)| known.as_ref() == Some(&protocol)) {
            // A port that names none is all of them.
            Some((_, ports)) if ports.is_empty() || number.is_none() => ports.clear(),
            Some((_, ports)) => ports.extend(number),
            None => protocols.push((Some(protocol), number.into_iter().collect())),
        }
    }
    if protocols.is_empty() {
        protocols.push((None, Vec::new()));
    }
    let one = |entity: &Value, (protocol, ports): &(Option<String>, Vec<Value>)| {
        let mut rule = json!({"action": "Allow"});
        let (mut source, mut destination) = match peers {
            "from" => (entity.clone(), json!({})),
            _ => (json!({}), entity.clone()),
        };
        if let Some(protocol) = protocol {
            rule["protocol"] = json!(protocol);
        }
        if !ports.is_empty() {
            destination["ports"] = Value::Array(ports.clone());
        }
        for (side, value) in [("source", source.take()), ("destination", destination.take())] {
            if value.as_object().is_some_and(|value| !value.is_empty()) {
                rule[side] = value;
            }
        }
        rule
    };
    let each =
        |entity: &Value| protocols.iter().map(|ports| one(entity, ports)).collect::<Vec<_>>();
    entities.iter().flat_map(each).collect()
}

fn entity(peer: &Value) -> Value {
    let block = &peer["ipBlock"];
    if block.is_object() {
        let mut entity = json!({"nets": [block["cidr"]]});
        if block["except"].as_array().is_some_and(|except| !except.is_empty()) {
            entity["notNets"] = block["except"].clone();
        }
        return entity;
    }
    let mut entity = json!({"selector": pods(&peer["podSelector"])});
    if peer["namespaceSelector"].is_object() {
        let text = terms(&peer["namespaceSelector"]).join(" && ");
        entity["namespaceSelector"] = json!(if text.is_empty() { "all()" } else { &text });
    }
    entity
}

fn pods(selector: &Value) -> String {
    let mut all = vec![PODS.to_owned()];
    all.extend(terms(selector));
    all.join(" && ")
}

/// Kubernetes' selector in Calico's language.
fn terms(selector: &Value) -> Vec<String> {
    let none = Map::new();
    let labels = selector["matchLabels"].as_object().unwrap_or(&none).iter();
    let mut terms: Vec<String> = labels
        .map(|(name, value)| format!("{name} == '{}'", value.as_str().unwrap_or_default()))
        .collect();
    for one in selector["matchExpressions"].as_array().into_iter().flatten() {
        let name = one["key"].as_str().unwrap_or_default();
        let values = one["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let values: Vec<String> = values.map(|value| format!("'{value}'")).collect();
        let values = values.join(", ");
        terms.push(match one["operator"].as_str().unwrap_or_default() {
            "In" => format!("{name} in {{ {values} }}"),
            "NotIn" => format!("{name} not in {{ {values} }}"),
            "DoesNotExist" => format!("! has({name})"),
            _ => format!("has({name})"),
        });
    }
    terms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_of_kubernetes_in_calico_s_form() {
        let found = json!({"kind": STORED, "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": {}, "namespaceSelector": {"matchExpressions":
                        [{"key": "env", "operator": "In", "values": ["a", "b"]}]}},
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                    "ports": [{"port": 80}, {"port": 1, "endPort": 9}, {"protocol": "UDP"}]}]}});
        let shown = policy(&Document::new(found).unwrap()).unwrap();
        assert_eq!(shown.key.name, "knp.default.web");
        let spec = shown.spec();
        assert_eq!(spec["selector"], format!("{PODS} && app == 'web'"));
        let pods = json!({"selector": PODS, "namespaceSelector": "env in { 'a', 'b' }"});
        let nets = json!({"nets": ["10.0.0.0/8"], "notNets": ["10.1.0.0/16"]});
        let rule = |source: &Value, protocol: &str| {
            let mut rule = json!({"action": "Allow", "protocol": protocol, "source": source});
            if protocol == "TCP" {
                rule["destination"] = json!({"ports": [80, "1:9"]});
            }
            rule
        };
        let rules =
            [rule(&pods, "TCP"), rule(&pods, "UDP"), rule(&nets, "TCP"), rule(&nets, "UDP")];
        assert_eq!(spec["ingress"], json!(rules));
        assert!(crate::store::save::check(&shown).is_ok());
        let all = json!({"kind": STORED, "metadata": {"name": "all", "namespace": "shop"},
            "spec": {"podSelector": {}, "ingress": [{}]}});
        let shown = policy(&Document::new(all).unwrap()).unwrap();
        assert_eq!(shown.spec()["ingress"], json!([{"action": "Allow"}]));
    }
}
