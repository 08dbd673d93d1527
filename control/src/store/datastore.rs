//! What every datastore can do, and the form in which it hands out what it holds.
//!
//! A [`Document`] is a whole resource as JSON, with all its fields, also those that mean nothing
//! here: who changes one field writes the others back as they were. Writes compare the revision
//! that was read, so that of two writers one is told of the other. IPAM's objects are documents
//! too, in the form that Calico gives them on Kubernetes (`kind`, `metadata`, `spec`).

use super::Fault;
use super::watch::Batch;
use crate::resource::Key;
use serde_json::{Map, Value};
use std::future::Future;
use tokio::sync::mpsc;

/// A datastore.
///
/// Its implementers: [`super::embedded::Embedded`], [`super::etcd::Etcd`],
/// [`super::kubernetes::Kubernetes`].
pub trait Datastore: Send + Sync {
    /// All documents of a kind, by namespace and name, and what of them cannot be read.
    fn list(&self, kind: &str) -> impl Future<Output = Result<Listing, StoreError>> + Send;

    /// IPAM's affinities of a host; those of others may be among them.
    fn list_affinities(
        &self,
        _host: &str,
    ) -> impl Future<Output = Result<Listing, StoreError>> + Send {
        self.list("BlockAffinity")
    }

    /// One document; [`StoreError::NotFound`] where there is none.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Document, StoreError>> + Send;

    /// One document, or none where there is none.
    fn find(&self, key: &Key) -> impl Future<Output = Result<Option<Document>, StoreError>> + Send {
        async {
            match self.get(key).await {
                Ok(found) => Ok(Some(found)),
                Err(StoreError::NotFound(_)) => Ok(None),
                Err(error) => Err(error),
            }
        }
    }

    /// Writes a document that is not there yet, or [`StoreError::Exists`]. Answers it with its
    /// revision.
    fn create(
        &self,
        document: Document,
    ) -> impl Future<Output = Result<Document, StoreError>> + Send;

    /// Writes a document over the revision that it carries: [`StoreError::Conflict`] where it has
    /// changed since, [`StoreError::NotFound`] where it is gone.
    fn update(
        &self,
        document: Document,
    ) -> impl Future<Output = Result<Document, StoreError>> + Send;

    /// Removes a document if it still has the revision that it carries; errors as of `update`.
    fn delete(&self, document: &Document) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What the daemon acts on: the whole content, then its changes, until the receiver is
    /// dropped. Where changes were missed, what is there is compared with what was told, and only
    /// the difference is told. Needs a runtime.
    fn watch(&self) -> mpsc::Receiver<Batch>;
}

/// A resource with all its fields.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its identity; agrees with `value`.
    pub key: Key,
    /// Kind, apiVersion, metadata, spec; `metadata.resourceVersion` is not in it.
    pub value: Map<String, Value>,
    /// Which of its states this is; none before it is written.
    pub revision: Option<Revision>,
}

/// A state of a document, or of a whole store; what it looks like is the store's matter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub String);

/// Documents of one kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Listing {
    /// Those that can be read.
    pub documents: Vec<Document>,
    /// Those that cannot.
    pub faults: Vec<Fault>,
    /// State of the store that this was read from.
    pub revision: Option<Revision>,
}

/// Why a store did not do what it was asked for. The words are calicoctl's where it has any.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no such document.
    #[error("resource does not exist: {}", name(.0))]
    NotFound(Key),
    /// There is one already.
    #[error("resource already exists: {}", name(.0))]
    Exists(Key),
    /// It has changed since it was read.
    #[error("update conflict: {}", name(.0))]
    Conflict(Key),
    /// What is stored, or to be stored, has not the right form.
    #[error("{}: {what}", name(.key))]
    Invalid {
        /// Which.
        key: Key,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// The store does not answer; what was to be written may have been written.
    #[error("the datastore does not answer: {0}")]
    Unavailable(String),
    /// The store answers, and refuses.
    #[error("the datastore refuses: {0}")]
    Refused(String),
}

/// `Kind(name)` or `Kind(namespace/name)`.
fn name(key: &Key) -> String {
    match key.namespace.is_empty() {
        true => format!("{}({})", key.kind, key.name),
        false => format!("{}({}/{})", key.kind, key.namespace, key.name),
    }
}

impl Document {
    /// A document that is not stored yet; its identity is read from the value.
    pub fn new(value: Value) -> Result<Document, StoreError> {
        let text = |value: Option<&Value>| {
            value.and_then(Value::as_str).map(str::to_owned).unwrap_or_default()
        };
        let metadata = value.get("metadata");
        let key = Key {
            kind: text(value.get("kind")),
            namespace: text(metadata.and_then(|metadata| metadata.get("namespace"))),
            name: text(metadata.and_then(|metadata| metadata.get("name"))),
        };
        let invalid = |key: &Key, what: &str| {
            Err(StoreError::Invalid { key: key.clone(), what: what.to_owned() })
        };
        match value {
            Value::Object(_) if key.kind.is_empty() => invalid(&key, "kind is missing"),
            Value::Object(_) if key.name.is_empty() => invalid(&key, "metadata.name is missing"),
            Value::Object(mut value) => {
                let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
                let revision = metadata.and_then(|metadata| metadata.remove("resourceVersion"));
                let revision = revision.as_ref().and_then(Value::as_str).filter(|r| !r.is_empty());
                let revision = revision.map(|text| Revision(text.to_owned()));
                Ok(Document { key, value, revision })
            }
            _ => invalid(&key, "it is no object with kind, metadata and spec"),
        }
    }

    /// The `spec`; an empty one where there is none.
    pub fn spec(&self) -> Value {
        self.value.get("spec").cloned().unwrap_or_else(|| Value::Object(Map::new()))
    }

    /// The same document with another `spec`.
    pub fn with_spec(mut self, spec: Value) -> Document {
        self.value.insert("spec".to_owned(), spec);
        self
    }

    /// The revision, for a write that compares it.
    pub(crate) fn read_revision(&self) -> Result<&Revision, StoreError> {
        let what = "metadata.resourceVersion is missing: read it first".to_owned();
        self.revision.as_ref().ok_or(StoreError::Invalid { key: self.key.clone(), what })
    }
}
