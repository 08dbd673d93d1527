//! All programs, and which of them each endpoint has.
//!
//! Before policy come the node's settings: failsafe ports at host endpoints, and tunnels that
//! workloads may not speak.

use super::classes::{Classes, Turnover};
use super::code::Code;
use super::lane::{Lane, Value};
use super::program::{Built, Early, ProgramKey, build, deny_all};
use super::sets::{CodeId, Hold, Sets};
use super::slab::Slab;
use crate::classifier::{Program, Programs};
use crate::model::{Action, Excess, Failsafe, Settings};
use crate::origin::Origin;
use crate::packet::protocol;
use crate::{Direction, Stage, Verdict};
use ahash::AHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The code that settings use sets under; no policy has it.
const SETTINGS: CodeId = CodeId::MAX;

/// Programs by number.
#[derive(Debug, Default)]
pub(super) struct Store {
    programs: Slab<Entry>,
    by_key: AHashMap<Arc<ProgramKey>, u32>,
    endpoints: Vec<Option<Programs>>,
    faults: BTreeMap<u32, Excess>,
    /// Lanes before policy, by what they are for.
    early: AHashMap<(bool, Stage, Direction), Vec<Early>>,
    holds: Vec<Hold>,
    pub(super) epoch: u64,
    /// Programs that nobody has built yet.
    unbuilt: BTreeSet<u32>,
    /// Programs of each policy or profile.
    by_code: AHashMap<CodeId, BTreeSet<u32>>,
}

#[derive(Debug)]
struct Entry {
    key: Arc<ProgramKey>,
    users: u32,
    built: Option<Built>,
}

/// The keys of an endpoint's programs; `None` for an endpoint that is gone.
pub(super) type Keys = Option<[[ProgramKey; 2]; 4]>;

impl Store {
    pub(super) fn faults(&self) -> impl Iterator<Item = &Excess> {
        self.faults.values()
    }

    pub(super) fn programs(&self) -> Vec<Option<Arc<Program>>> {
        let mut programs = Vec::new();
        for (number, entry) in self.programs.iter() {
            programs.resize(number as usize, None);
            programs.push(entry.built.as_ref().map(|built| built.program.clone()));
        }
        programs
    }

    pub(super) fn endpoints(&self) -> Vec<Option<Programs>> {
        self.endpoints.clone()
    }

    /// Other settings. All programs get new keys by it.
    pub(super) fn set_settings(&mut self, settings: &Settings, sets: &mut Sets) {
        self.epoch += 1;
        let old = std::mem::take(&mut self.holds);
        self.early.clear();
        for direction in Direction::ALL {
            for stage in [Stage::Normal, Stage::PreDnat, Stage::Untracked] {
                let early = self.failsafe(settings, stage, direction, sets);
                self.early.insert((true, stage, direction), early);
            }
        }
        let early = tunnels(settings);
        self.early.insert((false, Stage::Normal, Direction::Egress), early);
        old.into_iter().for_each(|hold| sets.release(hold, SETTINGS));
    }

    fn failsafe(
        &mut self,
        settings: &Settings,
        stage: Stage,
        direction: Direction,
        sets: &mut Sets,
    ) -> Vec<Early> {
        let verdict = if stage == Stage::Normal { Verdict::Allow } else { Verdict::Continue };
        let (own, others) = match direction {
            Direction::Ingress => (&settings.failsafe_in, &settings.failsafe_out),
            Direction::Egress => (&settings.failsafe_out, &settings.failsafe_in),
        };
        // Before connection tracking the answers from such ports must come through as well.
        let answers = others.iter().filter(|_| stage == Stage::Untracked);
        let ports = own.iter().map(|one| (one, false)).chain(answers.map(|one| (one, true)));
        let mut early = Vec::new();
        for (Failsafe { protocol, port, net }, is_answer) in ports {
            let mut lane = Lane::any(Action::Allow);
            lane.protocol = Some(*protocol);
            let ports = vec![(*port, *port)];
            match is_answer {
                true => lane.source_ports = Some(ports),
                false => lane.value = Value::Ports(ports),
            }
            if let Some(net) = net {
                let (atom, hold) = sets.ranges(&[*net]);
                self.holds.push(hold);
                let peer = match direction {
                    Direction::Ingress => &mut lane.source,
                    Direction::Egress => &mut lane.destination,
                };
                peer.all.push(atom);
            }
            early.push(Early { lane, verdict, origin: Origin::Failsafe });
        }
        early
    }

    /// Gives an endpoint its programs. New ones join those to be built.
    pub(super) fn assign(&mut self, handle: u32, keys: Keys) {
        let programs = keys.map(|keys| keys.map(|both| both.map(|key| self.acquire(key))));
        let place = handle as usize;
        if self.endpoints.len() <= place {
            self.endpoints.resize(place + 1, None);
        }
        let old = std::mem::replace(&mut self.endpoints[place], programs);
        old.into_iter().flatten().flatten().for_each(|number| self.release(number));
    }

    fn acquire(&mut self, key: ProgramKey) -> u32 {
        if let Some(number) = self.by_key.get(&key).copied() {
            if let Some(entry) = self.programs.get_mut(number) {
                entry.users += 1;
            }
            return number;
        }
        let key = Arc::new(key);
        let number = self.programs.insert(Entry { key: key.clone(), users: 1, built: None });
        for code in key.codes() {
            self.by_code.entry(code).or_default().insert(number);
        }
        self.by_key.insert(key, number);
        self.unbuilt.insert(number);
        number
    }

    fn release(&mut self, number: u32) {
        let Some(entry) = self.programs.get_mut(number) else { return };
        entry.users -= 1;
        if entry.users > 0 {
            return;
        }
        let Some(Entry { key, .. }) = self.programs.remove(number) else { return };
        self.by_key.remove(&key);
        self.faults.remove(&number);
        self.unbuilt.remove(&number);
        for code in key.codes() {
            if let Some(programs) = self.by_code.get_mut(&code) {
                programs.remove(&number);
                if programs.is_empty() {
                    self.by_code.remove(&code);
                }
            }
        }
    }

    /// Builds the new programs and those whose rules are others, and shows the rest the classes
    /// that came and went.
    pub(super) fn update(
        &mut self,
        compiled: &BTreeSet<CodeId>,
        codes: &AHashMap<CodeId, Code>,
        classes: &Classes,
        turnover: &Turnover,
    ) {
        let mut to_build = std::mem::take(&mut self.unbuilt);
        to_build.extend(compiled.iter().filter_map(|code| self.by_code.get(code)).flatten());
        if !turnover.is_empty() {
            let numbers: Vec<u32> = self.programs.iter().map(|(number, _)| number).collect();
            for number in numbers {
                let entry = self.programs.get_mut(number).filter(|_| !to_build.contains(&number));
                let built = entry.and_then(|entry| entry.built.as_mut());
                if built.is_some_and(|built| built.patch(classes, turnover)) {
                    to_build.insert(number);
                }
            }
        }
        for number in to_build {
            self.build(number, codes, classes);
        }
    }

    fn build(&mut self, number: u32, codes: &AHashMap<CodeId, Code>, classes: &Classes) {
        let Some(entry) = self.programs.get_mut(number) else { return };
        let key = &entry.key;
        let early = self.early.get(&(key.is_host, key.stage, key.direction));
        let early = early.map(Vec::as_slice).unwrap_or_default();
        self.faults.remove(&number);
        entry.built = match build(key, early, codes, classes) {
            Ok(built) => Some(built),
            Err(excess) => {
                self.faults.insert(number, excess);
                // A program of one lane is within every limit; without one all is denied too.
                deny_all(key.direction, classes).ok()
            }
        };
    }
}

impl ProgramKey {
    fn codes(&self) -> impl Iterator<Item = CodeId> + '_ {
        let policies = self.tiers.iter().flat_map(|(_, _, codes)| codes.iter().copied());
        policies.chain(self.profiles.iter().filter_map(|(_, code)| *code))
    }
}

impl Built {
    /// True when it must be built again.
    fn patch(&mut self, classes: &Classes, turnover: &Turnover) -> bool {
        let source = self.source.patch(classes, turnover);
        let destination = self.destination.patch(classes, turnover);
        let (Ok(source), Ok(destination)) = (source, destination) else { return true };
        if source || destination {
            let mut program = Program::clone(&self.program);
            if source {
                program.sides[0] = self.source.side();
            }
            if destination {
                program.sides[1] = self.destination.side();
            }
            self.program = Arc::new(program);
        }
        self.source.is_wasteful() || self.destination.is_wasteful()
    }
}

/// What workloads may not send.
fn tunnels(settings: &Settings) -> Vec<Early> {
    let mut early = Vec::new();
    let mut deny = |protocol, value| {
        let lane = Lane { protocol: Some(protocol), value, ..Lane::any(Action::Deny) };
        early.push(Early { lane, verdict: Verdict::Deny, origin: Origin::Encapsulation });
    };
    if let Some(port) = settings.vxlan_port_denied {
        deny(protocol::UDP, Value::Ports(vec![(port, port)]));
    }
    if settings.denies_ipip {
        deny(protocol::IPIP, Value::Any);
    }
    early
}
