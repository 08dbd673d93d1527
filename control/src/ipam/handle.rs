//! Handles: how many addresses of which block one owner has.

use super::{Ipam, IpamError, RETRIES, document, key};
use crate::store::datastore::{Datastore, Document, StoreError};
use ipnet::IpNet;
use serde_json::{Map, Value, json};

impl<D: Datastore> Ipam<'_, D> {
    /// Counts addresses that are about to be given out.
    pub(super) async fn count_up(
        &self,
        handle: &str,
        cidr: IpNet,
        by: usize,
    ) -> Result<(), IpamError> {
        for _ in 0..RETRIES {
            let outcome = match self.store.get(&key("IPAMHandle", handle)).await {
                Ok(found) => {
                    let mut blocks = blocks_of(&found);
                    let before = count(&blocks, cidr);
                    blocks.insert(cidr.to_string(), json!(before + by));
                    self.store.update(with_blocks(found, blocks)).await
                }
                Err(StoreError::NotFound(_)) => {
                    let blocks = json!({cidr.to_string(): by});
                    let spec = json!({"handleID": handle, "block": blocks, "deleted": false});
                    self.store.create(document("IPAMHandle", handle, spec)?).await
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(_) => return Ok(()),
                Err(error) if lost_race(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(IpamError::Contended(format!("handle {handle}")))
    }

    /// Counts addresses that are released, or were not given out; a handle without any is removed.
    pub(super) async fn count_down(
        &self,
        handle: &str,
        cidr: IpNet,
        by: usize,
    ) -> Result<(), IpamError> {
        for _ in 0..RETRIES {
            let found = match self.store.get(&key("IPAMHandle", handle)).await {
                Ok(found) => found,
                Err(StoreError::NotFound(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let mut blocks = blocks_of(&found);
            match count(&blocks, cidr).saturating_sub(by) {
                0 => drop(blocks.remove(&cidr.to_string())),
                left => drop(blocks.insert(cidr.to_string(), json!(left))),
            }
            let outcome = match blocks.is_empty() {
                true => self.store.delete(&found).await,
                false => self.store.update(with_blocks(found, blocks)).await.map(drop),
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(error) if lost_race(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(IpamError::Contended(format!("handle {handle}")))
    }

    /// The blocks that have addresses of a handle, with their counts.
    pub(super) async fn blocks_of(&self, handle: &str) -> Result<Vec<(IpNet, usize)>, IpamError> {
        match self.store.get(&key("IPAMHandle", handle)).await {
            Ok(found) => Ok(counts(&found)),
            Err(StoreError::NotFound(_)) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Another writer was first: read again.
pub(super) fn lost_race(error: &StoreError) -> bool {
    matches!(error, StoreError::Conflict(_) | StoreError::Exists(_) | StoreError::NotFound(_))
}

/// Blocks of a handle, with their counts.
pub(super) fn counts(handle: &Document) -> Vec<(IpNet, usize)> {
    let blocks = blocks_of(handle);
    let parsed = blocks.iter().filter_map(|(cidr, count)| {
        Some((cidr.parse().ok()?, count.as_u64().unwrap_or(0) as usize))
    });
    parsed.collect()
}

fn blocks_of(handle: &Document) -> Map<String, Value> {
    handle.spec().get("block").and_then(Value::as_object).cloned().unwrap_or_default()
}

fn count(blocks: &Map<String, Value>, cidr: IpNet) -> usize {
    blocks.get(&cidr.to_string()).and_then(Value::as_u64).unwrap_or(0) as usize
}

fn with_blocks(handle: Document, blocks: Map<String, Value>) -> Document {
    let mut spec = handle.spec();
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("block".to_owned(), Value::Object(blocks));
    }
    handle.with_spec(spec)
}
