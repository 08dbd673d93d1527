//! Routes that BGP peers told: by prefix, the next hops that share its traffic.
//!
//! A full table has a million prefixes and few sets of next hops. So prefixes name a set, and only
//! sets are resolved when links, neighbours or the kernel's routes change. Next hops are never
//! resolved through these routes themselves, so none can depend on itself.

use super::table::Table;
use super::{Route, Target};
use crate::kernel::{NextHop, ROUTE_METRIC};
use ahash::AHashMap;
use ipnet::IpNet;
use margay_bgp::policy::{METRIC_BASE, Origin, Policy, RouteFacts, Verdict, evaluate};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The local preference of a usual route of a node.
pub(crate) const USUAL_LOCAL_PREF: u32 = METRIC_BASE - ROUTE_METRIC;

/// What the routes of a prefix come to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PathSet {
    /// Next hops as told, sorted and each once.
    pub(crate) told: Vec<IpAddr>,
    /// Their local preference.
    pub(crate) local_pref: u32,
    /// Those of them that are programmed. With none, the prefix is only remembered.
    pub(crate) next_hops: Vec<IpAddr>,
    /// Those of these that are reached through IPIP.
    pub(crate) by_ipip: Vec<IpAddr>,
    /// Metric in the kernel, and rank beside routes of other origins.
    pub(crate) metric: u32,
}

impl PathSet {
    /// Judged by the policies of what is programmed, IPv4 and IPv6.
    pub(crate) fn judged(
        policies: &[Arc<Policy>; 2],
        prefix: IpNet,
        mut told: Vec<IpAddr>,
        local_pref: u32,
    ) -> PathSet {
        told.sort_unstable();
        told.dedup();
        let policy = &policies[usize::from(prefix.addr().is_ipv6())];
        let (mut next_hops, mut by_ipip, mut metric) = (Vec::new(), Vec::new(), ROUTE_METRIC);
        for next_hop in &told {
            if let Some(found) = programmed(policy, prefix, *next_hop, local_pref) {
                next_hops.push(*next_hop);
                by_ipip.extend(found.ipip.then_some(*next_hop));
                metric = found.metric;
            }
        }
        PathSet { told, local_pref, next_hops, by_ipip, metric }
    }

    /// A route found in the kernel, of an earlier life.
    pub(crate) fn found(mut gateways: Vec<IpAddr>, metric: u32) -> PathSet {
        gateways.sort_unstable();
        gateways.dedup();
        let local_pref = METRIC_BASE.wrapping_sub(metric);
        let (told, by_ipip) = (gateways.clone(), Vec::new());
        PathSet { told, local_pref, next_hops: gateways, by_ipip, metric }
    }

    /// True when it is better than a route of another origin to the same prefix.
    pub(crate) fn beats(&self, other: &Route) -> bool {
        self.metric < other.metric
    }

    /// True when it is written to the kernel although that route is there.
    pub(crate) fn stands_beside(&self, other: &Route) -> bool {
        self.beats(other) || other.origin == super::Origin::Kernel && self.metric > other.metric
    }
}

/// Names a set; given to another only after [`Learned::sweep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SetId(pub(crate) u32);

/// Where a set leads now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// In the packet path.
    pub(crate) target: Target,
    /// In the kernel; empty when nothing leads there.
    pub(crate) ways: Vec<NextHop>,
}

#[derive(Debug, Clone)]
struct Set {
    value: PathSet,
    resolved: Resolved,
    routes: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    routes: BTreeMap<IpNet, SetId>,
    sets: Vec<Option<Set>>,
    numbers: AHashMap<PathSet, SetId>,
    free: Vec<SetId>,
    unused: usize,
    v4: usize,
}

impl Learned {
    /// Sets what a prefix leads to; true when that is new. A new set is resolved by `table`.
    pub(crate) fn put(&mut self, prefix: IpNet, value: PathSet, table: &Table) -> bool {
        let id = self.number(value, table);
        let old = self.routes.insert(prefix, id);
        if old == Some(id) {
            return false;
        }
        self.count(id, true);
        match old {
            Some(old) => self.count(old, false),
            None => self.v4 += usize::from(prefix.addr().is_ipv4()),
        }
        true
    }

    /// Forgets a prefix; true when it was known.
    pub(crate) fn remove(&mut self, prefix: &IpNet) -> bool {
        let Some(old) = self.routes.remove(prefix) else { return false };
        self.v4 -= usize::from(prefix.addr().is_ipv4());
        self.count(old, false);
        true
    }

    fn number(&mut self, value: PathSet, table: &Table) -> SetId {
        if let Some(id) = self.numbers.get(&value) {
            return *id;
        }
        let set = Set { resolved: resolve(&value, table), value: value.clone(), routes: 0 };
        self.unused += 1;
        let id = self.free.pop().unwrap_or(SetId(self.sets.len() as u32));
        match self.sets.get_mut(id.0 as usize) {
            Some(place) => *place = Some(set),
            None => self.sets.push(Some(set)),
        }
        self.numbers.insert(value, id);
        id
    }

    fn count(&mut self, id: SetId, more: bool) {
        let Some(set) = self.sets.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        match more {
            true => {
                self.unused -= usize::from(set.routes == 0);
                set.routes += 1;
            }
            false => {
                set.routes -= 1;
                self.unused += usize::from(set.routes == 0);
            }
        }
    }

    /// Resolves all sets anew; those that now lead elsewhere.
    pub(crate) fn resolve(&mut self, table: &Table) -> Vec<SetId> {
        let mut changed = Vec::new();
        for (at, set) in self.sets.iter_mut().enumerate() {
            let Some(set) = set else { continue };
            let resolved = resolve(&set.value, table);
            if resolved != set.resolved {
                set.resolved = resolved;
                changed.push(SetId(at as u32));
            }
        }
        changed
    }

    /// Forgets sets that no prefix names, when nothing else names them either.
    pub(crate) fn sweep(&mut self) {
        for (at, place) in self.sets.iter_mut().enumerate() {
            if let Some(set) = place.take_if(|set| set.routes == 0) {
                self.numbers.remove(&set.value);
                self.free.push(SetId(at as u32));
            }
        }
        self.unused = 0;
    }

    /// Sets that no prefix names any more.
    pub(crate) fn unused(&self) -> usize {
        self.unused
    }

    /// Sets by number that some prefix names.
    pub(crate) fn sets(&self) -> impl Iterator<Item = (SetId, &Resolved)> {
        let sets = self.sets.iter().enumerate();
        sets.filter_map(|(at, set)| Some((SetId(at as u32), set.as_ref()?)))
            .filter(|(_, set)| set.routes > 0)
            .map(|(id, set)| (id, &set.resolved))
    }

    /// The set of a prefix that is programmed, what it says, and where it leads.
    pub(crate) fn get(&self, prefix: &IpNet) -> Option<(SetId, &PathSet, &Resolved)> {
        self.set(*self.routes.get(prefix)?).filter(|(_, set, _)| !set.next_hops.is_empty())
    }

    /// The route of a prefix that is programmed.
    pub(crate) fn route(&self, prefix: &IpNet) -> Option<Route> {
        let (_, set, resolved) = self.get(prefix)?;
        let target = resolved.target.clone();
        Some(Route { origin: super::Origin::Bgp, target, metric: set.metric })
    }

    /// A peer has told this prefix, programmed or not.
    pub(crate) fn knows(&self, prefix: &IpNet) -> bool {
        self.routes.contains_key(prefix)
    }

    /// A set.
    pub(crate) fn set(&self, id: SetId) -> Option<(SetId, &PathSet, &Resolved)> {
        let set = self.sets.get(id.0 as usize)?.as_ref()?;
        Some((id, &set.value, &set.resolved))
    }

    /// Up to `most` prefixes behind `after` in order, with their sets.
    pub(crate) fn page(&self, after: Option<IpNet>, most: usize) -> Vec<(IpNet, SetId)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let page = self.routes.range((from, Unbounded)).take(most);
        page.map(|(prefix, id)| (*prefix, *id)).collect()
    }

    /// Prefixes, IPv4 and IPv6.
    pub(crate) fn len(&self) -> [usize; 2] {
        [self.v4, self.routes.len() - self.v4]
    }
}

/// Where a set leads: over all of its next hops that are reached.
fn resolve(set: &PathSet, table: &Table) -> Resolved {
    let (mut hops, mut ways, mut through_host) = (Vec::new(), Vec::new(), false);
    for next_hop in &set.next_hops {
        let found = match set.by_ipip.contains(next_hop) {
            true => table.next_hop_by_ipip(*next_hop),
            false => table.next_hop(*next_hop),
        };
        let Some((target, found)) = found else { continue };
        match target {
            Target::Via(found) => hops.extend(found),
            _ => through_host = true,
        }
        ways.extend(found);
    }
    hops.sort();
    hops.dedup();
    ways.sort();
    ways.dedup();
    let target = match (hops.is_empty(), through_host) {
        (false, _) => Target::Via(hops),
        (true, true) => Target::Local,
        (true, false) => Target::Unreachable,
    };
    Resolved { target, ways }
}

/// How a peer's route is programmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Programmed {
    /// Its metric.
    pub(crate) metric: u32,
    /// The next hop is reached through IPIP.
    pub(crate) ipip: bool,
}

/// What becomes of a peer's route; `None` if the policy keeps it out.
pub(crate) fn programmed(
    policy: &Policy,
    prefix: IpNet,
    next_hop: IpAddr,
    local_pref: u32,
) -> Option<Programmed> {
    let facts = RouteFacts {
        prefix,
        origin: Origin::Peer,
        interface: None,
        next_hop: Some(next_hop),
        local_pref: Some(local_pref),
        communities: &[],
        large_communities: &[],
        as_path: &[],
    };
    let mut verdict = Verdict::default();
    evaluate(policy, &facts, &mut verdict);
    let metric = verdict.metric.unwrap_or(ROUTE_METRIC);
    verdict.accept.then_some(Programmed { metric, ipip: verdict.ipip })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::table::Entry;
    use super::super::{Hop, Origin, host_prefix};
    use super::*;

    /// A table in which these addresses are on the links of these ports.
    pub(crate) fn table(neighbors: impl IntoIterator<Item = (String, &'static str)>) -> Table {
        let mut table = Table::default();
        for (address, port) in neighbors {
            let address: IpAddr = address.parse().unwrap();
            let hop = Hop::plain(port.into(), address);
            let way = NextHop { device: 3, gateway: None, weight: 1 };
            let entry = Entry::new(Origin::Neighbor, Target::Via(vec![hop])).with_ways(&[way]);
            table.insert(host_prefix(address), entry);
        }
        table
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn set(hops: &[&str]) -> PathSet {
        PathSet::found(hops.iter().map(|hop| hop.parse().unwrap()).collect(), 1024)
    }

    #[test]
    fn next_hops_share_and_dead_ones_are_left_out() {
        let table = table([("192.0.2.1".to_owned(), "up0"), ("192.0.2.2".to_owned(), "up1")]);
        let mut learned = Learned::default();
        let both = set(&["192.0.2.2", "192.0.2.9", "192.0.2.1", "192.0.2.1"]);
        assert!(learned.put(net("10.0.0.0/8"), both.clone(), &table));
        assert!(!learned.put(net("10.0.0.0/8"), both, &table), "nothing new");
        let (_, _, resolved) = learned.get(&net("10.0.0.0/8")).unwrap();
        let Target::Via(hops) = &resolved.target else { panic!("{resolved:?}") };
        assert_eq!(hops.len(), 2, "192.0.2.9 is not reached");
        let gateways: Vec<_> = resolved.ways.iter().map(|way| way.gateway).collect();
        assert_eq!(gateways.len(), 2, "the kernel needs both as gateways: {gateways:?}");
        assert!(gateways.iter().all(Option::is_some));
    }

    /// A route never leads to its own next hop: only routes of other origins do.
    #[test]
    fn a_route_does_not_resolve_its_own_next_hop() {
        let mut learned = Learned::default();
        learned.put(net("192.0.2.0/24"), set(&["192.0.2.9"]), &Table::default());
        let (_, _, resolved) = learned.get(&net("192.0.2.0/24")).unwrap();
        assert_eq!(resolved.target, Target::Unreachable);
        assert_eq!(Table::default().distance("192.0.2.9".parse().unwrap()), None);
    }

    #[test]
    fn a_set_is_given_away_only_after_a_sweep() {
        let table = Table::default();
        let mut learned = Learned::default();
        learned.put(net("10.0.0.0/8"), set(&["192.0.2.1"]), &table);
        let (first, ..) = learned.get(&net("10.0.0.0/8")).unwrap();
        learned.put(net("10.0.0.0/8"), set(&["192.0.2.2"]), &table);
        assert_eq!((learned.unused(), learned.sets().count()), (1, 1));
        learned.put(net("11.0.0.0/8"), set(&["192.0.2.3"]), &table);
        assert_ne!(learned.get(&net("11.0.0.0/8")).unwrap().0, first, "it may still be in the FIB");
        learned.sweep();
        assert_eq!(learned.unused(), 0);
        learned.put(net("12.0.0.0/8"), set(&["192.0.2.4"]), &table);
        assert_eq!(learned.get(&net("12.0.0.0/8")).unwrap().0, first);
        assert!(learned.remove(&net("12.0.0.0/8")) && !learned.remove(&net("12.0.0.0/8")));
        assert_eq!(learned.len(), [2, 0]);
    }

    #[test]
    fn next_hops_of_ipip_pools_are_reached_through_ipip() {
        use margay_bgp::policy::{Operation, Rule};
        let subnet = Some(net("192.0.2.0/24"));
        let mut rule = Rule::accept(Vec::new());
        rule.operations = vec![Operation::Ipip { unless_next_hop_in: subnet }];
        let ipip = Arc::new(Policy::new(vec![rule], false));
        let mut table =
            table([("192.0.2.1".to_owned(), "up0"), ("198.51.100.1".to_owned(), "up1")]);
        table.overlay =
            crate::resolve::table::Overlay { own: Some([192, 0, 2, 7].into()), host: Some(9) };
        let told = vec!["192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap()];
        let set = PathSet::judged(&[ipip.clone(), ipip], net("10.65.0.0/26"), told, 100);
        let resolved = resolve(&set, &table);
        let Target::Via(hops) = &resolved.target else { panic!("{resolved:?}") };
        let remotes: Vec<_> =
            hops.iter().map(|hop| hop.tunnel.as_ref().map(|it| it.remote)).collect();
        assert_eq!(remotes, [None, Some("198.51.100.1".parse().unwrap())]);
        let devices: Vec<_> = resolved.ways.iter().map(|way| (way.device, way.gateway)).collect();
        assert!(devices.contains(&(9, None)), "the kernel's way is to margay: {devices:?}");
        table.overlay.own = None;
        let Target::Via(hops) = resolve(&set, &table).target else { panic!() };
        assert_eq!(hops.len(), 1, "without an own address only the plain one");
    }

    #[test]
    fn what_is_not_programmed_is_remembered() {
        use margay_bgp::policy::Rule;
        let none = Arc::new(Policy::new(vec![Rule::reject(Vec::new())], true));
        let told = vec!["192.0.2.1".parse().unwrap()];
        let mut learned = Learned::default();
        let set = PathSet::judged(&[none.clone(), none], net("10.0.0.0/8"), told, 100);
        assert!(set.next_hops.is_empty() && set.told.len() == 1);
        learned.put(net("10.0.0.0/8"), set, &Table::default());
        assert!(learned.get(&net("10.0.0.0/8")).is_none());
        assert_eq!(learned.page(None, 9).len(), 1);
    }
}
