//! ClusterInformation: whether the cluster's data may be acted on.

use super::{Invalid, Object, Resource};
use serde::Deserialize;

/// The resource's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec {
    datastore_ready: Option<bool>,
}

impl TryFrom<Object<Option<Spec>>> for Resource {
    type Error = Invalid;

    fn try_from(object: Object<Option<Spec>>) -> Result<Resource, Invalid> {
        let ready = object.spec.and_then(|spec| spec.datastore_ready).unwrap_or(true);
        Ok(Resource::ClusterInformation { ready })
    }
}
