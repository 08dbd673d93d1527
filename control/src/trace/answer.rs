//! The answer to `trace`: stable keys, for programs.

use margay_acl::Verdict;
use margay_acl::origin::Origin;
use serde::{Deserialize, Serialize};

/// What becomes of a packet, and why.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// `forward`, `deliver` (to the host itself) or `drop`.
    pub verdict: String,
    /// Why it falls, in the words of `show drops`; `allowed` when it does not.
    pub reason: String,
    /// What was asked, in order.
    pub stages: Vec<StageAnswer>,
    /// What is changed on the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// The tunnel that it goes into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encap: Option<EncapAnswer>,
    /// Who gets it next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<String>,
    /// The port that it leaves by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_port: Option<String>,
}

/// One stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageAnswer {
    /// Its name.
    pub stage: String,
    /// `pass`, `allow`, `drop`, or what it did.
    pub outcome: String,
    /// In words.
    pub detail: String,
    /// What of policy decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleAnswer>,
    /// The node that it is on; empty where that is plain.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
}

/// A place in policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleAnswer {
    /// `name` or `namespace/name`; none at the end of a tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Its kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The tier; none for profiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The rule, from 0 in its direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// Sets and ranges by which it matched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<String>,
}

/// What is changed of a packet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rewrite {
    /// Its source from there on.
    #[serde(rename = "srcIP", skip_serializing_if = "Option::is_none")]
    pub src_ip: Option<String>,
    /// Its source port.
    #[serde(rename = "srcPort", skip_serializing_if = "Option::is_none")]
    pub src_port: Option<u16>,
    /// Its destination.
    #[serde(rename = "dstIP", skip_serializing_if = "Option::is_none")]
    pub dst_ip: Option<String>,
    /// Its destination port.
    #[serde(rename = "dstPort", skip_serializing_if = "Option::is_none")]
    pub dst_port: Option<u16>,
}

/// A tunnel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EncapAnswer {
    /// `ipip` or `vxlan`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its other end.
    pub remote: String,
    /// VXLAN's network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
}

/// What staged policies would do at one end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Staged {
    /// The endpoint.
    pub endpoint: String,
    /// `allow` or `drop`.
    pub verdict: String,
    /// What would decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleAnswer>,
}

impl Answer {
    /// Tells how the way ended: with a verdict, or the reason of a drop.
    pub(super) fn end(&mut self, outcome: Result<&'static str, &'static str>) {
        let (verdict, reason) = match outcome {
            Err(reason) => ("drop", reason),
            Ok(verdict) => (verdict, "allowed"),
        };
        (self.verdict, self.reason) = (verdict.to_owned(), reason.to_owned());
    }
}

impl StageAnswer {
    /// A stage without policy.
    pub(super) fn plain(stage: &str, outcome: &str, detail: String) -> StageAnswer {
        let (stage, outcome) = (stage.to_owned(), outcome.to_owned());
        StageAnswer { stage, outcome, detail, ..StageAnswer::default() }
    }
}

impl RuleAnswer {
    /// The place that an origin names; none when no policy is there.
    pub fn of(origin: &Origin, sets: Vec<String>) -> Option<RuleAnswer> {
        let rule = match origin {
            Origin::Rule { tier, policy, index } => RuleAnswer {
                policy: Some(match policy.namespace.is_empty() {
                    true => policy.name.clone(),
                    false => format!("{}/{}", policy.namespace, policy.name),
                }),
                kind: Some(policy.kind.as_str().to_owned()),
                tier: Some(tier.to_string()),
                index: Some(*index),
                ..RuleAnswer::default()
            },
            Origin::EndOfTier { tier } => {
                RuleAnswer { tier: Some(tier.to_string()), ..RuleAnswer::default() }
            }
            Origin::ProfileRule { profile, index } => RuleAnswer {
                profile: Some(profile.to_string()),
                index: Some(*index),
                ..RuleAnswer::default()
            },
            Origin::MissingProfile { profile } => {
                RuleAnswer { profile: Some(profile.to_string()), ..RuleAnswer::default() }
            }
            _ => return None,
        };
        Some(RuleAnswer { sets, ..rule })
    }
}

/// A verdict in a word.
pub(crate) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "drop",
        Verdict::Continue => "pass",
    }
}
