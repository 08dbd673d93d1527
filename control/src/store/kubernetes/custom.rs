//! Calico's custom resources, and the documents that they are.
//!
//! In the group `crd.projectcalico.org/v1` the metadata that people gave a resource is kept, as
//! JSON, in one annotation of the object; only labels and annotations of Calico's own show on the
//! object itself. Its uid is the resource's with the bits of most bytes turned round.

use super::kind::{CRD, Form, Place, V3};
use crate::store::datastore::{Document, Revision};
use serde_json::{Map, Value, json};
use sha3::{Digest, Sha3_256};

/// The annotation.
const METADATA: &str = "projectcalico.org/metadata";
/// What the names of Calico's own labels and annotations have in them.
const OWN: [&str; 2] = ["projectcalico.org/", "operator.tigera.io/"];
/// What of an object's metadata is the server's alone.
const SERVERS: [&str; 3] = ["managedFields", "selfLink", "generation"];

/// Kinds whose stored name may not be their own.
pub(super) fn is_policy(kind: &str) -> bool {
    ["GlobalNetworkPolicy", "NetworkPolicy", "StagedGlobalNetworkPolicy", "StagedNetworkPolicy"]
        .contains(&kind)
}

/// IPAM's kinds, which are written often, and by nobody but IPAM.
pub(super) fn is_ipam(kind: &str) -> bool {
    ["IPAMBlock", "BlockAffinity", "IPAMHandle"].contains(&kind)
}

/// The document that an object is.
pub(super) fn decode(place: &Place, object: Value) -> Result<Document, String> {
    let Value::Object(mut object) = object else { return Err("it is no object".to_owned()) };
    let Some(Value::Object(mut stored)) = object.remove("metadata") else {
        return Err("it has no metadata".to_owned());
    };
    let text = |name: &str| stored.get(name).and_then(Value::as_str).map(str::to_owned);
    let (name, revision) = (text("name").unwrap_or_default(), text("resourceVersion"));
    SERVERS.iter().chain(&["resourceVersion"]).for_each(|field| drop(stored.remove(*field)));
    let mut metadata = match place.form {
        Form::Wrapped => unwrapped(stored)?,
        _ => stored,
    };
    let spec = object.get("spec").cloned().unwrap_or_default();
    let own = own_name(place, &name, &metadata, &spec);
    metadata.insert("name".to_owned(), json!(own));
    let is_ipam = is_ipam(place.kind) || place.kind == "IPAMConfig";
    object.insert("kind".to_owned(), json!(place.kind));
    object.insert("apiVersion".to_owned(), json!(if is_ipam { CRD } else { V3 }));
    object.insert("metadata".to_owned(), Value::Object(metadata));
    if place.kind == "BlockAffinity" && place.form == Form::Native {
        let deleted = spec["deleted"] == true;
        object["spec"]["deleted"] = json!(deleted.to_string());
    }
    let mut document = Document::new(Value::Object(object)).map_err(|error| error.to_string())?;
    document.revision = revision.map(Revision);
    Ok(document)
}

fn own_name(place: &Place, name: &str, metadata: &Map<String, Value>, spec: &Value) -> String {
    if place.kind == "IPAMHandle" {
        let id = spec["handleID"].as_str().filter(|id| id.to_lowercase() == name);
        return id.unwrap_or(name).to_owned();
    }
    if place.form != Form::Wrapped || !is_policy(place.kind) {
        return name.to_owned();
    }
    if let Some(told) = metadata.get("name").and_then(Value::as_str)
        && told != name
    {
        return told.to_owned();
    }
    let stripped = match spec["tier"].as_str().unwrap_or_default() {
        "" | "default" => name.strip_prefix("default."),
        _ => None,
    };
    stripped.unwrap_or(name).to_owned()
}

/// The metadata that people gave.
fn unwrapped(mut stored: Map<String, Value>) -> Result<Map<String, Value>, String> {
    let uid = stored.get("uid").and_then(Value::as_str).and_then(turned);
    if let Some(uid) = uid {
        stored.insert("uid".to_owned(), json!(uid));
    }
    let annotation = stored.get_mut("annotations").and_then(Value::as_object_mut);
    let Some(Value::String(text)) = annotation.and_then(|all| all.remove(METADATA)) else {
        return Ok(stored);
    };
    let mut metadata: Map<String, Value> = serde_json::from_str(&text)
        .map_err(|error| format!("annotation {METADATA} is no JSON object: {error}"))?;
    metadata.retain(|_, value| !value.is_null());
    for (field, value) in stored {
        match (field.as_str(), value) {
            ("labels" | "annotations", Value::Object(shown)) => {
                let all = metadata.entry(field).or_insert_with(|| json!({}));
                let Some(all) = all.as_object_mut() else { continue };
                for (name, value) in shown.into_iter().filter(|(name, _)| is_own(name)) {
                    all.entry(name).or_insert(value);
                }
            }
            ("uid" | "namespace", value) => drop(metadata.insert(field, value)),
            (_, value) => drop(metadata.entry(field).or_insert(value)),
        }
    }
    metadata.retain(|_, value| value.as_object().is_none_or(|object| !object.is_empty()));
    Ok(metadata)
}

/// The object of a document. `now` is the one that it replaces, of which what is not Calico's
/// stays.
pub(super) fn encode(place: &Place, document: &Document, name: &str, now: Option<Value>) -> Value {
    let mut value = document.value.clone();
    let mut metadata = match value.remove("metadata") {
        Some(Value::Object(metadata)) => metadata,
        _ => Map::new(),
    };
    label(place, &document.spec(), &mut metadata);
    let mut object = match place.form {
        Form::Wrapped => wrapped(place, metadata, now),
        _ => {
            metadata.remove("uid");
            metadata
        }
    };
    object.insert("name".to_owned(), json!(name));
    if place.namespaced {
        object.insert("namespace".to_owned(), json!(document.key.namespace));
    }
    if let Some(Revision(revision)) = &document.revision {
        object.insert("resourceVersion".to_owned(), json!(revision));
    }
    value.insert("metadata".to_owned(), Value::Object(object));
    value.insert("kind".to_owned(), json!(place.stored));
    value.insert("apiVersion".to_owned(), json!(place.api));
    if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
        // The schema takes no null where a field may be left out.
        spec.retain(|_, value| !value.is_null());
        if place.kind == "IPAMBlock" && place.form == Form::Wrapped {
            spec.entry("strictAffinity").or_insert(json!(false));
        }
        if place.kind == "BlockAffinity" && place.form == Form::Native {
            let deleted = spec.get("deleted").is_some_and(|deleted| deleted == "true");
            spec.insert("deleted".to_owned(), json!(deleted));
        }
    }
    Value::Object(value)
}

fn wrapped(place: &Place, mut own: Map<String, Value>, now: Option<Value>) -> Map<String, Value> {
    let now = now.and_then(|mut now| match now["metadata"].take() {
        Value::Object(metadata) => Some(metadata),
        _ => None,
    });
    let mut object = now.unwrap_or_default();
    SERVERS.iter().for_each(|field| drop(object.remove(*field)));
    for field in ["labels", "annotations"] {
        let foreign = match object.remove(field) {
            Some(Value::Object(all)) => all,
            _ => Map::new(),
        };
        let mut shown: Map<String, Value> =
            foreign.into_iter().filter(|(name, _)| !is_own(name)).collect();
        let given = own.get(field).and_then(Value::as_object).cloned().unwrap_or_default();
        shown.extend(given.into_iter().filter(|(name, _)| is_own(name)));
        object.insert(field.to_owned(), Value::Object(shown));
    }
    ["namespace", "resourceVersion", "uid"].iter().for_each(|field| drop(own.remove(*field)));
    if !is_policy(place.kind) {
        own.remove("name");
    }
    own.entry("creationTimestamp").or_insert(Value::Null);
    object["annotations"][METADATA] = json!(Value::Object(own).to_string());
    object
}

/// Labels that Calico finds a node's affinities by, from 3.31 on.
fn label(place: &Place, spec: &Value, metadata: &mut Map<String, Value>) {
    if place.kind != "BlockAffinity" {
        return;
    }
    let Some(node) = spec["node"].as_str() else { return };
    let is_v6 = spec["cidr"].as_str().is_some_and(|cidr| cidr.contains(':'));
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    labels["projectcalico.org/hostname-hash"] = json!(base32(&Sha3_256::digest(node)));
    labels["projectcalico.org/affinity-type"] = json!(spec["type"].as_str().unwrap_or("host"));
    labels["projectcalico.org/ip-version"] = json!(if is_v6 { "6" } else { "4" });
}

fn is_own(name: &str) -> bool {
    OWN.iter().any(|own| name.contains(own))
}

/// RFC 4648, section 6, without padding.
fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let (mut text, mut bits, mut held) = (String::new(), 0u32, 0u32);
    for byte in bytes {
        (bits, held) = (bits << 8 | u32::from(*byte), held + 8);
        while held >= 5 {
            held -= 5;
            text.push(char::from(LETTERS[(bits >> held & 31) as usize]));
        }
    }
    if held > 0 {
        text.push(char::from(LETTERS[(bits << (5 - held) & 31) as usize]));
    }
    text
}

/// A uid with the bits of each byte turned round, but for those that tell version and variant.
fn turned(uid: &str) -> Option<String> {
    let digits: String = uid.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 {
        return None;
    }
    let mut text = String::new();
    for at in 0..16 {
        let byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
        let byte = if at == 6 || at == 8 { byte } else { byte.reverse_bits() };
        if [4, 6, 8, 10].contains(&at) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Some(text)
}
