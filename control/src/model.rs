//! What the datastore says now: the sum of all its events.
//!
//! What every step asks for is kept ready beside the resources: the endpoints of a node, the owners
//! of blocks, and endpoints outside of their nodes' blocks.

mod blocks;
mod endpoints;
mod strays;
#[cfg(test)]
mod tests;

pub use blocks::Blocks;
pub use endpoints::{Endpoints, Name};
use strays::Strays;

use crate::resource::bgp_configuration::BgpConfiguration;
use crate::resource::bgp_filter::BgpFilter;
use crate::resource::bgp_peer::BgpPeer;
use crate::resource::host_endpoint::HostEndpoint;
use crate::resource::ip_pool::IpPool;
use crate::resource::node::Node;
use crate::resource::secret::Secret;
use crate::resource::service::{EndpointSlice, Service};
use crate::resource::workload_endpoint::WorkloadEndpoint;
use crate::resource::{Key, Resource};
use crate::store::Event;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The resources that count, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Pools by name.
    pub pools: BTreeMap<String, IpPool>,
    /// Claims and blocks.
    blocks: Blocks,
    /// Endpoints by namespace and name.
    endpoints: Endpoints,
    strays: Strays,
    /// BGP configurations: `default`, and `node.NAME`.
    pub bgp_configurations: BTreeMap<String, BgpConfiguration>,
    /// Peerings by name.
    pub bgp_peers: BTreeMap<String, BgpPeer>,
    /// Filters by name.
    pub bgp_filters: BTreeMap<String, BgpFilter>,
    /// Services by namespace and name.
    pub services: BTreeMap<(String, String), Service>,
    /// Endpoint slices by namespace and name.
    pub endpoint_slices: BTreeMap<(String, String), EndpointSlice>,
    /// Secrets by namespace and name.
    pub secrets: BTreeMap<(String, String), Secret>,
    /// Interfaces of nodes, by name.
    pub host_endpoints: BTreeMap<String, HostEndpoint>,
}

impl Model {
    /// Takes one event in.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Put(key, resource) => self.put(key, resource),
            Event::Remove(key) => self.remove(&key),
        }
    }

    fn put(&mut self, key: Key, resource: Resource) {
        let Key { namespace, name, .. } = key;
        match resource {
            Resource::Node(node) => drop(self.nodes.insert(name, node)),
            Resource::IpPool(pool) => drop(self.pools.insert(name, pool)),
            Resource::BlockAffinity(affinity) => {
                let reowned = self.blocks.put_affinity(&name, Some(affinity));
                self.reowned(&reowned);
            }
            Resource::IpamBlock(block) => {
                let reowned = self.blocks.put_block(&name, Some(block));
                self.reowned(&reowned);
            }
            Resource::WorkloadEndpoint(endpoint) => {
                self.put_endpoint((namespace, name), Some(Arc::from(endpoint)));
            }
            Resource::BgpConfiguration(own) => drop(self.bgp_configurations.insert(name, *own)),
            Resource::BgpPeer(peer) => drop(self.bgp_peers.insert(name, *peer)),
            Resource::BgpFilter(filter) => drop(self.bgp_filters.insert(name, *filter)),
            Resource::Service(service) => drop(self.services.insert((namespace, name), *service)),
            Resource::EndpointSlice(slice) => {
                drop(self.endpoint_slices.insert((namespace, name), *slice));
            }
            Resource::Secret(secret) => drop(self.secrets.insert((namespace, name), secret)),
            Resource::HostEndpoint(endpoint) => {
                drop(self.host_endpoints.insert(name, *endpoint));
            }
            // Policy has a model of its own.
            Resource::Policy(_) | Resource::ClusterInformation { .. } | Resource::Other => {}
        }
    }

    fn remove(&mut self, key: &Key) {
        let in_namespace = || (key.namespace.clone(), key.name.clone());
        match key.kind.as_str() {
            "Node" => drop(self.nodes.remove(&key.name)),
            "IPPool" => drop(self.pools.remove(&key.name)),
            "BlockAffinity" => {
                let reowned = self.blocks.put_affinity(&key.name, None);
                self.reowned(&reowned);
            }
            "IPAMBlock" => {
                let reowned = self.blocks.put_block(&key.name, None);
                self.reowned(&reowned);
            }
            "WorkloadEndpoint" => self.put_endpoint(in_namespace(), None),
            "BGPConfiguration" => drop(self.bgp_configurations.remove(&key.name)),
            "BGPPeer" => drop(self.bgp_peers.remove(&key.name)),
            "BGPFilter" => drop(self.bgp_filters.remove(&key.name)),
            "Service" => drop(self.services.remove(&in_namespace())),
            "EndpointSlice" => drop(self.endpoint_slices.remove(&in_namespace())),
            "Secret" => drop(self.secrets.remove(&in_namespace())),
            "HostEndpoint" => drop(self.host_endpoints.remove(&key.name)),
            _ => {}
        }
    }

    fn put_endpoint(&mut self, name: Name, new: Option<Arc<WorkloadEndpoint>>) {
        let old = match &new {
            Some(new) => self.endpoints.put(name.clone(), new.clone()),
            None => self.endpoints.remove(&name),
        };
        self.strays.changed(&name, old.as_deref(), new.as_deref(), &self.blocks);
    }

    fn reowned(&mut self, blocks: &[IpNet]) {
        for block in blocks {
            self.strays.reowned(*block, &self.endpoints, &self.blocks);
        }
    }

    /// Which node owns which block.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// All endpoints.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Endpoints with an address that is in no block of their node, by name.
    pub fn strays(&self) -> impl Iterator<Item = &Arc<WorkloadEndpoint>> {
        self.strays.names().filter_map(|name| self.endpoints.get(name))
    }

    /// Whether an endpoint has an address that is in no block of its node.
    pub fn is_stray(&self, name: &Name) -> bool {
        self.strays.contains(name)
    }

    /// The endpoints of a node, each interface once.
    pub fn local_endpoints(
        &self,
        node: &str,
    ) -> impl Iterator<Item = (&Name, &Arc<WorkloadEndpoint>)> {
        self.endpoints.local(node)
    }
}
