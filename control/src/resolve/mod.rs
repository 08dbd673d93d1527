//! From what is wanted and what is there to routes: pure functions of the current state.
//!
//! [`resolve`] knows nothing of what was published before, so its output cannot depend on history.
//! Of several routes to one prefix the host's own addresses win, then static routes, then the
//! datastore's, then the kernel's; routes of BGP peers are beside them, see [`learned`]. A next hop
//! on a device that margay has no port on goes through the host's stack, which has the device.

pub mod bgp;
mod kernel;
pub(crate) mod learned;
mod link;
pub(crate) mod nat;
pub mod ports;
pub(crate) mod services;
mod static_routes;
mod store;
pub(crate) mod table;
#[cfg(test)]
mod tests;
pub mod tunnels;

use crate::config::StaticRoute;
use crate::kernel::mirror::Mirror;
use crate::kernel::routes::Wanted as KernelRoute;
use crate::model::Model;
use ipnet::IpNet;
use margay_bgp::policy::Policy;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use tunnels::{Tunnel, TunnelPlan};

/// Everything that routes follow from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// This node's name.
    pub node: &'a str,
    /// The datastore.
    pub model: &'a Model,
    /// The kernel.
    pub mirror: &'a Mirror,
    /// Routes of the configuration.
    pub static_routes: &'a [StaticRoute],
    /// Name of the TAP to the host's stack.
    pub host_device: &'a str,
    /// Names of the ports that work.
    pub attached: &'a BTreeSet<Arc<str>>,
    /// What BGP programs, IPv4 and IPv6: the ways to other nodes that it has are not taken from
    /// the datastore. `None` without BGP.
    pub bgp: Option<&'a [Arc<Policy>; 2]>,
    /// Tunnels between nodes.
    pub tunnels: &'a TunnelPlan,
}

/// What should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Routes of the packet path.
    pub routes: BTreeMap<IpNet, Route>,
    /// Routes of margay in the kernel.
    pub kernel_routes: BTreeMap<IpNet, KernelRoute>,
    /// The same routes, for the next hops of others.
    pub(crate) table: table::Table,
}

/// A route of the packet path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Who wants it.
    pub origin: Origin,
    /// What it does.
    pub target: Target,
    /// Rank beside a route of a BGP peer, whose metric must be lower to win.
    pub metric: u32,
}

/// Who wants a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// The kernel has it.
    Kernel,
    /// A host on a link that answered there.
    Neighbor,
    /// A BGP peer.
    Bgp,
    /// The datastore.
    Store,
    /// The configuration.
    Static,
}

/// What a route does, by names: numbers are given when it is published.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// To the host's stack.
    Local,
    /// Dropped in silence.
    Blackhole,
    /// Dropped with host unreachable.
    Unreachable,
    /// Dropped with administratively prohibited.
    Prohibit,
    /// The destination is on the link of this port.
    OnLink(Arc<str>),
    /// To one of these, sorted and without repetition unless weights repeat it.
    Via(Vec<Hop>),
}

/// A next hop on the link of a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hop {
    /// Name of the port.
    pub port: Arc<str>,
    /// Address that is asked for there.
    pub address: IpAddr,
    /// The tunnel whose packets go there.
    pub tunnel: Option<Arc<Tunnel>>,
}

impl Hop {
    /// For packets as they are.
    pub fn plain(port: Arc<str>, address: IpAddr) -> Hop {
        Hop { port, address, tunnel: None }
    }
}

/// The routes that follow from the inputs.
pub fn resolve(inputs: Inputs) -> Wanted {
    let mut wanted = Wanted::default();
    let mut base = table::Table::default();
    kernel::add_unicast(inputs, &mut base);
    let mut statics = table::Table::default();
    static_routes::add(inputs, &base, &mut statics, &mut wanted);
    base.extend(statics);
    let mut all = base.clone();
    store::add(inputs, &base, &mut all, &mut wanted);
    kernel::add_local(inputs, &mut all);
    link::add_neighbors(inputs, &mut all);
    all.overlay = table::Overlay {
        own: Some(inputs.tunnels.end.v4).filter(|_| inputs.tunnels.end.ipip),
        host: host_index(inputs),
    };
    wanted.routes = all.routes();
    wanted.table = all;
    wanted
}

/// Number of the TAP to the host's stack, in the kernel.
fn host_index(inputs: Inputs) -> Option<u32> {
    let host = inputs.mirror.link_by_name(inputs.host_device);
    host.filter(|link| link.up).map(|link| link.index)
}

/// True for prefixes that are never forwarded to, whatever a table says (RFC 1812 5.3.7, RFC 4291
/// 2.5.6): loopback, link-local, multicast.
fn is_never_forwarded(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(net) => {
            let first = net.network();
            net.prefix_len() >= 4
                && (first.is_loopback() || first.is_link_local() || first.is_multicast())
        }
        IpNet::V6(net) => {
            let first = net.network();
            net.prefix_len() >= 8
                && (first.is_loopback() || first.is_unicast_link_local() || first.is_multicast())
        }
    }
}

/// The prefix of a single address.
pub(crate) fn host_prefix(address: IpAddr) -> IpNet {
    IpNet::from(address)
}
