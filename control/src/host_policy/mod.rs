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
//! Rules with action Log write to the kernel's log. What workers hand to the host is judged here
//! too, as what has come by the device that it came to them by. What the host sends into tunnels
//! goes by way of workers; the endpoint of all devices guards it.
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
use crate::kernel::nft::{Act, Chain, Hook, Match, Members, Rule, Ruleset, Side, state};
use ipnet::IpNet;
use margay_acl::model::{Family, Model};
use margay_acl::{Direction, Stage};
use margay_fastpath::hand_over;
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
    /// The TAP between workers and the host's stack ([`hand_over`] says what comes by it).
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
    /// Its addresses, if it is behind the TAP to the host's stack.
    pub(crate) by_tap: Vec<IpNet>,
}

/// All rules that there should be.
pub(crate) fn ruleset(inputs: Inputs<'_>) -> Ruleset {
    let sets = Sets::new(inputs.model);
    let mut stages = Stages { sets, chains: Vec::new(), log: inputs.log };
    let unknown = unknown_pods(inputs, &mut stages.sets);
    let mut bases = vec![base("unknown-pods", (Hook::Prerouting, RAW - 1), unknown)];
    let asks_pods = inputs.closed_to_pods || inputs.pods.iter().any(|pod| pod.rules.is_some());
    if inputs.endpoints.is_empty() && asks_pods {
        let place = (Stage::Normal, Direction::Ingress);
        let mut rules = passing(inputs, place, &mut stages.sets);
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
            let mut rules = passing(inputs, (stage, direction), &mut stages.sets);
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
                let ways = ways(inputs, &assigned.device, direction).into_iter();
                rules.extend(ways.map(|way| Rule::new(way, Act::Jump(chain.clone()))));
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

/// What nobody is asked about: answers, what was accepted before, the host's talk with itself and
/// with pods behind the TAP to its stack, what workers have judged, and neighbour discovery.
fn passing(
    inputs: Inputs<'_>,
    (stage, direction): (Stage, Direction),
    sets: &mut Sets<'_>,
) -> Vec<Rule> {
    let out = direction == Direction::Egress;
    let by_tap = |more: Option<Match>| {
        let matches = std::iter::once(device(out, inputs.host_device, false)).chain(more);
        Rule::new(matches.collect(), Act::Accept)
    };
    let judged = |bytes: &[u8]| Match::SourceLink { at: 0, bytes: bytes.to_vec(), not: false };
    let mut rules = vec![Rule::new(vec![device(out, "lo", false)], Act::Accept)];
    match (direction, stage) {
        (Direction::Ingress, Stage::Normal) => {
            rules.push(by_tap(Some(judged(&hand_over::JUDGED.0))));
        }
        (Direction::Ingress, _) => rules.push(by_tap(Some(judged(&hand_over::ASKED)))),
        (Direction::Egress, Stage::Normal) => {
            let behind: Vec<IpNet> =
                inputs.pods.iter().flat_map(|pod| pod.by_tap.clone()).collect();
            for family in [Family::V4, Family::V6] {
                let Some(set) = sets.ranges(&behind, family) else { continue };
                let (side, not) = (Side::Destination, false);
                let to_pod = Match::Address { side, family, set, not };
                let mut rule = by_tap(Some(Match::Family(family)));
                rule.matches.push(to_pod);
                rules.push(rule);
            }
        }
        (Direction::Egress, _) => rules.push(by_tap(None)),
    }
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

/// By the device, or by a worker that got it there; `*` is what is by no other one.
fn ways(inputs: Inputs<'_>, wanted: &Device, direction: Direction) -> Vec<Vec<Match>> {
    let out = direction == Direction::Egress;
    let named = |name: &str, not| Match::Device { out, name: name.to_owned(), prefix: false, not };
    let told = |name: &str, not| {
        let (at, bytes) = (hand_over::WAY_AT, hand_over::way(Some(name)).to_vec());
        Match::SourceLink { at, bytes, not }
    };
    let others = || {
        inputs.endpoints.iter().filter_map(|one| match &one.device {
            Device::Named(name) => Some(&**name),
            Device::EveryOther => None,
        })
    };
    let tap = inputs.host_device;
    match (wanted, out) {
        (Device::Named(name), true) => vec![vec![named(name, false)]],
        (Device::Named(name), false) => {
            vec![vec![named(name, false)], vec![named(tap, false), told(name, false)]]
        }
        (Device::EveryOther, true) => vec![others().map(|name| named(name, true)).collect()],
        (Device::EveryOther, false) => vec![
            others().chain([tap]).map(|name| named(name, true)).collect(),
            [named(tap, false)].into_iter().chain(others().map(|name| told(name, true))).collect(),
        ],
    }
}
