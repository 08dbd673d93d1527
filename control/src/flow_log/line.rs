//! One line of the flow log: stable keys, for programs.

use crate::trace::RuleAnswer;
use margay_acl::Verdict;
use margay_acl::origin::Origin;
use margay_acl::packet::protocol;
use margay_fastpath::flow::{Address, Tuple};
use margay_fastpath::flow_log::Record;
use margay_fastpath::policy::{Decision, Policy, Ruling};
use serde::Serialize;
use std::net::IpAddr;

/// A flow's first packet, or several alike.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    /// When the first of them came, RFC 3339.
    time: String,
    #[serde(flatten)]
    verdict: Said,
    protocol: String,
    source: End,
    destination: End,
    /// Type and code of an ICMP message.
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp: Option<[u8; 2]>,
    /// Rules with action Log that it met.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logged: Vec<Ruled>,
    /// What would be with staged policies in force, where they say something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    staged: Option<Said>,
    /// First packets that differ by their source port only.
    packets: u64,
    /// First packets since the line before that no line tells of.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) missed: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Said {
    /// `allow` or `drop`.
    action: &'static str,
    /// In the words of `show drops`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// Who was asked, and what decided there.
    rules: Vec<Ruled>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Ruled {
    endpoint: String,
    direction: &'static str,
    action: &'static str,
    #[serde(flatten)]
    rule: Option<RuleAnswer>,
    /// In words, where it is no rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct End {
    address: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
}

/// What a record tells, and how often.
pub(super) struct Told<'a> {
    pub(super) record: &'a Record,
    pub(super) packets: u64,
    /// When, RFC 3339.
    pub(super) time: String,
}

/// The line of a record. Without the snapshot that it is of, rules have no names.
pub(super) fn line(
    told: Told<'_>,
    policy: Option<&Policy>,
    name: impl Fn(IpAddr) -> Option<String>,
) -> Line {
    let Record { question, judgement, .. } = told.record;
    let Tuple { src, dst, src_port, dst_port, protocol: number } = question.tuple;
    let is_icmp = protocol::is_icmp(number);
    let end = |address: Address, port: u16| {
        let port = Some(port).filter(|_| protocol::has_ports(number));
        End { address: address.into(), port, endpoint: name(address.into()) }
    };
    let staged = judgement
        .staged
        .filter(|staged| policy.is_some_and(|p| differs(p, staged, &judgement.real)));
    let logged = policy.map(|policy| policy.logged(question, &judgement.real));
    Line {
        time: told.time,
        verdict: said(&judgement.real, policy),
        protocol: protocol_name(number),
        source: end(src, src_port),
        destination: end(dst, dst_port),
        icmp: is_icmp.then_some([dst_port as u8, question.icmp_code]),
        logged: logged
            .into_iter()
            .flatten()
            .map(|(ruling, origin)| ruled(&ruling, policy, Some(&origin)))
            .collect(),
        staged: staged.map(|staged| said(&staged, policy)),
        packets: told.packets,
        missed: 0,
    }
}

/// Whether staged policies decide otherwise, or by another rule.
fn differs(policy: &Policy, staged: &Decision, real: &Decision) -> bool {
    let origins = |decision: &Decision| -> Vec<Option<Origin>> {
        let rulings = decision.rulings.iter();
        rulings.map(|ruling| ruling.as_ref().map(|one| policy.origin(one).clone())).collect()
    };
    staged.dropped != real.dropped || origins(staged) != origins(real)
}

fn said(decision: &Decision, policy: Option<&Policy>) -> Said {
    // Egress is asked first.
    let rulings = decision.rulings.iter().rev().flatten();
    Said {
        action: if decision.dropped.is_some() { "drop" } else { "allow" },
        reason: decision.dropped.map(margay_fastpath::drop_reason::DropReason::name),
        rules: rulings
            .map(|ruling| ruled(ruling, policy, policy.map(|policy| policy.origin(ruling))))
            .collect(),
    }
}

fn ruled(ruling: &Ruling, policy: Option<&Policy>, origin: Option<&Origin>) -> Ruled {
    let endpoint = policy.and_then(|policy| policy.endpoint(ruling.endpoint));
    let rule = origin.and_then(|origin| RuleAnswer::of(origin, Vec::new()));
    let is_rule = matches!(origin, Some(Origin::Rule { .. } | Origin::ProfileRule { .. }));
    let because = match origin {
        Some(origin) => origin.to_string(),
        None => "by policy that has changed since".to_owned(),
    };
    Ruled {
        endpoint: endpoint.map(|endpoint| endpoint.name.to_string()).unwrap_or_default(),
        direction: match ruling.direction {
            margay_acl::Direction::Ingress => "ingress",
            margay_acl::Direction::Egress => "egress",
        },
        action: if ruling.outcome.verdict == Verdict::Deny { "drop" } else { "allow" },
        rule,
        because: (!is_rule).then_some(because),
    }
}

fn protocol_name(number: u8) -> String {
    let name = match number {
        protocol::TCP => "tcp",
        protocol::UDP => "udp",
        protocol::SCTP => "sctp",
        protocol::ICMP => "icmp",
        protocol::ICMP6 => "icmpv6",
        other => return other.to_string(),
    };
    name.to_owned()
}
