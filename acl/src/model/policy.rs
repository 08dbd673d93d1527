//! Tiers, policies and profiles, and the order in which they are asked.

use super::{Labels, Rule};
use crate::selector::Selector;
use std::cmp::Ordering;
use std::fmt;

/// A group of policies that is asked as one.
#[derive(Debug, Clone, PartialEq)]
pub struct Tier {
    /// Smaller is earlier; without a number it comes after all that have one.
    pub order: Option<f64>,
    /// What happens to a packet that no rule of the tier decides.
    pub default_action: TierAction,
}

/// What the end of a tier does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TierAction {
    /// Drops the packet.
    Deny,
    /// Asks the next tier.
    Pass,
}

/// Which resource a policy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Calico's GlobalNetworkPolicy.
    GlobalNetworkPolicy,
    /// Calico's NetworkPolicy.
    NetworkPolicy,
    /// Kubernetes' NetworkPolicy.
    KubernetesNetworkPolicy,
    /// Kubernetes' ClusterNetworkPolicy.
    KubernetesClusterNetworkPolicy,
    /// A GlobalNetworkPolicy that is only tried.
    StagedGlobalNetworkPolicy,
    /// A NetworkPolicy that is only tried.
    StagedNetworkPolicy,
    /// A Kubernetes NetworkPolicy that is only tried.
    StagedKubernetesNetworkPolicy,
}

/// What makes a policy one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// The resource's kind.
    pub kind: Kind,
    /// Empty for policies without a namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Which traffic of host endpoints a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// What begins or ends at the host.
    Local,
    /// Forwarded traffic too (applyOnForward).
    Forward,
    /// All, before destination NAT (preDNAT).
    PreDnat,
    /// All, before connection tracking (doNotTrack).
    Untracked,
}

/// What a staged policy proposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StagedAction {
    /// To put it in force, in the place of the policy of the same name.
    Set,
    /// To delete the policy of the same name.
    Delete,
    /// Nothing: it is kept for later.
    Ignore,
}

/// A policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Name of its tier. A tier that does not exist comes last and ends with a drop.
    pub tier: String,
    /// Smaller is earlier; without a number it comes after all that have one.
    pub order: Option<f64>,
    /// The endpoints of this node that it is for.
    pub selector: Selector,
    /// For host endpoints only.
    pub scope: Scope,
    /// `Some` for staged policies, which decide nothing.
    pub staged: Option<StagedAction>,
    /// Rules for ingress; `None` when it says nothing about that direction.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for egress.
    pub egress: Option<Vec<Rule>>,
}

/// Rules and labels that endpoints name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// Labels that its endpoints have.
    pub labels: Labels,
    /// Rules for ingress.
    pub ingress: Vec<Rule>,
    /// Rules for egress.
    pub egress: Vec<Rule>,
}

impl Kind {
    /// The resource's kind as Calico writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::KubernetesNetworkPolicy => "KubernetesNetworkPolicy",
            Kind::KubernetesClusterNetworkPolicy => "KubernetesClusterNetworkPolicy",
            Kind::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            Kind::StagedNetworkPolicy => "StagedNetworkPolicy",
            Kind::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
        }
    }

    /// The kind of the policy that a staged one would replace; itself when it is in force.
    pub const fn enforced(self) -> Kind {
        match self {
            Kind::StagedGlobalNetworkPolicy => Kind::GlobalNetworkPolicy,
            Kind::StagedNetworkPolicy => Kind::NetworkPolicy,
            Kind::StagedKubernetesNetworkPolicy => Kind::KubernetesNetworkPolicy,
            other => other,
        }
    }
}

impl fmt::Display for PolicyKey {
    /// `name/namespace/kind`: the text that breaks ties of order.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.name, self.namespace, self.kind.as_str())
    }
}

impl PolicyKey {
    /// Compares as the texts do, without making them.
    fn compare_text(&self, other: &PolicyKey) -> Ordering {
        fn bytes(key: &PolicyKey) -> impl Iterator<Item = u8> + '_ {
            let parts = [&key.name, "/", &key.namespace, "/", key.kind.as_str()];
            parts.into_iter().flat_map(str::bytes)
        }
        bytes(self).cmp(bytes(other))
    }
}

/// Numbers first, none last.
fn compare_orders(a: Option<f64>, b: Option<f64>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

/// The order of tiers: those that exist, by number, then by name.
pub fn compare_tiers(a: (&str, Option<&Tier>), b: (&str, Option<&Tier>)) -> Ordering {
    let order = |tier: Option<&Tier>| tier.and_then(|tier| tier.order);
    let missing = a.1.is_none().cmp(&b.1.is_none());
    missing.then(compare_orders(order(a.1), order(b.1))).then_with(|| a.0.cmp(b.0))
}

/// The order of policies in a tier: by number, then by the text `name/namespace/kind`.
pub fn compare_policies(a: (&PolicyKey, &Policy), b: (&PolicyKey, &Policy)) -> Ordering {
    compare_orders(a.1.order, b.1.order).then_with(|| a.0.compare_text(b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, namespace: &str) -> PolicyKey {
        let (name, namespace) = (name.to_owned(), namespace.to_owned());
        PolicyKey { kind: Kind::NetworkPolicy, namespace, name }
    }

    #[test]
    fn ties_are_broken_by_the_text_of_the_key() {
        let names = [("a", "z"), ("a", "-"), ("a-b", "a"), ("a.b", "a"), ("a0", "a"), ("b", "")];
        let keys: Vec<PolicyKey> = names.iter().map(|(name, space)| key(name, space)).collect();
        for (a, b) in keys.iter().flat_map(|a| keys.iter().map(move |b| (a, b))) {
            assert_eq!(a.compare_text(b), a.to_string().cmp(&b.to_string()), "{a} {b}");
        }
    }

    #[test]
    fn tiers_without_order_come_last_and_missing_ones_after_them() {
        let tier = |order| Tier { order, default_action: TierAction::Deny };
        let (one, none) = (tier(Some(1.0)), tier(None));
        let sorted = [("z", Some(&one)), ("a", Some(&none)), ("b", Some(&none)), ("a0", None)];
        let mut shuffled = [sorted[3], sorted[1], sorted[2], sorted[0]];
        shuffled.sort_by(|a, b| compare_tiers(*a, *b));
        assert_eq!(shuffled, sorted);
    }
}
