//! Which service addresses a node advertises.
//!
//! Ranges are advertised whole by every node. A service has routes of its own when its external
//! policy is Local and a ready endpoint is here, when a range is a single address, and when
//! load-balancer ranges are not aggregated.

use super::cluster::Cluster;
use crate::resolve::host_prefix;
use crate::resource::service::{EndpointSlice, Service};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Routes of services, and the ranges that they may come from.
#[derive(Debug, Default)]
pub(super) struct ServiceRoutes {
    /// What this node advertises.
    pub(super) advertised: BTreeSet<IpNet>,
    /// Ranges whose routes of other nodes do not go to the kernel.
    pub(super) ranges: BTreeSet<IpNet>,
}

/// A node with this label takes no part.
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

pub(super) fn resolve(cluster: &Cluster) -> ServiceRoutes {
    let mut routes = ServiceRoutes::default();
    let default = &cluster.default;
    let several = |net: &&IpNet| !is_single(net);
    routes.ranges.extend(cluster_ips(cluster));
    routes.ranges.extend(default.external_ips.iter().filter(several));
    if default.aggregates_load_balancers {
        routes.ranges.extend(default.load_balancer_ips.iter().filter(several));
    }
    let own = cluster.model.nodes.get(cluster.node);
    if own.and_then(|node| node.labels.get(EXCLUDE)).is_some_and(|value| value == "true") {
        return routes;
    }
    routes.advertised.clone_from(&routes.ranges);
    let mut slices: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for ((namespace, _), slice) in &cluster.model.endpoint_slices {
        slices.entry((namespace, &slice.service)).or_default().push(slice);
    }
    for ((namespace, name), service) in &cluster.model.services {
        let slices = slices.get(&(namespace.as_str(), name.as_str()));
        if is_advertised(cluster, service, slices.map_or(&[], Vec::as_slice)) {
            routes.advertised.extend(addresses(cluster, service).map(host_prefix));
        }
    }
    routes
}

fn cluster_ips<'a>(cluster: &'a Cluster) -> &'a [IpNet] {
    match cluster.default.cluster_ips.is_empty() {
        true => &cluster.facts.cluster_ips,
        false => &cluster.default.cluster_ips,
    }
}

fn is_single(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

fn is_advertised(cluster: &Cluster, service: &Service, slices: &[&EndpointSlice]) -> bool {
    if !service.has_addresses || service.cluster_ips.is_empty() || slices.is_empty() {
        return false;
    }
    let default = &cluster.default;
    if !service.is_local {
        let single = |ranges: &[IpNet], address: &IpAddr| {
            ranges.iter().any(|net| is_single(net) && net.contains(address))
        };
        let given = service.load_balancer_ips.iter().chain(&service.wanted_load_balancer_ip);
        let mut given = given.filter(|_| service.is_load_balancer);
        if given.any(|address| single(&default.load_balancer_ips, address))
            || service.external_ips.iter().any(|address| single(&default.external_ips, address))
        {
            return true;
        }
        if default.aggregates_load_balancers {
            return false;
        }
    }
    let here = cluster.facts.kubernetes_node.as_deref().unwrap_or(cluster.node);
    let of_family = |slice: &&&EndpointSlice| service.families[usize::from(slice.is_v6)];
    slices.iter().filter(of_family).any(|slice| match service.is_local {
        true => slice.ready_nodes.iter().any(|node| node == here),
        false => slice.ready_elsewhere || !slice.ready_nodes.is_empty(),
    })
}

/// The addresses of a service that may be advertised.
fn addresses(cluster: &Cluster, service: &Service) -> impl Iterator<Item = IpAddr> {
    let within = |ranges: &[IpNet], list: &[IpAddr]| -> Vec<IpAddr> {
        let allowed = |address: &&IpAddr| ranges.iter().any(|net| net.contains(*address));
        list.iter().filter(allowed).copied().collect()
    };
    let with_cluster = !cluster_ips(cluster).is_empty();
    let own = service.cluster_ips.iter().filter(move |_| with_cluster).copied();
    let own: Vec<IpAddr> = own.collect();
    let external = within(&cluster.default.external_ips, &service.external_ips);
    let given = within(&cluster.default.load_balancer_ips, &service.load_balancer_ips);
    own.into_iter().chain(external).chain(given)
}
