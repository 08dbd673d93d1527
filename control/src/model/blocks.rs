//! Which node owns which part of a pool.
//!
//! The block's own word counts where it exists; among several confirmed claims of one block without
//! it, the node whose name sorts first has it. The owner of a block is found out anew when one of
//! its resources changes, and of no other.

use crate::resource::block::{BlockAffinity, IpamBlock};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Claims and blocks, and what follows from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocks {
    affinities: Resources<BlockAffinity>,
    blocks: Resources<IpamBlock>,
    owners: BTreeMap<IpNet, String>,
    /// How many owned blocks there are of each length, IPv4 and IPv6.
    lengths: [BTreeMap<u8, usize>; 2],
}

/// Resources of one kind, by the block that each is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Resources<R> {
    places: BTreeMap<String, IpNet>,
    by_block: BTreeMap<IpNet, BTreeMap<String, R>>,
}

impl<R> Default for Resources<R> {
    fn default() -> Resources<R> {
        Resources { places: BTreeMap::new(), by_block: BTreeMap::new() }
    }
}

impl<R> Resources<R> {
    /// A resource is what it is now, and about this block, or is gone; the blocks that it is or
    /// was about.
    fn put(&mut self, name: &str, new: Option<(IpNet, R)>) -> BTreeSet<IpNet> {
        let mut touched = BTreeSet::new();
        if let Some(old) = self.places.remove(name) {
            touched.insert(old);
            if let Some(all) = self.by_block.get_mut(&old) {
                all.remove(name);
                if all.is_empty() {
                    self.by_block.remove(&old);
                }
            }
        }
        if let Some((block, resource)) = new {
            touched.insert(block);
            self.places.insert(name.to_owned(), block);
            self.by_block.entry(block).or_default().insert(name.to_owned(), resource);
        }
        touched
    }

    /// Those about a block, by name.
    fn about(&self, block: &IpNet) -> impl DoubleEndedIterator<Item = &R> {
        self.by_block.get(block).into_iter().flat_map(BTreeMap::values)
    }
}

impl Blocks {
    /// The owned blocks with their nodes.
    pub fn owners(&self) -> &BTreeMap<IpNet, String> {
        &self.owners
    }

    /// The node of the longest block around an address.
    pub fn owner_of(&self, address: IpAddr) -> Option<&str> {
        // Most clusters have blocks of one size.
        let lengths = self.lengths[usize::from(address.is_ipv6())].keys().rev();
        lengths.into_iter().find_map(|length| {
            let block = IpNet::new(address, *length).ok()?.trunc();
            self.owners.get(&block).map(String::as_str)
        })
    }

    /// A claim is what it is now, or is gone; the blocks whose owner is another one.
    pub(super) fn put_affinity(&mut self, name: &str, new: Option<BlockAffinity>) -> Vec<IpNet> {
        let touched = self.affinities.put(name, new.map(|new| (new.cidr, new)));
        self.decide_all(touched)
    }

    /// A block is what it is now, or is gone; the blocks whose owner is another one.
    pub(super) fn put_block(&mut self, name: &str, new: Option<IpamBlock>) -> Vec<IpNet> {
        let touched = self.blocks.put(name, new.map(|new| (new.cidr, new)));
        self.decide_all(touched)
    }

    fn decide_all(&mut self, touched: BTreeSet<IpNet>) -> Vec<IpNet> {
        touched.into_iter().filter(|block| self.decide(*block)).collect()
    }

    /// Finds out anew who owns a block; true when it is another one.
    fn decide(&mut self, block: IpNet) -> bool {
        let owner = self.owner(&block).map(str::to_owned);
        let lengths = &mut self.lengths[usize::from(block.addr().is_ipv6())];
        let length = block.prefix_len();
        let before = match owner.clone() {
            Some(owner) => self.owners.insert(block, owner),
            None => self.owners.remove(&block),
        };
        match (&before, &owner) {
            (None, Some(_)) => *lengths.entry(length).or_default() += 1,
            (Some(_), None) => {
                let count = lengths.entry(length).or_default();
                *count -= 1;
                if *count == 0 {
                    lengths.remove(&length);
                }
            }
            _ => {}
        }
        before != owner
    }

    fn owner(&self, block: &IpNet) -> Option<&str> {
        if let Some(last) = self.blocks.about(block).next_back() {
            return last.node.as_deref();
        }
        let claims = self.affinities.about(block).filter(|claim| claim.confirmed);
        claims.map(|claim| claim.node.as_str()).min()
    }
}
