//! Reading resources from people's files, and what Calico's client adds before it writes one.
//!
//! A new resource gets a uid and the time; one that is replaced keeps those that it had. Policies
//! are labelled with their tier and get their types, endpoints of pods get the labels that
//! selectors expect. What is invalid is refused with the field's name.

use super::datastore::{Datastore, Document, StoreError};
use super::{Fault, document, text};
use crate::ipam::time;
use crate::random;
use serde_json::{Map, Value, json};

/// Tries of a write that others are first with.
const TRIES: usize = 100;

/// The resources of a text, Lists and arrays taken apart. `name` stands in faults.
pub fn parse(name: &str, content: &str) -> Result<Vec<Document>, Fault> {
    let document = |value| {
        Document::new(value).map_err(|error| Fault {
            file: name.to_owned(),
            line: 0,
            what: error.to_string(),
            mend: "a resource with kind, apiVersion, metadata and spec".to_owned(),
        })
    };
    values(name, content)?.into_iter().map(document).collect()
}

/// The values of a text, lists taken apart, whatever they are.
pub fn values(name: &str, content: &str) -> Result<Vec<Value>, Fault> {
    // As calicoctl prints several resources.
    let begin = content.trim_start();
    if begin.starts_with('[') || begin.starts_with("- ") {
        return document::parse(content).map_err(|e| document::syntax_fault(name, 0, &e));
    }
    Ok(text::values(name, content)?.into_iter().map(|(_, value)| value).collect())
}

/// YAML of a value.
pub fn yaml(value: &Value) -> String {
    text::written(value)
}

/// What is wrong with a resource, as far as margay reads its kind.
pub fn check(document: &Document) -> Result<(), StoreError> {
    let value = Value::Object(document.value.clone());
    let invalid = |(what, mend)| StoreError::Invalid {
        key: document.key.clone(),
        what: format!("error with field {what} ({mend})"),
    };
    super::typed(&document.key.kind, &value).map(drop).map_err(invalid)
}

/// Creates a resource.
pub async fn create(store: &impl Datastore, document: Document) -> Result<Document, StoreError> {
    if document.revision.is_some() {
        let what = "error with field ResourceVersion (it must not be set to create a resource)";
        return Err(StoreError::Invalid { key: document.key, what: what.to_owned() });
    }
    let mut document = completed(document);
    check(&document)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let metadata = metadata(&mut document);
    metadata.entry("uid").or_insert_with(|| json!(uid()));
    metadata
        .entry("creationTimestamp")
        .or_insert_with(|| json!(time::format(now.unwrap_or_default().as_secs())));
    store.create(document).await
}

/// Replaces a resource that is there. Without a revision of its own it replaces whatever is.
pub async fn replace(store: &impl Datastore, document: Document) -> Result<Document, StoreError> {
    let given = document.revision.clone();
    let document = completed(document);
    check(&document)?;
    for _ in 0..TRIES {
        let now = store.get(&document.key).await?;
        let mut next = document.clone();
        next.revision = given.clone().or(now.revision.clone());
        let before = now.value.get("metadata").and_then(Value::as_object);
        for field in ["uid", "creationTimestamp"] {
            if let Some(value) = before.and_then(|metadata| metadata.get(field)) {
                metadata(&mut next).insert(field.to_owned(), value.clone());
            }
        }
        match store.update(next).await {
            Err(StoreError::Conflict(_)) if given.is_none() => {}
            outcome => return outcome,
        }
    }
    Err(StoreError::Conflict(document.key))
}

/// Creates a resource, or replaces the one that is there.
pub async fn apply(store: &impl Datastore, document: Document) -> Result<Document, StoreError> {
    match replace(store, document.clone()).await {
        Err(StoreError::NotFound(_)) => create(store, document).await,
        outcome => outcome,
    }
}

/// Removes a resource, whatever state it is in.
pub async fn remove(store: &impl Datastore, document: &Document) -> Result<(), StoreError> {
    for _ in 0..TRIES {
        let now = store.get(&document.key).await?;
        let wanted = document.revision.as_ref();
        if wanted.is_some_and(|wanted| now.revision.as_ref() != Some(wanted)) {
            return Err(StoreError::Conflict(document.key.clone()));
        }
        match store.delete(&now).await {
            Err(StoreError::Conflict(_)) if wanted.is_none() => {}
            outcome => return outcome,
        }
    }
    Err(StoreError::Conflict(document.key.clone()))
}

fn metadata(document: &mut Document) -> &mut Map<String, Value> {
    let metadata = document.value.entry("metadata").or_insert_with(|| json!({}));
    if !metadata.is_object() {
        *metadata = json!({});
    }
    metadata.as_object_mut().expect("it was made an object just now")
}

/// With what Calico's client fills in.
fn completed(mut document: Document) -> Document {
    let spec = document.spec();
    let text = |field: &str, default: &str| {
        spec[field].as_str().filter(|text| !text.is_empty()).unwrap_or(default).to_owned()
    };
    let namespace = document.key.namespace.clone();
    let labels = match document.key.kind.as_str() {
        "GlobalNetworkPolicy"
        | "NetworkPolicy"
        | "StagedGlobalNetworkPolicy"
        | "StagedNetworkPolicy" => {
            let has = |field: &str| spec[field].as_array().is_some_and(|rules| !rules.is_empty());
            if spec["types"].as_array().is_none_or(Vec::is_empty) {
                let types = match (has("ingress"), has("egress")) {
                    (_, false) => json!(["Ingress"]),
                    (false, true) => json!(["Egress"]),
                    (true, true) => json!(["Ingress", "Egress"]),
                };
                let mut spec = spec.as_object().cloned().unwrap_or_default();
                spec.insert("types".to_owned(), types);
                document = document.with_spec(Value::Object(spec));
            }
            vec![("projectcalico.org/tier", text("tier", "default"))]
        }
        "WorkloadEndpoint" => vec![
            ("projectcalico.org/namespace", namespace),
            ("projectcalico.org/orchestrator", text("orchestrator", "k8s")),
        ],
        _ => Vec::new(),
    };
    if !labels.is_empty() {
        let place = metadata(&mut document).entry("labels").or_insert_with(|| json!({}));
        if let Some(place) = place.as_object_mut() {
            place.extend(labels.into_iter().map(|(name, value)| (name.to_owned(), json!(value))));
        }
    }
    document
}

/// A random identifier (RFC 9562, version 4).
fn uid() -> String {
    let mut bytes = random::bytes::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = random::hex(&bytes);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::contract::{document, node};
    use crate::store::tests::memory::Memory;

    #[tokio::test]
    async fn uid_and_time_come_with_the_creation_and_stay() {
        let store = Memory::default();
        let first = apply(&store, document(node("a", "10.0.0.1/24"))).await.unwrap();
        let metadata = first.value["metadata"].clone();
        let uid = metadata["uid"].as_str().unwrap();
        assert_eq!((uid.len(), &uid[14..15]), (36, "4"));
        assert!(time::parse(metadata["creationTimestamp"].as_str().unwrap()).is_some());
        let second = apply(&store, document(node("a", "10.0.0.2/24"))).await.unwrap();
        assert_eq!(second.value["metadata"], metadata);
        let stale = replace(&store, Document { revision: first.revision, ..second.clone() }).await;
        assert_eq!(stale, Err(StoreError::Conflict(second.key.clone())));
        remove(&store, &Document { revision: None, ..second }).await.unwrap();
    }

    #[tokio::test]
    async fn invalid_fields_are_named_and_nothing_is_written() {
        let store = Memory::default();
        let bad =
            json!({"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.1/8"}});
        let error = apply(&store, document(bad)).await.unwrap_err();
        assert!(error.to_string().contains("error with field spec.cidr"), "{error}");
        assert_eq!(store.all("IPPool"), []);
    }

    #[test]
    fn policies_get_their_types_and_the_label_of_their_tier() {
        for (spec, types) in [
            (json!({}), json!(["Ingress"])),
            (json!({"egress": [{"action": "Allow"}]}), json!(["Egress"])),
            (json!({"ingress": [1], "egress": [1]}), json!(["Ingress", "Egress"])),
            (json!({"types": ["Egress"]}), json!(["Egress"])),
        ] {
            let policy = json!({"kind": "GlobalNetworkPolicy", "metadata": {"name": "p"},
                "spec": spec});
            let done = completed(document(policy));
            assert_eq!(done.spec()["types"], types);
            assert_eq!(done.value["metadata"]["labels"]["projectcalico.org/tier"], "default");
        }
    }
}
