//! Routes of the datastore: this node's endpoints and blocks, and those of the others.
//!
//! An endpoint is a /32 (IPv6 /128) here, and so is one elsewhere that borrowed its address from a
//! block of another node. A block goes to the node that owns it, and here it is a blackhole, so
//! that packets to addresses that nobody has do not turn in circles; a block of a single address
//! is none, for the hole would be the pod. Ways to other nodes that BGP tells are left to it, but
//! for those through tunnels.

use super::table::{Entry, Table};
use super::tunnels::{Encapsulation, through};
use super::{Hop, Inputs, Origin, Target, Wanted, host_index, host_prefix, learned};
use crate::kernel::routes::Wanted as KernelRoute;
use crate::kernel::{NextHop, RouteKind};
use crate::resource::workload_endpoint::{Attachment, WorkloadEndpoint};
use ipnet::IpNet;
use margay_fastpath::proxy_neighbor::GATEWAY_V4;
use std::net::IpAddr;

pub(super) fn add(inputs: Inputs, base: &Table, table: &mut Table, wanted: &mut Wanted) {
    let blocks = inputs.model.blocks();
    pod_gateway(inputs, wanted);
    for (_, endpoint) in inputs.model.local_endpoints(inputs.node) {
        for address in &endpoint.addresses {
            local(inputs, endpoint, *address, table, wanted);
        }
    }
    for (block, owner) in blocks.owners() {
        if *owner != inputs.node {
            if is_told_by_bgp(inputs, owner, block) {
                continue;
            }
            let found = to_node(inputs, base, owner, block);
            remote(*block, found, table, wanted);
        } else if block.prefix_len() < block.max_prefix_len() {
            table.insert(*block, Entry::new(Origin::Store, Target::Blackhole));
            let kernel = KernelRoute { kind: RouteKind::Blackhole, next_hops: Vec::new() };
            wanted.kernel_routes.entry(*block).or_insert(kernel);
        }
    }
    for endpoint in inputs.model.strays().filter(|other| other.node != inputs.node) {
        for address in &endpoint.addresses {
            let prefix = host_prefix(*address);
            let borrowed = blocks.owner_of(*address) != Some(endpoint.node.as_str())
                && !is_told_by_bgp(inputs, &endpoint.node, &prefix);
            if !borrowed {
                continue;
            }
            let found = to_node(inputs, base, &endpoint.node, &prefix);
            if found.is_some() {
                remote(prefix, found, table, wanted);
            }
        }
    }
}

/// The gateway of pods, 169.254.1.1, is nobody's address: the kernel answers ARP for it on their
/// devices if it has a route to it elsewhere. A host without a default route has none, so it gets
/// one, to the TAP.
fn pod_gateway(inputs: Inputs, wanted: &mut Wanted) {
    let mut endpoints = inputs.model.local_endpoints(inputs.node);
    let needed = endpoints.any(|(_, endpoint)| endpoint.attachment.is_veth());
    let host = inputs.mirror.link_by_name(inputs.host_device).filter(|link| link.up && needed);
    if let Some(link) = host {
        let next_hops = vec![NextHop { device: link.index, gateway: None, weight: 1 }];
        let kernel = KernelRoute { kind: RouteKind::Unicast, next_hops };
        wanted.kernel_routes.insert(host_prefix(GATEWAY_V4.into()), kernel);
    }
}

fn local(
    inputs: Inputs,
    endpoint: &WorkloadEndpoint,
    address: IpAddr,
    table: &mut Table,
    wanted: &mut Wanted,
) {
    let prefix = host_prefix(address);
    let device = match endpoint.attachment {
        Attachment::Veth | Attachment::Tc => inputs.mirror.link_by_name(&endpoint.interface),
        Attachment::Tap { .. } => inputs.mirror.link_by_name(inputs.host_device),
    };
    let target = match (inputs.attached.get(endpoint.interface.as_str()), device) {
        (Some(port), _) => Target::Via(vec![Hop::plain(port.clone(), address)]),
        (None, Some(_)) if endpoint.attachment.is_veth() => Target::Local,
        (None, _) => Target::Unreachable,
    };
    let mut entry = Entry::new(Origin::Store, target);
    if let Some(link) = device.filter(|link| link.up) {
        let next_hops = vec![NextHop { device: link.index, gateway: None, weight: 1 }];
        entry.ways.clone_from(&next_hops);
        let kernel = KernelRoute { kind: RouteKind::Unicast, next_hops };
        wanted.kernel_routes.entry(prefix).or_insert(kernel);
    }
    table.insert(prefix, entry);
}

fn remote(
    prefix: IpNet,
    found: Option<(Target, Vec<NextHop>)>,
    table: &mut Table,
    wanted: &mut Wanted,
) {
    let Some((target, ways)) = found else {
        table.insert(prefix, Entry::new(Origin::Store, Target::Unreachable));
        return;
    };
    table.insert(prefix, Entry::new(Origin::Store, target).with_ways(&ways));
    if !ways.is_empty() {
        let kernel = KernelRoute { kind: RouteKind::Unicast, next_hops: ways };
        wanted.kernel_routes.entry(prefix).or_insert(kernel);
    }
}

/// The way to a node, by its address of the prefix's family, or through a tunnel to there.
fn to_node(
    inputs: Inputs,
    base: &Table,
    node: &str,
    prefix: &IpNet,
) -> Option<(Target, Vec<NextHop>)> {
    let found = base.next_hop(address_of(inputs, node, prefix)?);
    match inputs.tunnels.between(inputs.model, prefix, node) {
        Encapsulation::Plain => found,
        Encapsulation::Through(tunnel) => through(&tunnel, found, host_index(inputs)),
        Encapsulation::Missing => None,
    }
}

fn address_of(inputs: Inputs, node: &str, prefix: &IpNet) -> Option<IpAddr> {
    let node = inputs.model.nodes.get(node)?;
    match prefix {
        IpNet::V4(_) => Some(node.ipv4?.addr().into()),
        IpNet::V6(_) => Some(node.ipv6?.addr().into()),
    }
}

/// Whether the node itself would tell this prefix over BGP, and the route be programmed. Prefixes
/// of pools with tunnels are the datastore's in any case.
fn is_told_by_bgp(inputs: Inputs, node: &str, prefix: &IpNet) -> bool {
    let Some(policies) = inputs.bgp else { return false };
    let Some(address) = address_of(inputs, node, prefix) else { return false };
    let v6 = usize::from(prefix.addr().is_ipv6());
    learned::programmed(&policies[v6], *prefix, address, learned::USUAL_LOCAL_PREF)
        .is_some_and(|found| !found.ipip)
}
