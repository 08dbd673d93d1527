//! A node's own addresses inside of tunnels: taken from pools, and written to its Node resource.
//!
//! For each kind of tunnel: where a pool of that kind serves the node, the address that the Node
//! has stays if IPAM says that it is this node's; one that nobody has is claimed; else another is
//! taken. Where no pool serves the node any more the address goes back. Handles and attributes are
//! Calico's, so that its garbage collection leaves them alone.

use super::assign::Request;
use super::block::Attribute;
use super::handle::lost_race;
use super::pool::{Pool, Use};
use super::{Ipam, IpamError, RETRIES, key};
use crate::store::datastore::{Datastore, Document, StoreError};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A kind of tunnel that has an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ipip,
    Vxlan,
    VxlanV6,
}

const KINDS: [Kind; 3] = [Kind::Ipip, Kind::Vxlan, Kind::VxlanV6];

impl Kind {
    fn handle(self, node: &str) -> String {
        let name = match self {
            Kind::Ipip => "ipip-tunnel-addr",
            Kind::Vxlan => "vxlan-tunnel-addr",
            Kind::VxlanV6 => "vxlan-v6-tunnel-addr",
        };
        format!("{name}-{node}")
    }

    fn attribute(self) -> &'static str {
        match self {
            Kind::Ipip => "ipipTunnelAddress",
            Kind::Vxlan => "vxlanTunnelAddress",
            Kind::VxlanV6 => "vxlanV6TunnelAddress",
        }
    }

    /// Where the Node has it: an object of the spec if not the spec itself, and the field.
    fn field(self) -> (Option<&'static str>, &'static str) {
        match self {
            Kind::Ipip => (Some("bgp"), "ipv4IPIPTunnelAddr"),
            Kind::Vxlan => (None, "ipv4VXLANTunnelAddr"),
            Kind::VxlanV6 => (None, "ipv6VXLANTunnelAddr"),
        }
    }

    fn is_v4(self) -> bool {
        self != Kind::VxlanV6
    }

    fn is_of(self, pool: &Pool) -> bool {
        let mode = if self == Kind::Ipip { pool.ipip } else { pool.vxlan };
        mode && pool.cidr.addr().is_ipv4() == self.is_v4()
    }
}

impl<D: Datastore> Ipam<'_, D> {
    /// Makes a node's addresses inside of tunnels what they must be; answers what was changed.
    pub async fn ensure_tunnel_addresses(&self, node: &str) -> Result<Vec<String>, IpamError> {
        let mut changes = Vec::new();
        for kind in KINDS {
            changes.extend(self.ensure_tunnel_address(node, kind).await?);
        }
        Ok(changes)
    }

    async fn ensure_tunnel_address(
        &self,
        node: &str,
        kind: Kind,
    ) -> Result<Option<String>, IpamError> {
        let own = self.node(node).await?;
        let labels = labels_of(&own);
        let pools: Vec<Pool> = self
            .pools()
            .await?
            .into_iter()
            .filter(|pool| kind.is_of(pool) && !pool.closed && pool.serves(Use::Tunnel))
            .filter(|pool| pool.selects_node(&labels))
            .collect();
        let now = address_of(&own, kind);
        let handle = kind.handle(node);
        let request = Request {
            host: node.to_owned(),
            handle: handle.clone(),
            attributes: attributes(node, kind),
            purpose: Use::Tunnel,
            v4: kind.is_v4(),
            count: 1,
            pools: pools.iter().map(|pool| pool.cidr).collect(),
            namespace: None,
        };
        if let Some(address) = now
            && pools.iter().any(|pool| pool.cidr.contains(&address))
        {
            match self.find(address).await? {
                Some(holder) if is_this(&holder, node, kind) => return Ok(None),
                Some(_) => {}
                None => {
                    self.release_handle(&handle).await?;
                    if self.assign_this(&request, address).await.is_ok() {
                        return Ok(Some(format!("{handle}: {address} is claimed")));
                    }
                }
            }
        }
        self.release_handle(&handle).await?;
        if pools.is_empty() {
            let had = now.is_some();
            if had {
                self.write_node(node, kind, None).await?;
            }
            return Ok(had.then(|| format!("{handle}: no pool serves the node, it is given back")));
        }
        let given = self.assign(&request).await?;
        let Some(net) = given.addresses.first() else {
            return Err(IpamError::Invalid(format!("{handle}: {}", given.reasons.join(", "))));
        };
        self.write_node(node, kind, Some(net.addr())).await?;
        Ok(Some(format!("{handle}: {}", net.addr())))
    }

    pub(super) async fn node(&self, name: &str) -> Result<Document, IpamError> {
        match self.store.get(&key("Node", name)).await {
            Ok(node) => Ok(node),
            Err(StoreError::NotFound(_)) => Err(IpamError::NoNode(name.to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    async fn write_node(
        &self,
        name: &str,
        kind: Kind,
        address: Option<IpAddr>,
    ) -> Result<(), IpamError> {
        for _ in 0..RETRIES {
            let node = self.node(name).await?;
            let spec = with_address(node.spec(), kind, address);
            match self.store.update(node.with_spec(spec)).await {
                Ok(_) => return Ok(()),
                Err(error) if lost_race(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(IpamError::Contended(format!("Node {name}")))
    }
}

fn attributes(node: &str, kind: Kind) -> BTreeMap<String, String> {
    let pairs = [("node", node), ("type", kind.attribute())];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// The address is given out to this node for this purpose.
fn is_this(holder: &Attribute, node: &str, kind: Kind) -> bool {
    holder.secondary.as_ref().is_some_and(|secondary| {
        let is = |name: &str, value: &str| secondary.get(name).is_some_and(|own| own == value);
        is("node", node) && is("type", kind.attribute())
    })
}

/// Labels of a resource.
pub(super) fn labels_of(document: &Document) -> BTreeMap<String, String> {
    let metadata = document.value.get("metadata");
    let labels = metadata.and_then(|metadata| metadata.get("labels")).cloned();
    labels.and_then(|labels| serde_json::from_value(labels).ok()).unwrap_or_default()
}

fn address_of(node: &Document, kind: Kind) -> Option<IpAddr> {
    let spec = node.spec();
    let (object, field) = kind.field();
    let place = object.map_or(&spec, |object| &spec[object]);
    place[field].as_str()?.split('/').next()?.parse().ok()
}

/// The spec with another address. An empty `bgp` is not allowed, and goes with its last field.
fn with_address(spec: Value, kind: Kind, address: Option<IpAddr>) -> Value {
    let Value::Object(mut spec) = spec else { return spec };
    let (object, field) = kind.field();
    let set = |place: &mut Map<String, Value>| match address {
        Some(address) => drop(place.insert(field.to_owned(), address.to_string().into())),
        None => drop(place.remove(field)),
    };
    match object {
        None => set(&mut spec),
        Some(object) => {
            let mut inner = spec
                .remove(object)
                .and_then(|value| match value {
                    Value::Object(inner) => Some(inner),
                    _ => None,
                })
                .unwrap_or_default();
            set(&mut inner);
            if !inner.is_empty() {
                spec.insert(object.to_owned(), Value::Object(inner));
            }
        }
    }
    Value::Object(spec)
}
