//! Sessions: of the mesh, and of peerings.
//!
//! Between nodes one side waits for the other: the one whose address is smaller **as text**, for
//! nodes of Calico decide it so, and two that disagree would both wait.

use super::cluster::Cluster;
use super::expand::{self, Peering};
use super::policies::Shared;
use super::{BgpPlan, PORT, RESTART_TIME_S};
use crate::resource::bgp_peer::{Bfd, NextHopMode};
use crate::resource::field::SecretKey;
use crate::resource::secret::Password;
use margay_bgp::Family;
use margay_bgp::FamilySet;
use margay_bgp::policy::Policy;
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Where a session comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerKind {
    /// The mesh between nodes.
    Mesh,
    /// A BGPPeer of all nodes.
    Global,
    /// A BGPPeer of this node and maybe others, or the mirror of one.
    Node,
    /// A BGPPeer that picks workloads.
    LocalWorkload,
}

/// A wanted session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Where it comes from.
    pub kind: PeerKind,
    /// Name of the BGPPeer; `None` for the mesh.
    pub resource: Option<String>,
    /// Address of the peer.
    pub address: IpAddr,
    /// Port of the peer.
    pub port: u16,
    /// AS of the peer.
    pub remote_as: u32,
    /// AS of this node on the session.
    pub local_as: u32,
    /// Waits for the peer to connect.
    pub passive: bool,
    /// Address that the session starts from; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
    /// The peer is a reflector's client, of this cluster.
    pub client_of: Option<Ipv4Addr>,
    /// Next hop of exported routes.
    pub next_hop: NextHopMode,
    /// Key of TCP MD5.
    pub password: Option<Password>,
    /// Where the password comes from.
    pub password_key: Option<SecretKey>,
    /// Hops that RFC 5082 allows; `None` is without.
    pub ttl_security: Option<u8>,
    /// How often the own AS may be in a received path.
    pub allowed_own_as: u32,
    /// Gateway of a host route to the peer.
    pub reachable_by: Option<IpAddr>,
    /// Restart time (RFC 4724) in seconds.
    pub restart_time_s: u32,
    /// Keepalive time in seconds; `None` is a third of the hold time.
    pub keepalive_time_s: Option<u32>,
    /// Names of the filters in force, in order.
    pub filters: Vec<String>,
    /// What the session carries.
    pub families: FamilySet,
    /// Watch the peer by BFD.
    pub bfd: Option<Bfd>,
    /// Most paths that the peer may announce.
    pub max_prefixes: Option<u32>,
    /// For routes from the peer.
    pub import: Arc<Policy>,
    /// For routes to the peer.
    pub export: Arc<Policy>,
    /// Why the session must not start.
    pub blocked: Option<String>,
}

impl Session {
    /// True when both sides are of one AS.
    pub fn is_internal(&self) -> bool {
        self.remote_as == self.local_as
    }
}

/// `Mesh_10_0_0_2`, with `_port_N` for a port that is said.
fn session_name(kind: PeerKind, address: IpAddr, port: Option<u16>) -> String {
    let prefix = match kind {
        PeerKind::Mesh => "Mesh",
        PeerKind::Global => "Global",
        PeerKind::Node => "Node",
        PeerKind::LocalWorkload => "Local_Workload",
    };
    let address = address.to_string().replace(['.', ':'], "_");
    match port.filter(|_| kind != PeerKind::Mesh) {
        Some(port) => format!("{prefix}_{address}_port_{port}"),
        None => format!("{prefix}_{address}"),
    }
}

fn family(address: IpAddr) -> FamilySet {
    let family = if address.is_ipv4() { Family::Ipv4Unicast } else { Family::Ipv6Unicast };
    FamilySet::EMPTY.with(family)
}

/// True when the peer's address is the larger one as text.
fn sorts_behind(peer: IpAddr, own: IpAddr) -> bool {
    peer.to_string() > own.to_string()
}

pub(super) fn add_mesh(cluster: &Cluster, shared: &Shared, plan: &mut BgpPlan) {
    let enabled = cluster.default.mesh.unwrap_or(true);
    if !enabled || cluster.cluster_id(cluster.node).is_some() {
        return;
    }
    let key = cluster.default.mesh_password.as_ref();
    let local_as = cluster.as_number(cluster.node);
    for v6 in [false, true] {
        let Some(own) = cluster.address(cluster.node, v6) else { continue };
        let policies = [true, false].map(|same_as| shared.session(&[], same_as, v6));
        let nodes = cluster.model.nodes.keys().filter(|node| cluster.cluster_id(node).is_none());
        for node in nodes {
            let Some(address) = cluster.address(node, v6).filter(|peer| *peer != own) else {
                continue;
            };
            let remote_as = cluster.as_number(node);
            let (import, export) = policies[usize::from(remote_as != local_as)].clone();
            let (password, blocked) = password(cluster, key);
            let session = Session {
                kind: PeerKind::Mesh,
                resource: None,
                address,
                port: cluster.listen_port(node).unwrap_or(PORT),
                remote_as,
                local_as,
                passive: sorts_behind(address, own),
                source: Some(own),
                client_of: None,
                next_hop: NextHopMode::Auto,
                password,
                password_key: key.cloned(),
                ttl_security: None,
                allowed_own_as: 0,
                reachable_by: None,
                restart_time_s: cluster.default.mesh_restart_s.unwrap_or(RESTART_TIME_S),
                keepalive_time_s: None,
                filters: Vec::new(),
                families: family(address),
                bfd: None,
                max_prefixes: None,
                import,
                export,
                blocked,
            };
            plan.sessions.insert(session_name(PeerKind::Mesh, address, None), session);
        }
    }
}

/// The password, and why the session must not start without the one that it should have.
fn password(cluster: &Cluster, key: Option<&SecretKey>) -> (Option<Password>, Option<String>) {
    match key.map(|key| cluster.password(key)) {
        None => (None, None),
        Some(Ok(password)) => (Some(password.clone()), None),
        Some(Err(reason)) => (None, Some(reason)),
    }
}

pub(super) fn add_peers(cluster: &Cluster, shared: &Shared, plan: &mut BgpPlan) {
    for peering in expand::peerings(cluster).into_values() {
        let own = cluster.address(cluster.node, peering.address.is_ipv6());
        if own == Some(peering.address) {
            continue;
        }
        let name = session_name(peering.kind, peering.address, peering.port);
        let session = session(cluster, shared, &peering, plan);
        if let Some(gateway) = session.reachable_by {
            plan.peer_routes.insert(session.address, gateway);
        }
        plan.sessions.insert(name, session);
    }
}

fn session(cluster: &Cluster, shared: &Shared, peering: &Peering, plan: &mut BgpPlan) -> Session {
    let (spec, address) = (peering.spec, peering.address);
    let is_workload = peering.kind == PeerKind::LocalWorkload;
    let own = cluster.address(cluster.node, address.is_ipv6());
    let own_as = cluster.as_number(cluster.node);
    let local_as = spec.local_as.filter(|_| !peering.is_found_node).unwrap_or(own_as);
    let is_internal = peering.remote_as == local_as;
    let mut filters = Vec::new();
    for name in &spec.filters {
        match cluster.model.bgp_filters.contains_key(name) {
            true => filters.push(name.clone()),
            false => plan.faults.push(format!("BGPPeer {}: no BGPFilter {name}", peering.name)),
        }
    }
    let (mut import, mut export) = shared.session(&filters, is_internal, address.is_ipv6());
    if spec.requires_policy && !is_internal {
        let [imports, exports] = shared.directions(&filters, address.is_ipv6());
        // RFC 8212 section 3: routes do not pass where no policy was given.
        let reject = || Arc::new(Policy::reject_all());
        import = if imports { import } else { reject() };
        export = if exports { export } else { reject() };
    }
    let key = spec.password.as_ref().filter(|_| !is_workload);
    let (password, mut blocked) = password(cluster, key);
    if peering.remote_as == 0 {
        blocked = blocked.or(Some(format!("BGPPeer {} says no AS number", peering.name)));
    }
    let reflects = cluster
        .cluster_id(cluster.node)
        .filter(|own| is_internal && peering.peer_cluster_id != Some(*own));
    let keeps = spec.keeps_next_hop_ebgp && !is_internal && !is_workload;
    let is_passive_side = peering.is_named_node
        && peering.kind == PeerKind::Global
        && own.is_some_and(|own| sorts_behind(address, own));
    Session {
        kind: peering.kind,
        resource: Some(peering.name.to_owned()),
        address,
        port: peering.port.unwrap_or(PORT),
        remote_as: peering.remote_as,
        local_as,
        passive: is_workload || is_passive_side,
        source: own.filter(|_| spec.uses_node_ip && !is_workload),
        client_of: reflects,
        next_hop: match (keeps, is_workload) {
            (true, _) => NextHopMode::Keep,
            (false, true) => NextHopMode::Auto,
            (false, false) => spec.next_hop_mode,
        },
        password,
        password_key: key.cloned(),
        ttl_security: spec.ttl_security.filter(|_| !is_workload),
        allowed_own_as: match peering.is_found_node || is_workload {
            true => 0,
            false => spec.allowed_local_as,
        },
        reachable_by: spec.reachable_by.filter(|_| !is_workload && !peering.is_found_node),
        restart_time_s: spec.restart_s.filter(|_| !is_workload).unwrap_or(RESTART_TIME_S),
        keepalive_time_s: spec.keepalive_s.filter(|_| !is_workload),
        filters,
        families: family(address),
        bfd: spec.bfd,
        max_prefixes: spec.max_prefixes,
        import,
        export,
        blocked,
    }
}
