//! From BGPPeer resources to the peerings of one node.
//!
//! Peerings of all nodes come first, then those of some nodes, then mirrors. Of several for one
//! address and port the first counts, and a node's own never replaces one of all nodes.

use super::cluster::Cluster;
use super::{PORT, PeerKind};
use crate::resource::bgp_peer::{BgpPeer, Nodes, Remote};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// A peering before it becomes a session.
#[derive(Clone)]
pub(super) struct Peering<'a> {
    /// The resource that wants it.
    pub(super) name: &'a str,
    pub(super) spec: &'a BgpPeer,
    pub(super) kind: PeerKind,
    pub(super) address: IpAddr,
    /// The port, where one is said.
    pub(super) port: Option<u16>,
    pub(super) remote_as: u32,
    /// The peer is given by its address, and a node has that.
    pub(super) is_named_node: bool,
    /// The peer was found by a selector or is a mirror: then the resource's own AS and its count
    /// of allowed own ASes do not apply, as in Calico.
    pub(super) is_found_node: bool,
    pub(super) peer_cluster_id: Option<Ipv4Addr>,
}

/// Peerings by address and port.
pub(super) type Peerings<'a> = BTreeMap<(IpAddr, Option<u16>), Peering<'a>>;

pub(super) fn peerings<'a>(cluster: &Cluster<'a>) -> Peerings<'a> {
    let mut found = Peerings::new();
    for global in [true, false] {
        for (name, spec) in &cluster.model.bgp_peers {
            let is_global = spec.nodes == Nodes::All;
            if is_global == global && is_of(cluster, spec, cluster.node) {
                let kind = if global { PeerKind::Global } else { PeerKind::Node };
                forward(cluster, (name, spec), kind, &mut found);
            }
        }
    }
    for (name, spec) in &cluster.model.bgp_peers {
        if spec.reverses && is_remote(cluster, spec) {
            mirror(cluster, (name, spec), &mut found);
        }
    }
    found
}

fn is_of(cluster: &Cluster, spec: &BgpPeer, node: &str) -> bool {
    match &spec.nodes {
        Nodes::All => true,
        Nodes::Named(name) => name == node,
        Nodes::Labelled(selector) => cluster.selected(selector).any(|name| name == node),
    }
}

/// True when this node is the other side of the peering.
fn is_remote(cluster: &Cluster, spec: &BgpPeer) -> bool {
    match &spec.remote {
        Remote::Nodes(selector) => cluster.selected(selector).any(|name| name == cluster.node),
        Remote::Address(address, port) => {
            let node = cluster.node;
            let wanted_as = if spec.as_number == 0 { cluster.default_as() } else { spec.as_number };
            let own_port = cluster.listen_port(node).unwrap_or(PORT);
            cluster.address(node, address.is_ipv6()) == Some(*address)
                && cluster.as_number(node) == wanted_as
                && port.is_none_or(|port| port == own_port)
        }
        Remote::LocalWorkloads(_) => false,
    }
}

fn forward<'a>(
    cluster: &Cluster<'a>,
    (name, spec): (&'a str, &'a BgpPeer),
    kind: PeerKind,
    found: &mut Peerings<'a>,
) {
    match &spec.remote {
        Remote::Nodes(selector) => {
            for peer in cluster.selected(selector) {
                for v6 in [false, true] {
                    add(found, node_peering(cluster, (name, spec), kind, (peer, v6)));
                }
            }
        }
        Remote::Address(address, port) => {
            let owner = cluster
                .model
                .nodes
                .keys()
                .find(|node| cluster.address(node, address.is_ipv6()) == Some(*address));
            let wanted_as = if spec.as_number == 0 { cluster.default_as() } else { spec.as_number };
            let same_as = owner.filter(|node| cluster.as_number(node) == wanted_as);
            add(
                found,
                Some(Peering {
                    name,
                    spec,
                    kind,
                    address: *address,
                    port: port.or_else(|| same_as.and_then(|node| cluster.listen_port(node))),
                    remote_as: spec.as_number,
                    is_named_node: owner.is_some(),
                    is_found_node: false,
                    peer_cluster_id: None,
                }),
            );
        }
        Remote::LocalWorkloads(_) => workloads(cluster, (name, spec), found),
    }
}

/// The endpoints of this node that a peering picks, by their first address of each family.
fn workloads<'a>(
    cluster: &Cluster<'a>,
    (name, spec): (&'a str, &'a BgpPeer),
    found: &mut Peerings<'a>,
) {
    let Remote::LocalWorkloads(selector) = &spec.remote else { return };
    for (_, endpoint) in cluster.model.local_endpoints(cluster.node) {
        if !selector.matches(|label| endpoint.labels.get(label).map(String::as_str)) {
            continue;
        }
        for v6 in [false, true] {
            let first = endpoint.addresses.iter().find(|address| address.is_ipv6() == v6);
            add(
                found,
                first.map(|address| Peering {
                    name,
                    spec,
                    kind: PeerKind::LocalWorkload,
                    address: *address,
                    port: None,
                    remote_as: spec.as_number,
                    is_named_node: false,
                    is_found_node: false,
                    peer_cluster_id: None,
                }),
            );
        }
    }
}

fn mirror<'a>(
    cluster: &Cluster<'a>,
    (name, spec): (&'a str, &'a BgpPeer),
    found: &mut Peerings<'a>,
) {
    let families: &[bool] = match &spec.remote {
        Remote::Address(address, _) => &[address.is_ipv6()],
        _ => &[false, true],
    };
    let peers = cluster.model.nodes.keys().filter(|node| is_of(cluster, spec, node));
    for peer in peers {
        for v6 in families {
            let peering = node_peering(cluster, (name, spec), PeerKind::Node, (peer, *v6));
            add(found, peering);
        }
    }
}

fn node_peering<'a>(
    cluster: &Cluster<'a>,
    (name, spec): (&'a str, &'a BgpPeer),
    kind: PeerKind,
    (peer, v6): (&str, bool),
) -> Option<Peering<'a>> {
    Some(Peering {
        name,
        spec,
        kind,
        address: cluster.address(peer, v6)?,
        port: cluster.listen_port(peer),
        remote_as: cluster.as_number(peer),
        is_named_node: false,
        is_found_node: true,
        peer_cluster_id: cluster.cluster_id(peer),
    })
}

fn add<'a>(found: &mut Peerings<'a>, peering: Option<Peering<'a>>) {
    let Some(peering) = peering else { return };
    found.entry((peering.address, peering.port)).or_insert(peering);
}
