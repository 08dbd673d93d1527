//! Profiles, which namespaces (`kns.NAME`) and service accounts (`ksa.NAMESPACE.NAME`) are.

use super::Kubernetes;
use super::kind::V3;
use crate::resource::Key;
use crate::resource::policy::places;
use crate::store::datastore::{Document, Listing, Revision, StoreError};
use serde_json::json;

impl Kubernetes {
    /// All profiles.
    pub(super) async fn list_profiles(&self) -> Result<Listing, StoreError> {
        let mut listing = Listing::default();
        let mut versions = Vec::new();
        for kind in ["Namespace", "ServiceAccount"] {
            let part = self.list_placed(kind).await?;
            for found in part.documents {
                listing.documents.push(profile(&found)?);
            }
            versions.extend(part.revision.map(|revision| revision.0));
        }
        listing.documents.sort_by(|one, other| one.key.cmp(&other.key));
        listing.revision = Some(Revision(versions.join("/")));
        Ok(listing)
    }

    /// One of them.
    pub(super) async fn get_profile(&self, key: &Key) -> Result<Document, StoreError> {
        let of = |kind: &str, namespace: &str, name: &str| Key {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let wanted = match key.name.split_once('.') {
            Some(("kns", name)) => of("Namespace", "", name),
            Some(("ksa", rest)) => match rest.split_once('.') {
                Some((namespace, name)) => of("ServiceAccount", namespace, name),
                None => return Err(StoreError::NotFound(key.clone())),
            },
            _ => return Err(StoreError::NotFound(key.clone())),
        };
        let missing = |error| match error {
            StoreError::NotFound(_) => StoreError::NotFound(key.clone()),
            other => other,
        };
        profile(&self.get_placed(&wanted).await.map_err(missing)?)
    }
}

/// The profile that a namespace or a service account is.
fn profile(found: &Document) -> Result<Document, StoreError> {
    let labels = found.value.get("metadata").map(|metadata| metadata["labels"].clone());
    let labels = serde_json::from_value(labels.unwrap_or_default()).unwrap_or_default();
    let is_namespace = found.key.kind == "Namespace";
    let (name, profile) = match is_namespace {
        true => places::of_namespace(&found.key.name, labels),
        false => places::of_account(&found.key.namespace, &found.key.name, labels),
    };
    let mut spec = json!({"labelsToApply": profile.labels});
    if is_namespace {
        spec["ingress"] = json!([{"action": "Allow"}]);
        spec["egress"] = json!([{"action": "Allow"}]);
    }
    let mut document = Document::new(json!({"kind": "Profile", "apiVersion": V3,
        "metadata": {"name": name}, "spec": spec}))?;
    document.revision.clone_from(&found.revision);
    Ok(document)
}
