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
        // Most handles are new: a pod gets its addresses at once.
        match self.store.create(fresh(handle, cidr, by)?).await {
            Ok(_) => return Ok(()),
            Err(error) if lost_race(&error) => {}
            Err(error) => return Err(error.into()),
        }
        for _ in 0..RETRIES {
            let outcome = match self.store.get(&key("IPAMHandle", handle)).await {
                Ok(found) => {
                    let mut blocks = blocks_of(&found);
                    let before = count(&blocks, cidr);
                    blocks.insert(cidr.to_string(), json!(before + by));
                    self.store.update(with_blocks(found, blocks)).await
                }
                Err(StoreError::NotFound(_)) => self.store.create(fresh(handle, cidr, by)?).await,
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
    /// `known` is the handle as it was read last.
    pub(super) async fn count_down(
        &self,
        handle: &str,
        cidr: IpNet,
        by: usize,
        mut known: Option<Document>,
    ) -> Result<(), IpamError> {
        for _ in 0..RETRIES {
            let found = match known.take() {
                Some(known) => known,
                None => match self.handle(handle).await? {
                    Some(found) => found,
                    None => return Ok(()),
                },
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

    pub(super) async fn handle(&self, handle: &str) -> Result<Option<Document>, IpamError> {
        Ok(self.store.find(&key("IPAMHandle", handle)).await?)
    }
}

/// A handle that counts addresses of one block.
fn fresh(handle: &str, cidr: IpNet, by: usize) -> Result<Document, StoreError> {
    let blocks = json!({cidr.to_string(): by});
    let spec = json!({"handleID": handle, "block": blocks, "deleted": false});
    document("IPAMHandle", handle, spec)
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
