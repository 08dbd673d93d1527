//! BGPFilter: rules that routes pass before Calico's own.
//!
//! Rules are kept in the form that sessions need, but for `peerType`: what it means follows from
//! the session.

use super::field::{self, AsNumber};
use super::{Invalid, Object};
use ipnet::IpNet;
use margay_bgp::policy::Community;
use margay_bgp::policy::{
    Action, METRIC_BASE, Match, Operation, Pattern, PrefixMatch, PrefixOperator, Rule,
};
use serde::Deserialize;

/// The four lists of rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BgpFilter {
    /// IPv4 routes to the peer.
    pub export_v4: Vec<FilterRule>,
    /// IPv4 routes from the peer.
    pub import_v4: Vec<FilterRule>,
    /// IPv6 routes to the peer.
    pub export_v6: Vec<FilterRule>,
    /// IPv6 routes from the peer.
    pub import_v6: Vec<FilterRule>,
}

/// A rule, and the sessions that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterRule {
    /// Only sessions of this type, if it is set.
    pub peer_type: Option<PeerType>,
    /// What it does.
    pub rule: Rule,
}

/// Whether the peer is of the node's AS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum PeerType {
    /// Another AS.
    #[serde(rename = "eBGP")]
    External,
    /// The same AS.
    #[serde(rename = "iBGP")]
    Internal,
}

/// The resource's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    #[serde(rename = "exportV4")]
    export_v4: Option<Vec<RuleSpec>>,
    #[serde(rename = "importV4")]
    import_v4: Option<Vec<RuleSpec>>,
    #[serde(rename = "exportV6")]
    export_v6: Option<Vec<RuleSpec>>,
    #[serde(rename = "importV6")]
    import_v6: Option<Vec<RuleSpec>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuleSpec {
    cidr: Option<String>,
    match_operator: Option<Operator>,
    prefix_length: Option<Lengths>,
    source: Option<Source>,
    interface: Option<String>,
    peer_type: Option<PeerType>,
    communities: Option<Values>,
    as_path_prefix: Option<Vec<AsNumber>>,
    priority: Option<u32>,
    action: FilterAction,
    operations: Option<Vec<OperationSpec>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum Operator {
    Equal,
    NotEqual,
    In,
    NotIn,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Lengths {
    min: Option<u8>,
    max: Option<u8>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
enum Source {
    RemotePeers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum FilterAction {
    Accept,
    Reject,
}

#[derive(Debug, Clone, Deserialize)]
struct Values {
    values: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OperationSpec {
    add_community: Option<Value<String>>,
    #[serde(rename = "prependASPath")]
    prepend_as_path: Option<Prepend>,
    set_priority: Option<Value<u32>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Value<T> {
    value: T,
}

#[derive(Debug, Clone, Deserialize)]
struct Prepend {
    prefix: Vec<AsNumber>,
}

/// Most operations of a rule, and most AS numbers of one prepending.
pub const OPERATIONS_MAX: usize = 10;
/// Most rules of a list.
pub const RULES_MAX: usize = 4096;

impl TryFrom<Object<Spec>> for BgpFilter {
    type Error = Invalid;

    fn try_from(object: Object<Spec>) -> Result<BgpFilter, Invalid> {
        super::check_name(&object.metadata.name)?;
        let spec = object.spec;
        Ok(BgpFilter {
            export_v4: rules("spec.exportV4", spec.export_v4, 32)?,
            import_v4: rules("spec.importV4", spec.import_v4, 32)?,
            export_v6: rules("spec.exportV6", spec.export_v6, 128)?,
            import_v6: rules("spec.importV6", spec.import_v6, 128)?,
        })
    }
}

fn rules(
    field: &'static str,
    list: Option<Vec<RuleSpec>>,
    bits: u8,
) -> Result<Vec<FilterRule>, Invalid> {
    let list = list.unwrap_or_default();
    if list.len() > RULES_MAX {
        return Err(Invalid::new(field, "too many rules", "4096 at most"));
    }
    let parsed = list.into_iter().enumerate().map(|(at, spec)| {
        rule(field, spec, bits)
            .map_err(|error| Invalid { what: format!("rule {}: {}", at + 1, error.what), ..error })
    });
    parsed.collect()
}

fn rule(field: &'static str, spec: RuleSpec, bits: u8) -> Result<FilterRule, Invalid> {
    let mut matches = prefix(field, &spec, bits)?.into_iter().collect::<Vec<_>>();
    if let Some(Source::RemotePeers) = spec.source {
        matches.push(Match::FromPeer);
    }
    if let Some(name) = spec.interface.filter(|name| !name.is_empty()) {
        matches.push(Match::Interface(Pattern::new(&name)));
    }
    if let Some(Values { values }) = spec.communities {
        let [value] = &values[..] else {
            return Err(Invalid::new(field, "communities.values", "exactly one community"));
        };
        matches.push(Match::Community(community(field, value)?));
    }
    if let Some(path) = spec.as_path_prefix.filter(|path| !path.is_empty()) {
        matches.push(Match::AsPathPrefix(path.into_iter().map(|number| number.0).collect()));
    }
    if let Some(value) = spec.priority {
        matches.push(Match::LocalPref(local_pref(field, value)?));
    }
    let list = spec.operations.unwrap_or_default();
    if list.len() > OPERATIONS_MAX {
        return Err(Invalid::new(field, "too many operations", "10 at most"));
    }
    if spec.action == FilterAction::Reject && !list.is_empty() {
        return Err(Invalid::new(field, "operations of a rule that rejects", "action: Accept"));
    }
    let operations =
        list.into_iter().map(|one| operation(field, one)).collect::<Result<Vec<_>, _>>()?;
    let action = match spec.action {
        FilterAction::Accept => Action::Accept,
        FilterAction::Reject => Action::Reject,
    };
    Ok(FilterRule { peer_type: spec.peer_type, rule: Rule { matches, operations, action } })
}

fn prefix(field: &'static str, spec: &RuleSpec, bits: u8) -> Result<Option<Match>, Invalid> {
    let cidr = spec.cidr.as_ref().filter(|text| !text.is_empty());
    let (cidr, operator) = match (cidr, spec.match_operator) {
        (Some(text), Some(operator)) => (field::range(field, text)?, operator),
        (None, None) if spec.prefix_length.is_none() => return Ok(None),
        _ => {
            let mend = "cidr and matchOperator together; prefixLength needs them";
            return Err(Invalid::new(field, "cidr or matchOperator is missing", mend));
        }
    };
    if cidr.max_prefix_len() != bits {
        let what = format!("{cidr} is of the other family");
        return Err(Invalid::new(field, what, "IPv4 in V4 lists, IPv6 in V6 lists"));
    }
    let lengths = match spec.prefix_length {
        None => None,
        Some(Lengths { min, max }) if [min, max].iter().flatten().any(|one| *one > bits) => {
            let what = format!("prefixLength {min:?} to {max:?} is out of range");
            return Err(Invalid::new(field, what, "0 to 32 for IPv4, 0 to 128 for IPv6"));
        }
        Some(Lengths { min, max }) => {
            Some((min.unwrap_or(0).max(cidr.prefix_len()), max.unwrap_or(bits)))
        }
    };
    let operator = match operator {
        Operator::Equal => PrefixOperator::Equal,
        Operator::NotEqual => PrefixOperator::NotEqual,
        Operator::In => PrefixOperator::In,
        Operator::NotIn => PrefixOperator::NotIn,
    };
    let cidr: IpNet = cidr;
    Ok(Some(Match::Prefix(PrefixMatch { cidr, operator, lengths })))
}

fn community(field: &'static str, text: &str) -> Result<Community, Invalid> {
    field::community(field, text)
}

fn local_pref(field: &'static str, priority: u32) -> Result<u32, Invalid> {
    match (1..METRIC_BASE).contains(&priority) {
        true => Ok(METRIC_BASE - priority),
        false => {
            let what = format!("priority {priority} is out of range");
            Err(Invalid::new(field, what, "1 to 2147483646"))
        }
    }
}

fn operation(field: &'static str, spec: OperationSpec) -> Result<Operation, Invalid> {
    match (spec.add_community, spec.prepend_as_path, spec.set_priority) {
        (Some(Value { value }), None, None) => {
            Ok(Operation::AddCommunity(community(field, &value)?))
        }
        (None, Some(Prepend { prefix }), None) if (1..=OPERATIONS_MAX).contains(&prefix.len()) => {
            Ok(Operation::PrependAsPath(prefix.into_iter().map(|number| number.0).collect()))
        }
        (None, Some(_), None) => {
            Err(Invalid::new(field, "the length of prependASPath.prefix", "1 to 10 AS numbers"))
        }
        (None, None, Some(Value { value })) => {
            Ok(Operation::SetLocalPref(local_pref(field, value)?))
        }
        _ => {
            let mend = "exactly one of addCommunity, prependASPath and setPriority";
            Err(Invalid::new(field, "an operation of none or several kinds", mend))
        }
    }
}
