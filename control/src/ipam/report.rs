//! What `calicoctl ipam check -o FILE` writes down, and `ipam release --from-report` takes back.
//!
//! Only what all reports call leaked is released, and of that only what is still as it was: an
//! address by its handle and sequence number, a handle by its revision.

use super::block::Release;
use super::handle::lost_race;
use super::{Ipam, IpamError};
use crate::store::datastore::{Datastore, Document};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// An address that is given out, or cools down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Allocation {
    /// The address.
    pub ip: String,
    /// Its handle; empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub handle: String,
    /// When it was given out, in writes of its block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence_number: Option<u64>,
    /// Attribute `pod`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// Attribute `namespace`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Attribute `node`, or whose the block is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Attribute `type`.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Attribute `timestamp`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub creation_timestamp: String,
    /// Somebody has it.
    pub in_use: bool,
    /// Its block is another node's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub borrowed: bool,
    /// It is released, and not to be given out yet.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cooling_down: bool,
    /// Who has it; `None` for nobody.
    pub owners: Option<Vec<String>>,
    /// All attributes, for people.
    #[serde(skip)]
    pub attributes: String,
}

/// A handle as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HandleInfo {
    /// Its name.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its uid, where the store has them.
    #[serde(rename = "UID")]
    pub uid: Option<String>,
    /// Which of its states this is.
    pub revision: String,
}

/// What a check finds, for `ipam release`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Report {
    /// Of the program that made it.
    pub version: String,
    /// Which cluster.
    #[serde(rename = "clusterGUID")]
    pub cluster_guid: String,
    /// The store was locked then.
    pub datastore_locked: bool,
    /// State of ClusterInformation then.
    #[serde(rename = "clusterInformationRevision")]
    pub revision: String,
    /// Of ClusterInformation.
    pub cluster_type: String,
    /// All addresses that are given out.
    pub allocations: BTreeMap<IpAddr, Vec<Allocation>>,
    /// Handles without addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leaked_handles: Vec<HandleInfo>,
}

/// What came of a release by reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Released {
    /// Addresses that the reports call leaked.
    pub leaked: usize,
    /// Those of them that were free already.
    pub free: usize,
    /// Why the others may not all be released.
    pub fault: Option<String>,
    /// By handle: removed (`Ok(true)`), changed since or gone, or an error.
    pub handles: Vec<(String, Result<bool, String>)>,
}

impl<D: Datastore> Ipam<'_, D> {
    /// Takes back what all of these reports call leaked, as far as it is still as it was.
    pub async fn release_leaked(&self, reports: &[Report]) -> Result<Released, IpamError> {
        let (addresses, handles) = in_all(reports);
        let mut released = Released { leaked: addresses.len(), ..Released::default() };
        match self.release(&addresses).await {
            Ok(free) => released.free = free.len(),
            Err(error) => released.fault = Some(error.to_string()),
        }
        for handle in handles {
            let outcome = self.delete_handle(&handle).await;
            released.handles.push((handle.id, outcome));
        }
        Ok(released)
    }

    async fn delete_handle(&self, handle: &HandleInfo) -> Result<bool, String> {
        let found = self.store.find(&super::key("IPAMHandle", &handle.id)).await;
        let Some(found) = found.map_err(|error| error.to_string())? else { return Ok(false) };
        if info(&handle.id, &found) != *handle {
            return Ok(false);
        }
        match self.store.delete(&found).await {
            Ok(()) => Ok(true),
            Err(error) if lost_race(&error) => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A handle as it is.
pub(super) fn info(id: &str, document: &Document) -> HandleInfo {
    let uid = document.value.get("metadata").and_then(|metadata| metadata["uid"].as_str());
    let revision = document.revision.as_ref().map(|revision| revision.0.clone());
    let revision = revision.unwrap_or_default();
    HandleInfo { id: id.to_owned(), uid: uid.map(str::to_owned), revision }
}

/// A handle's name: that of its object is lower case on Kubernetes; what it is for stands inside.
pub(super) fn handle_id(document: &Document) -> String {
    let spec = document.spec();
    let id = spec["handleID"].as_str().filter(|id| !id.is_empty());
    id.unwrap_or(&document.key.name).to_owned()
}

/// What is leaked in each of the reports; handles as they are in the last one, unchanged since the
/// first.
fn in_all(reports: &[Report]) -> (Vec<Release>, Vec<HandleInfo>) {
    let leaked = |report: &Report| {
        let all = report.allocations.values().flatten().filter(|one| !one.in_use);
        let all = all.filter(|one| !one.cooling_down);
        all.map(|one| (one.ip.clone(), one.clone())).collect::<BTreeMap<_, _>>()
    };
    let Some((last, before)) = reports.split_last() else { return Default::default() };
    let before: Vec<_> = before.iter().map(|report| (leaked(report), report)).collect();
    let addresses = leaked(last).into_values().filter_map(|one| {
        let in_all = before.iter().all(|(others, _)| others.contains_key(&one.ip));
        let handle = Some(one.handle).filter(|handle| !handle.is_empty());
        let address = one.ip.parse().ok().filter(|_| in_all)?;
        Some(Release { address, handle, sequence: one.sequence_number })
    });
    let handles = last.leaked_handles.iter().filter(|one| {
        before.iter().all(|(_, report)| {
            report
                .leaked_handles
                .iter()
                .any(|other| (&other.id, &other.revision) == (&one.id, &one.revision))
        })
    });
    (addresses.collect(), handles.cloned().collect())
}
