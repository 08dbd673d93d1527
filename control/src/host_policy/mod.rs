//! Policy of host endpoints for what begins or ends at the host itself, as rules of its kernel.
//!
//! Those packets meet no worker, so nf_tables judges them, by the same resources: each stage of an
//! endpoint (Calico's "Policy for hosts") is a chain, each of its tiers one that it jumps to. What
//! a stage before has accepted carries a mark, and is not asked again. Failsafe ports come first
//! in each stage.
//!
//! What pods by veth send to the host itself meets no worker either: their egress rules are asked
//! here, then `defaultEndpointToHostAction`. What comes from a device with the prefix of pods' that
//! no endpoint names is dropped.
//!
//! Rules with action Log write to the kernel's log.
//!
//! Left out: forwarded traffic, which workers judge (`margay_fastpath::policy`).

mod assign;
mod rules;
mod sets;
mod stages;
#[cfg(test)]
mod tests;

pub(crate) use assign::{Assigned, Device, HostEndpoints, assign};

use crate::config::LogAction;
use crate::kernel::nft::{Act, Chain, Hook, Match, Members, Rule, Ruleset, state};
use margay_acl::model::Model;
use margay_acl::{Direction, Stage};
use sets::Sets;
use stages::Stages;
use std::collections::{BTreeMap, BTreeSet};

/// The bit of a packet's mark that says that a stage has accepted it; the first of those that
/// Felix uses (`iptablesMarkMask`).
pub(crate) const ACCEPTED: u32 = 0x0001_0000;
/// Priorities of the kernel's own tables (enum nf_ip_hook_priorities).
const RAW: i32 = -300;
const MANGLE: i32 = -150;
const FILTER: i32 = 0;
/// Longest beginning of a device's name that can be compared.
const PREFIX_MAX: usize = 15;

/// What the rules are made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs<'a> {
    /// Policy.
    pub(crate) model: &'a Model,
    /// Host endpoints with their devices, single ones first.
    pub(crate) endpoints: &'a [Assigned],
    /// Names of pods' devices begin so.
    pub(crate) prefix: &'a str,
    /// The TAP to the host's stack: what comes by it has been judged.
    pub(crate) host_device: &'a str,
    /// This node's pods.
    pub(crate) pods: &'a [Pod],
    /// Pods may send nothing to the host.
    pub(crate) closed_to_pods: bool,
    /// What rules with action Log do.
    pub(crate) log: &'a LogAction,
}

/// A pod with its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Its endpoint's name.
    pub(crate) endpoint: String,
    /// Its device on the host's side.
    pub(crate) device: String,
    /// The same for all pods with the same egress rules; `None` when these let everything pass.
    pub(crate) rules: Option<u32>,
}

/// All rules that there should be.
pub(crate) fn ruleset(inputs: Inputs<'_>) -> Ruleset {
    let sets = Sets::new(inputs.model);
    let mut stages = Stages { sets, chains: Vec::new(), log: inputs.log };
    let unknown = unknown_pods(inputs, &mut stages.sets);
    let mut bases = vec![base("unknown-pods", (Hook::Prerouting, RAW - 1), unknown)];
    let asks_pods = inputs.closed_to_pods || inputs.pods.iter().any(|pod| pod.rules.is_some());
    if inputs.endpoints.is_empty() && asks_pods {
        let mut rules = passing(inputs, Stage::Normal, Direction::Ingress);
        rules.extend(pods(inputs, &mut stages));
        bases.push(base("input", (Hook::Input, FILTER), rules));
    }
    if !inputs.endpoints.is_empty() {
        use Direction::{Egress, Ingress};
        for (name, hook, stage, direction) in [
            ("raw-in", (Hook::Prerouting, RAW), Stage::Untracked, Ingress),
            ("raw-out", (Hook::Output, RAW), Stage::Untracked, Egress),
            ("pre-dnat", (Hook::Prerouting, MANGLE), Stage::PreDnat, Ingress),
            ("input", (Hook::Input, FILTER), Stage::Normal, Ingress),
            ("output", (Hook::Output, FILTER), Stage::Normal, Egress),
        ] {
            let mut rules = passing(inputs, stage, direction);
            match name {
                "input" => rules.extend(pods(inputs, &mut stages)),
                _ => rules.push(Rule::new(
                    vec![device(direction == Egress, inputs.prefix, true)],
                    Act::Accept,
                )),
            }
            for assigned in inputs.endpoints {
                let Some(chain) = stages.endpoint(&assigned.endpoint, stage, direction) else {
                    continue;
                };
                let devices = devices(inputs, &assigned.device, direction);
                rules.push(Rule::new(devices, Act::Jump(chain)));
            }
            bases.push(base(name, hook, rules));
        }
    }
    // The kernel wants to know a chain before a rule jumps there; base chains may come last.
    stages.chains.extend(bases);
    Ruleset { sets: stages.sets.all, chains: stages.chains }
}

fn base(name: &str, hook: (Hook, i32), rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), hook: Some(hook), rules }
}

/// Pods' devices that no endpoint names say nothing but neighbour discovery.
fn unknown_pods(inputs: Inputs<'_>, sets: &mut Sets<'_>) -> Vec<Rule> {
    let known = sets.named(devices_of(inputs.pods.iter()));
    let from_pod = device(false, inputs.prefix, true);
    let unknown = [Some(from_pod), known.map(Match::NoKnownDevice)].into_iter().flatten();
    vec![Rule::new(vec![Match::Discovery], Act::Accept), Rule::new(unknown.collect(), Act::Drop)]
}

/// What pods send to the host: their egress rules, once for all that have the same.
fn pods(inputs: Inputs<'_>, stages: &mut Stages<'_>) -> Vec<Rule> {
    let from_pods = || vec![device(false, inputs.prefix, true)];
    if inputs.closed_to_pods {
        return vec![Rule::new(from_pods(), Act::Drop)];
    }
    let mut groups: BTreeMap<u32, Vec<&Pod>> = BTreeMap::new();
    for pod in inputs.pods {
        if let Some(rules) = pod.rules {
            groups.entry(rules).or_default().push(pod);
        }
    }
    let mut rules = Vec::new();
    for pods in groups.into_values() {
        let one = &pods[0].endpoint;
        let Some(chain) = stages.endpoint(one, Stage::Normal, Direction::Egress) else { continue };
        let devices = stages.sets.named(devices_of(pods.into_iter()));
        let from = devices.map(Match::KnownDevice).into_iter().collect();
        rules.push(Rule::new(from, Act::Jump(chain)));
    }
    rules.push(Rule::new(from_pods(), Act::Accept));
    rules
}

fn devices_of<'a>(pods: impl Iterator<Item = &'a Pod>) -> Members {
    let names: BTreeSet<String> = pods.map(|pod| pod.device.clone()).collect();
    Members::Devices(names.into_iter().collect())
}

/// What nobody is asked about: answers, what was accepted before, the host's talk with itself,
/// what workers have judged, and neighbour discovery.
fn passing(inputs: Inputs<'_>, stage: Stage, direction: Direction) -> Vec<Rule> {
    let out = direction == Direction::Egress;
    let mut rules: Vec<Rule> = ["lo", inputs.host_device]
        .into_iter()
        .map(|name| Rule::new(vec![device(out, name, false)], Act::Accept))
        .collect();
    rules.push(Rule::new(vec![Match::Discovery], Act::Accept));
    if stage != Stage::Untracked {
        rules.push(Rule::new(vec![Match::Mark(ACCEPTED)], Act::Accept));
        let known = state::ESTABLISHED | state::RELATED;
        rules.push(Rule::new(vec![Match::State(known)], Act::Accept));
    }
    rules
}

fn device(out: bool, name: &str, prefix: bool) -> Match {
    let end = name.len().min(PREFIX_MAX);
    let name = name.get(..end).unwrap_or(name).to_owned();
    Match::Device { out, name, prefix, not: false }
}

/// That the device is the one, or none of the others.
fn devices(inputs: Inputs<'_>, wanted: &Device, direction: Direction) -> Vec<Match> {
    let out = direction == Direction::Egress;
    let named = |name: &String, not| Match::Device { out, name: name.clone(), prefix: false, not };
    match wanted {
        Device::Named(name) => vec![named(name, false)],
        Device::EveryOther => {
            let others = inputs.endpoints.iter().filter_map(|one| match &one.device {
                Device::Named(name) => Some(named(name, true)),
                Device::EveryOther => None,
            });
            others.collect()
        }
    }
}
