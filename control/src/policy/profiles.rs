//! Profiles by name: those of the store, and those that namespaces and service accounts are.

use crate::resource::Key;
use crate::resource::policy::places::{DEFAULT_ALLOW, allow_all, of_account, of_namespace};
use margay_acl::model::{Labels, Profile, Update};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where each profile comes from.
#[derive(Debug, Default)]
pub(super) struct Profiles {
    by_name: BTreeMap<String, Sources>,
}

#[derive(Debug, Default)]
struct Sources {
    /// A resource of kind Profile, which comes first.
    stored: Option<Arc<Profile>>,
    /// A namespace or service account.
    derived: Option<Arc<Profile>>,
    /// Endpoints and sets that name it.
    users: usize,
}

impl Profiles {
    /// The profile that exists without a resource.
    pub(super) fn default_allow() -> Update {
        Update::Profile(DEFAULT_ALLOW.to_owned(), Some(Arc::new(allow_all(Labels::new()))))
    }

    /// What a resource says, or that it is gone.
    pub(super) fn put(&mut self, key: &Key, profile: Option<Arc<Profile>>) -> Update {
        let name = match key.kind.as_str() {
            "Namespace" => of_namespace(&key.name, None).0,
            "ServiceAccount" => of_account(&key.namespace, &key.name, None).0,
            _ => key.name.clone(),
        };
        let sources = self.by_name.entry(name.clone()).or_default();
        match key.kind.as_str() {
            "Profile" => sources.stored = profile,
            _ => sources.derived = profile,
        }
        self.update(name)
    }

    /// Somebody names other profiles than before.
    pub(super) fn rename(&mut self, old: &[String], new: &[String]) -> Vec<Update> {
        for name in new {
            self.by_name.entry(name.clone()).or_default().users += 1;
        }
        for name in old {
            let sources = self.by_name.entry(name.clone()).or_default();
            sources.users = sources.users.saturating_sub(1);
        }
        let changed = old.iter().chain(new).filter(|name| is_implied(name));
        changed.map(|name| self.update(name.clone())).collect()
    }

    fn update(&mut self, name: String) -> Update {
        let Some(sources) = self.by_name.get(&name) else { return Update::Profile(name, None) };
        let known = sources.stored.as_ref().or(sources.derived.as_ref()).cloned();
        let profile = known.or_else(|| implied(&name, sources.users > 0).map(Arc::new));
        if sources.stored.is_none() && sources.derived.is_none() && sources.users == 0 {
            self.by_name.remove(&name);
        }
        Update::Profile(name, profile)
    }
}

fn is_implied(name: &str) -> bool {
    name.starts_with("kns.") || name.starts_with("ksa.")
}

/// What a profile is that no resource gives.
fn implied(name: &str, is_used: bool) -> Option<Profile> {
    if name == DEFAULT_ALLOW {
        return Some(allow_all(Labels::new()));
    }
    if !is_used {
        return None;
    }
    if let Some(namespace) = name.strip_prefix("kns.") {
        return Some(of_namespace(namespace, None).1);
    }
    let (namespace, account) = name.strip_prefix("ksa.")?.split_once('.')?;
    Some(of_account(namespace, account, None).1)
}
