//! Affinities: how a host gets a block and gives it back.
//!
//! Claim: the affinity pending, the block, the affinity confirmed. Give back: the affinity
//! pendingDeletion, the block without owner (or gone, when it is empty), the affinity gone. Whoever
//! is interrupted leaves a state that the next one goes on from; only a confirmed affinity counts
//! for routes.

use super::handle::lost_race;
use super::{Ipam, IpamError, RETRIES, Stored, document, key, spec_of, time};
use crate::ipam::block::Block;
use crate::store::datastore::{Datastore, Document, StoreError};
use crate::store::etcd::key::{affinity_name, cidr_name};
use ipnet::IpNet;
use serde_json::{Value, json};

/// A claim of another host counts at least so long, in seconds, before its empty block may be
/// taken.
pub(super) const CLAIM_MIN_S: u64 = 60;

const CONFIRMED: &str = "confirmed";
const PENDING: &str = "pending";
const PENDING_DELETION: &str = "pendingDeletion";

impl<D: Datastore> Ipam<'_, D> {
    /// Blocks that a host has, or is about to have (false), in order.
    pub(super) async fn affinities(&self, host: &str) -> Result<Vec<(IpNet, bool)>, IpamError> {
        let listing = self.store.list_affinities(host).await?;
        let of_host = listing.documents.iter().filter(|affinity| {
            let spec = affinity.spec();
            spec["node"] == host && spec["type"] != "virtual" && state(affinity) != PENDING_DELETION
        });
        let parse = |affinity: &Document| {
            let cidr = affinity.spec()["cidr"].as_str()?.parse().ok()?;
            Some((cidr, state(affinity) == CONFIRMED))
        };
        let mut blocks: Vec<(IpNet, bool)> = of_host.filter_map(parse).collect();
        blocks.sort_unstable();
        Ok(blocks)
    }

    /// Makes a block the host's: true when it is, false when it is another's.
    pub(super) async fn claim(&self, host: &str, cidr: IpNet) -> Result<bool, IpamError> {
        for _ in 0..RETRIES {
            match self.try_claim(host, cidr).await {
                Ok(claimed) => return Ok(claimed),
                Err(IpamError::Store(error)) if lost_race(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(IpamError::Contended(format!("block {cidr}")))
    }

    async fn try_claim(&self, host: &str, cidr: IpNet) -> Result<bool, IpamError> {
        let pending = match self.affinity(host, cidr).await? {
            Some(affinity) if state(&affinity) == PENDING_DELETION => {
                self.store.update(with_state(affinity, PENDING)).await?
            }
            Some(affinity) => affinity,
            None => {
                let spec = json!({"cidr": cidr.to_string(), "node": host, "type": "host",
                    "state": PENDING, "deleted": "false"});
                let name = affinity_name(host, cidr);
                self.store.create(document("BlockAffinity", &name, spec)?).await?
            }
        };
        let now = (self.now)();
        let owner = format!("host:{host}");
        let claimed = time::format(now.as_secs());
        let new = Block::new(cidr, Some(&owner), &claimed, now.as_nanos() as u64);
        let mut known = state(&pending) == CONFIRMED;
        match self.store.create(document("IPAMBlock", &cidr_name(cidr), spec_of(&new))?).await {
            // Whoever gives it back just now must find that the affinity has changed.
            Ok(_) => known = false,
            Err(StoreError::Exists(_)) => {
                let Some(mut stored) = self.block(cidr).await? else {
                    return Err(StoreError::Conflict(pending.key).into());
                };
                match stored.block.host() {
                    Some(owner) if owner == host && known => {}
                    // A write keeps whoever is giving it back just now from removing it.
                    Some(owner) if owner == host => self.write(stored).await?,
                    Some(_) => {
                        self.store.delete(&pending).await?;
                        return Ok(false);
                    }
                    None if stored.block.affinity.is_some() => {
                        self.store.delete(&pending).await?;
                        return Ok(false);
                    }
                    None => {
                        stored.block.affinity = Some(owner);
                        stored.block.affinity_claim_time = Some(claimed);
                        self.write(stored).await?;
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        if !known {
            self.store.update(with_state(pending, CONFIRMED)).await?;
        }
        Ok(true)
    }

    /// Gives a host's block back; false when it has addresses and must be empty, or was not the
    /// host's.
    pub async fn give_back(
        &self,
        host: &str,
        cidr: IpNet,
        must_be_empty: bool,
    ) -> Result<bool, IpamError> {
        for _ in 0..RETRIES {
            match self.try_give_back(host, cidr, must_be_empty).await {
                Ok(given) => return Ok(given),
                Err(IpamError::Store(error)) if lost_race(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(IpamError::Contended(format!("block {cidr}")))
    }

    async fn try_give_back(
        &self,
        host: &str,
        cidr: IpNet,
        must_be_empty: bool,
    ) -> Result<bool, IpamError> {
        let affinity = self.affinity(host, cidr).await?;
        let stored = self.block(cidr).await?.filter(|one| one.block.host() == Some(host));
        if must_be_empty && stored.as_ref().is_some_and(|stored| !stored.block.is_empty()) {
            return Ok(false);
        }
        let Some(affinity) = affinity else {
            // A block that a crash has left without its affinity.
            return match stored {
                Some(stored) => self.disown(stored).await.map(|()| true).map_err(IpamError::from),
                None => Ok(false),
            };
        };
        let going = self.store.update(with_state(affinity, PENDING_DELETION)).await?;
        if let Some(stored) = stored
            && let Err(error) = self.disown(stored).await
        {
            // Somebody took an address meanwhile: the block stays the host's. Whoever gives it back
            // as well has written the affinity, and keeps this from being written.
            let now = self.block(cidr).await?;
            if now.is_some_and(|now| now.block.host() == Some(host)) {
                self.store.update(with_state(going, CONFIRMED)).await?;
            }
            return Err(error.into());
        }
        self.store.delete(&going).await?;
        Ok(true)
    }

    async fn disown(&self, mut stored: Stored) -> Result<(), StoreError> {
        match stored.block.is_empty() {
            true => self.store.delete(&stored.document).await,
            false => {
                stored.block.disown();
                self.write(stored).await
            }
        }
    }

    /// Takes an empty block of another host whose claim is old enough, and makes it this host's.
    pub(super) async fn reclaim(&self, host: &str, stored: &Stored) -> Result<bool, IpamError> {
        let block = &stored.block;
        let Some(owner) = block.host().filter(|owner| *owner != host) else { return Ok(false) };
        let claimed = block.affinity_claim_time.as_deref().and_then(time::parse).unwrap_or(0);
        if !block.is_empty() || self.seconds() < claimed + CLAIM_MIN_S {
            return Ok(false);
        }
        Ok(self.give_back(owner, block.cidr, true).await? && self.claim(host, block.cidr).await?)
    }

    async fn affinity(&self, host: &str, cidr: IpNet) -> Result<Option<Document>, IpamError> {
        Ok(self.store.find(&key("BlockAffinity", &affinity_name(host, cidr))).await?)
    }
}

/// The state of an affinity; very old ones have none and are confirmed.
pub(super) fn state(affinity: &Document) -> String {
    let spec = affinity.spec();
    let state = spec["state"].as_str().filter(|state| !state.is_empty());
    match spec["deleted"] == "true" {
        true => PENDING_DELETION.to_owned(),
        false => state.unwrap_or(CONFIRMED).to_owned(),
    }
}

fn with_state(affinity: Document, state: &str) -> Document {
    let mut spec = affinity.spec();
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("state".to_owned(), Value::from(state));
    }
    affinity.with_spec(spec)
}
