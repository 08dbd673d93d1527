//! The datastore: where Calico's resources are, read and written through [`datastore::Datastore`].
//!
//! The embedded store ([`embedded`]) is a directory of Calico YAML or JSON: [`directory`] turns its
//! content into events, [`watch`] says when to look again. [`etcd`] is Calico's own, [`kubernetes`]
//! the API server. What cannot be used loses nothing: what it said before stays in force, and the
//! fault is reported with its place and mend.

mod any;
pub mod datastore;
pub mod directory;
mod document;
pub mod embedded;
pub mod etcd;
pub(crate) mod gate;
pub mod kubernetes;
pub mod save;
#[cfg(test)]
pub(crate) mod tests;
mod text;
pub mod watch;

pub use any::Store;
pub(crate) use document::resource as typed;

use crate::resource::{Key, Resource};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The resource is new or different.
    Put(Key, Resource),
    /// It is gone.
    Remove(Key),
}

/// What the store holds, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Files in use; in etcd keys, in Kubernetes objects.
    pub files: usize,
    /// Resources by kind; kinds without meaning here are among them.
    pub resources: BTreeMap<String, usize>,
    /// Faults, by file and line.
    pub faults: Vec<Fault>,
    /// Why what is known is old; none while the store answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
}

/// A store that does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// When it was heard last, in seconds since 1970.
    pub since: u64,
    /// What became of the last try.
    pub why: String,
}

/// Something in the store that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// The file, or the directory itself; in etcd the key, in Kubernetes the path.
    pub file: String,
    /// Line in it, from 1; 0 for the whole.
    pub line: u64,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub mend: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {} ({})", self.file, self.what, self.mend),
            line => write!(f, "{}:{line}: {} ({})", self.file, self.what, self.mend),
        }
    }
}
