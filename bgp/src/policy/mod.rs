//! Import and export policy: what becomes of one route on one session.
//!
//! A [`Policy`] is an ordered list of rules over a route's prefix, origin and attributes. Calico's
//! words are the model: BGPFilter, pools, block aggregation, service ranges, and the order of its
//! export filter; [`Policy`] knows nothing of where a rule came from. Evaluation reads plain
//! [`RouteFacts`], allocates nothing once a [`Verdict`] is reused, and can be remembered by
//! attributes: [`Policy::prefix_class`] says all that a verdict takes from the prefix.

mod display;
mod evaluate;
mod pattern;
mod prefix_set;
#[cfg(test)]
mod tests;

pub use evaluate::{Verdict, evaluate};
pub use pattern::Pattern;
pub use prefix_set::PrefixSet;

use ipnet::IpNet;
use std::net::IpAddr;

/// The sum of a local preference and the kernel metric that it stands for: Calico carries
/// metrics between nodes this way.
pub const METRIC_BASE: u32 = 2_147_483_647;

/// Rules in order. A route that no rule accepts or rejects meets the default.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Policy {
    rules: Vec<Rule>,
    accept_by_default: bool,
    prefix_matches: usize,
}

/// One step of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// All of them must hold; none means every route.
    pub matches: Vec<Match>,
    /// What is done to a route that matches.
    pub operations: Vec<Operation>,
    /// What then becomes of it.
    pub action: Action,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Match {
    /// The prefix compared with one range.
    Prefix(PrefixMatch),
    /// The prefix is one of these.
    OneOf(PrefixSet),
    /// The prefix is one of these, or inside one.
    Within(PrefixSet),
    /// Learned from a BGP peer.
    FromPeer,
    /// The outgoing interface has a name of this form.
    Interface(Pattern),
    /// Carries this community.
    Community(Community),
    /// The AS path begins with these.
    AsPathPrefix(Vec<u32>),
    /// The local preference is exactly this.
    LocalPref(u32),
    /// The local preference is larger than this.
    LocalPrefAbove(u32),
    /// The kernel metric is smaller than this.
    MetricBelow(u32),
    /// The next hop is one of these, which are sorted.
    NextHop(Vec<IpAddr>),
}

/// A range, how a prefix is compared with it, and the prefix lengths that count.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PrefixMatch {
    /// The range.
    pub cidr: IpNet,
    /// How.
    pub operator: PrefixOperator,
    /// Shortest and longest prefix length that `cidr` stands for; `None` is the plain range.
    pub lengths: Option<(u8, u8)>,
}

/// How a prefix is compared with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrefixOperator {
    /// It is the range.
    Equal,
    /// It is not the range.
    NotEqual,
    /// It is the range or inside it.
    In,
    /// It is outside.
    NotIn,
}

/// A community, RFC 1997 or RFC 8092.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Community {
    /// Four octets.
    Standard(u32),
    /// Three times four octets.
    Large([u32; 3]),
}

/// A change of a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Adds the community, if the route has it not.
    AddCommunity(Community),
    /// Puts these in front of the AS path, in this order.
    PrependAsPath(Vec<u32>),
    /// Sets the local preference.
    SetLocalPref(u32),
    /// Sets the preference among the route sources of the node.
    SetPreference(u32),
    /// Derives the kernel metric from the local preference of a route of a peer, and the local
    /// preference from the metric of any other, whose metric is the given one when it has none.
    ExchangeMetric {
        /// Metric of a route that has none.
        normal: u32,
    },
    /// Sets the kernel metric of a route of a peer: from its local preference, or the given one.
    SetMetric {
        /// Metric of a route without local preference.
        normal: u32,
    },
    /// The route goes through the IPIP device.
    Ipip {
        /// Next hops in here are reached without it.
        unless_next_hop_in: Option<IpNet>,
    },
}

/// What becomes of a route that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It is taken; no further rule is asked.
    Accept,
    /// It is dropped; no further rule is asked.
    Reject,
    /// The next rule is asked.
    Continue,
}

/// What a policy may ask about a route.
#[derive(Debug, Clone, Copy)]
pub struct RouteFacts<'a> {
    /// Where it leads.
    pub prefix: IpNet,
    /// Who brought it.
    pub origin: Origin,
    /// The outgoing interface, when one is known.
    pub interface: Option<&'a str>,
    /// The BGP next hop.
    pub next_hop: Option<IpAddr>,
    /// LOCAL_PREF; routes of eBGP peers have the default of 100 by the time a policy sees them.
    pub local_pref: Option<u32>,
    /// COMMUNITIES.
    pub communities: &'a [u32],
    /// LARGE_COMMUNITY.
    pub large_communities: &'a [[u32; 3]],
    /// The ASes of AS_PATH's leading AS_SEQUENCE, the nearest first.
    pub as_path: &'a [u32],
}

/// Who brought a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// This node.
    Local {
        /// Its metric in the kernel.
        metric: Option<u32>,
    },
    /// A BGP peer.
    Peer,
}

/// What a policy's verdicts depend on, for those who remember them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dependence {
    /// The prefix: verdicts for one set of attributes differ by [`Policy::prefix_class`].
    pub prefix: bool,
    /// The outgoing interface.
    pub interface: bool,
    /// The next hop.
    pub next_hop: bool,
}

impl Policy {
    /// A policy of these rules. Operations of a rule that rejects have no effect.
    pub fn new(rules: Vec<Rule>, accept_by_default: bool) -> Policy {
        let matches = rules.iter().flat_map(|rule| &rule.matches);
        let prefix_matches = matches.filter(|condition| condition.is_about_prefix()).count();
        Policy { rules, accept_by_default, prefix_matches }
    }

    /// Takes every route as it is.
    pub fn accept_all() -> Policy {
        Policy::new(Vec::new(), true)
    }

    /// Takes none.
    pub fn reject_all() -> Policy {
        Policy::new(Vec::new(), false)
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What becomes of a route that no rule decides on.
    pub fn accepts_by_default(&self) -> bool {
        self.accept_by_default
    }

    /// What verdicts depend on besides attributes and origin.
    pub fn dependence(&self) -> Dependence {
        let asks = |wanted: fn(&Match) -> bool| {
            self.rules.iter().any(|rule| rule.matches.iter().any(wanted))
        };
        let by_next_hop = |operation: &Operation| {
            matches!(operation, Operation::Ipip { unless_next_hop_in: Some(_) })
        };
        Dependence {
            prefix: self.prefix_matches > 0,
            interface: asks(|condition| matches!(condition, Match::Interface(_))),
            next_hop: asks(|condition| matches!(condition, Match::NextHop(_)))
                || self.rules.iter().any(|rule| rule.operations.iter().any(by_next_hop)),
        }
    }

    /// Which conditions about the prefix hold, as bits: two routes that differ in nothing but
    /// prefixes of one class get the same verdict. `None` when the policy has more such
    /// conditions than bits.
    pub fn prefix_class(&self, prefix: IpNet) -> Option<u64> {
        if self.prefix_matches > u64::BITS as usize {
            return None;
        }
        let matches = self.rules.iter().flat_map(|rule| &rule.matches);
        let about_prefix = matches.filter_map(|condition| condition.on_prefix(&prefix));
        Some(about_prefix.enumerate().fold(0, |class, (at, holds)| class | u64::from(holds) << at))
    }
}

impl Rule {
    /// Takes routes that match.
    pub fn accept(matches: Vec<Match>) -> Rule {
        Rule { matches, operations: Vec::new(), action: Action::Accept }
    }

    /// Drops routes that match.
    pub fn reject(matches: Vec<Match>) -> Rule {
        Rule { matches, operations: Vec::new(), action: Action::Reject }
    }

    /// Changes routes that match, and asks the next rule.
    pub fn change(matches: Vec<Match>, operations: Vec<Operation>) -> Rule {
        Rule { matches, operations, action: Action::Continue }
    }
}

impl Match {
    fn is_about_prefix(&self) -> bool {
        matches!(self, Match::Prefix(_) | Match::OneOf(_) | Match::Within(_))
    }

    /// Whether it holds, for a condition about the prefix.
    fn on_prefix(&self, prefix: &IpNet) -> Option<bool> {
        match self {
            Match::Prefix(one) => Some(one.holds(prefix)),
            Match::OneOf(set) => Some(set.contains(prefix)),
            Match::Within(set) => Some(set.covers(prefix)),
            _ => None,
        }
    }
}

impl PrefixMatch {
    fn holds(&self, prefix: &IpNet) -> bool {
        let length = prefix.prefix_len();
        match (self.lengths, self.operator) {
            (None, PrefixOperator::Equal) => *prefix == self.cidr,
            (None, PrefixOperator::NotEqual) => *prefix != self.cidr,
            (None, PrefixOperator::In) => self.cidr.contains(prefix),
            (None, PrefixOperator::NotIn) => !self.cidr.contains(prefix),
            // With lengths the range stands for a set of prefixes, and a prefix is compared with
            // the set: being equal to it or inside it is the same.
            (Some((shortest, longest)), operator) => {
                let inside = (shortest..=longest).contains(&length) && self.cidr.contains(prefix);
                match operator {
                    PrefixOperator::Equal | PrefixOperator::In => inside,
                    PrefixOperator::NotEqual | PrefixOperator::NotIn => !inside,
                }
            }
        }
    }
}

impl std::fmt::Display for Community {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Community::Standard(value) => write!(f, "{}:{}", value >> 16, value & 0xffff),
            Community::Large([global, first, second]) => write!(f, "{global}:{first}:{second}"),
        }
    }
}

/// Text that is no community.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotACommunity;

impl std::str::FromStr for Community {
    type Err = NotACommunity;

    /// `a:b` with 16 bits each, or `a:b:c` with 32.
    fn from_str(text: &str) -> Result<Community, NotACommunity> {
        let parts: Vec<&str> = text.split(':').collect();
        let digits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !parts.iter().all(digits) {
            return Err(NotACommunity);
        }
        let short = |part: &str| part.parse::<u16>().map_err(|_| NotACommunity);
        let long = |part: &str| part.parse::<u32>().map_err(|_| NotACommunity);
        match parts[..] {
            [first, second] => {
                let value = u32::from(short(first)?) << 16 | u32::from(short(second)?);
                Ok(Community::Standard(value))
            }
            [global, first, second] => {
                Ok(Community::Large([long(global)?, long(first)?, long(second)?]))
            }
            _ => Err(NotACommunity),
        }
    }
}
