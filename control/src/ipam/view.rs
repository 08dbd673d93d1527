//! What there is: pools, blocks and addresses in use, and what in it does not fit together.

use super::block::Attribute;
use super::handle::counts;
use super::{Ipam, IpamError, Stored};
use crate::store::datastore::Datastore;
use ipnet::IpNet;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// How full a pool or a block is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Its range.
    pub cidr: IpNet,
    /// Addresses in all.
    pub total: u128,
    /// Given out, or cooling down.
    pub in_use: u128,
    /// The blocks of a pool.
    pub blocks: Vec<Usage>,
}

/// An address whose block is another host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Borrowed {
    /// The address.
    pub ip: IpAddr,
    /// Who has it.
    pub node: String,
    /// The block.
    pub block: IpNet,
    /// Whose the block is; empty when nobody's.
    pub owner: String,
    /// Its attributes' type, or `pod`.
    pub kind: String,
    /// Whom it was given to.
    pub allocated_to: String,
}

/// What does not fit together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Blocks that were looked at.
    pub blocks: usize,
    /// Addresses given out.
    pub allocated: usize,
    /// Addresses that are given out and that no endpoint or node has.
    pub not_used: Vec<IpAddr>,
    /// Addresses that an endpoint or node has in a pool and that are not given out.
    pub not_allocated: Vec<IpAddr>,
    /// Addresses given out that are in no pool.
    pub not_in_pool: Vec<IpAddr>,
    /// Handles that count addresses that are not given out.
    pub handles_without_addresses: Vec<String>,
    /// Addresses whose handle does not count them.
    pub missing_handle: Vec<IpAddr>,
    /// Blocks that break the rules, and how.
    pub invalid_blocks: Vec<String>,
}

impl Check {
    /// Number of problems.
    pub fn problems(&self) -> usize {
        self.not_used.len()
            + self.not_allocated.len()
            + self.not_in_pool.len()
            + self.handles_without_addresses.len()
            + self.missing_handle.len()
            + self.invalid_blocks.len()
    }
}

impl<D: Datastore> Ipam<'_, D> {
    /// How full pools and blocks are.
    pub async fn usage(&self) -> Result<Vec<Usage>, IpamError> {
        let blocks = self.blocks().await?;
        let mut pools = Vec::new();
        for pool in self.pools().await? {
            let inside = blocks.iter().filter(|one| pool.cidr.contains(&one.block.cidr));
            let blocks: Vec<Usage> = inside
                .map(|one| Usage {
                    cidr: one.block.cidr,
                    total: one.block.size() as u128,
                    in_use: one.block.allocated() as u128,
                    blocks: Vec::new(),
                })
                .collect();
            let bits = u32::from(pool.cidr.max_prefix_len() - pool.cidr.prefix_len());
            pools.push(Usage {
                cidr: pool.cidr,
                total: 1u128.checked_shl(bits).unwrap_or(u128::MAX),
                in_use: blocks.iter().map(|block| block.in_use).sum(),
                blocks,
            });
        }
        Ok(pools)
    }

    /// Whose an address is; `None` when it is not given out.
    pub async fn find(&self, address: IpAddr) -> Result<Option<Attribute>, IpamError> {
        for pool in self.pools().await? {
            let Some(cidr) = pool.block_of(address) else { continue };
            if let Some(stored) = self.block(cidr).await? {
                return Ok(stored.block.find(address).map(|(attribute, _)| attribute.clone()));
            }
        }
        let blocks = self.blocks().await?;
        let holder = blocks.iter().find(|one| one.block.cidr.contains(&address));
        let found = holder.and_then(|one| one.block.find(address));
        Ok(found.map(|(attribute, _)| attribute.clone()))
    }

    /// The addresses of a handle.
    pub async fn of_handle(&self, handle: &str) -> Result<Vec<IpAddr>, IpamError> {
        let mut found = Vec::new();
        for (cidr, _) in self.handle(handle).await?.iter().flat_map(counts) {
            let Some(stored) = self.block(cidr).await? else { continue };
            let own = stored.block.addresses().filter(|(_, one)| one.handle() == Some(handle));
            found.extend(own.map(|(address, _)| address));
        }
        Ok(found)
    }

    /// Whose the addresses of all blocks are.
    pub async fn holders(&self) -> Result<Vec<Attribute>, IpamError> {
        let blocks = self.blocks().await?;
        let of = |one: &super::Stored| -> Vec<Attribute> {
            one.block.addresses().map(|(_, attribute)| attribute.clone()).collect()
        };
        Ok(blocks.iter().flat_map(of).collect())
    }

    /// Addresses that hosts have of others' blocks.
    pub async fn borrowed(&self) -> Result<Vec<Borrowed>, IpamError> {
        let mut found = Vec::new();
        for Stored { block, .. } in &self.blocks().await? {
            let owner = block.host().unwrap_or_default();
            for (ip, attribute) in block.addresses() {
                let secondary = attribute.secondary.clone().unwrap_or_default();
                let Some(node) = secondary.get("node").filter(|node| *node != owner) else {
                    continue;
                };
                let text = |name: &str| secondary.get(name).cloned().unwrap_or_default();
                let pod = format!("{}/{}", text("namespace"), text("pod"));
                found.push(Borrowed {
                    ip,
                    node: node.clone(),
                    block: block.cidr,
                    owner: owner.to_owned(),
                    kind: secondary.get("type").cloned().unwrap_or_else(|| "pod".to_owned()),
                    allocated_to: if pod == "/" { node.clone() } else { pod },
                });
            }
        }
        Ok(found)
    }

    /// Compares blocks, handles, pools, endpoints and nodes with each other.
    pub async fn check(&self) -> Result<Check, IpamError> {
        let mut check = Check::default();
        let listing = self.store.list("IPAMBlock").await?;
        check.invalid_blocks.extend(listing.faults.iter().map(ToString::to_string));
        let mut blocks = Vec::new();
        for document in listing.documents {
            match Stored::of(document) {
                Ok(stored) => blocks.push(stored.block),
                Err(error) => check.invalid_blocks.push(error.to_string()),
            }
        }
        let pools: Vec<IpNet> = self.pools().await?.iter().map(|pool| pool.cidr).collect();
        let used = self.used_addresses().await?;
        let mut by_handle: BTreeMap<(String, IpNet), usize> = BTreeMap::new();
        let mut counted = BTreeMap::new();
        for handle in self.store.list("IPAMHandle").await?.documents {
            for (cidr, count) in counts(&handle) {
                counted.insert((handle.key.name.clone(), cidr), count);
            }
        }
        let mut given = BTreeSet::new();
        for block in &blocks {
            for (address, attribute) in block.addresses() {
                given.insert(address);
                if !pools.iter().any(|pool| pool.contains(&address)) {
                    check.not_in_pool.push(address);
                }
                if let Some(handle) = attribute.handle() {
                    let key = (handle.to_owned(), block.cidr);
                    if !counted.contains_key(&key) {
                        check.missing_handle.push(address);
                    }
                    *by_handle.entry(key).or_default() += 1;
                }
            }
        }
        let without = counted.keys().filter(|key| !by_handle.contains_key(*key));
        check.handles_without_addresses = without.map(|(handle, _)| handle.clone()).collect();
        check.not_used = given.difference(&used).copied().collect();
        let in_pools = used.difference(&given);
        check.not_allocated = in_pools
            .filter(|address| pools.iter().any(|pool| pool.contains(*address)))
            .copied()
            .collect();
        (check.blocks, check.allocated) = (blocks.len(), given.len());
        Ok(check)
    }

    /// Addresses of endpoints, and of nodes inside of tunnels.
    async fn used_addresses(&self) -> Result<BTreeSet<IpAddr>, IpamError> {
        let mut texts: Vec<String> = Vec::new();
        for endpoint in self.store.list("WorkloadEndpoint").await?.documents {
            let spec = endpoint.spec();
            let networks = spec["ipNetworks"].as_array().cloned().unwrap_or_default();
            texts.extend(networks.iter().filter_map(|net| net.as_str()).map(str::to_owned));
        }
        for node in self.store.list("Node").await?.documents {
            let spec = node.spec();
            let places = [
                &spec["bgp"]["ipv4IPIPTunnelAddr"],
                &spec["ipv4VXLANTunnelAddr"],
                &spec["ipv6VXLANTunnelAddr"],
                &spec["wireguard"]["interfaceIPv4Address"],
                &spec["wireguard"]["interfaceIPv6Address"],
            ];
            texts.extend(places.iter().filter_map(|place| place.as_str()).map(str::to_owned));
        }
        let address = |text: &String| text.split('/').next().and_then(|text| text.parse().ok());
        Ok(texts.iter().filter_map(address).collect())
    }
}
