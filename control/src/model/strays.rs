//! Endpoints whose address is not in a block of their own node: borrowed ones, few, that need
//! routes of their own. Kept up with every change, so that nobody has to look at all endpoints.

use super::blocks::Blocks;
use super::endpoints::{Endpoints, Name};
use crate::resource::workload_endpoint::WorkloadEndpoint;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The names of those endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Strays {
    names: BTreeSet<Name>,
    /// Who has an address.
    addresses: BTreeMap<IpAddr, BTreeSet<Name>>,
}

impl Strays {
    /// Their names.
    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.names.iter()
    }

    pub(super) fn contains(&self, name: &Name) -> bool {
        self.names.contains(name)
    }

    /// An endpoint has come, is another one, or is gone.
    pub(super) fn changed(
        &mut self,
        name: &Name,
        old: Option<&WorkloadEndpoint>,
        new: Option<&WorkloadEndpoint>,
        blocks: &Blocks,
    ) {
        for address in old.iter().flat_map(|old| &old.addresses) {
            if let Some(names) = self.addresses.get_mut(address) {
                names.remove(name);
                if names.is_empty() {
                    self.addresses.remove(address);
                }
            }
        }
        for address in new.iter().flat_map(|new| &new.addresses) {
            self.addresses.entry(*address).or_default().insert(name.clone());
        }
        self.decide(name, new, blocks);
    }

    /// A block has another owner.
    pub(super) fn reowned(&mut self, block: IpNet, endpoints: &Endpoints, blocks: &Blocks) {
        let inside = self.addresses.range(block.network()..=block.broadcast());
        let names: BTreeSet<Name> = inside.flat_map(|(_, names)| names).cloned().collect();
        for name in names {
            self.decide(&name, endpoints.get(&name).map(|found| &**found), blocks);
        }
    }

    fn decide(&mut self, name: &Name, endpoint: Option<&WorkloadEndpoint>, blocks: &Blocks) {
        let is_stray = endpoint.is_some_and(|one| {
            one.addresses.iter().any(|at| blocks.owner_of(*at) != Some(one.node.as_str()))
        });
        match is_stray {
            true => drop(self.names.insert(name.clone())),
            false => drop(self.names.remove(name)),
        }
    }
}
