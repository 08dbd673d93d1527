//! Which Secrets are followed: those that BGPPeers and BGPConfigurations name, each by itself, so
//! that a right to nothing but these is enough (`resourceNames` in a Role).
//!
//! One that may not be read, or is not there, counts as absent: the session that needs it says so.

use super::follow::{Source, What};
use super::{Server, kind};
use crate::resource::Resource;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most Secrets that are followed, in each namespace.
const SECRETS_MAX: usize = 64;

/// What was asked for so far.
#[derive(Debug)]
pub(super) struct Wanted {
    names: BTreeSet<String>,
    /// Number of the next task.
    next: usize,
}

impl Wanted {
    /// None yet; numbers of tasks begin at `next`.
    pub(super) fn new(next: usize) -> Wanted {
        Wanted { names: BTreeSet::new(), next }
    }

    /// Tasks for Secrets that news name for the first time.
    pub(super) fn of(&mut self, server: &Arc<Server>, what: &What) -> Vec<Source> {
        let objects = match what {
            What::All(objects) => objects.iter().collect(),
            What::Put(object) => vec![object.as_ref()],
            _ => Vec::new(),
        };
        let resources = objects.into_iter().filter_map(|object| object.resource.as_ref().ok());
        let named = resources.flatten().filter_map(|(_, resource)| match resource {
            Resource::BgpPeer(peer) => peer.password.as_ref(),
            Resource::BgpConfiguration(own) => own.mesh_password.as_ref(),
            _ => None,
        });
        let mut tasks = Vec::new();
        for name in named.map(|key| key.name.as_str()) {
            if self.names.contains(name) {
                continue;
            }
            if self.names.len() == SECRETS_MAX {
                tracing::warn!(secret = name, "not read: {SECRETS_MAX} are the most");
                continue;
            }
            self.names.insert(name.to_owned());
            let Some(place) = kind::place("Secret", false) else { continue };
            for namespace in &server.secret_namespaces {
                let selector = kind::escaped(&format!("metadata.name={name}"));
                let path = format!("{}?fieldSelector={selector}", place.path_in(namespace));
                let (server, place) = (server.clone(), place.clone());
                tasks.push(Source { server, place, path, source: self.next });
                self.next += 1;
            }
        }
        tasks
    }
}
