//! The routes that a node has to give: its blocks, its workloads, and services.
//!
//! They are candidates. What a session exports of them, its policy says; `exported` tells what the
//! policy of a session without filters says, of another AS.

use super::cluster::Cluster;
use super::policies::Shared;
use super::services::ServiceRoutes;
use crate::resolve::host_prefix;
use ipnet::IpNet;
use margay_bgp::policy::{Community, Origin, RouteFacts, Verdict, evaluate};
use serde::Serialize;
use std::collections::BTreeMap;

/// A route of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertisement {
    /// What it is.
    pub kind: AdvertisementKind,
    /// Its metric.
    pub metric: u32,
    /// The local preference that stands for the metric.
    pub local_pref: u32,
    /// Interface of a workload.
    pub interface: Option<String>,
    /// Communities by the prefix advertisements.
    pub communities: Vec<Community>,
    /// A session without filters has it.
    pub exported: bool,
}

/// What a route of this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AdvertisementKind {
    /// A block that the node owns: a blackhole here, unless it is a single address.
    Block,
    /// A workload's address, inside a block of the node or outside.
    Workload,
    /// A range or an address of services.
    Service,
}

pub(super) fn resolve(
    cluster: &Cluster,
    shared: &Shared,
    services: &ServiceRoutes,
) -> BTreeMap<IpNet, Advertisement> {
    let mut kinds: BTreeMap<IpNet, (AdvertisementKind, Option<&str>)> = BTreeMap::new();
    for (_, endpoint) in cluster.model.local_endpoints(cluster.node) {
        for address in &endpoint.addresses {
            let kind = (AdvertisementKind::Workload, Some(endpoint.interface.as_str()));
            kinds.entry(host_prefix(*address)).or_insert(kind);
        }
    }
    // A block of one address is no route: the workload is.
    let own = cluster.model.blocks().owners().iter().filter(|(block, owner)| {
        **owner == cluster.node && block.prefix_len() < block.max_prefix_len()
    });
    for (block, _) in own {
        kinds.entry(*block).or_insert((AdvertisementKind::Block, None));
    }
    for route in &services.advertised {
        kinds.entry(*route).or_insert((AdvertisementKind::Service, None));
    }
    let policies = [false, true].map(|v6| shared.session(&[], false, v6).1);
    let mut verdict = Verdict::default();
    let judged = kinds.into_iter().map(|(prefix, (kind, interface))| {
        let v6 = prefix.addr().is_ipv6();
        let metric = cluster.normal_priority(v6);
        let facts = RouteFacts {
            prefix,
            origin: Origin::Local { metric: Some(metric) },
            interface,
            next_hop: None,
            local_pref: None,
            communities: &[],
            large_communities: &[],
            as_path: &[],
        };
        evaluate(&policies[usize::from(v6)], &facts, &mut verdict);
        let advertisement = Advertisement {
            kind,
            metric,
            local_pref: verdict.local_pref.unwrap_or_default(),
            interface: interface.map(str::to_owned),
            communities: verdict.communities.clone(),
            exported: verdict.accept,
        };
        (prefix, advertisement)
    });
    judged.collect()
}
