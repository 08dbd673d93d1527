//! The packet path of a node as a store describes it, without the node: for `margay replay`.
//!
//! There is no kernel to ask, so the node is made of its own resources: one uplink with the
//! addresses of its Node resource, and the interfaces of its endpoints. Routes come from the same
//! [`crate::resolve`] that the daemon uses. What only a real kernel knows (a default route, further
//! devices) is missing.

use crate::kernel::message::{Replaces, Update};
use crate::kernel::mirror::Mirror;
use crate::kernel::{Link, NextHop, Route as KernelRoute, RouteKind, Table};
use crate::model::Model;
use crate::publish::tunnels;
use crate::resolve::bgp::{BgpPlan, LocalFacts};
use crate::resolve::tunnels::{Tunnel, TunnelPlan};
use crate::resolve::{self, Hop, Inputs, Target as Wanted};
use crate::resource::workload_endpoint::WorkloadEndpoint;
use crate::store::Event;
use crate::store::directory::Directory;
use ipnet::IpNet;
use margay_fastpath::ecmp;
use margay_fastpath::fib::{Fib, FibError, FibWriter};
use margay_fastpath::limit::QueueAccount;
use margay_fastpath::port::PortId;
use margay_fastpath::proxy_neighbor::GATEWAY_MAC;
use margay_fastpath::sources::Sources;
use margay_fastpath::tables::{Adjacency, AdjacencyId, PortEntry, Tables, Target, TargetId};
use margay_fastpath::tunnel::{MAX_TUNNELS, Tunnel as TunnelEntry, TunnelId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// Name of the one port towards other networks.
pub const UPLINK: &str = "uplink";
const HOST_DEVICE: &str = "margay0";
const MTU: u16 = 1500;

/// Why there is no such packet path.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// A file of the store cannot be used.
    #[error("the store: {0}")]
    Store(String),
    /// The store has no such node.
    #[error("the store has no Node named '{name}'\nhint: it has {known}")]
    Node {
        /// The name asked for.
        name: String,
        /// The names that are there.
        known: String,
    },
    /// The routes do not fit.
    #[error("route {prefix}: {source}")]
    Route {
        /// Which.
        prefix: IpNet,
        /// Why.
        source: FibError,
    },
    /// No memory for the routes.
    #[error("memory for the routes: {0}")]
    Memory(#[from] std::io::Error),
}

/// Tables and routes of a node.
#[derive(Debug)]
pub struct Offline {
    /// Port 0 is the [`UPLINK`]; the endpoints of the node follow, by interface name.
    pub tables: Tables,
    /// Owner of the routes.
    pub writer: FibWriter,
    /// The routes.
    pub fib: Arc<Fib>,
}

/// Reads a directory of resources, and plans the BGP that `node` would have.
pub fn bgp(store: &Path, node: &str, facts: &LocalFacts) -> Result<BgpPlan, OfflineError> {
    let (model, _) = read(store)?;
    check_node(&model, node)?;
    Ok(resolve::bgp::plan(&model, node, facts))
}

/// Reads a directory of resources, and makes the packet path that `node` would have.
pub fn build(store: &Path, node: &str) -> Result<Offline, OfflineError> {
    let (model, _) = read(store)?;
    check_node(&model, node)?;
    let Plan { names, wanted, tunnels: plan } = Plan::of(&model, node);
    let (mut writer, fib) = FibWriter::with_limits(Default::default())?;
    let mut tables = Tables { ports: ports(&model, node, &names), ..Tables::default() };
    tables.targets.push(Target::NoRoute);
    tables.tunnel_end = plan.end.clone();
    for (_, tunnel) in plan.tunnels() {
        if let Some(id) = tunnel_id(&mut tables, tunnel) {
            tables.tunnel_end.sources.insert((tunnel.kind(), tunnel.remote), id);
        }
    }
    for (prefix, route) in wanted.routes {
        let target = number(&mut tables, &names, &route.target);
        writer.insert(prefix, target).map_err(|source| OfflineError::Route { prefix, source })?;
    }
    Ok(Offline { tables, writer, fib })
}

/// What a node would do, before anything is numbered.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Names of its ports.
    pub(crate) names: Vec<Arc<str>>,
    /// Its routes.
    pub(crate) wanted: resolve::Wanted,
    /// Its tunnels.
    pub(crate) tunnels: TunnelPlan,
}

impl Plan {
    /// Resolves what a store says of a node, without a kernel.
    pub(crate) fn of(model: &Model, node: &str) -> Plan {
        let endpoints = model.local_endpoints(node);
        let interfaces = endpoints.map(|(_, endpoint)| endpoint.interface.as_str());
        let names: Vec<Arc<str>> =
            std::iter::once(UPLINK).chain(interfaces).map(Arc::from).collect();
        let mirror = made_up_kernel(model, node, &names);
        let attached: BTreeSet<Arc<str>> = names.iter().cloned().collect();
        let tunnels = TunnelPlan::of(model, node, &Default::default(), MTU);
        let wanted = resolve::resolve(Inputs {
            node,
            model,
            mirror: &mirror,
            static_routes: &[],
            host_device: HOST_DEVICE,
            attached: &attached,
            bgp: None,
            tunnels: &tunnels,
        });
        Plan { names, wanted, tunnels }
    }
}

pub(crate) fn check_node(model: &Model, node: &str) -> Result<(), OfflineError> {
    if model.nodes.contains_key(node) {
        return Ok(());
    }
    let names: Vec<&str> = model.nodes.keys().map(String::as_str).collect();
    let known = if names.is_empty() { "no nodes".to_owned() } else { names.join(", ") };
    Err(OfflineError::Node { name: node.to_owned(), known })
}

/// The resources of a directory, as a model and as they came.
pub(crate) fn read(store: &Path) -> Result<(Model, Vec<Event>), OfflineError> {
    let mut directory = Directory::new(store);
    let mut model = Model::default();
    let events = directory.scan();
    events.iter().cloned().for_each(|event| model.apply(event));
    match directory.report().faults.first() {
        Some(fault) => Err(OfflineError::Store(fault.to_string())),
        None => Ok((model, events)),
    }
}

/// Links for all ports, and the node's own addresses on the uplink.
fn made_up_kernel(model: &Model, node: &str, names: &[Arc<str>]) -> Mirror {
    let mut mirror = Mirror::default();
    for (at, name) in names.iter().enumerate() {
        let link = Link {
            index: at as u32 + 1,
            name: name.to_string(),
            kind: String::new(),
            mac: Some(GATEWAY_MAC),
            mtu: MTU.into(),
            up: true,
            running: true,
        };
        mirror.apply(Update::Link(link));
    }
    let own = model.nodes.get(node).cloned().unwrap_or_default();
    let addresses = own.ipv4.map(IpNet::V4).into_iter().chain(own.ipv6.map(IpNet::V6));
    for net in addresses {
        mirror.apply(Update::Address(1, net));
        for route in [
            kernel_route(Table::Main, net.trunc(), RouteKind::Unicast),
            kernel_route(Table::Local, IpNet::from(net.addr()), RouteKind::Local),
        ] {
            mirror.apply(Update::Route(route, Replaces::Nothing));
        }
    }
    mirror
}

fn kernel_route(table: Table, prefix: IpNet, kind: RouteKind) -> KernelRoute {
    let next_hops = vec![NextHop { device: 1, gateway: None, weight: 1 }];
    // 2 is RTPROT_KERNEL: routes that come with an address.
    KernelRoute { table, prefix, kind, protocol: 2, metric: 0, next_hops }
}

fn ports(model: &Model, node: &str, names: &[Arc<str>]) -> Vec<Option<PortEntry>> {
    let own = model.nodes.get(node).cloned().unwrap_or_default();
    let endpoints = model.local_endpoints(node);
    let endpoints: BTreeMap<&str, &WorkloadEndpoint> =
        endpoints.map(|(_, endpoint)| (endpoint.interface.as_str(), &**endpoint)).collect();
    let entry = |name: &Arc<str>| PortEntry {
        name: name.to_string(),
        mac: GATEWAY_MAC,
        mtu: MTU,
        worker: 0,
        implicit_partial_csum: false,
        workload: **name != *UPLINK,
        answers_neighbors: **name != *UPLINK,
        icmp_source_v4: own.ipv4.map(|net| net.addr()),
        icmp_source_v6: own.ipv6.map(|net| net.addr()),
        sources: endpoints
            .get(&**name)
            .map(|endpoint| Sources::new(endpoint.addresses.iter().map(|own| IpNet::from(*own)))),
        up: true,
        queue: QueueAccount::default(),
    };
    names.iter().map(|name| Some(entry(name))).collect()
}

/// The number of a target, added to the tables.
fn number(tables: &mut Tables, names: &[Arc<str>], wanted: &Wanted) -> TargetId {
    let port =
        |name: &Arc<str>| names.iter().position(|other| other == name).map(|at| PortId(at as u16));
    let target = match wanted {
        Wanted::Local => Target::Local,
        Wanted::Blackhole => Target::Blackhole,
        Wanted::Unreachable => Target::Unreachable,
        Wanted::Prohibit => Target::Prohibit,
        Wanted::OnLink(name) => port(name).map_or(Target::Unreachable, Target::Glean),
        Wanted::Via(hops) => {
            let hops = hops.iter().filter_map(|hop| Some((port(&hop.port)?, hop)));
            let members: Vec<AdjacencyId> =
                hops.map(|(port, hop)| adjacency(tables, port, hop)).collect();
            match members[..] {
                [] => Target::Unreachable,
                [only] => Target::Forward(only),
                _ => {
                    tables.ecmp_groups.push(ecmp::build(&members, 0));
                    Target::Ecmp(tables.ecmp_groups.len() as u32 - 1)
                }
            }
        }
    };
    let known = tables.targets.iter().position(|other| *other == target);
    let at = known.unwrap_or_else(|| {
        tables.targets.push(target);
        tables.targets.len() - 1
    });
    TargetId(at as u32)
}

fn adjacency(tables: &mut Tables, port: PortId, hop: &Hop) -> AdjacencyId {
    let address: IpAddr = hop.address;
    let tunnel = hop.tunnel.as_ref().and_then(|tunnel| tunnel_id(tables, tunnel));
    let key = (port, address, tunnel);
    let same = |other: &Adjacency| (other.port, other.neighbor, other.tunnel) == key;
    let known = tables.adjacencies.iter().position(same);
    let at = known.unwrap_or_else(|| {
        tables.adjacencies.push(Adjacency { port, neighbor: address, mac: None, tunnel });
        tables.adjacencies.len() - 1
    });
    AdjacencyId(at as u32)
}

/// The number of a tunnel, added to the tables.
fn tunnel_id(tables: &mut Tables, wanted: &Tunnel) -> Option<TunnelId> {
    let kind = wanted.kind();
    let same = |other: &Option<TunnelEntry>| {
        other.as_ref().is_some_and(|other| (other.kind, other.remote) == (kind, wanted.remote))
    };
    let known = tables.tunnels.iter().position(same);
    if known.is_none() {
        let encap = tunnels::encap(wanted)?;
        let (remote, base) = (wanted.remote, Default::default());
        tables.tunnels.push(Some(TunnelEntry { kind, remote, encap, mss_mtu: 0, base }));
    }
    let at = known.unwrap_or(tables.tunnels.len() - 1);
    (at < MAX_TUNNELS).then_some(TunnelId(at as u32))
}
