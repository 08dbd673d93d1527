//! Endpoints by name, and again by node: a node asks for its own ones at every step, and in a large
//! cluster nearly all are of others.

use crate::resource::workload_endpoint::WorkloadEndpoint;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Namespace and name.
pub type Name = (String, String);

type ByName = BTreeMap<Name, Arc<WorkloadEndpoint>>;

/// All endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    all: ByName,
    nodes: BTreeMap<String, OfNode>,
}

/// The endpoints of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct OfNode {
    /// Those that name an interface, by it.
    interfaces: BTreeMap<String, ByName>,
    /// The first of each interface.
    first: ByName,
}

impl Endpoints {
    /// The endpoint of this name.
    pub fn get(&self, name: &Name) -> Option<&Arc<WorkloadEndpoint>> {
        self.all.get(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Arc<WorkloadEndpoint>)> {
        self.all.iter()
    }

    /// The endpoints of a node, each interface once: of two that name the same one, the first by
    /// namespace and name has it.
    pub fn local(&self, node: &str) -> impl Iterator<Item = (&Name, &Arc<WorkloadEndpoint>)> {
        self.nodes.get(node).into_iter().flat_map(|of| &of.first)
    }

    /// The endpoints of a node, those too whose interface another has.
    pub fn of_node(&self, node: &str) -> impl Iterator<Item = &Arc<WorkloadEndpoint>> {
        let interfaces = self.nodes.get(node).into_iter().flat_map(|of| of.interfaces.values());
        interfaces.flat_map(BTreeMap::values)
    }

    /// Puts an endpoint in the place of the one that had its name, which it returns.
    pub(super) fn put(
        &mut self,
        name: Name,
        endpoint: Arc<WorkloadEndpoint>,
    ) -> Option<Arc<WorkloadEndpoint>> {
        let old = self.remove(&name);
        let of = self.nodes.entry(endpoint.node.clone()).or_default();
        let own = of.interfaces.entry(endpoint.interface.clone()).or_default();
        own.insert(name.clone(), endpoint.clone());
        of.choose(&endpoint.interface);
        self.all.insert(name, endpoint);
        old
    }

    /// Takes an endpoint away.
    pub(super) fn remove(&mut self, name: &Name) -> Option<Arc<WorkloadEndpoint>> {
        let old = self.all.remove(name)?;
        let of = self.nodes.get_mut(&old.node)?;
        of.first.remove(name);
        if let Some(own) = of.interfaces.get_mut(&old.interface) {
            own.remove(name);
        }
        of.choose(&old.interface);
        if of.interfaces.is_empty() {
            self.nodes.remove(&old.node);
        }
        Some(old)
    }
}

impl OfNode {
    /// Finds out anew who has an interface.
    fn choose(&mut self, interface: &str) {
        let Some(own) = self.interfaces.get(interface) else { return };
        if own.is_empty() {
            self.interfaces.remove(interface);
            return;
        }
        own.keys().skip(1).for_each(|name| drop(self.first.remove(name)));
        if let Some((name, endpoint)) = own.first_key_value() {
            self.first.insert(name.clone(), endpoint.clone());
        }
    }
}
