//! The host's kernel: what it knows of links, addresses, routes and neighbours, and what margay
//! writes to it.
//!
//! [`watch`] feeds a [`mirror::Mirror`] from dumps and multicast events, [`routes`] writes margay's
//! own routes, `export` those of BGP peers, `addresses` this node's addresses inside of tunnels,
//! [`neighbors`] asks for resolution, [`nft`] filters what is the host's own, [`sysctl`] sets what
//! Calico sets on the devices of pods.
//! Only the main and local tables are looked at; policy routing is left out.

pub(crate) mod addresses;
pub(crate) mod export;
pub mod message;
pub mod mirror;
pub mod neighbors;
pub mod nft;
pub(crate) mod own_ports;
pub mod routes;
pub mod sysctl;
pub mod watch;

use ipnet::IpNet;
use margay_tunnels::wire::ethernet::Mac;
use std::net::IpAddr;

/// rtnetlink's protocol number of every route that margay writes; routes with another number are
/// never touched.
pub const ROUTE_PROTOCOL: u8 = 158;
/// The number of routes that come from BGP peers.
pub const BGP_ROUTE_PROTOCOL: u8 = 159;
/// Metric of margay's routes, Calico's normal route priority.
pub const ROUTE_METRIC: u32 = 1024;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number, unique while it exists.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `tun`, ...; empty for physical devices.
    pub kind: String,
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Up, and with carrier.
    pub running: bool,
}

/// Which table a route is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Addresses of the host (255). It is looked at first.
    Local,
    /// Everything else (254).
    Main,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Sends packets on.
    Unicast,
    /// Delivers to the host: local, broadcast, anycast and multicast addresses.
    Local,
    /// Drops in silence.
    Blackhole,
    /// Drops with host unreachable.
    Unreachable,
    /// Drops with administratively prohibited.
    Prohibit,
}

/// One way of a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// Egress device.
    pub device: u32,
    /// Gateway; `None` when the destination itself is on the link.
    pub gateway: Option<IpAddr>,
    /// Share of the traffic, from 1.
    pub weight: u16,
}

/// A route of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its table.
    pub table: Table,
    /// Destination.
    pub prefix: IpNet,
    /// What it does.
    pub kind: RouteKind,
    /// Who wrote it; [`ROUTE_PROTOCOL`] is margay.
    pub protocol: u8,
    /// Lower is better among routes to the same prefix.
    pub metric: u32,
    /// Its ways; empty for routes that end packets.
    pub next_hops: Vec<NextHop>,
}

/// What the kernel knows of a link address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbor {
    /// Known, though perhaps not confirmed lately.
    Resolved(Mac),
    /// Written by somebody, for good: the kernel never asks.
    Permanent(Mac),
    /// Being asked for.
    Pending,
    /// Did not answer.
    Failed,
}

impl Neighbor {
    /// The link address, where it is known.
    pub fn mac(self) -> Option<Mac> {
        match self {
            Neighbor::Resolved(mac) | Neighbor::Permanent(mac) => Some(mac),
            Neighbor::Pending | Neighbor::Failed => None,
        }
    }
}

/// A request that the kernel refused, or that did not reach it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct KernelError {
    /// What was asked for.
    pub what: String,
    /// The kernel's answer.
    pub why: String,
}

impl KernelError {
    pub(crate) fn new(what: impl Into<String>, error: &rtnetlink::Error) -> KernelError {
        let why = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
            other => other.to_string(),
        };
        KernelError { what: what.into(), why }
    }
}

/// A connection for requests; it lives as long as the handle.
pub fn connect() -> Result<rtnetlink::Handle, KernelError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| KernelError {
        what: "netlink socket".to_owned(),
        why: error.to_string(),
    })?;
    tokio::spawn(connection);
    Ok(handle)
}
