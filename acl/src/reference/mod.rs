//! Policy evaluated slowly and obviously: the specification in code, and the words for `trace`.
//!
//! Tiers in order, in each the policies that pick the endpoint, in each the rules; then the
//! profiles. A set is searched by asking every endpoint and network set. Staged policies decide
//! nothing here, but what they would decide is told beside.

mod matching;

use crate::model::{
    Action, Endpoint, Labels, Model, Place, Policy, PolicyKey, Rule, Scope, StagedAction, Tier,
    TierAction, compare_policies, compare_tiers,
};
use crate::origin::Origin;
use crate::packet::{Packet, Transport, protocol};
use crate::{Direction, Stage, Verdict};
pub use matching::Reason;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// A verdict and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// What happens.
    pub verdict: Verdict,
    /// What decided.
    pub origin: Origin,
    /// The sets and ranges by which the deciding rule matched.
    pub reasons: Vec<Reason>,
    /// Rules with action Log that matched on the way.
    pub logged: Vec<Origin>,
    /// What would be decided with the staged policies in force, if any picks the endpoint.
    pub staged: Option<(Verdict, Origin)>,
}

/// Decides a packet's fate at an endpoint of this node.
pub fn evaluate(
    model: &Model,
    endpoint: &str,
    stage: Stage,
    direction: Direction,
    packet: &Packet,
) -> Explanation {
    let unknown = || Explanation::of(Verdict::Deny, Origin::UnknownEndpoint);
    let Some(found) = model.endpoints.get(endpoint) else { return unknown() };
    if found.place == Place::Elsewhere {
        return unknown();
    }
    let question = Question { model, endpoint: found, stage, direction, packet };
    let mut explanation = question.answer(&question.policies(false));
    let labels = question.labels();
    let staged = |policy: &Policy| policy.staged.is_some() && question.picks(policy, &labels);
    if model.policies.values().any(|policy| staged(policy)) {
        let pending = question.answer(&question.policies(true));
        explanation.staged = Some((pending.verdict, pending.origin));
    }
    explanation
}

/// A tier's name, what it ends with, and its policies in order.
pub type TierOf<'a> = (&'a str, TierAction, Vec<(&'a PolicyKey, &'a Policy)>);

/// The policies in force that speak of an endpoint, by tier, in the order in which they are asked,
/// and what each tier ends with.
pub fn tiers<'a>(
    model: &'a Model,
    endpoint: &'a Endpoint,
    stage: Stage,
    direction: Direction,
) -> Vec<TierOf<'a>> {
    // No packet is asked about.
    const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    static NONE: Packet =
        Packet { source: NOWHERE, destination: NOWHERE, protocol: 0, transport: Transport::Absent };
    let question = Question { model, endpoint, stage, direction, packet: &NONE };
    question.in_order(&question.policies(false))
}

struct Question<'a> {
    model: &'a Model,
    endpoint: &'a Endpoint,
    stage: Stage,
    direction: Direction,
    packet: &'a Packet,
}

type Policies<'a> = Vec<(&'a PolicyKey, &'a Policy)>;

impl<'a> Question<'a> {
    /// All policies in force, or all that would be if the staged ones were.
    fn policies(&self, with_staged: bool) -> Policies<'a> {
        let labels = self.labels();
        let all = self.model.policies.iter().map(|(key, policy)| (key, &**policy));
        let replaced = |key: &PolicyKey| {
            let changes = |action: StagedAction| action != StagedAction::Ignore;
            let mut staged = self.model.policies.iter();
            staged.any(|(other, policy)| {
                policy.staged.is_some_and(changes)
                    && (other.kind.enforced(), &other.namespace, &other.name)
                        == (key.kind, &key.namespace, &key.name)
            })
        };
        all.filter(|(key, policy)| match policy.staged {
            None => !with_staged || !replaced(key),
            Some(action) => with_staged && action == StagedAction::Set,
        })
        .filter(|(_, policy)| self.picks(policy, &labels))
        .collect()
    }

    /// True when a policy speaks of this endpoint, stage and direction.
    fn picks(&self, policy: &Policy, labels: &Labels) -> bool {
        let in_stage = match (self.stage, policy.scope) {
            (Stage::Normal, Scope::Local | Scope::Forward) => true,
            (Stage::Forward, Scope::Forward) => self.is_host(),
            (Stage::PreDnat, Scope::PreDnat) => {
                self.is_host() && self.direction == Direction::Ingress
            }
            (Stage::Untracked, Scope::Untracked) => {
                self.endpoint.place == Place::Host { every_interface: false }
            }
            _ => false,
        };
        in_stage
            && self.rules(policy).is_some()
            && policy.selector.matches(|name| labels.get(name).map(String::as_str))
    }

    fn labels(&self) -> Labels {
        self.model.labels(&self.endpoint.labels, &self.endpoint.profiles)
    }

    fn is_host(&self) -> bool {
        matches!(self.endpoint.place, Place::Host { .. })
    }

    fn rules<'b>(&self, policy: &'b Policy) -> Option<&'b Vec<Rule>> {
        match self.direction {
            Direction::Ingress => policy.ingress.as_ref(),
            Direction::Egress => policy.egress.as_ref(),
        }
    }

    fn answer(&self, policies: &Policies) -> Explanation {
        if let Some(explanation) = self.before_policy() {
            return explanation;
        }
        let mut logged = Vec::new();
        for (name, default, policies) in self.in_order(policies) {
            if let Some(explanation) = self.tier(name, default, &policies, &mut logged) {
                return Explanation { logged, ..explanation };
            }
        }
        let explanation = match self.stage {
            Stage::Normal => self.profiles(&mut logged),
            Stage::Forward => Explanation::of(Verdict::Allow, Origin::NotForwarded),
            Stage::PreDnat | Stage::Untracked => {
                Explanation::of(Verdict::Continue, Origin::EndOfStage)
            }
        };
        Explanation { logged, ..explanation }
    }

    /// Policies by tier, both in the order in which they are asked, and what each tier ends with.
    fn in_order<'b>(&self, policies: &Policies<'b>) -> Vec<TierOf<'b>> {
        let mut tiers: BTreeMap<&str, Policies> = BTreeMap::new();
        for (key, policy) in policies {
            tiers.entry(&policy.tier).or_default().push((key, policy));
        }
        let mut tiers: Vec<(&str, Option<&Tier>, Policies)> = tiers
            .into_iter()
            .map(|(name, policies)| (name, self.model.tiers.get(name), policies))
            .collect();
        tiers.sort_by(|a, b| compare_tiers((a.0, a.1), (b.0, b.1)));
        let tiers = tiers.into_iter().map(|(name, tier, mut policies)| {
            policies.sort_by(|a, b| compare_policies(*a, *b));
            (name, tier.map_or(TierAction::Deny, |tier| tier.default_action), policies)
        });
        tiers.collect()
    }

    /// What is decided whatever the policies say.
    fn before_policy(&self) -> Option<Explanation> {
        let Packet { protocol, .. } = *self.packet;
        if self.is_host() {
            let verdict = match self.stage {
                Stage::Normal => Verdict::Allow,
                Stage::PreDnat | Stage::Untracked => Verdict::Continue,
                Stage::Forward => return None,
            };
            return self.is_failsafe().then(|| Explanation::of(verdict, Origin::Failsafe));
        }
        let settings = &self.model.settings;
        let port = self.packet.ports().map(|(_, port)| port);
        let is_vxlan = protocol == protocol::UDP
            && settings.vxlan_port_denied.is_some()
            && port == settings.vxlan_port_denied;
        let is_tunnel = is_vxlan || settings.denies_ipip && protocol == protocol::IPIP;
        let leaves = self.direction == Direction::Egress && self.stage == Stage::Normal;
        (leaves && is_tunnel).then(|| Explanation::of(Verdict::Deny, Origin::Encapsulation))
    }

    /// Failsafe ports; before connection tracking also the answers from them, which nothing else
    /// would let pass.
    fn is_failsafe(&self) -> bool {
        let Packet { source, destination, protocol, .. } = *self.packet;
        let Some((source_port, destination_port)) = self.packet.ports() else { return false };
        let settings = &self.model.settings;
        let (own, others) = match self.direction {
            Direction::Ingress => (&settings.failsafe_in, &settings.failsafe_out),
            Direction::Egress => (&settings.failsafe_out, &settings.failsafe_in),
        };
        let peer = if self.direction == Direction::Ingress { source } else { destination };
        let is_open = |failsafe: &crate::model::Failsafe, port: u16| {
            (failsafe.protocol, failsafe.port) == (protocol, port)
                && failsafe.net.is_none_or(|net| net.contains(&peer))
        };
        own.iter().any(|failsafe| is_open(failsafe, destination_port))
            || self.stage == Stage::Untracked
                && others.iter().any(|failsafe| is_open(failsafe, source_port))
    }

    /// `None` when the tier passes.
    fn tier(
        &self,
        name: &str,
        default: TierAction,
        policies: &Policies,
        logged: &mut Vec<Origin>,
    ) -> Option<Explanation> {
        for (key, policy) in policies {
            for (index, rule) in self.rules(policy).into_iter().flatten().enumerate() {
                let Some(reasons) = matching::matches(self.model, rule, self.packet) else {
                    continue;
                };
                let policy = Arc::new((*key).clone());
                let origin = Origin::Rule { tier: name.into(), policy, index };
                match decided(rule.action) {
                    Some(verdict) => {
                        return Some(Explanation { reasons, ..Explanation::of(verdict, origin) });
                    }
                    None if rule.action == Action::Log => logged.push(origin),
                    None => return None,
                }
            }
        }
        let drops = matches!(self.stage, Stage::Normal | Stage::Forward);
        let origin = || Origin::EndOfTier { tier: name.into() };
        (drops && default == TierAction::Deny).then(|| Explanation::of(Verdict::Deny, origin()))
    }

    fn profiles(&self, logged: &mut Vec<Origin>) -> Explanation {
        for name in &self.endpoint.profiles {
            let Some(profile) = self.model.profiles.get(name) else {
                let origin = Origin::MissingProfile { profile: name.as_str().into() };
                return Explanation::of(Verdict::Deny, origin);
            };
            let rules = match self.direction {
                Direction::Ingress => &profile.ingress,
                Direction::Egress => &profile.egress,
            };
            for (index, rule) in rules.iter().enumerate() {
                let Some(reasons) = matching::matches(self.model, rule, self.packet) else {
                    continue;
                };
                let origin = Origin::ProfileRule { profile: name.as_str().into(), index };
                match decided(rule.action) {
                    Some(verdict) => {
                        return Explanation { reasons, ..Explanation::of(verdict, origin) };
                    }
                    None if rule.action == Action::Log => logged.push(origin),
                    None => break,
                }
            }
        }
        Explanation::of(Verdict::Deny, Origin::NoProfile)
    }
}

fn decided(action: Action) -> Option<Verdict> {
    match action {
        Action::Allow => Some(Verdict::Allow),
        Action::Deny => Some(Verdict::Deny),
        Action::Pass | Action::Log => None,
    }
}

impl Explanation {
    fn of(verdict: Verdict, origin: Origin) -> Explanation {
        Explanation { verdict, origin, reasons: Vec::new(), logged: Vec::new(), staged: None }
    }
}

/// The sets and ranges by which the rule that an origin names matches a packet; none for other
/// origins.
pub fn reasons(
    model: &Model,
    origin: &Origin,
    direction: Direction,
    packet: &Packet,
) -> Vec<Reason> {
    let ingress = direction == Direction::Ingress;
    let rule = match origin {
        Origin::Rule { policy, index, .. } => model.policies.get(&**policy).and_then(|policy| {
            let rules = if ingress { &policy.ingress } else { &policy.egress };
            rules.as_ref()?.get(*index)
        }),
        Origin::ProfileRule { profile, index } => {
            model.profiles.get(&**profile).and_then(|profile| {
                let rules = if ingress { &profile.ingress } else { &profile.egress };
                rules.get(*index)
            })
        }
        _ => None,
    };
    rule.and_then(|rule| matching::matches(model, rule, packet)).unwrap_or_default()
}
