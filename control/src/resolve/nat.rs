//! From pools, nodes, services and settings to the rules of translation: a pure function.
//!
//! Calico's rule: a source in a pool with `natOutgoing`, a destination in no pool. Disabled pools
//! count, pools that are for load balancers only do not. A family without an outside address is not
//! translated.

use super::services::{ServiceInputs, services};
use crate::config::{Exclusions, NatSettings};
use crate::model::Model;
use ipnet::IpNet;
use margay_fastpath::flow::Limits;
use margay_fastpath::nat::{Class, PortRange, Ranges, Rules};
use margay_fastpath::service::Services;
use std::net::IpAddr;

/// Everything that the rules follow from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NatInputs<'a> {
    /// This node's name.
    pub(crate) node: &'a str,
    /// The datastore.
    pub(crate) model: &'a Model,
    /// The configuration.
    pub(crate) settings: &'a NatSettings,
    /// The host's own addresses.
    pub(crate) local: &'a [IpAddr],
    /// Ports of them that the kernel does not give to its sockets.
    pub(crate) ports: Option<PortRange>,
    /// Ports of those that a socket has all the same, sorted.
    pub(crate) taken: &'a [u16],
    /// Workers of the packet path.
    pub(crate) workers: usize,
    /// The services that there were before.
    pub(crate) before: Option<&'a Services>,
}

/// The rules; `None` when there is nothing to translate. Their generation is 0.
pub(crate) fn rules(inputs: NatInputs) -> Option<Rules> {
    let pools = || inputs.model.pools.values().filter(|pool| !pool.load_balancer_only);
    let outside = outside(inputs);
    let has_outside = |net: &IpNet| outside.iter().any(|at| at.is_ipv4() == net.addr().is_ipv4());
    let node_addresses = node_port_addresses(inputs);
    let (node, before) = (inputs.node, inputs.before);
    let wanted = ServiceInputs { node, node_addresses: &node_addresses, before };
    let services = inputs.settings.services.then(|| services(wanted, inputs.model)).flatten();
    let is_inside = |net: &IpNet, nat_outgoing: bool| nat_outgoing && has_outside(net);
    if services.is_none() && !pools().any(|pool| is_inside(&pool.cidr, pool.nat_outgoing)) {
        return None;
    }
    let mut classes: Vec<(IpNet, Class)> = Vec::new();
    for pool in pools() {
        classes.push((pool.cidr, Class::POOL));
        if is_inside(&pool.cidr, pool.nat_outgoing) {
            classes.push((pool.cidr, Class::INSIDE));
        }
    }
    let nodes = inputs.model.nodes.values().flat_map(|node| {
        let v4 = node.ipv4.map(|net| IpAddr::from(net.addr()));
        v4.into_iter().chain(node.ipv6.map(|net| IpAddr::from(net.addr())))
    });
    classes.extend(nodes.map(|node| (IpNet::from(node), Class::NODE)));
    classes.extend(inputs.local.iter().map(|own| (IpNet::from(*own), Class::LOCAL)));
    classes.extend(outside.iter().map(|at| (IpNet::from(*at), Class::OUTSIDE)));
    let pods = inputs.model.endpoints().of_node(inputs.node);
    let addresses = pods.flat_map(|endpoint| endpoint.addresses.iter());
    classes.extend(addresses.map(|address| (IpNet::from(*address), Class::HERE)));
    let services = services.map(|(services, addresses)| {
        classes.extend(addresses);
        services
    });
    let settings = inputs.settings;
    Some(Rules {
        ranges: Ranges::new(&classes),
        outside_v4: outside.iter().filter_map(only_v4).collect(),
        outside_v6: outside.iter().filter_map(only_v6).collect(),
        ports: inputs.ports.unwrap_or(margay_fastpath::steering::NO_PORTS),
        taken: inputs.taken.to_vec(),
        exclude_nodes: settings.outgoing_exclusions == Exclusions::IPPoolsAndHostIPs,
        filtering: settings.filtering.into(),
        services,
        ..tracking(settings, inputs.workers.min(usize::from(u16::MAX)) as u16)
    })
}

/// The rules where nothing is translated, and flows are tracked for policy only.
pub(crate) fn tracking(settings: &NatSettings, workers: u16) -> Rules {
    let limits = Limits { sessions: settings.flows, per_source: settings.flows_per_source };
    Rules::tracking(limits, settings.timeouts(), workers)
}

/// The addresses of the settings; for a family that has none there, the node's own, if the host has
/// it and there are ports of it.
fn outside(inputs: NatInputs) -> Vec<IpAddr> {
    let mut outside = inputs.settings.outgoing_addresses.clone();
    let node = inputs.model.nodes.get(inputs.node);
    let own = [
        node.and_then(|node| node.ipv4).map(|net| IpAddr::from(net.addr())),
        node.and_then(|node| node.ipv6).map(|net| IpAddr::from(net.addr())),
    ];
    for own in own.into_iter().flatten() {
        let said = outside.iter().any(|at| at.is_ipv4() == own.is_ipv4());
        if !said && inputs.local.contains(&own) {
            outside.push(own);
        }
    }
    outside.retain(|at| inputs.ports.is_some() || !inputs.local.contains(at));
    outside.sort_unstable();
    outside.dedup();
    outside
}

/// The host's addresses that NodePorts are served at: all, or those in the settings' networks; but
/// never those of the loopback and of one link.
fn node_port_addresses(inputs: NatInputs) -> Vec<IpAddr> {
    let networks = &inputs.settings.node_port_addresses;
    let is_wide = |address: &IpAddr| match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    };
    let is_said = |address: &IpAddr| {
        networks.is_empty() || networks.iter().any(|network| network.contains(address))
    };
    inputs.local.iter().filter(|at| is_wide(at) && is_said(at)).copied().collect()
}

fn only_v4(address: &IpAddr) -> Option<std::net::Ipv4Addr> {
    if let IpAddr::V4(address) = address { Some(*address) } else { None }
}

fn only_v6(address: &IpAddr) -> Option<std::net::Ipv6Addr> {
    if let IpAddr::V6(address) = address { Some(*address) } else { None }
}

#[cfg(test)]
mod tests;
