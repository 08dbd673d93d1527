//! `show policy`: the rules that are for an endpoint, in the order in which they are asked, and how
//! often each has decided about the first packet of a flow.

use crate::router::policy::{is_open, lock};
use crate::status::Status;
use crate::trace::RuleAnswer;
use margay_acl::Direction;
use margay_acl::model::{
    Model, Place, Policy, PolicyKey, Rule, Tier, TierAction, compare_policies, compare_tiers,
};
use margay_acl::origin::Origin;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The policy of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAnswer {
    /// Its name.
    pub endpoint: String,
    /// Everything passes, so nothing is counted.
    pub open: bool,
    /// What is asked of packets to it.
    pub ingress: Vec<RuleHits>,
    /// What is asked of packets from it.
    pub egress: Vec<RuleHits>,
}

/// One place where it may be decided.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleHits {
    /// The place.
    #[serde(flatten)]
    pub rule: RuleAnswer,
    /// `Allow`, `Deny`, `Pass` or `Log`; what the end of a tier or of the profiles does.
    pub action: String,
    /// A staged policy: nothing is decided by it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub staged: bool,
    /// First packets of flows that it decided about; that it would have, if it is staged.
    pub hits: u64,
}

/// The policy of the endpoints of this node, or of one of them.
pub(crate) fn answer(status: &Status, endpoint: Option<&str>) -> Result<Vec<PolicyAnswer>, String> {
    let mut hits: Hits = HashMap::new();
    for hit in status.dataplane().policy_hits(endpoint) {
        *hits.entry((hit.endpoint, hit.direction, hit.origin)).or_default() += hit.count;
    }
    let policies = lock(status.policies());
    let model = policies.model();
    let local = model.endpoints.iter().filter(|(name, found)| {
        found.place == Place::Workload && endpoint.is_none_or(|endpoint| *endpoint == **name)
    });
    let answers: Vec<PolicyAnswer> = local
        .map(|(name, _)| {
            let side = |direction| of_endpoint(model, name, direction, &hits);
            PolicyAnswer {
                endpoint: name.clone(),
                open: is_open(&policies, name),
                ingress: side(Direction::Ingress),
                egress: side(Direction::Egress),
            }
        })
        .collect();
    match (answers.is_empty(), endpoint) {
        (true, Some(name)) => {
            Err(format!("no endpoint '{name}' on this node: namespace/name, see show endpoints"))
        }
        _ => Ok(answers),
    }
}

type Hits = HashMap<(Arc<str>, Direction, Origin), u64>;

type Policies<'a> = Vec<(&'a PolicyKey, &'a Policy)>;

fn of_endpoint(model: &Model, name: &str, direction: Direction, hits: &Hits) -> Vec<RuleHits> {
    let Some(endpoint) = model.endpoints.get(name) else { return Vec::new() };
    let labels = model.labels(&endpoint.labels, &endpoint.profiles);
    let picks = |policy: &Policy| {
        let has_rules = rules(policy, direction).is_some();
        has_rules && policy.selector.matches(|label| labels.get(label).map(String::as_str))
    };
    let mut tiers: BTreeMap<&str, Policies> = BTreeMap::new();
    for (key, policy) in model.policies.iter().filter(|(_, policy)| picks(policy)) {
        tiers.entry(&policy.tier).or_default().push((key, policy));
    }
    let mut tiers: Vec<(&str, Option<&Tier>, Policies)> =
        tiers.into_iter().map(|(tier, policies)| (tier, model.tiers.get(tier), policies)).collect();
    tiers.sort_by(|a, b| compare_tiers((a.0, a.1), (b.0, b.1)));
    let mut list = List { name: name.into(), direction, hits, rules: Vec::new() };
    for (tier, found, mut policies) in tiers {
        policies.sort_by(|a, b| compare_policies(*a, *b));
        for (key, policy) in &policies {
            list.policy(tier, key, policy);
        }
        if policies.iter().any(|(_, policy)| policy.staged.is_none()) {
            let action = found.map_or(TierAction::Deny, |tier| tier.default_action);
            list.push(Origin::EndOfTier { tier: tier.into() }, format!("{action:?}"), false);
        }
    }
    for profile in &endpoint.profiles {
        list.profile(model, profile);
    }
    list.push(Origin::NoProfile, "Deny".to_owned(), false);
    list.rules
}

fn rules(policy: &Policy, direction: Direction) -> Option<&Vec<Rule>> {
    match direction {
        Direction::Ingress => policy.ingress.as_ref(),
        Direction::Egress => policy.egress.as_ref(),
    }
}

struct List<'a> {
    name: Arc<str>,
    direction: Direction,
    hits: &'a Hits,
    rules: Vec<RuleHits>,
}

impl List<'_> {
    fn push(&mut self, origin: Origin, action: String, staged: bool) {
        let rule = RuleAnswer::of(&origin, Vec::new()).unwrap_or_default();
        let hits = self.hits.get(&(self.name.clone(), self.direction, origin));
        self.rules.push(RuleHits { rule, action, staged, hits: hits.copied().unwrap_or(0) });
    }

    fn policy(&mut self, tier: &str, key: &PolicyKey, policy: &Policy) {
        let key = Arc::new(key.clone());
        for (index, rule) in rules(policy, self.direction).into_iter().flatten().enumerate() {
            let origin = Origin::Rule { tier: tier.into(), policy: key.clone(), index };
            self.push(origin, format!("{:?}", rule.action), policy.staged.is_some());
        }
    }

    fn profile(&mut self, model: &Model, name: &str) {
        let profile: Arc<str> = name.into();
        let Some(found) = model.profiles.get(name) else {
            let origin = Origin::MissingProfile { profile };
            return self.push(origin, "Deny".to_owned(), false);
        };
        let rules = match self.direction {
            Direction::Ingress => &found.ingress,
            Direction::Egress => &found.egress,
        };
        for (index, rule) in rules.iter().enumerate() {
            let origin = Origin::ProfileRule { profile: profile.clone(), index };
            self.push(origin, format!("{:?}", rule.action), false);
        }
    }
}
