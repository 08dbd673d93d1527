//! What the datastore says now: the sum of all its events.

use crate::resource::bgp_configuration::BgpConfiguration;
use crate::resource::bgp_filter::BgpFilter;
use crate::resource::bgp_peer::BgpPeer;
use crate::resource::block::{BlockAffinity, IpamBlock};
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

/// The resources that count, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Pools by name.
    pub pools: BTreeMap<String, IpPool>,
    /// Claims by resource name.
    pub affinities: BTreeMap<String, BlockAffinity>,
    /// Blocks by resource name.
    pub blocks: BTreeMap<String, IpamBlock>,
    /// Endpoints by namespace and name.
    pub endpoints: BTreeMap<(String, String), WorkloadEndpoint>,
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
            Resource::BlockAffinity(affinity) => drop(self.affinities.insert(name, affinity)),
            Resource::IpamBlock(block) => drop(self.blocks.insert(name, block)),
            Resource::WorkloadEndpoint(endpoint) => {
                drop(self.endpoints.insert((namespace, name), *endpoint));
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
            "BlockAffinity" => drop(self.affinities.remove(&key.name)),
            "IPAMBlock" => drop(self.blocks.remove(&key.name)),
            "WorkloadEndpoint" => drop(self.endpoints.remove(&in_namespace())),
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

    /// Which node owns which block. The block's own word counts where it exists; among several
    /// confirmed claims of one block without it, the node whose name sorts first has it.
    pub fn block_owners(&self) -> BTreeMap<IpNet, &str> {
        let mut owners: BTreeMap<IpNet, &str> = BTreeMap::new();
        for affinity in self.affinities.values().filter(|affinity| affinity.confirmed) {
            let owner = owners.entry(affinity.cidr).or_insert(&affinity.node);
            *owner = (*owner).min(affinity.node.as_str());
        }
        for block in self.blocks.values() {
            match &block.node {
                Some(node) => drop(owners.insert(block.cidr, node)),
                None => drop(owners.remove(&block.cidr)),
            }
        }
        owners
    }

    /// The endpoints of a node, each interface once: of two that name the same one, the first by
    /// namespace and name has it.
    pub fn local_endpoints<'a>(
        &'a self,
        node: &'a str,
    ) -> impl Iterator<Item = (&'a (String, String), &'a WorkloadEndpoint)> {
        let mut seen = std::collections::BTreeSet::new();
        self.endpoints.iter().filter(move |(_, endpoint)| {
            endpoint.node == node && seen.insert(endpoint.interface.as_str())
        })
    }
}
