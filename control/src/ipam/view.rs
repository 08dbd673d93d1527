//! What there is: how full pools and blocks are, and whose the addresses in use are.

use super::block::Attribute;
use super::handle::counts;
use super::reservation::size;
use super::{Ipam, IpamError, Stored};
use crate::store::datastore::Datastore;
use ipnet::IpNet;
use serde::Serialize;
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
    /// Kept back by IPReservations; also those of them that are in use.
    pub reserved: u128,
    /// Those that can be given out to whoever asks for any.
    pub free: u128,
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
    /// `pod`, or its attributes' type.
    pub kind: String,
    /// The pod, with its namespace.
    pub allocated_to: String,
}

impl<D: Datastore> Ipam<'_, D> {
    /// How full pools and blocks are; of blocks in no pool in the end, each by itself.
    pub async fn usage(&self) -> Result<(Vec<Usage>, Vec<Usage>), IpamError> {
        let (blocks, reserved) = tokio::try_join!(self.blocks(), self.reservations())?;
        let mut left: Vec<Usage> = blocks
            .iter()
            .map(|one| Usage {
                cidr: one.block.cidr,
                total: one.block.size() as u128,
                in_use: one.block.allocated() as u128,
                reserved: reserved.count_in(&one.block.cidr, &[]),
                free: one.block.free_of(&reserved) as u128,
                blocks: Vec::new(),
            })
            .collect();
        let mut pools = Vec::new();
        for pool in self.pools().await? {
            let (blocks, others): (Vec<Usage>, Vec<Usage>) =
                left.into_iter().partition(|block| pool.cidr.contains(&block.cidr));
            left = others;
            let ranges: Vec<IpNet> = blocks.iter().map(|block| block.cidr).collect();
            let total = size(&pool.cidr);
            // Of what is in no block yet, all that nobody has reserved is free.
            let outside = total.saturating_sub(reserved.count_in(&pool.cidr, &ranges));
            let of_blocks: u128 = blocks.iter().map(|block| block.free).sum();
            pools.push(Usage {
                cidr: pool.cidr,
                total,
                in_use: blocks.iter().map(|block| block.in_use).sum(),
                reserved: reserved.count_in(&pool.cidr, &[]),
                free: outside.saturating_add(of_blocks),
                blocks,
            });
        }
        Ok((pools, left))
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
                let (kind, allocated_to) = match secondary.get("pod") {
                    Some(pod) => ("pod".to_owned(), format!("{}/{pod}", text("namespace"))),
                    None => (text("type"), String::new()),
                };
                found.push(Borrowed {
                    ip,
                    node: node.clone(),
                    block: block.cidr,
                    owner: owner.to_owned(),
                    kind,
                    allocated_to,
                });
            }
        }
        Ok(found)
    }
}
