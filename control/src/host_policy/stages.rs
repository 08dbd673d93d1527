//! A stage of an endpoint as chains: failsafe ports of the host, tiers in their order, profiles,
//! the end.

use super::ACCEPTED;
use super::rules::render;
use super::sets::Sets;
use crate::config::{LogAction, LogRate, Logger};
use crate::kernel::nft::{Act, Chain, Match, Rule, Side, state};
use margay_acl::model::{Action, Endpoint, Failsafe, Family, Place, TierAction};
use margay_acl::reference;
use margay_acl::{Direction, Stage};

/// Chains and sets so far.
pub(super) struct Stages<'a> {
    pub(super) sets: Sets<'a>,
    pub(super) chains: Vec<Chain>,
    pub(super) log: &'a LogAction,
}

impl Stages<'_> {
    /// The name of the chain for a stage of an endpoint; `None` where the stage has nothing to say.
    pub(super) fn endpoint(
        &mut self,
        name: &str,
        stage: Stage,
        direction: Direction,
    ) -> Option<String> {
        let model = self.sets.model();
        let endpoint = model.endpoints.get(name)?;
        if endpoint.place == Place::Elsewhere {
            return None;
        }
        let tiers = reference::tiers(model, endpoint, stage, direction);
        if tiers.is_empty() && stage != Stage::Normal {
            return None;
        }
        let chain = chain_name(&self.chains, stage, direction);
        let mut rules = Vec::new();
        if let Place::Host { .. } = endpoint.place {
            rules = self.failsafe(stage, direction);
        }
        if stage == Stage::Normal {
            rules.push(Rule::new(vec![Match::State(state::INVALID)], Act::Drop));
        }
        for (at, (tier, default, policies)) in tiers.into_iter().enumerate() {
            let of_policy = policies.into_iter().flat_map(|(key, policy)| {
                let rules = match direction {
                    Direction::Ingress => &policy.ingress,
                    Direction::Egress => &policy.egress,
                };
                rules.iter().flatten().map(move |rule| (rule, Logger::Policy(tier, key)))
            });
            let mut own: Vec<Rule> =
                of_policy.flat_map(|(rule, logger)| self.rule(rule, logger, stage)).collect();
            if stage == Stage::Normal && default == TierAction::Deny {
                own.push(Rule::new(Vec::new(), Act::Drop));
            }
            let name = format!("{chain}-tier{at}");
            self.chains.push(Chain::regular(name.clone(), own));
            rules.push(Rule::new(Vec::new(), Act::Jump(name)));
        }
        if stage == Stage::Normal {
            rules.extend(self.profiles(endpoint, direction, &chain));
        }
        self.chains.push(Chain::regular(chain.clone(), rules));
        Some(chain)
    }

    fn rule(
        &mut self,
        rule: &margay_acl::model::Rule,
        logger: Logger<'_>,
        stage: Stage,
    ) -> Vec<Rule> {
        let acts: &[Act] = match (rule.action, stage) {
            (Action::Log, _) => {
                let LogAction { rate, burst, .. } = *self.log;
                let limit =
                    rate.map(|LogRate { count, unit_s }| Act::Limit { count, unit_s, burst });
                let log = Act::Log(self.log.prefix_of(logger));
                let acts: Vec<Act> = limit.into_iter().chain([log]).collect();
                return render(rule, &acts, &mut self.sets);
            }
            (Action::Pass, _) => &[Act::Return],
            (Action::Deny, _) => &[Act::Drop],
            (Action::Allow, Stage::Untracked) => {
                &[Act::SetMark(ACCEPTED), Act::Untrack, Act::Accept]
            }
            (Action::Allow, Stage::PreDnat) => &[Act::SetMark(ACCEPTED), Act::Accept],
            (Action::Allow, _) => &[Act::Accept],
        };
        render(rule, acts, &mut self.sets)
    }

    /// Profiles in their order, each a chain of its own since Pass leaves it.
    fn profiles(&mut self, endpoint: &Endpoint, direction: Direction, chain: &str) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (at, name) in endpoint.profiles.iter().enumerate() {
            let Some(profile) = self.sets.model().profiles.get(name) else { break };
            let own = match direction {
                Direction::Ingress => &profile.ingress,
                Direction::Egress => &profile.egress,
            };
            let logger = Logger::Profile(name);
            let own = own.iter().flat_map(|rule| self.rule(rule, logger, Stage::Normal)).collect();
            let name = format!("{chain}-profile{at}");
            self.chains.push(Chain::regular(name.clone(), own));
            rules.push(Rule::new(Vec::new(), Act::Jump(name)));
        }
        rules.push(Rule::new(Vec::new(), Act::Drop));
        rules
    }

    /// Ports that are open whatever policy says; before connection tracking also the answers.
    fn failsafe(&mut self, stage: Stage, direction: Direction) -> Vec<Rule> {
        let settings = &self.sets.model().settings;
        let (own, others) = match direction {
            Direction::Ingress => (&settings.failsafe_in, &settings.failsafe_out),
            Direction::Egress => (&settings.failsafe_out, &settings.failsafe_in),
        };
        let act = if stage == Stage::Normal { Act::Accept } else { Act::Return };
        let peer = match direction {
            Direction::Ingress => Side::Source,
            Direction::Egress => Side::Destination,
        };
        let answers = others.iter().filter(|_| stage == Stage::Untracked);
        let ports = own.iter().map(|one| (one, Side::Destination));
        let ports = ports.chain(answers.map(|one| (one, Side::Source)));
        ports
            .map(|(failsafe, side)| {
                let Failsafe { protocol, port, net } = failsafe;
                let mut matches = Vec::new();
                if let Some(net) = net {
                    let family = Family::of(net);
                    matches.push(Match::Family(family));
                    let set = self.sets.ranges([net], family);
                    let side = peer;
                    matches.extend(set.map(|set| Match::Address { side, family, set, not: false }));
                }
                matches.push(Match::Protocol { number: *protocol, not: false });
                matches.push(Match::Port { side, range: (*port, *port), not: false });
                Rule::new(matches, act.clone())
            })
            .collect()
    }
}

/// A name that no chain has yet. Endpoints' names may be longer than the kernel takes.
fn chain_name(chains: &[Chain], stage: Stage, direction: Direction) -> String {
    let stage = match stage {
        Stage::Normal => "host",
        Stage::Forward => "forward",
        Stage::PreDnat => "pre-dnat",
        Stage::Untracked => "untracked",
    };
    let direction = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    format!("{stage}-{direction}-{}", chains.len())
}
