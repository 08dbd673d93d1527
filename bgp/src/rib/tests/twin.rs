//! The twin: all paths in one map, and whatever somebody hears computed from all of them.

use super::*;
use crate::policy::{self, Match, Operation, PrefixMatch, PrefixOperator, Rule};
use std::collections::BTreeSet;

/// Peers 0 to 2 external, 3 and 4 internal clients, 5 and 6 internal; and with ADD-PATH 7 and 8
/// external, 9 a client, 10 internal.
pub(super) const PEERS: usize = 11;

pub(super) fn asn(peer: usize) -> u32 {
    match peer {
        0..3 => 65001 + peer as u32 % 2,
        7 | 8 => 65001,
        _ => OUR_AS,
    }
}

pub(super) fn is_client(peer: usize) -> bool {
    matches!(peer, 3 | 4 | 9)
}

pub(super) fn has_add_path(peer: usize) -> bool {
    peer >= 7
}

pub(super) fn agreed_with(peer: usize) -> Negotiated {
    if has_add_path(peer) { agreed_paths(asn(peer)) } else { agreed(asn(peer)) }
}

/// What a policy of the lives does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    #[default]
    Accepts,
    Rejects,
    /// Rejects the nets up to 3, and adds a community to those from 8 to 15.
    Changes,
}

const ADDED: u32 = 77 << 16 | 7;

impl Kind {
    pub(super) fn policy(self) -> Arc<Policy> {
        let inside = |cidr: &str| {
            let (cidr, operator) = (cidr.parse().unwrap(), PrefixOperator::In);
            vec![Match::Prefix(PrefixMatch { cidr, operator, lengths: None })]
        };
        let add = Operation::AddCommunity(policy::Community::Standard(ADDED));
        Arc::new(match self {
            Kind::Accepts => Policy::accept_all(),
            Kind::Rejects => Policy::reject_all(),
            Kind::Changes => {
                let rules = vec![
                    Rule::reject(inside("20.0.0.0/22")),
                    Rule::change(inside("20.0.8.0/21"), vec![add]),
                ];
                Policy::new(rules, true)
            }
        })
    }

    fn apply(self, prefix: IpNet, mut attributes: Attributes) -> Option<Attributes> {
        let within = |first: u32, last: u32| (first..=last).any(|one| prefix == net(one).into());
        if self == Kind::Rejects || self == Kind::Changes && within(0, 3) {
            return None;
        }
        if self == Kind::Changes
            && within(8, 15)
            && !attributes.communities.contains(&Community(ADDED))
        {
            attributes.communities.push(Community(ADDED));
        }
        Some(attributes)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) attributes: Attributes,
    pub(super) stale: bool,
}

/// A path in the race: its peer and identifier, or none for our own; and its attributes.
type Candidate = (Option<(usize, u32)>, Attributes);

#[derive(Debug, Default)]
pub(super) struct Twin {
    pub(super) up: [bool; PEERS],
    pub(super) import: [Kind; PEERS],
    pub(super) export: [Kind; PEERS],
    pub(super) routes: BTreeMap<(IpNet, usize, u32), Route>,
    pub(super) own: BTreeMap<IpNet, u32>,
    pub(super) unreachable: BTreeSet<IpAddr>,
}

impl Twin {
    fn refused(attributes: &Attributes) -> bool {
        attributes.as_path.asns().any(|asn| asn == OUR_AS)
    }

    /// All paths that could be used, in the order of peers and identifiers, our own first.
    fn usable(&self, net: IpNet) -> Vec<Candidate> {
        let own = self.own.get(&net).map(|local_pref| {
            (None, Attributes { local_pref: Some(*local_pref), ..Attributes::default() })
        });
        let routes = self.routes.iter().filter(|((of, ..), _)| *of == net);
        let usable = routes
            .filter(|(_, route)| !Twin::refused(&route.attributes))
            .filter(|(_, route)| {
                !self.unreachable.contains(&route.attributes.next_hop.unwrap().address())
            })
            .filter_map(|((_, peer, id), route)| {
                let taken = self.import[*peer].apply(net, route.attributes.clone())?;
                Some((Some((*peer, *id)), taken))
            });
        own.into_iter().chain(usable).collect()
    }

    /// The best of them.
    fn best(mut left: Vec<Candidate>) -> Option<Candidate> {
        if left.first()?.0.is_none() {
            return left.into_iter().next();
        }
        let preference = |one: &Attributes| one.local_pref.unwrap_or(100);
        let highest = left.iter().map(|(_, one)| preference(one)).max()?;
        left.retain(|(_, one)| preference(one) == highest);
        let shortest = left.iter().map(|(_, one)| one.as_path.length()).min()?;
        left.retain(|(_, one)| one.as_path.length() == shortest);
        let med = |one: &Attributes| (one.as_path.neighbor_as().unwrap_or(0), one.med.unwrap_or(0));
        let meds: Vec<(u32, u32)> = left.iter().map(|(_, one)| med(one)).collect();
        left.retain(|(_, one)| {
            let (asn, mine) = med(one);
            meds.iter().all(|(other, value)| *other != asn || *value >= mine)
        });
        let is_external = |(from, _): &Candidate| from.is_some_and(|(peer, _)| asn(peer) != OUR_AS);
        if left.iter().any(is_external) {
            left.retain(is_external);
        }
        // Router IDs and addresses are in the order of the peers.
        left.into_iter().next()
    }

    /// What a peer hears of a path.
    fn told(&self, net: IpNet, peer: usize, (from, mut one): Candidate) -> Option<Attributes> {
        let from = from.map(|(peer, _)| peer);
        let internal = from.is_some_and(|from| asn(from) == OUR_AS);
        let reflects = from.is_some_and(is_client) || is_client(peer);
        if from == Some(peer) || asn(peer) == OUR_AS && internal && !reflects {
            return None;
        }
        one = self.export[peer].apply(net, one)?;
        if asn(peer) != OUR_AS {
            one.as_path.prepend(OUR_AS, 1);
            one.local_pref = None;
            one.med = None;
            one.next_hop = Some(NextHop::V4(ROUTER_ID));
        } else {
            one.local_pref = Some(one.local_pref.unwrap_or(100));
            one.next_hop.get_or_insert(NextHop::V4(ROUTER_ID));
            if let (true, Some(from)) = (internal, from) {
                one.originator_id = Some([10, 0, 0, from as u8 + 1].into());
                one.cluster_list = vec![ROUTER_ID];
            }
        }
        Some(one)
    }

    /// All that a peer has heard in the end, each prefix's paths in an order of no meaning.
    pub(super) fn heard_by(&self, peer: usize) -> BTreeMap<IpNet, Vec<Attributes>> {
        let nets: BTreeSet<IpNet> =
            self.routes.keys().map(|(net, ..)| *net).chain(self.own.keys().copied()).collect();
        let told = nets.into_iter().filter_map(|net| {
            let mut usable = self.usable(net);
            if !has_add_path(peer) {
                usable = Twin::best(usable).into_iter().collect();
            }
            let told = usable.into_iter().filter_map(|one| self.told(net, peer, one));
            let told: Vec<Attributes> = told.collect();
            (!told.is_empty()).then(|| (net, in_order(told)))
        });
        told.collect()
    }
}

/// The same whatever the order was.
pub(super) fn in_order(mut paths: Vec<Attributes>) -> Vec<Attributes> {
    paths.sort_by_cached_key(|one| one.to_canonical());
    paths
}
