//! What decided: the place in policy that a verdict comes from.

use crate::model::PolicyKey;
use std::fmt;
use std::sync::Arc;

/// The place in policy that decided.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A rule of a policy; the index counts from 0 in its direction.
    Rule {
        /// Name of the policy's tier.
        tier: Arc<str>,
        /// The policy.
        policy: Arc<PolicyKey>,
        /// Its rule.
        index: usize,
    },
    /// No rule of a tier with a policy for the endpoint matched, and the tier ends with a drop.
    EndOfTier {
        /// Name of the tier.
        tier: Arc<str>,
    },
    /// A rule of a profile.
    ProfileRule {
        /// Name of the profile.
        profile: Arc<str>,
        /// Its rule, from 0 in its direction.
        index: usize,
    },
    /// The endpoint names a profile that does not exist, which denies.
    MissingProfile {
        /// Name of the profile.
        profile: Arc<str>,
    },
    /// No policy decided and no profile matched.
    NoProfile,
    /// A failsafe port of the host.
    Failsafe,
    /// A tunnel's packet from a workload.
    Encapsulation,
    /// No policy for forwarded traffic decided, which allows.
    NotForwarded,
    /// A stage before the normal one did not decide.
    EndOfStage,
    /// No endpoint of this node has that name.
    UnknownEndpoint,
    /// The endpoint's policy is beyond a limit of the classifier, which denies.
    Excess,
}

impl Origin {
    /// Tier, if a tier decided.
    pub fn tier(&self) -> Option<&str> {
        match self {
            Origin::Rule { tier, .. } | Origin::EndOfTier { tier } => Some(tier),
            _ => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Rule { tier, policy, index } => {
                write!(f, "tier {tier}, policy {policy}, rule {index}")
            }
            Origin::EndOfTier { tier } => write!(f, "tier {tier}, no rule matched"),
            Origin::ProfileRule { profile, index } => write!(f, "profile {profile}, rule {index}"),
            Origin::MissingProfile { profile } => write!(f, "profile {profile} is missing"),
            Origin::NoProfile => f.write_str("no policy and no profile matched"),
            Origin::Failsafe => f.write_str("failsafe port"),
            Origin::Encapsulation => f.write_str("tunnel packet of a workload"),
            Origin::NotForwarded => f.write_str("no policy for forwarded traffic"),
            Origin::EndOfStage => f.write_str("no rule of this stage matched"),
            Origin::UnknownEndpoint => f.write_str("unknown endpoint"),
            Origin::Excess => f.write_str("policy beyond a limit"),
        }
    }
}
