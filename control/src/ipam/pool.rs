//! Which pools an address may come from. Pure.

use super::reservation::Reservations;
use crate::resource::Resource;
use crate::resource::ip_pool::EncapMode;
use crate::store::datastore::Document;
use ipnet::IpNet;
use margay_acl::selector::Selector;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Use {
    /// A pod's.
    Workload,
    /// A node's end of tunnels.
    Tunnel,
    /// A service's.
    LoadBalancer,
}

/// A pool, as far as allocation goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its range.
    pub cidr: IpNet,
    /// Prefix length of its blocks.
    pub block_size: u8,
    /// Nothing new is to come from it.
    pub closed: bool,
    /// Only for who asks for it by name.
    pub manual: bool,
    /// Its nodes are reached by IPIP, at least some.
    pub ipip: bool,
    /// Its nodes are reached by VXLAN, at least some.
    pub vxlan: bool,
    /// Which nodes it is for; `None` for a selector that does not parse, which selects none.
    nodes: Option<Selector>,
    /// Which namespaces; the outer `None` for all of them.
    namespaces: Option<Option<Selector>>,
    uses: Vec<Use>,
}

/// Who asks for an address.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// Labels of the node.
    pub node: &'a BTreeMap<String, String>,
    /// Labels of the namespace, if the address is for a pod of Kubernetes.
    pub namespace: Option<&'a BTreeMap<String, String>>,
    /// What for.
    pub purpose: Use,
    /// IPv4 or IPv6.
    pub v4: bool,
    /// Pools asked for by range; empty for any.
    pub wanted: &'a [IpNet],
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_selector: Option<String>,
    namespace_selector: Option<String>,
    allowed_uses: Option<Vec<Use>>,
    assignment_mode: Option<String>,
}

impl Pool {
    /// The pool that a resource describes; `None` when it is not valid.
    pub fn of(document: &Document) -> Option<Pool> {
        let value = serde_json::Value::Object(document.value.clone());
        let Ok(Resource::IpPool(own)) = crate::store::typed("IPPool", &value) else { return None };
        let spec: Spec = serde_json::from_value(document.spec()).ok()?;
        let selector = |text: Option<String>| Selector::parse(&text.unwrap_or_default()).ok();
        let namespaces = spec.namespace_selector.filter(|text| !text.trim().is_empty());
        let uses = spec.allowed_uses.filter(|uses| !uses.is_empty());
        Some(Pool {
            name: document.key.name.clone(),
            cidr: own.cidr,
            block_size: own.block_size,
            closed: own.disabled || !is_allocatable(&value),
            ipip: own.ipip_mode != EncapMode::Never,
            vxlan: own.vxlan_mode != EncapMode::Never,
            manual: spec.assignment_mode.as_deref() == Some("Manual"),
            nodes: selector(spec.node_selector),
            namespaces: namespaces.map(|text| selector(Some(text))),
            uses: uses.unwrap_or_else(|| vec![Use::Workload, Use::Tunnel]),
        })
    }

    /// Addresses for this purpose may come from it.
    pub fn serves(&self, purpose: Use) -> bool {
        self.uses.contains(&purpose)
    }

    /// It is for nodes with these labels.
    pub fn selects_node(&self, labels: &BTreeMap<String, String>) -> bool {
        selects(self.nodes.as_ref(), labels)
    }

    /// Who asks may have an address of it. Selectors do not count where it was asked for by name.
    pub fn suits(&self, asker: &Asker) -> bool {
        if self.closed || self.cidr.addr().is_ipv4() != asker.v4 || !self.serves(asker.purpose) {
            return false;
        }
        if !asker.wanted.is_empty() {
            return asker.wanted.contains(&self.cidr);
        }
        let of_namespace = match (&self.namespaces, asker.namespace) {
            (None, _) => true,
            (Some(selector), Some(labels)) => selects(selector.as_ref(), labels),
            (Some(_), None) => false,
        };
        !self.manual && of_namespace && self.selects_node(asker.node)
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> u128 {
        let bits = u32::from(self.block_size.saturating_sub(self.cidr.prefix_len()));
        1u128.checked_shl(bits).unwrap_or(u128::MAX)
    }

    /// One of its blocks; they come in order, and behind the last one is the first.
    pub fn block(&self, index: u128) -> Option<IpNet> {
        let bits = u32::from(self.cidr.max_prefix_len() - self.block_size);
        let by = (index % self.blocks()).checked_shl(bits)?;
        IpNet::new(super::block::offset(self.cidr.network(), by), self.block_size).ok()
    }

    /// The block that an address is in.
    pub fn block_of(&self, address: std::net::IpAddr) -> Option<IpNet> {
        let block = IpNet::new(address, self.block_size).ok()?.trunc();
        self.cidr.contains(&address).then_some(block)
    }

    /// The first block from `start` on, around the pool, that nobody has and that is not reserved.
    pub fn vacant(
        &self,
        start: u128,
        taken: &std::collections::BTreeSet<IpNet>,
        reserved: &Reservations,
    ) -> Option<IpNet> {
        // Of one block more than are taken one is vacant; reserved ones are walked past as well.
        let tries = self.blocks().min(taken.len() as u128 + WALK_MAX);
        let mut blocks = (0..tries).filter_map(|by| self.block(start.wrapping_add(by)));
        blocks.find(|block| !taken.contains(block) && !reserved.covers(block))
    }
}

/// Blocks looked at beyond those that are taken.
const WALK_MAX: u128 = 1 << 16;

fn selects(selector: Option<&Selector>, labels: &BTreeMap<String, String>) -> bool {
    selector.is_some_and(|own| own.matches(|name| labels.get(name).map(String::as_str)))
}

/// `status.conditions` does not say that it is not.
fn is_allocatable(value: &serde_json::Value) -> bool {
    let conditions = value["status"]["conditions"].as_array();
    !conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Allocatable" && condition["status"] == "False")
}
