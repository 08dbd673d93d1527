//! One route through one policy.

use super::{Action, Community, METRIC_BASE, Match, Operation, Origin, Policy, RouteFacts, Rule};

/// What a policy says about a route. Reuse one: its lists keep their memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Taken; when not, nothing else here counts.
    pub accept: bool,
    /// The local preference that the route gets; `None` leaves it as it is.
    pub local_pref: Option<u32>,
    /// The preference among the node's route sources, if it is not the usual one.
    pub preference: Option<u32>,
    /// The metric of the route in the kernel, if the policy derives one.
    pub metric: Option<u32>,
    /// The route goes through the IPIP device.
    pub ipip: bool,
    /// Communities that the route has not and gets, in order.
    pub communities: Vec<Community>,
    /// What goes in front of the AS path, the nearest first.
    pub prepend: Vec<u32>,
}

impl Verdict {
    fn clear(&mut self) {
        let (mut communities, mut prepend) =
            (std::mem::take(&mut self.communities), std::mem::take(&mut self.prepend));
        communities.clear();
        prepend.clear();
        *self = Verdict { communities, prepend, ..Verdict::default() };
    }
}

/// Asks `policy` about a route; the answer replaces what was in `verdict`.
pub fn evaluate(policy: &Policy, facts: &RouteFacts, verdict: &mut Verdict) {
    verdict.clear();
    for rule in policy.rules() {
        if !rule.matches.iter().all(|condition| holds(condition, facts, verdict)) {
            continue;
        }
        if rule.action == Action::Reject {
            return;
        }
        change(rule, facts, verdict);
        if rule.action == Action::Accept {
            verdict.accept = true;
            return;
        }
    }
    verdict.accept = policy.accepts_by_default();
}

fn holds(condition: &Match, facts: &RouteFacts, so_far: &Verdict) -> bool {
    let local_pref = so_far.local_pref.or(facts.local_pref);
    match condition {
        Match::Prefix(one) => one.holds(&facts.prefix),
        Match::OneOf(set) => set.contains(&facts.prefix),
        Match::Within(set) => set.covers(&facts.prefix),
        Match::FromPeer => facts.origin == Origin::Peer,
        Match::Interface(pattern) => facts.interface.is_some_and(|name| pattern.matches(name)),
        Match::Community(community) => {
            has(facts, *community) || so_far.communities.contains(community)
        }
        Match::AsPathPrefix(wanted) => {
            let path = so_far.prepend.iter().chain(facts.as_path);
            so_far.prepend.len() + facts.as_path.len() >= wanted.len()
                && path.zip(wanted).all(|(one, wanted)| one == wanted)
        }
        Match::LocalPref(wanted) => local_pref == Some(*wanted),
        Match::LocalPrefAbove(bound) => local_pref.is_some_and(|value| value > *bound),
        Match::MetricBelow(bound) => metric(facts, so_far).is_some_and(|value| value < *bound),
        Match::NextHop(list) => facts.next_hop.is_some_and(|hop| list.binary_search(&hop).is_ok()),
    }
}

fn has(facts: &RouteFacts, community: Community) -> bool {
    match community {
        Community::Standard(value) => facts.communities.contains(&value),
        Community::Large(value) => facts.large_communities.contains(&value),
    }
}

fn metric(facts: &RouteFacts, so_far: &Verdict) -> Option<u32> {
    match (so_far.metric, facts.origin) {
        (Some(metric), _) => Some(metric),
        (None, Origin::Local { metric }) => metric,
        (None, Origin::Peer) => None,
    }
}

fn change(rule: &Rule, facts: &RouteFacts, verdict: &mut Verdict) {
    for operation in &rule.operations {
        match operation {
            Operation::AddCommunity(community) => {
                if !has(facts, *community) && !verdict.communities.contains(community) {
                    verdict.communities.push(*community);
                }
            }
            Operation::PrependAsPath(path) => {
                verdict.prepend.splice(0..0, path.iter().copied());
            }
            Operation::SetLocalPref(value) => verdict.local_pref = Some(*value),
            Operation::SetPreference(value) => verdict.preference = Some(*value),
            Operation::ExchangeMetric { normal } => exchange(facts, *normal, verdict),
            Operation::SetMetric { normal } => {
                if facts.origin == Origin::Peer {
                    let local_pref = verdict.local_pref.or(facts.local_pref);
                    verdict.metric = Some(local_pref.map_or(*normal, inverse));
                }
            }
            Operation::Ipip { unless_next_hop_in } => {
                let direct = unless_next_hop_in
                    .zip(facts.next_hop)
                    .is_some_and(|(subnet, next_hop)| subnet.contains(&next_hop));
                verdict.ipip = !direct;
            }
        }
    }
}

fn exchange(facts: &RouteFacts, normal: u32, verdict: &mut Verdict) {
    match (facts.origin, facts.local_pref) {
        (Origin::Peer, Some(local_pref)) => verdict.metric = Some(inverse(local_pref)),
        _ => {
            let metric = metric(facts, verdict).unwrap_or(normal);
            verdict.metric = Some(metric);
            verdict.local_pref = Some(inverse(metric));
        }
    }
}

/// Metric to local preference and back. Values above the base wrap around, as in BIRD, and so
/// become worse than every usual one instead of better.
fn inverse(value: u32) -> u32 {
    METRIC_BASE.wrapping_sub(value)
}
