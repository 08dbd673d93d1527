//! Looking at the RIB: for people, and for the FIB.

use super::adj_out::Told;
use super::attributes::AttrId;
use super::decide::Step;
use super::path::{OURS, Path};
use super::table::{Core, Node, Table};
use super::{Best, Change, PeerId, Rib};
use crate::wire::attribute::Attributes;
use crate::wire::nlri::Prefix;
use ipnet::IpNet;

/// Which routes to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// All that peers have announced and that counts, and our own.
    #[default]
    All,
    /// Only those in use.
    Best,
    /// What the peer of the filter has announced.
    In,
    /// What the peer of the filter has been told.
    Out,
}

/// Which routes to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteFilter {
    /// Only this prefix.
    pub prefix: Option<IpNet>,
    /// Prefixes inside it too.
    pub longer: bool,
    /// Only paths of this peer, or what it has been told.
    pub peer: Option<PeerId>,
    /// Which.
    pub direction: Direction,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteView {
    /// The destination.
    pub prefix: IpNet,
    /// Who announced it; `None` for this node.
    pub peer: Option<PeerId>,
    /// It is the best.
    pub best: bool,
    /// It is in use, beside the best one or as it.
    pub used: bool,
    /// The step of the decision process that it lost by, or the best one won by; `None` when it
    /// was not in the race.
    pub step: Option<Step>,
    /// The import policy has refused it, or it has looped.
    pub refused: bool,
    /// Its next hop can be reached.
    pub reachable: bool,
    /// Kept from before the peer's restart.
    pub stale: bool,
    /// Path identifier of the peer; towards a peer, ours. 0 without ADD-PATH.
    pub path_id: u32,
    /// The attributes, after the import policy where it took the route; towards a peer, as told.
    pub attributes: Attributes,
}

/// A walk over the routes that a filter names, some at a time. Routes that change meanwhile are
/// seen as they were or as they are.
#[derive(Debug, Clone, Default)]
pub struct RouteWalk {
    filter: RouteFilter,
    /// The number of the next node, first of one family, then of the other.
    next: [usize; 2],
}

impl RouteWalk {
    /// One that has yet to begin.
    pub fn new(filter: RouteFilter) -> RouteWalk {
        RouteWalk { filter, next: [0; 2] }
    }
}

impl Rib {
    /// Appends the next paths of a walk, looking at about `budget` prefixes, until there are
    /// `most` of them; true when more may be left.
    pub fn walk(
        &self,
        walk: &mut RouteWalk,
        budget: usize,
        most: usize,
        out: &mut Vec<RouteView>,
    ) -> bool {
        let RouteWalk { filter, next } = walk;
        match filter.prefix.filter(|_| !filter.longer) {
            Some(IpNet::V4(prefix)) => self.v4.route(&self.core, filter, prefix, out),
            Some(IpNet::V6(prefix)) => self.v6.route(&self.core, filter, prefix, out),
            None => {
                let left = self.v4.routes(&self.core, filter, (&mut next[0], budget, most), out);
                let left = self.v6.routes(&self.core, filter, (&mut next[1], left, most), out);
                return left == 0 && out.len() < most;
            }
        }
        out.truncate(most);
        false
    }

    /// Up to `most` paths that the filter names, all at once.
    pub fn routes(&self, filter: &RouteFilter, most: usize) -> Vec<RouteView> {
        let mut out = Vec::new();
        let mut walk = RouteWalk::new(*filter);
        while self.walk(&mut walk, usize::MAX, most, &mut out) {}
        out
    }
}

fn wanted(filter: &RouteFilter, prefix: IpNet) -> bool {
    match filter.prefix {
        None => true,
        Some(wanted) if filter.longer => wanted.contains(&prefix),
        Some(wanted) => wanted == prefix,
    }
}

impl<P: Prefix + Into<IpNet>> Table<P> {
    /// The newest state of one prefix that has changed; false when none has.
    pub(super) fn take_change(&mut self, core: &Core, most: usize, out: &mut Vec<Change>) -> bool {
        let Some(at) = self.for_fib.take() else { return false };
        let node = &self.nodes[at as usize];
        let used = &node.paths.as_slice()[..usize::from(node.used)];
        let mut paths: Vec<Best> = Vec::new();
        for path in used.iter().filter_map(|path| best(core, path)) {
            // Several peers, or one with ADD-PATH, may know of the same next hop.
            let is_new = paths.iter().all(|other| other.next_hop != path.next_hop);
            if is_new && paths.len() < most.max(1) {
                paths.push(path);
            }
        }
        out.push(Change { prefix: node.prefix.into(), paths });
        true
    }

    /// What is left of the budget; all of it for a walk that is over.
    fn routes(
        &self,
        core: &Core,
        filter: &RouteFilter,
        (next, budget, most): (&mut usize, usize, usize),
        out: &mut Vec<RouteView>,
    ) -> usize {
        let from = (*next).min(self.nodes.len());
        let nodes = self.nodes[from..].iter().take(budget);
        let steps = nodes.len();
        for node in nodes {
            if out.len() >= most {
                break;
            }
            if wanted(filter, node.prefix.into()) {
                self.show(core, filter, *next as u32, out);
            }
            *next += 1;
        }
        budget - steps
    }

    /// The same for one prefix.
    fn route(&self, core: &Core, filter: &RouteFilter, prefix: P, out: &mut Vec<RouteView>) {
        if let Some(at) = self.find(prefix) {
            self.show(core, filter, at, out);
        }
    }

    fn show(&self, core: &Core, filter: &RouteFilter, at: u32, out: &mut Vec<RouteView>) {
        if filter.direction == Direction::Out {
            return out.extend(self.told_to(core, filter.peer, at));
        }
        let views = views(core, &self.nodes[at as usize]).into_iter();
        out.extend(views.filter(|view| match filter.direction {
            Direction::Best => view.used,
            _ => filter.peer.is_none() || view.peer == filter.peer,
        }));
    }

    fn told_to(&self, core: &Core, peer: Option<PeerId>, at: u32) -> Vec<RouteView> {
        let group = peer.and_then(|peer| {
            let (group, _) = self.places.get(usize::from(peer.0)).copied().flatten()?;
            Some((peer, self.groups[group].as_ref()?))
        });
        let Some((peer, group)) = group else { return Vec::new() };
        let places =
            (0..group.adj_out.places(at)).map(|place| (place, group.adj_out.get(at, place)));
        let heard = places.filter(|(_, told)| *told != Told::NOTHING && told.source != peer.0);
        let view = |(place, told): (usize, Told)| RouteView {
            prefix: self.nodes[at as usize].prefix.into(),
            peer: (told.source != OURS).then_some(PeerId(told.source)),
            best: true,
            used: true,
            step: None,
            refused: false,
            reachable: true,
            stale: false,
            path_id: group.adj_out.path_id(place),
            attributes: core.sets.attributes(told.attributes),
        };
        heard.map(view).collect()
    }
}

fn best(core: &Core, path: &Path) -> Option<Best> {
    let summary = core.sets.summary(path.taken);
    Some(Best {
        peer: PeerId(path.source),
        next_hop: core.hops.address(summary.next_hop)?,
        local_pref: summary.local_pref,
        elevated: path.elevated,
        ibgp: core.peer(path.source)?.is_ibgp(),
    })
}

fn views<P: Prefix + Into<IpNet>>(core: &Core, node: &Node<P>) -> Vec<RouteView> {
    let paths = node.paths.as_slice();
    let counts = |path: &Path| core.counts(P::FAMILY, path);
    let context = core.context();
    let in_race = |path: &Path| {
        let hop = core.sets.summary(path.taken).next_hop;
        path.taken != AttrId::NONE && counts(path) && core.hops.metric(hop).is_some()
    };
    let second = paths.iter().skip(1).find(|path| in_race(path));
    let step = |at: usize, path: &Path| match (node.best(), second) {
        (Some(_), None) if at == 0 => Some(Step::Only),
        (Some(best), Some(second)) if at == 0 => context.step_between(best, second),
        (Some(best), _) if in_race(path) => context.step_between(best, path),
        _ => None,
    };
    let view = |(at, path): (usize, &Path)| {
        let refused = path.taken == AttrId::NONE;
        let set = if refused { path.received } else { path.taken };
        let hop = core.sets.summary(set).next_hop;
        let generation = core.peer(path.source).map(|peer| *peer.generation(P::FAMILY));
        RouteView {
            prefix: node.prefix.into(),
            peer: (path.source != OURS).then_some(PeerId(path.source)),
            best: at == 0 && node.used > 0,
            used: at < usize::from(node.used),
            step: step(at, path),
            refused,
            reachable: core.hops.metric(hop).is_some(),
            stale: generation.is_some_and(|one| one.is_stale(path.generation)),
            path_id: path.path_id,
            attributes: core.sets.attributes(set),
        }
    };
    let paths = paths.iter().enumerate().filter(|(_, path)| counts(path));
    paths.map(view).collect()
}
