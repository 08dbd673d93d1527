//! Routes as they pass between the thread of BGP and the rest of margay.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use margay_bgp::wire::attribute::{Attributes, NextHop};
use margay_bgp::wire::community::{Community, LargeCommunity};

/// A peer by its number in the RIB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u16);

/// The next hop of exported routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHopMode {
    /// Our own towards another AS, and of our own routes; else the one that the route came with.
    Auto,
    /// Our own.
    Own,
    /// The one that the route came with.
    Keep,
}

/// A route that begins here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnRoute {
    /// The kernel's metric.
    pub metric: u32,
    /// LOCAL_PREF.
    pub local_pref: u32,
    /// Where it leads to.
    pub interface: Option<Arc<str>>,
    /// Communities.
    pub communities: Vec<Community>,
    /// Large communities.
    pub large_communities: Vec<LargeCommunity>,
    /// A next hop that is not this node.
    pub next_hop: Option<NextHop>,
}

/// The newest state of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The prefix.
    pub prefix: IpNet,
    /// Where its packets go; nowhere when it is gone.
    pub paths: Vec<Best>,
}

/// One of the equal paths of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Best {
    /// Who has sent it.
    pub peer: PeerId,
    /// The BGP next hop.
    pub next_hop: IpAddr,
    /// LOCAL_PREF.
    pub local_pref: u32,
    /// It beats routes that are not of BGP.
    pub elevated: bool,
    /// Learnt within the AS.
    pub ibgp: bool,
}

/// Where a [`super::RouteQuery`] looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What a peer has sent.
    In,
    /// What a peer is sent.
    Out,
    /// What has won.
    Best,
}

/// One path, as a person wants to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteView {
    /// The prefix.
    pub prefix: IpNet,
    /// Who has sent it; `None` for one of our own.
    pub peer: Option<PeerId>,
    /// It has won.
    pub best: bool,
    /// It carries packets together with the best one.
    pub ecmp: bool,
    /// Why it won, or lost.
    pub why: String,
    /// All that it came with.
    pub attributes: Attributes,
    /// Its number among the paths of its prefix from one peer.
    pub path_id: u32,
    /// Kept for a peer that is away.
    pub stale: bool,
    /// Its next hop can be reached.
    pub reachable: bool,
}

/// Routes and messages of one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerCounts {
    /// Paths that it has sent.
    pub received: u64,
    /// Those that the import policy lets in.
    pub accepted: u64,
    /// Paths that it has been sent.
    pub advertised: u64,
}
