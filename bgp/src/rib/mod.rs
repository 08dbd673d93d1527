//! The routing information base (RFC 4271 section 9): all peers' routes, the choice among them, and
//! what each peer is told. Without I/O and without a clock.
//!
//! The owner brings messages and session events in ([`Rib::update`], [`Rib::up`], ...), lets it
//! work in slices ([`Rib::work`]), and takes out what changes for the FIB ([`Rib::take_changes`])
//! and the bytes for each peer ([`Rib::fill`]). No step walks a table: a peer that goes down costs
//! one number, and a sweep in slices does the rest.

mod adj_out;
mod attributes;
mod decide;
mod export;
mod group;
mod groups;
mod import;
mod log;
mod member;
mod next_hop;
mod path;
mod peer;
mod sessions;
mod table;
mod verdicts;
mod view;

pub use decide::Step;
pub use peer::PeerCounts;
pub use view::{Direction, RouteFilter, RouteView, RouteWalk};

use crate::family::{Family, FamilySet};
use crate::policy::{Policy, Verdict};
use crate::wire::attribute::{Attributes, NextHop};
use crate::wire::community::{Community, LargeCommunity};
use ahash::AHashMap;
use attributes::{AttrId, AttributeSets};
use import::KnownBlocks;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use next_hop::{Effect, NextHops};
use path::{OURS, Path, Source};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use table::{Core, Table};

/// A peer in the RIB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u16);

/// Most peers at a time.
pub const MAX_PEERS: usize = 32_768;

/// Whose address stands as next hop in what a peer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NextHopMode {
    /// Ours to external peers and for our own routes, else as it came.
    #[default]
    Auto,
    /// Always ours.
    Own,
    /// Always as it came.
    Keep,
}

/// What a peer is configured to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerOptions {
    /// For people.
    pub name: Arc<str>,
    /// Its address.
    pub address: IpAddr,
    /// Our AS towards it.
    pub local_asn: u32,
    /// Its AS.
    pub remote_asn: u32,
    /// It is a route reflector's client, of this cluster.
    pub client_of: Option<Ipv4Addr>,
    /// Next hops of what it is told.
    pub next_hop: NextHopMode,
    /// How often our own AS may be in a path of its.
    pub allowed_own_as: u8,
    /// Judges what it announces.
    pub import: Arc<Policy>,
    /// Judges what it is told.
    pub export: Arc<Policy>,
    /// More prefixes than this end the session (RFC 4486 subcode 1).
    pub max_prefixes: Option<u32>,
}

/// What this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RibOptions {
    /// BGP identifier.
    pub router_id: Ipv4Addr,
    /// The cluster whose routes this node reflects.
    pub cluster_id: Option<Ipv4Addr>,
    /// Most next hops of one route.
    pub max_ecmp: usize,
    /// Next hops count as unreachable until [`Rib::set_next_hop`] says otherwise. Without it all
    /// of them are taken for reachable, as a route server does.
    pub track_next_hops: bool,
}

/// A route of this node's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnRoute {
    /// Its metric in the kernel.
    pub metric: u32,
    /// LOCAL_PREF for internal peers.
    pub local_pref: u32,
    /// The interface that it leaves by.
    pub interface: Option<Arc<str>>,
    /// COMMUNITIES.
    pub communities: Vec<Community>,
    /// Large communities.
    pub large_communities: Vec<LargeCommunity>,
    /// Where it leads, if not to this node.
    pub next_hop: Option<NextHop>,
}

type OwnRoutes = AHashMap<IpNet, OwnRoute>;

/// What has changed for the FIB: the newest state of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The destination.
    pub prefix: IpNet,
    /// The paths to use side by side, the best first; none when the route is gone.
    pub paths: Vec<Best>,
}

/// A path that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Best {
    /// Who announced it.
    pub peer: PeerId,
    /// BGP next hop.
    pub next_hop: IpAddr,
    /// LOCAL_PREF.
    pub local_pref: u32,
    /// It wins over a route of this node's own.
    pub elevated: bool,
    /// An internal peer has announced it.
    pub ibgp: bool,
}

/// Sizes, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RibCounts {
    /// Prefixes with at least one path, IPv4 and IPv6.
    pub prefixes: [usize; 2],
    /// Different sets of attributes.
    pub attribute_sets: usize,
    /// Update groups.
    pub groups: usize,
    /// Their members.
    pub members: usize,
}

/// See the head of the file.
#[derive(Debug)]
pub struct Rib {
    options: RibOptions,
    core: Core,
    v4: Table<Ipv4Net>,
    v6: Table<Ipv6Net>,
    own: OwnRoutes,
    blocks: KnownBlocks,
    verdict: Verdict,
    /// Peers that are gone, and whose paths may still be there.
    retired: Vec<Source>,
    /// Peers whose paths are to be judged by a new policy.
    judge_again: Vec<Source>,
    /// Nobody is told anything for now.
    holding: bool,
}

impl Rib {
    /// An empty one.
    pub fn new(options: RibOptions) -> Rib {
        let hops = NextHops::new(options.track_next_hops);
        Rib {
            options,
            core: Core { sets: AttributeSets::new(), hops, peers: Vec::new() },
            v4: Table::new(),
            v6: Table::new(),
            own: OwnRoutes::new(),
            blocks: KnownBlocks::new(),
            verdict: Verdict::default(),
            retired: Vec::new(),
            judge_again: Vec::new(),
            holding: false,
        }
    }

    /// Another identity or limit. Sessions know of the identity by their own OPEN.
    pub fn set_options(&mut self, options: RibOptions) {
        let old = std::mem::replace(&mut self.options, options);
        self.options_change(&old);
    }

    /// Originates a route, changes it, or with `None` withdraws it.
    pub fn originate(&mut self, prefix: IpNet, route: Option<OwnRoute>) {
        if self.own.get(&prefix) == route.as_ref() {
            return;
        }
        let Some(route) = route else {
            self.own.remove(&prefix);
            match prefix {
                IpNet::V4(prefix) => self.v4.withdraw(&mut self.core, prefix, OURS, 0),
                IpNet::V6(prefix) => self.v6.withdraw(&mut self.core, prefix, OURS, 0),
            }
            return;
        };
        let attributes = Attributes {
            local_pref: Some(route.local_pref),
            communities: route.communities.clone(),
            large_communities: route.large_communities.clone(),
            next_hop: route.next_hop,
            ..Attributes::default()
        };
        self.own.insert(prefix, route);
        let received = self.core.sets.intern(&attributes, &mut self.core.hops);
        self.core.sets.retain(received);
        let taken = received;
        let (path_id, generation, elevated) = (0, 0, false);
        let path = Path { received, taken, path_id, source: OURS, generation, elevated };
        match prefix {
            IpNet::V4(prefix) => {
                self.v4.put(&mut self.core, prefix, path);
                self.v4.mark(prefix);
            }
            IpNet::V6(prefix) => {
                self.v6.put(&mut self.core, prefix, path);
                self.v6.mark(prefix);
            }
        }
    }

    /// After a restart over kept forwarding state: nobody is told anything, and the FIB is not
    /// changed, until [`Rib::end_of_hold`] (RFC 4724 section 4.1).
    pub fn hold_selection(&mut self) {
        self.holding = true;
    }

    /// Selection goes on; peers get their End-of-RIB behind the routes that were chosen.
    pub fn end_of_hold(&mut self) {
        self.holding = false;
    }

    /// Next hops to be followed from now on (true), or no longer.
    pub fn take_next_hop_requests(&mut self, out: &mut Vec<(IpAddr, bool)>) {
        self.core.hops.take_requests(out);
    }

    /// The IGP metric to a next hop; `None` when it cannot be reached.
    pub fn set_next_hop(&mut self, address: IpAddr, metric: Option<u32>) {
        match self.core.hops.set(address, metric) {
            Effect::Nothing => {}
            Effect::Routes(routes) => {
                for (family, node) in routes {
                    match family {
                        Family::Ipv4Unicast => self.v4.decide_again(&mut self.core, node),
                        Family::Ipv6Unicast => self.v6.decide_again(&mut self.core, node),
                    }
                }
            }
            Effect::Everything => {
                self.v4.ask_for_hop_sweep();
                self.v6.ask_for_hop_sweep();
            }
        }
    }

    fn ask_for_sweep(&mut self) {
        self.v4.ask_for_sweep();
        self.v6.ask_for_sweep();
    }

    /// Does up to about `budget` steps of what waits; true when more is left. A step is one prefix
    /// looked at for one group.
    pub fn work(&mut self, budget: usize) -> bool {
        let swept = self.sweep(budget);
        let mut left = budget.saturating_sub(swept);
        if !self.holding {
            let steps = self.v4.flush(&mut self.core, &self.own, left);
            left = left.saturating_sub(steps);
            self.v6.flush(&mut self.core, &self.own, left);
        }
        self.v4.free_vacant(budget);
        self.v6.free_vacant(budget);
        let sweeping = self.v4.sweep_left + self.v6.sweep_left > 0;
        sweeping || !self.holding && (self.v4.has_work() || self.v6.has_work())
    }

    fn sweep(&mut self, budget: usize) -> usize {
        if self.v4.sweep_left + self.v6.sweep_left == 0 {
            return 0;
        }
        let Rib { core, v4, v6, options, judge_again, verdict, .. } = self;
        let again = |source| judge_again.contains(&source);
        let mut steps = v4.sweep(core, budget, |core, prefix, path| {
            if again(path.source) {
                judge_path(core, options, verdict, prefix.into(), path);
            }
        });
        steps += v6.sweep(core, budget - steps, |core, prefix, path| {
            if again(path.source) {
                judge_path(core, options, verdict, prefix.into(), path);
            }
        });
        if v4.sweep_left + v6.sweep_left == 0 {
            self.judge_again.clear();
            let retired = std::mem::take(&mut self.retired);
            // Only now may their numbers mean somebody else.
            retired.into_iter().for_each(|at| self.core.peers[usize::from(at)] = None);
        }
        steps
    }

    /// True while the FIB has not heard of all changes.
    pub fn has_changes(&self) -> bool {
        !self.holding && (!self.v4.for_fib.is_empty() || !self.v6.for_fib.is_empty())
    }

    /// Appends the newest state of up to `most` prefixes that have changed.
    pub fn take_changes(&mut self, most: usize, out: &mut Vec<Change>) {
        if self.holding {
            return;
        }
        let end = out.len() + most;
        let ecmp = self.options.max_ecmp;
        while out.len() < end && self.v4.take_change(&self.core, ecmp, out) {}
        while out.len() < end && self.v6.take_change(&self.core, ecmp, out) {}
    }

    /// Sizes.
    pub fn counts(&self) -> RibCounts {
        let groups = self.v4.groups.iter().flatten().map(|group| group.members.len());
        let groups: Vec<usize> = groups
            .chain(self.v6.groups.iter().flatten().map(|group| group.members.len()))
            .collect();
        RibCounts {
            prefixes: [self.v4.len(), self.v6.len()],
            attribute_sets: self.core.sets.len(),
            groups: groups.len(),
            members: groups.iter().sum(),
        }
    }

    /// A peer's numbers.
    pub fn peer_counts(&self, peer: PeerId) -> PeerCounts {
        self.core.peer(peer.0).map(|peer| peer.counts).unwrap_or_default()
    }

    /// True when all the peer's first routes have come (RFC 4724 section 2).
    pub fn has_end_of_rib(&self, peer: PeerId) -> bool {
        self.core.peer(peer.0).is_some_and(|peer| {
            let families = peer.live.map_or(FamilySet::EMPTY, |live| live.agreed.families);
            peer.live.is_some() && families.iter().all(|family| peer.ended.contains(family))
        })
    }
}

/// Judges what a peer has said by its policy of now.
fn judge_path(
    core: &mut Core,
    options: &RibOptions,
    verdict: &mut Verdict,
    prefix: IpNet,
    path: &mut Path,
) {
    let route = (path.source, path.received);
    let Some(mut judge) = import::Judge::new(core, options, route, verdict) else { return };
    let (taken, elevated) = judge.judge(core, prefix);
    let accepted = |id: AttrId| u64::from(id != AttrId::NONE);
    if let Some(peer) = core.peer_mut(path.source) {
        peer.counts.accepted += accepted(taken);
        peer.counts.accepted -= accepted(path.taken);
    }
    core.release(path.taken);
    (path.taken, path.elevated) = (taken, elevated);
}

#[cfg(test)]
mod tests;
