//! What BGP is to be: the whole wanted state, which is compared with what runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use margay_bgp::policy::Policy;
use margay_bgp::session;

use super::{NextHopMode, OwnRoute};

/// The whole wanted state.
#[derive(Debug, Clone, PartialEq)]
pub struct BgpConfig {
    /// The speaker itself.
    pub instance: Instance,
    /// Peers by name.
    pub peers: BTreeMap<String, PeerConfig>,
    /// Routes that begin here.
    pub own_routes: Arc<BTreeMap<IpNet, OwnRoute>>,
}

/// The speaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// AS of the node.
    pub asn: u32,
    /// Cluster id of a route reflector.
    pub cluster_id: Option<Ipv4Addr>,
    /// Most equal paths of one prefix.
    pub max_ecmp: usize,
    /// Addresses to listen at; none are all of the machine.
    pub listen: Vec<IpAddr>,
    /// Port to listen at.
    pub port: u16,
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// The session. `restarted` and `seed` are not looked at: the thread knows them better.
    /// Another one ends the session and begins a new one.
    pub session: session::Config,
    /// A reflector's client, of this cluster.
    pub client_of: Option<Ipv4Addr>,
    /// Next hop of exported routes.
    pub next_hop: NextHopMode,
    /// How often our own AS may be in a received path.
    pub allowed_own_as: u8,
    /// For routes from the peer.
    pub import: Arc<Policy>,
    /// For routes to the peer.
    pub export: Arc<Policy>,
    /// With more prefixes than this the session ends.
    pub max_prefixes: Option<u32>,
    /// Watch the path to the peer.
    pub bfd: Option<Bfd>,
}

/// BFD for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bfd {
    /// Least time between packets, both ways, in milliseconds.
    pub interval_ms: u32,
    /// So many packets lost in a row are a dead path.
    pub multiplier: u8,
    /// The peer may be more than a hop away (RFC 5883).
    pub multihop: bool,
}
