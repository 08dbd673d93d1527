//! Policies of sessions, and of what BGP may program, in the order of Calico's own filters.

use super::cluster::Cluster;
use super::services::ServiceRoutes;
use crate::resource::bgp_configuration::ClusterRoutes;
use crate::resource::bgp_filter::{BgpFilter, FilterRule, PeerType};
use crate::resource::ip_pool::{EncapMode, IpPool};
use ipnet::IpNet;
use margay_bgp::policy::{METRIC_BASE, Match, Operation, Pattern, Policy, PrefixSet, Rule};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Preference of routes that beat one to a local workload: those of a workload on its way to
/// another node.
const ELEVATED_PREFERENCE: u32 = 200;
/// Devices with tunnels, whose routes every node of the AS makes for itself.
const TUNNELS: [&str; 2] = ["*.cali", "*.calico"];
/// The IPIP device, which is one of them when BGP does not program IPIP.
const IPIP_TUNNEL: &str = "tunl0";
/// Devices whose routes are nobody else's business.
const LOCAL_ONLY: &str = "bpf*.cali";

/// What the policies of all sessions share, by family.
pub(super) struct Shared<'a> {
    filters: &'a BTreeMap<String, BgpFilter>,
    families: [Family; 2],
}

struct Family {
    normal: u32,
    hidden_pools: PrefixSet,
    tunnels: Vec<Rule>,
    communities: Vec<Rule>,
    blocks: PrefixSet,
    services: PrefixSet,
    reflected: PrefixSet,
    pools: PrefixSet,
    ranges: PrefixSet,
}

impl<'a> Shared<'a> {
    pub(super) fn new(cluster: &Cluster<'a>, services: &ServiceRoutes) -> Shared<'a> {
        let families = [false, true].map(|v6| Family::new(cluster, services, v6));
        Shared { filters: &cluster.model.bgp_filters, families }
    }

    /// Policies of a session: import and export.
    pub(super) fn session(
        &self,
        filters: &[String],
        same_as: bool,
        v6: bool,
    ) -> (Arc<Policy>, Arc<Policy>) {
        let family = &self.families[usize::from(v6)];
        let rules = |direction: fn(&BgpFilter, bool) -> &[FilterRule]| -> Vec<Rule> {
            let lists = filters.iter().filter_map(|name| self.filters.get(name));
            let all = lists.flat_map(|filter| direction(filter, v6));
            let for_peer = all.filter(|rule| match rule.peer_type {
                None => true,
                Some(PeerType::Internal) => same_as,
                Some(PeerType::External) => !same_as,
            });
            for_peer.map(|rule| rule.rule.clone()).collect()
        };
        let mut import = rules(imports);
        import.push(Rule::change(
            vec![Match::LocalPrefAbove(METRIC_BASE - family.normal)],
            vec![Operation::SetPreference(ELEVATED_PREFERENCE)],
        ));
        let mut export = vec![family.exchange()];
        export.extend(rules(exports));
        export.extend(family.export(same_as));
        (Arc::new(Policy::new(import, true)), Arc::new(Policy::new(export, false)))
    }

    /// Whether any of these filters has import rules, and export rules, for a family.
    pub(super) fn directions(&self, filters: &[String], v6: bool) -> [bool; 2] {
        let lists = || filters.iter().filter_map(|name| self.filters.get(name));
        [
            lists().any(|filter| !imports(filter, v6).is_empty()),
            lists().any(|filter| !exports(filter, v6).is_empty()),
        ]
    }

    /// Which BGP routes are programmed.
    pub(super) fn kernel(&self, cluster: &Cluster, v6: bool) -> Policy {
        let family = &self.families[usize::from(v6)];
        let mut rules = Vec::new();
        within(&mut rules, &family.ranges, Rule::reject);
        rules.push(Rule::change(Vec::new(), vec![Operation::SetMetric { normal: family.normal }]));
        rules.push(Rule::change(
            vec![Match::FromPeer, Match::MetricBelow(family.normal)],
            vec![Operation::SetPreference(ELEVATED_PREFERENCE)],
        ));
        let hops = wireguard_peers(cluster, v6);
        if !hops.is_empty() {
            rules.push(Rule::reject(vec![Match::NextHop(hops)]));
        }
        let subnet = match (v6, cluster.model.nodes.get(cluster.node)) {
            (false, Some(node)) => node.ipv4.map(|net| IpNet::V4(net.trunc())),
            _ => None,
        };
        for pool in cluster.model.pools.values().filter(|pool| is_v6(&pool.cidr) == v6) {
            rules.push(pool_rule(cluster.default.cluster_routes, pool, subnet));
        }
        Policy::new(rules, true)
    }
}

fn imports(filter: &BgpFilter, v6: bool) -> &[FilterRule] {
    if v6 { &filter.import_v6 } else { &filter.import_v4 }
}

fn exports(filter: &BgpFilter, v6: bool) -> &[FilterRule] {
    if v6 { &filter.export_v6 } else { &filter.export_v4 }
}

fn is_v6(net: &IpNet) -> bool {
    net.addr().is_ipv6()
}

/// A rule for everything inside a set that is not empty.
fn within(rules: &mut Vec<Rule>, set: &PrefixSet, rule: fn(Vec<Match>) -> Rule) {
    if !set.is_empty() {
        rules.push(rule(vec![Match::Within(set.clone())]));
    }
}

/// Whether BGP programs routes of IPIP pools, and of plain ones.
fn programs(cluster_routes: ClusterRoutes) -> (bool, bool) {
    match cluster_routes {
        ClusterRoutes::Enabled => (true, true),
        ClusterRoutes::Disabled => (false, false),
        ClusterRoutes::EnabledIPIPOnly => (true, false),
        ClusterRoutes::EnabledNoEncapOnly => (false, true),
    }
}

fn pool_rule(cluster_routes: ClusterRoutes, pool: &IpPool, subnet: Option<IpNet>) -> Rule {
    let inside = vec![Match::Within([pool.cidr].into_iter().collect())];
    let (ipip, plain) = programs(cluster_routes);
    let wanted = match (pool.vxlan_mode, pool.ipip_mode) {
        (EncapMode::Never, EncapMode::Never) => plain,
        (EncapMode::Never, _) => ipip,
        _ => false,
    };
    if !wanted {
        return Rule::reject(inside);
    }
    let mut rule = Rule::accept(inside);
    rule.operations = match pool.ipip_mode {
        EncapMode::Never => Vec::new(),
        EncapMode::Always => vec![Operation::Ipip { unless_next_hop_in: None }],
        EncapMode::CrossSubnet => vec![Operation::Ipip { unless_next_hop_in: subnet }],
    };
    rule
}

/// Nodes that are reached through Wireguard, when this node has it.
fn wireguard_peers(cluster: &Cluster, v6: bool) -> Vec<IpAddr> {
    let nodes = &cluster.model.nodes;
    let has =
        |name: &str| nodes.get(name).is_some_and(|node| node.wireguard[usize::from(v6)].is_some());
    if !has(cluster.node) {
        return Vec::new();
    }
    let peers = nodes.keys().filter(|name| *name != cluster.node && has(name));
    let mut hops: Vec<IpAddr> = peers.filter_map(|name| cluster.address(name, v6)).collect();
    hops.sort_unstable();
    hops
}

impl Family {
    fn new(cluster: &Cluster, services: &ServiceRoutes, v6: bool) -> Family {
        let of_family = |nets: &mut dyn Iterator<Item = IpNet>| -> PrefixSet {
            nets.filter(|net| is_v6(net) == v6).collect()
        };
        let pools = |hidden: bool| {
            let pools = cluster.model.pools.values();
            pools.filter(move |pool| pool.disable_bgp_export == hidden).map(|pool| pool.cidr)
        };
        let own =
            cluster.model.blocks().owners().iter().filter(|(_, owner)| **owner == cluster.node);
        let is_reflector = cluster.cluster_id(cluster.node).is_some();
        let default = &cluster.default;
        let learned = default.load_balancer_ips.iter().chain(&default.external_ips);
        Family {
            normal: cluster.normal_priority(v6),
            hidden_pools: of_family(&mut pools(true)),
            tunnels: tunnel_rules(cluster),
            communities: community_rules(cluster, v6),
            blocks: of_family(&mut own.map(|(block, _)| *block)),
            services: of_family(&mut services.advertised.iter().copied()),
            reflected: of_family(&mut learned.copied().filter(|_| is_reflector)),
            pools: of_family(&mut pools(false)),
            ranges: of_family(&mut services.ranges.iter().copied()),
        }
    }

    fn exchange(&self) -> Rule {
        Rule::change(Vec::new(), vec![Operation::ExchangeMetric { normal: self.normal }])
    }

    /// What follows the filters on export.
    fn export(&self, same_as: bool) -> Vec<Rule> {
        let mut rules = Vec::new();
        within(&mut rules, &self.hidden_pools, Rule::reject);
        if same_as {
            rules.extend(self.tunnels.iter().cloned());
        }
        rules.push(Rule::reject(vec![Match::Interface(Pattern::new(LOCAL_ONLY))]));
        rules.extend(self.communities.iter().cloned());
        if !self.blocks.is_empty() {
            let inside = || Match::Within(self.blocks.clone());
            rules.push(Rule::accept(vec![Match::OneOf(self.blocks.clone())]));
            rules.push(Rule::accept(vec![inside(), Match::MetricBelow(self.normal)]));
            rules.push(Rule::reject(vec![inside()]));
        }
        within(&mut rules, &self.services, Rule::accept);
        within(&mut rules, &self.reflected, Rule::accept);
        within(&mut rules, &self.pools, Rule::accept);
        rules
    }
}

fn tunnel_rules(cluster: &Cluster) -> Vec<Rule> {
    let (ipip, _) = programs(cluster.default.cluster_routes);
    let names = TUNNELS.iter().chain((!ipip).then_some(&IPIP_TUNNEL));
    names.map(|name| Rule::reject(vec![Match::Interface(Pattern::new(name))])).collect()
}

fn community_rules(cluster: &Cluster, v6: bool) -> Vec<Rule> {
    let all = cluster.prefix_advertisements().iter();
    let own = all.filter(|one| is_v6(&one.cidr) == v6 && !one.communities.is_empty());
    let rule = own.map(|one| {
        let operations = one.communities.iter().copied().map(Operation::AddCommunity).collect();
        Rule::change(vec![Match::Within([one.cidr].into_iter().collect())], operations)
    });
    rule.collect()
}
