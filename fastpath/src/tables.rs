//! What a worker reads to forward: one immutable snapshot, swapped whole by the control side.
//!
//! The FIB maps an address to a [`TargetId`]; the snapshot says what each target is. Link
//! addresses are part of the snapshot (an [`Adjacency`] has its rewrite ready), so a resolved
//! packet takes two table reads after the FIB.

use crate::limit::{EndpointLimits, Limits, PortRate, QueueAccount};
use crate::nat::Rules;
use crate::packet::Packet;
use crate::policy::Policy;
use crate::port::PortId;
use crate::sources::Sources;
use crate::tunnel::{Tunnel, TunnelEnd, TunnelId};
use margay_tunnels::wire::ethernet::Mac;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

mod hops;

pub(crate) use hops::Hop;
pub use hops::Hops;

/// Index into [`Tables::targets`]. 0 is always [`Target::NoRoute`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TargetId(pub u32);

/// Index into [`Tables::adjacencies`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct AdjacencyId(pub u32);

/// What happens to a packet whose longest match leads here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Target {
    /// No route: ICMP network unreachable.
    #[default]
    NoRoute,
    /// An address of the host: to its stack.
    Local,
    /// Dropped in silence.
    Blackhole,
    /// ICMP host unreachable.
    Unreachable,
    /// ICMP administratively prohibited.
    Prohibit,
    /// The destination itself is on this port's link, and not resolved yet.
    Glean(PortId),
    /// One next hop.
    Forward(AdjacencyId),
    /// Several next hops: index into [`Tables::ecmp_groups`].
    Ecmp(u32),
}

/// A next hop on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adjacency {
    /// The egress port.
    pub port: PortId,
    /// The address that was resolved: the gateway, or the destination itself on its link.
    pub neighbor: IpAddr,
    /// Its link address; `None` while it is not resolved.
    pub mac: Option<Mac>,
    /// The tunnel whose outer packets go there; `None` for packets as they are.
    pub tunnel: Option<TunnelId>,
}

/// Buckets of an ECMP group; see [`crate::ecmp`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EcmpGroup {
    /// Adjacency of each bucket; the length is a power of two.
    pub buckets: Box<[AdjacencyId]>,
}

/// What a worker must know of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortEntry {
    /// Device name, for people.
    pub name: String,
    /// Link address of margay on this link: the device's own, but on a TAP the address that the
    /// far side (the device in the pod or host) sends to.
    pub mac: Mac,
    /// Largest IP packet that it takes, in bytes.
    pub mtu: u16,
    /// The worker that owns it.
    pub worker: u16,
    /// Senders on this device may leave transport checksums unfinished without a mark (veth).
    pub implicit_partial_csum: bool,
    /// A workload is behind it (Calico's `cali*`), not a network.
    pub workload: bool,
    /// No kernel stands behind the device: margay answers ARP and ND here itself (pods on TAPs).
    pub answers_neighbors: bool,
    /// Source of ICMP errors to senders behind the port (RFC 1812 4.3.2.4); the node's own
    /// address where the port has none.
    pub icmp_source_v4: Option<Ipv4Addr>,
    /// The same for ICMPv6 (RFC 4443 2.2).
    pub icmp_source_v6: Option<Ipv6Addr>,
    /// Administratively and physically up.
    pub up: bool,
    /// Sources that packets from there may have; `None` for any.
    pub sources: Option<Sources>,
    /// What becomes of packets from there in the queues of congested ports.
    pub queue: QueueAccount,
}

impl PortEntry {
    /// True when a frame with plain IPv4 has a source that packets from the port may have.
    #[inline]
    pub fn lets_plain_v4(&self, head: &[u8]) -> bool {
        self.sources.as_ref().is_none_or(|sources| sources.allow_plain_v4(head))
    }

    /// True when a workload speaks for somebody else.
    #[inline(always)]
    pub(crate) fn is_spoofed(&self, packet: &Packet) -> bool {
        self.sources.as_ref().is_some_and(|sources| !sources.allow(packet))
    }
}

impl PortEntry {
    /// A device towards a network that is up, with an MTU in bytes: owned by the first worker,
    /// without addresses of margay.
    pub fn network(name: &str, mac: Mac, mtu: u16) -> PortEntry {
        PortEntry {
            name: name.to_owned(),
            mac,
            mtu,
            worker: 0,
            implicit_partial_csum: false,
            workload: false,
            answers_neighbors: false,
            icmp_source_v4: None,
            icmp_source_v6: None,
            sources: None,
            up: true,
            queue: QueueAccount::default(),
        }
    }
}

/// The snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// By [`PortId`]; a hole is a port that is gone.
    pub ports: Vec<Option<PortEntry>>,
    /// By [`TargetId`].
    pub targets: Vec<Target>,
    /// By [`AdjacencyId`].
    pub adjacencies: Vec<Adjacency>,
    /// By the number in [`Target::Ecmp`].
    pub ecmp_groups: Vec<EcmpGroup>,
    /// By [`TunnelId`]; a hole is a tunnel that is gone.
    pub tunnels: Vec<Option<Tunnel>>,
    /// This node as the end of tunnels.
    pub tunnel_end: TunnelEnd,
    /// The way to the host's own stack: the host TAP, with the link address of its device.
    pub host: Option<AdjacencyId>,
    /// What is translated; `None` where nothing is, and then no flow is tracked.
    pub nat: Option<Arc<Rules>>,
    /// Who may talk to whom; `None` while every endpoint is open.
    pub policy: Option<Arc<Policy>>,
    /// What endpoints and ports may send and receive; `None` while none is limited.
    pub limits: Option<Arc<Limits>>,
    /// What follows from the above; see [`Tables::ready`].
    pub hops: Hops,
}

impl Tables {
    /// What is behind a target id; no route when the id is not in this snapshot.
    #[inline]
    pub fn target(&self, id: TargetId) -> Target {
        self.targets.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// A next hop; `None` when the id is not in this snapshot.
    #[inline]
    pub fn adjacency(&self, id: AdjacencyId) -> Option<&Adjacency> {
        self.adjacencies.get(id.0 as usize)
    }

    /// The limits of the endpoint behind a port. What passes there must be seen by a worker: such a
    /// port's flows cannot be left to others.
    #[inline]
    pub fn limits_of(&self, port: PortId) -> Option<&EndpointLimits> {
        self.limits.as_ref()?.of(port)
    }

    /// The rate that a port may have, if it is less than its device takes.
    #[inline]
    pub fn rate_of(&self, port: PortId) -> Option<&PortRate> {
        self.limits.as_ref()?.rate_of(port)
    }

    /// The share of what comes in by a port where an egress port is congested.
    pub fn weight_of(&self, port: PortId) -> u32 {
        self.limits.as_ref().map_or(1, |limits| limits.weight_of(port))
    }

    /// A tunnel, if it is there.
    #[inline]
    pub fn tunnel(&self, id: TunnelId) -> Option<&Tunnel> {
        self.tunnels.get(id.0 as usize)?.as_ref()
    }

    /// The entry of a port, if it is there.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&PortEntry> {
        self.ports.get(usize::from(id.0))?.as_ref()
    }

    /// The worker that owns a port.
    pub(crate) fn owner(&self, id: PortId) -> Option<usize> {
        self.port(id).map(|port| usize::from(port.worker))
    }
}
