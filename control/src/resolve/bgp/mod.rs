//! BGP as the datastore wants it on one node: sessions, their policies, and own routes.
//!
//! [`plan`] is a pure function of the current state. Sessions have the names of Calico's, for its
//! status tools. What the plan leaves to others: sockets and keys, connected routes, whether a
//! peer is reached. A v6 session carries IPv6 only, as Calico's two daemons have it.

mod advertise;
mod cluster;
mod expand;
mod policies;
mod services;
mod session;
#[cfg(test)]
mod tests;

pub use advertise::{Advertisement, AdvertisementKind};
pub use session::{PeerKind, Session};

use crate::model::Model;
use crate::resource::bgp_configuration::BindMode;
use cluster::Cluster;
use ipnet::IpNet;
use margay_bgp::policy::Policy;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Port of BGP where nothing else is said.
pub const PORT: u16 = 179;
/// AS of nodes where nothing else is said.
pub const AS_NUMBER: u32 = 64512;
/// Restart time where nothing else is said, in seconds.
pub const RESTART_TIME_S: u32 = 120;
/// Metric of usual routes where nothing else is said.
pub const NORMAL_PRIORITY: u32 = 1024;

/// What only the machine knows: its environment and configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalFacts {
    /// The router id, where it is not the node's IPv4 address.
    pub router_id: Option<Ipv4Addr>,
    /// Cluster ranges to advertise, of `CALICO_ADVERTISE_CLUSTER_IPS`.
    pub cluster_ips: Vec<IpNet>,
    /// Namespace of the Secrets with passwords; if it is not said, the first of calico-system,
    /// kube-system and none that has the Secret.
    pub secret_namespace: Option<String>,
    /// Name of the node in Kubernetes, if it is another.
    pub kubernetes_node: Option<String>,
}

/// BGP on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BgpPlan {
    /// The speaker; `None` when the node has no address, and so no BGP.
    pub instance: Option<Instance>,
    /// Sessions by name.
    pub sessions: BTreeMap<String, Session>,
    /// Own routes.
    pub advertisements: BTreeMap<IpNet, Advertisement>,
    /// Host routes to peers: peer to gateway.
    pub peer_routes: BTreeMap<IpAddr, IpAddr>,
    /// Which BGP routes go to the packet path and the kernel, IPv4 and IPv6.
    pub kernel: Option<[Arc<Policy>; 2]>,
    /// What the resources ask for and cannot have.
    pub faults: Vec<String>,
}

/// The speaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Router id; `None` when nothing says it, and then no session can start.
    pub router_id: Option<Ipv4Addr>,
    /// AS of the node.
    pub local_as: u32,
    /// Port of the listener.
    pub listen_port: u16,
    /// Addresses of the listener; none are all.
    pub listen: Vec<IpAddr>,
    /// Cluster id of a route reflector.
    pub cluster_id: Option<Ipv4Addr>,
    /// Interfaces whose connected routes do not count, as patterns.
    pub ignored_interfaces: Vec<String>,
    /// Addresses, IPv4 and IPv6, that local workloads peer with.
    pub local_workload_peering: [Option<IpAddr>; 2],
    /// Metric of usual routes, IPv4 and IPv6.
    pub normal_priority: [u32; 2],
}

/// Interfaces that never count for connected routes.
const IGNORED_INTERFACES: [&str; 2] = ["cali*", "kube-ipvs*"];

/// The plan of a node.
pub fn plan(model: &Model, node: &str, facts: &LocalFacts) -> BgpPlan {
    let cluster = Cluster::new(model, node, facts);
    let Some(own) = model.nodes.get(node).filter(|own| own.ipv4.is_some() || own.ipv6.is_some())
    else {
        return BgpPlan::default();
    };
    let mut plan = BgpPlan { instance: Some(instance(&cluster)), ..BgpPlan::default() };
    let routes = services::resolve(&cluster);
    let shared = policies::Shared::new(&cluster, &routes);
    session::add_mesh(&cluster, &shared, &mut plan);
    session::add_peers(&cluster, &shared, &mut plan);
    plan.advertisements = advertise::resolve(&cluster, &shared, &routes);
    plan.kernel = Some([false, true].map(|v6| Arc::new(shared.kernel(&cluster, v6))));
    if own.ipv4.is_none() && facts.router_id.is_none() {
        let what = format!("Node {node} has no IPv4 address: set a router id");
        plan.faults.push(what);
    }
    plan.faults.sort();
    plan.faults.dedup();
    plan
}

fn instance(cluster: &Cluster) -> Instance {
    let default = &cluster.default;
    let own = [false, true].map(|v6| cluster.address(cluster.node, v6));
    let mut ignored = default.ignored_interfaces.clone();
    ignored.extend(IGNORED_INTERFACES.map(str::to_owned));
    let listen = match default.bind_mode {
        BindMode::None => Vec::new(),
        BindMode::NodeIP => own.iter().flatten().copied().collect(),
    };
    Instance {
        router_id: cluster.facts.router_id.or(match own[0] {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        }),
        local_as: cluster.as_number(cluster.node),
        listen_port: cluster.listen_port(cluster.node).unwrap_or(PORT),
        listen,
        cluster_id: cluster.cluster_id(cluster.node),
        ignored_interfaces: ignored,
        local_workload_peering: default.local_workload_peering,
        normal_priority: [false, true].map(|v6| cluster.normal_priority(v6)),
    }
}
