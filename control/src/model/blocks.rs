//! Which node owns which part of a pool.
//!
//! The block's own word counts where it exists; among several confirmed claims of one block without
//! it, the node whose name sorts first has it. The owner of a block is found out anew when one of
//! its resources changes, and of no other.

use crate::resource::block::{BlockAffinity, IpamBlock};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Claims and blocks by the names of their resources, and what follows from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocks {
    affinities: BTreeMap<String, BlockAffinity>,
    blocks: BTreeMap<String, IpamBlock>,
    named: BTreeMap<IpNet, Names>,
    owners: BTreeMap<IpNet, String>,
    /// How many owned blocks there are of each length, IPv4 and IPv6.
    lengths: [BTreeMap<u8, usize>; 2],
}

/// The resources about one block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    affinities: BTreeSet<String>,
    blocks: BTreeSet<String>,
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
        let old = self.affinities.remove(name);
        let mut touched = BTreeSet::new();
        if let Some(old) = old {
            self.names(old.cidr).affinities.remove(name);
            touched.insert(old.cidr);
        }
        if let Some(new) = new {
            self.names(new.cidr).affinities.insert(name.to_owned());
            touched.insert(new.cidr);
            self.affinities.insert(name.to_owned(), new);
        }
        touched.into_iter().filter(|block| self.decide(*block)).collect()
    }

    /// A block is what it is now, or is gone; the blocks whose owner is another one.
    pub(super) fn put_block(&mut self, name: &str, new: Option<IpamBlock>) -> Vec<IpNet> {
        let old = self.blocks.remove(name);
        let mut touched = BTreeSet::new();
        if let Some(old) = old {
            self.names(old.cidr).blocks.remove(name);
            touched.insert(old.cidr);
        }
        if let Some(new) = new {
            self.names(new.cidr).blocks.insert(name.to_owned());
            touched.insert(new.cidr);
            self.blocks.insert(name.to_owned(), new);
        }
        touched.into_iter().filter(|block| self.decide(*block)).collect()
    }

    fn names(&mut self, block: IpNet) -> &mut Names {
        self.named.entry(block).or_default()
    }

    /// Finds out anew who owns a block; true when it is another one.
    fn decide(&mut self, block: IpNet) -> bool {
        let names = self.names(block);
        if *names == Names::default() {
            self.named.remove(&block);
        }
        let owner = self.named.get(&block).and_then(|names| self.owner(names)).map(str::to_owned);
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

    fn owner(&self, names: &Names) -> Option<&str> {
        if let Some(last) = names.blocks.last() {
            return self.blocks.get(last)?.node.as_deref();
        }
        let claims = names.affinities.iter().filter_map(|name| self.affinities.get(name));
        claims.filter(|claim| claim.confirmed).map(|claim| claim.node.as_str()).min()
    }
}
