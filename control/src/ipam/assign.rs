//! Giving out addresses.
//!
//! In order: what is free in the host's own blocks; a new block, as long as the host may have one;
//! an empty block that another host has had for a while; single addresses of any block, unless
//! affinity is strict.

use super::block::Attribute;
use super::handle::lost_race;
use super::pool::{Asker, Pool, Use};
use super::reservation::Reservations;
use super::tunnel::labels_of;
use super::{Ipam, IpamConfig, IpamError, RETRIES, Stored};
use crate::store::datastore::Datastore;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Who wants addresses, how many, and from where.
#[derive(Debug, Clone)]
pub struct Request {
    /// Name of the node.
    pub host: String,
    /// By which they can be released.
    pub handle: String,
    /// What they are for, to be read by people and by other programs.
    pub attributes: BTreeMap<String, String>,
    /// Which pools they may come from.
    pub purpose: Use,
    /// IPv4 or IPv6.
    pub v4: bool,
    /// How many.
    pub count: usize,
    /// Ranges of the pools that they must be from; empty for any.
    pub pools: Vec<IpNet>,
    /// Labels of the pod's namespace.
    pub namespace: Option<BTreeMap<String, String>>,
}

/// What was given out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assigned {
    /// The addresses, with the length of their blocks' prefixes.
    pub addresses: Vec<IpNet>,
    /// Why there are not as many as were asked for.
    pub reasons: Vec<String>,
}

/// What one request works with.
struct Search<'a> {
    request: &'a Request,
    attribute: Attribute,
    config: IpamConfig,
    reserved: Reservations,
    pools: Vec<Pool>,
    given: Vec<IpNet>,
}

impl Search<'_> {
    fn missing(&self) -> usize {
        self.request.count - self.given.len()
    }

    fn pool_of(&self, cidr: IpNet) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.cidr.contains(&cidr))
    }
}

impl<D: Datastore> Ipam<'_, D> {
    /// Gives out addresses; fewer than asked for, with reasons, where there are no more.
    pub async fn assign(&self, request: &Request) -> Result<Assigned, IpamError> {
        let (node, all, config, reserved, own) = tokio::try_join!(
            self.node(&request.host),
            self.pools(),
            self.config(),
            self.reservations(),
            self.affinities(&request.host),
        )?;
        let labels = labels_of(&node);
        let asker = Asker {
            node: &labels,
            namespace: request.namespace.as_ref(),
            purpose: request.purpose,
            v4: request.v4,
            wanted: &request.pools,
        };
        let pools: Vec<Pool> = all.iter().filter(|pool| pool.suits(&asker)).cloned().collect();
        if pools.is_empty() {
            return Err(IpamError::NoPool);
        }
        let mut search = Search {
            request,
            attribute: Attribute::new(&request.handle, request.attributes.clone()),
            config,
            reserved,
            pools,
            given: Vec::new(),
        };
        let own = self.shed(&request.host, own, &all, &labels).await?;
        for (cidr, confirmed) in &own {
            if search.missing() == 0 || search.pool_of(*cidr).is_none() {
                continue;
            }
            // A claim that was cut short is brought to its end.
            let whole = *confirmed && self.take(&mut search, *cidr, true).await?;
            if !whole && self.claim(&request.host, *cidr).await? {
                self.take(&mut search, *cidr, true).await?;
            }
        }
        let mut reasons = Vec::new();
        if search.missing() > 0 {
            reasons.extend(self.take_new_blocks(&mut search, own.len()).await?);
        }
        if search.missing() > 0 && !search.config.strict_affinity {
            self.borrow(&mut search).await?;
        }
        if search.missing() == 0 {
            reasons.clear();
        } else if !search.config.strict_affinity {
            reasons.push("no address is left in the blocks of others".to_owned());
        }
        Ok(Assigned { addresses: search.given, reasons })
    }

    /// Gives back empty blocks of pools that no longer select the host; answers with the rest.
    async fn shed(
        &self,
        host: &str,
        own: Vec<(IpNet, bool)>,
        pools: &[Pool],
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<(IpNet, bool)>, IpamError> {
        let mut kept = Vec::new();
        for (cidr, confirmed) in own {
            let pool = pools.iter().find(|pool| pool.cidr.contains(&cidr));
            let unselected = pool.is_some_and(|pool| !pool.selects_node(labels));
            if !unselected || !self.give_back(host, cidr, true).await? {
                kept.push((cidr, confirmed));
            }
        }
        Ok(kept)
    }

    /// Takes addresses of one block, as many as it has; false when there is no such block.
    async fn take(
        &self,
        search: &mut Search<'_>,
        cidr: IpNet,
        own_only: bool,
    ) -> Result<bool, IpamError> {
        let mut counted = 0;
        let outcome = self.take_counted(search, cidr, own_only, &mut counted).await;
        let taken = match &outcome {
            // Without an answer the block may have been written: the handle still leads to it.
            Err(IpamError::Store(_)) => counted,
            outcome => outcome.as_ref().ok().and_then(Option::as_ref).map_or(0, Vec::len),
        };
        if counted > taken {
            self.count_down(&search.request.handle, cidr, counted - taken, None).await?;
        }
        let Some(taken) = outcome? else { return Ok(false) };
        let length = cidr.prefix_len();
        search.given.extend(taken.into_iter().filter_map(|ip| IpNet::new(ip, length).ok()));
        Ok(true)
    }

    /// The same, after the handle was counted up by as many as are to be taken: `counted` tells.
    async fn take_counted(
        &self,
        search: &Search<'_>,
        cidr: IpNet,
        own_only: bool,
        counted: &mut usize,
    ) -> Result<Option<Vec<IpAddr>>, IpamError> {
        let request = search.request;
        for _ in 0..RETRIES {
            let Some(mut stored) = self.block(cidr).await? else { return Ok(None) };
            if own_only && stored.block.host() != Some(&request.host) {
                return Ok(Some(Vec::new()));
            }
            stored.block.collect(self.cooldown(&search.config));
            let taken = stored.block.assign(search.missing(), &search.attribute, &search.reserved);
            if taken.is_empty() {
                return Ok(Some(taken));
            }
            // What was counted for a write that came too late counts for the next one.
            if taken.len() > *counted {
                self.count_up(&request.handle, cidr, taken.len() - *counted).await?;
                *counted = taken.len();
            }
            match self.write(stored).await {
                Ok(()) => return Ok(Some(taken)),
                Err(error) if lost_race(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(IpamError::Contended(format!("block {cidr}")))
    }

    /// Counts the handle up, and writes the block; false when another writer was first.
    async fn write_counted(
        &self,
        stored: Stored,
        handle: &str,
        by: usize,
    ) -> Result<bool, IpamError> {
        let cidr = stored.block.cidr;
        self.count_up(handle, cidr, by).await?;
        match self.write(stored).await {
            Ok(()) => Ok(true),
            Err(error) if lost_race(&error) => {
                self.count_down(handle, cidr, by, None).await?;
                Ok(false)
            }
            // Without an answer the block may have been written: the handle still leads to it.
            Err(error) => Err(error.into()),
        }
    }

    /// Claims blocks until the host has enough addresses, or may have no more blocks.
    async fn take_new_blocks(
        &self,
        search: &mut Search<'_>,
        own: usize,
    ) -> Result<Option<String>, IpamError> {
        if !search.config.auto_allocate_blocks {
            return Ok(Some("blocks are not allocated automatically".to_owned()));
        }
        let most = search.config.blocks_max();
        let mut held = own;
        while search.missing() > 0 {
            if held >= most {
                return Ok(Some(format!("the host has {held} blocks, {most} are its limit")));
            }
            let Some(cidr) = self.claim_any(search).await? else {
                return Ok(Some("no block is left in the pools".to_owned()));
            };
            held += 1;
            self.take(search, cidr, true).await?;
        }
        Ok(None)
    }

    /// Claims a vacant block, or an empty one that its host has had for long enough.
    async fn claim_any(&self, search: &Search<'_>) -> Result<Option<IpNet>, IpamError> {
        let host = &search.request.host;
        let stored = self.blocks().await?;
        let mut taken: BTreeSet<IpNet> = stored.iter().map(|one| one.block.cidr).collect();
        for pool in &search.pools {
            let start = start(host, pool.blocks(), (self.now)().subsec_nanos());
            while let Some(cidr) = pool.vacant(start, &taken, &search.reserved) {
                if self.claim(host, cidr).await? {
                    return Ok(Some(cidr));
                }
                taken.insert(cidr);
            }
        }
        for one in &stored {
            let in_pools = search.pool_of(one.block.cidr).is_some();
            if in_pools && self.reclaim(host, one).await? {
                return Ok(Some(one.block.cidr));
            }
        }
        Ok(None)
    }

    /// Takes single addresses of any block of the pools.
    async fn borrow(&self, search: &mut Search<'_>) -> Result<(), IpamError> {
        let mut blocks: Vec<IpNet> =
            self.blocks().await?.iter().map(|one| one.block.cidr).collect();
        blocks.retain(|cidr| search.pool_of(*cidr).is_some());
        let many = blocks.len().max(1) as u128;
        let first = start(&search.request.host, many, (self.now)().subsec_nanos()) as usize;
        blocks.rotate_left(first % many as usize);
        for cidr in blocks {
            if search.missing() == 0 {
                return Ok(());
            }
            self.take(search, cidr, false).await?;
        }
        Ok(())
    }

    /// Gives out this address, whoever's block it is in, unless affinity is strict.
    pub async fn assign_this(&self, request: &Request, address: IpAddr) -> Result<(), IpamError> {
        let pools = self.pools().await?;
        let serves = |pool: &&Pool| pool.cidr.contains(&address) && pool.serves(request.purpose);
        let pool = pools.iter().find(serves).ok_or(IpamError::NoPool)?;
        let cidr = pool.block_of(address).ok_or(IpamError::NoPool)?;
        let config = self.config().await?;
        let attribute = Attribute::new(&request.handle, request.attributes.clone());
        for _ in 0..RETRIES {
            let Some(mut stored) = self.block(cidr).await? else {
                self.claim(&request.host, cidr).await?;
                continue;
            };
            let foreign = stored.block.host() != Some(&request.host);
            if config.strict_affinity && foreign {
                return Err(IpamError::Strict(address));
            }
            stored.block.collect(self.cooldown(&config));
            if !stored.block.assign_this(address, &attribute) {
                return Err(IpamError::Taken(address));
            }
            if self.write_counted(stored, &request.handle, 1).await? {
                return Ok(());
            }
        }
        Err(IpamError::Contended(format!("block {cidr}")))
    }
}

/// Where a host begins to look: by its name (FNV-1a of 32 bits), so that hosts begin apart; by
/// the time in pools of single addresses, whose release should not be seen at once.
fn start(host: &str, blocks: u128, nanoseconds: u32) -> u128 {
    let hash = host
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let by = if blocks > 1 { u128::from(hash) } else { u128::from(nanoseconds) };
    by % blocks.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_begin_to_look_apart() {
        let starts: BTreeSet<u128> =
            (0..50).map(|at| start(&format!("edge-{at}"), 1024, 0)).collect();
        assert!(starts.len() > 40, "{starts:?}");
        assert_eq!(start("edge-1", 1, 7), 0);
    }
}
