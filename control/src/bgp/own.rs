//! Routes that begin here: takes the RIB from one set of them to the next, some at a time.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use ipnet::IpNet;

use super::OwnRoute;
use margay_bgp::rib::Rib;

/// Most routes that are looked at in one turn of the loop.
const MAX_STEPS: usize = 2048;

type Routes = Arc<BTreeMap<IpNet, OwnRoute>>;

/// What the RIB has, and what it is to have.
#[derive(Debug, Default)]
pub(super) struct OwnRoutes {
    current: Routes,
    wanted: Option<Routes>,
    /// All up to here is as wanted.
    done: Option<IpNet>,
}

impl OwnRoutes {
    /// Goes for these from now on. The set before must have been reached.
    pub(super) fn want(&mut self, routes: Routes) {
        if !Arc::ptr_eq(&routes, &self.current) {
            (self.wanted, self.done) = (Some(routes), None);
        }
    }

    /// True while the RIB does not have all yet.
    pub(super) fn is_under_way(&self) -> bool {
        self.wanted.is_some()
    }

    /// Some steps on the way.
    pub(super) fn apply(&mut self, rib: &mut Rib) {
        self.step(MAX_STEPS, |prefix, route| rib.originate(prefix, route));
    }

    fn step(&mut self, most: usize, mut originate: impl FnMut(IpNet, Option<OwnRoute>)) {
        let Some(wanted) = &self.wanted else { return };
        let from = self.done.map_or(Bound::Unbounded, Bound::Excluded);
        let mut old = self.current.range((from, Bound::Unbounded)).peekable();
        let mut new = wanted.range((from, Bound::Unbounded)).peekable();
        for _ in 0..most {
            let next = match (old.peek(), new.peek()) {
                (Some((old, _)), Some((new, _))) => **old.min(new),
                (Some((one, _)), None) | (None, Some((one, _))) => **one,
                (None, None) => {
                    self.current = Arc::clone(wanted);
                    return self.wanted = None;
                }
            };
            let before = old.next_if(|(prefix, _)| **prefix == next).map(|(_, route)| route);
            let after = new.next_if(|(prefix, _)| **prefix == next).map(|(_, route)| route);
            if before != after {
                originate(next, after.cloned());
            }
            self.done = Some(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn routes(metrics: &BTreeMap<u8, u32>) -> Routes {
        let route = |metric: u32| OwnRoute {
            metric,
            local_pref: 100,
            interface: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
            next_hop: None,
        };
        let prefix = |number: u8| format!("10.0.{number}.0/24").parse().unwrap();
        Arc::new(metrics.iter().map(|(at, metric)| (prefix(*at), route(*metric))).collect())
    }

    proptest! {
        #[test]
        fn whatever_the_steps_the_last_set_is_reached(
            sets in prop::collection::vec(
                prop::collection::btree_map(0u8..20, 0u32..3, 0..12), 1..6
            ),
            most in 1usize..9,
        ) {
            let mut own = OwnRoutes::default();
            let mut rib = BTreeMap::new();
            for set in &sets {
                own.want(routes(set));
                while own.is_under_way() {
                    let mut calls = 0;
                    own.step(most, |prefix, route| {
                        calls += 1;
                        match route {
                            Some(route) => rib.insert(prefix, route),
                            None => rib.remove(&prefix),
                        };
                    });
                    prop_assert!(calls <= most);
                }
                prop_assert_eq!(&rib, &*routes(set));
            }
        }
    }
}
