//! What is stored, and what has happened to it since the last compaction.

use super::kinds::{self, Kind};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Events that watches can go on from.
const EVENTS: usize = 100_000;
const NOW: &str = "2026-01-05T09:00:00Z";

/// Plural with its group, namespace, name.
pub(crate) type Key = (String, String, String);

/// Something that happened.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) version: u64,
    /// `ADDED`, `MODIFIED`, `DELETED`.
    pub(crate) what: &'static str,
    pub(crate) key: Key,
    pub(crate) object: Arc<Value>,
}

/// A refusal: its code of HTTP, reason, and words.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) u16, pub(crate) &'static str, pub(crate) String);

/// What a server serves.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) kinds: Vec<Kind>,
    inner: Mutex<Inner>,
    /// The newest version.
    pub(crate) newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub(crate) objects: BTreeMap<Key, Arc<Value>>,
    pub(crate) version: u64,
    /// Versions up to this one are forgotten.
    pub(crate) compacted: u64,
    pub(crate) events: VecDeque<Event>,
    /// What is left of lists that come in parts, by their token.
    pub(crate) lists: BTreeMap<String, (u64, Vec<Arc<Value>>)>,
    /// What was asked for without the right to it: verb and resource.
    pub(crate) forbidden: Vec<String>,
    /// Answers to writes that are to be lost after they were done.
    pub(crate) lose: usize,
    /// One answer of so many is lost besides.
    pub(crate) lose_every: Option<usize>,
    pub(crate) writes: usize,
}

impl State {
    /// With Calico's resources in the old group, or the new one.
    pub(crate) fn new(native: bool) -> Arc<State> {
        let inner = Inner { version: 1, compacted: 1, ..Inner::default() };
        let (newest, _) = watch::channel(1);
        let state = State { kinds: kinds::all(native), inner: Mutex::new(inner), newest };
        for name in ["default", "kube-system"] {
            state.put_kind("Namespace", json!({"metadata": {"name": name}}));
        }
        Arc::new(state)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an object of a kind as it is, as a controller would; panics when it cannot be.
    #[allow(dead_code, reason = "not every user of this folder calls it")]
    pub(crate) fn put_kind(&self, kind: &str, object: Value) {
        let kind = *self.kinds.iter().find(|known| known.kind == kind).unwrap();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let key = key_of(&kind, &namespace, name);
        let known = self.lock().objects.contains_key(&key);
        let done = match known {
            true => self.update(&kind, &key, object, ""),
            false => self.create(&kind, &namespace, object),
        };
        done.unwrap();
    }

    /// The object of a kind.
    #[allow(dead_code, reason = "not every user of this folder calls it")]
    pub(crate) fn object(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let inner = self.lock();
        let wanted = |key: &&Key| {
            key.0.rsplit('/').next() == Some(plural) && key.1 == namespace && key.2 == name
        };
        let key = inner.objects.keys().find(wanted)?;
        inner.objects.get(key).map(|object| Value::clone(object))
    }

    /// Forgets all versions until now: watches and lists cannot go on from them.
    #[allow(dead_code, reason = "not every user of this folder calls it")]
    pub(crate) fn compact(&self) {
        let mut inner = self.lock();
        inner.compacted = inner.version;
        inner.events.clear();
        inner.lists.clear();
    }

    pub(crate) fn create(
        &self,
        kind: &Kind,
        namespace: &str,
        mut object: Value,
    ) -> Result<Arc<Value>, Refused> {
        let mut inner = self.lock();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        check_name(kind, &name)?;
        if kind.namespaced {
            let space = ("/namespaces".to_owned(), String::new(), namespace.to_owned());
            if !inner.objects.contains_key(&space) {
                let what = format!("namespaces \"{namespace}\" not found");
                return Err(Refused(404, "NotFound", what));
            }
        }
        let key = key_of(kind, namespace, &name);
        if inner.objects.contains_key(&key) {
            let what = format!("{} \"{name}\" already exists", kind.plural);
            return Err(Refused(409, "AlreadyExists", what));
        }
        if object["metadata"]["resourceVersion"].as_str().is_some_and(|text| !text.is_empty()) {
            let what = "resourceVersion should not be set on objects to be created";
            return Err(Refused(400, "BadRequest", what.to_owned()));
        }
        let uid = format!("00000000-0000-4000-8000-{:012x}", inner.version + 1);
        let metadata = &mut object["metadata"];
        metadata["uid"] = json!(uid);
        metadata["creationTimestamp"] = json!(NOW);
        if kind.namespaced {
            metadata["namespace"] = json!(namespace);
        }
        Ok(self.store(&mut inner, kind, key, "ADDED", object))
    }

    /// Writes an object over another one. `part` is `status`, or empty.
    pub(crate) fn update(
        &self,
        kind: &Kind,
        key: &Key,
        mut object: Value,
        part: &str,
    ) -> Result<Arc<Value>, Refused> {
        let mut inner = self.lock();
        let now = inner.objects.get(key).cloned().ok_or_else(|| missing(kind, &key.2))?;
        check_version(kind, &now, &object["metadata"]["resourceVersion"])?;
        for field in ["uid", "creationTimestamp", "namespace", "name"] {
            if let Some(value) = now["metadata"].get(field) {
                object["metadata"][field] = value.clone();
            }
        }
        // Each way of writing leaves the other's part alone.
        let kept = if part == "status" { "spec" } else { "status" };
        let has_status = !kind.is_custom();
        if has_status && let Some(fields) = object.as_object_mut() {
            match now.get(kept) {
                Some(value) => drop(fields.insert(kept.to_owned(), value.clone())),
                None => drop(fields.remove(kept)),
            }
        }
        object["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
        object["kind"] = json!(kind.kind);
        object["apiVersion"] = json!(kind.api);
        if object == *now {
            return Ok(now);
        }
        let finalizers = object["metadata"]["finalizers"].as_array();
        let is_over = object["metadata"].get("deletionTimestamp").is_some()
            && finalizers.is_none_or(Vec::is_empty);
        match is_over {
            true => Ok(self.remove(&mut inner, key.clone(), &object)),
            false => Ok(self.store(&mut inner, kind, key.clone(), "MODIFIED", object)),
        }
    }

    /// Removes an object, if it is as the preconditions say.
    pub(crate) fn delete(
        &self,
        kind: &Kind,
        key: &Key,
        options: &Value,
    ) -> Result<Arc<Value>, Refused> {
        let mut inner = self.lock();
        let now = inner.objects.get(key).cloned().ok_or_else(|| missing(kind, &key.2))?;
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if wanted.is_string() && *wanted != now["metadata"][field] {
                let what = format!(
                    "Precondition failed: {field} in precondition: {wanted}, in object meta: {}",
                    now["metadata"][field]
                );
                return Err(Refused(409, "Conflict", what));
            }
        }
        let mut object = Value::clone(&now);
        if object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty()) {
            object["metadata"]["deletionTimestamp"] = json!(NOW);
            return Ok(self.store(&mut inner, kind, key.clone(), "MODIFIED", object));
        }
        if kind.plural == "namespaces" {
            let inside = inner.objects.keys().filter(|other| other.1 == key.2);
            for other in inside.cloned().collect::<Vec<Key>>() {
                let object = Value::clone(&inner.objects[&other]);
                self.remove(&mut inner, other, &object);
            }
        }
        Ok(self.remove(&mut inner, key.clone(), &object))
    }

    fn store(
        &self,
        inner: &mut Inner,
        kind: &Kind,
        key: Key,
        what: &'static str,
        mut object: Value,
    ) -> Arc<Value> {
        object["kind"] = json!(kind.kind);
        object["apiVersion"] = json!(kind.api);
        inner.version += 1;
        object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        let object = Arc::new(object);
        inner.objects.insert(key.clone(), object.clone());
        self.tell(inner, what, key, object.clone());
        object
    }

    fn remove(&self, inner: &mut Inner, key: Key, object: &Value) -> Arc<Value> {
        inner.objects.remove(&key);
        inner.version += 1;
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        let object = Arc::new(object);
        self.tell(inner, "DELETED", key, object.clone());
        object
    }

    fn tell(&self, inner: &mut Inner, what: &'static str, key: Key, object: Arc<Value>) {
        inner.events.push_back(Event { version: inner.version, what, key, object });
        if inner.events.len() > EVENTS
            && let Some(gone) = inner.events.pop_front()
        {
            inner.compacted = gone.version;
        }
        self.newest.send_replace(inner.version);
    }
}

pub(crate) fn key_of(kind: &Kind, namespace: &str, name: &str) -> Key {
    let namespace = if kind.namespaced { namespace } else { "" };
    (format!("{}/{}", kind.group(), kind.plural), namespace.to_owned(), name.to_owned())
}

pub(crate) fn missing(kind: &Kind, name: &str) -> Refused {
    Refused(404, "NotFound", format!("{} \"{name}\" not found", kind.plural))
}

/// A DNS-1123 subdomain.
fn check_name(kind: &Kind, name: &str) -> Result<(), Refused> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let good = name.len() <= 253 && name.chars().all(allowed);
    match good && edge(name.chars().next()) && edge(name.chars().last()) {
        true => Ok(()),
        false => {
            let what = format!("{} \"{name}\" is invalid: metadata.name", kind.kind);
            Err(Refused(422, "Invalid", what))
        }
    }
}

fn check_version(kind: &Kind, now: &Value, wanted: &Value) -> Result<(), Refused> {
    match wanted.as_str().filter(|text| !text.is_empty()) {
        Some(wanted) if now["metadata"]["resourceVersion"] != wanted => {
            let what = format!(
                "Operation cannot be fulfilled on {} {}: the object has been modified; please \
                 apply your changes to the latest version and try again",
                kind.plural, now["metadata"]["name"]
            );
            Err(Refused(409, "Conflict", what))
        }
        None if kind.is_custom() => {
            let what = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an \
                        update";
            Err(Refused(422, "Invalid", what.to_owned()))
        }
        _ => Ok(()),
    }
}

/// RFC 7396.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (name, value) in patch {
        match value {
            Value::Null => drop(target.as_object_mut().and_then(|object| object.remove(name))),
            value => merge(&mut target[name.as_str()], value),
        }
    }
}
