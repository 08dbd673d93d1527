//! Policies in words, a line a rule: for people, and for cases in tests.

use super::{Action, Match, Operation, PrefixMatch, PrefixOperator, PrefixSet, Rule};
use std::fmt::{self, Display, Formatter};

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Accept => "accept",
            Action::Reject => "reject",
            Action::Continue => "continue",
        };
        if !self.matches.is_empty() {
            f.write_str("if ")?;
            joined(f, &self.matches, " and ")?;
            f.write_str(": ")?;
        }
        if self.action != Action::Reject {
            joined(f, &self.operations, ", ")?;
        }
        match self.operations.is_empty() || self.action == Action::Reject {
            true => f.write_str(action),
            false if self.action == Action::Continue => Ok(()),
            false => write!(f, ", {action}"),
        }
    }
}

fn joined<T: Display>(f: &mut Formatter<'_>, list: &[T], between: &str) -> fmt::Result {
    for (at, one) in list.iter().enumerate() {
        write!(f, "{}{one}", if at == 0 { "" } else { between })?;
    }
    Ok(())
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Match::Prefix(one) => one.fmt(f),
            Match::OneOf(set) => write!(f, "prefix is {set}"),
            Match::Within(set) => write!(f, "prefix in {set}"),
            Match::FromPeer => f.write_str("from a peer"),
            Match::Interface(pattern) => write!(f, "interface {}", pattern.as_str()),
            Match::Community(community) => write!(f, "community {community}"),
            Match::AsPathPrefix(path) => write!(f, "AS path begins {}", path_text(path)),
            Match::LocalPref(value) => write!(f, "local-pref {value}"),
            Match::LocalPrefAbove(value) => write!(f, "local-pref over {value}"),
            Match::MetricBelow(value) => write!(f, "metric under {value}"),
            Match::NextHop(hops) => {
                f.write_str("next hop ")?;
                joined(f, hops, "|")
            }
        }
    }
}

fn path_text(path: &[u32]) -> String {
    path.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

impl Display for PrefixMatch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let operator = match self.operator {
            PrefixOperator::Equal => "is",
            PrefixOperator::NotEqual => "is not",
            PrefixOperator::In => "in",
            PrefixOperator::NotIn => "not in",
        };
        write!(f, "prefix {operator} {}", self.cidr)?;
        match self.lengths {
            Some((shortest, longest)) => write!(f, "{{{shortest},{longest}}}"),
            None => Ok(()),
        }
    }
}

impl Display for PrefixSet {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, prefix) in self.iter().enumerate() {
            write!(f, "{}{prefix}", if at == 0 { "" } else { "|" })?;
        }
        Ok(())
    }
}

impl Display for Operation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Operation::AddCommunity(community) => write!(f, "add community {community}"),
            Operation::PrependAsPath(path) => write!(f, "prepend {}", path_text(path)),
            Operation::SetLocalPref(value) => write!(f, "set local-pref {value}"),
            Operation::SetPreference(value) => write!(f, "set preference {value}"),
            Operation::ExchangeMetric { normal } => write!(f, "metric {normal} as local-pref"),
            Operation::SetMetric { normal } => write!(f, "local-pref as metric, or {normal}"),
            Operation::Ipip { unless_next_hop_in: None } => f.write_str("by IPIP"),
            Operation::Ipip { unless_next_hop_in: Some(subnet) } => {
                write!(f, "by IPIP unless next hop in {subnet}")
            }
        }
    }
}
