//! From a list of tiers, policies and profiles to a program.
//!
//! Endpoints with the same list share the program. The last lane always matches, so every packet
//! is decided.

use super::addresses::{Addresses, TooMany, places};
use super::classes::Classes;
use super::code::{Code, Owner};
use super::lane::{Lane, LaneStep};
use super::ports;
use super::sets::CodeId;
use crate::classifier::{Action as StepAction, LANES_MAX, Program, Shape, Step, VECTORS_MAX};
use crate::model::{Action, Excess, TierAction};
use crate::origin::Origin;
use crate::{Direction, Stage, Verdict};
use ahash::AHashMap;
use std::sync::Arc;

/// What makes programs equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ProgramKey {
    pub(super) stage: Stage,
    pub(super) direction: Direction,
    /// Whether the endpoint is the host's, whose settings come first.
    pub(super) is_host: bool,
    /// Which version of the settings.
    pub(super) epoch: u64,
    pub(super) tiers: Vec<(Arc<str>, TierAction, Vec<CodeId>)>,
    /// With nothing for one that does not exist.
    pub(super) profiles: Vec<(Arc<str>, Option<CodeId>)>,
}

/// A lane that comes before policy, what it does, and why.
#[derive(Debug, Clone)]
pub(super) struct Early {
    pub(super) lane: Lane,
    pub(super) verdict: Verdict,
    pub(super) origin: Origin,
}

/// A program, and what keeps it up to date.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) source: Addresses,
    pub(super) destination: Addresses,
    pub(super) program: Arc<Program>,
}

struct Assembly<'a> {
    lanes: Vec<&'a Lane>,
    steps: Vec<Step>,
    origins: Vec<Origin>,
    direction: Direction,
}

/// Builds the program of a key. When it is beyond a limit, the error says so.
pub(super) fn build(
    key: &ProgramKey,
    early: &[Early],
    codes: &AHashMap<CodeId, Code>,
    classes: &Classes,
) -> Result<Built, Excess> {
    let last = Lane::any(Action::Deny);
    let mut assembly = Assembly {
        lanes: Vec::new(),
        steps: Vec::new(),
        origins: Vec::new(),
        direction: key.direction,
    };
    for Early { lane, verdict, origin } in early {
        assembly.push(lane, StepAction::Decide(*verdict), origin.clone());
    }
    let drops = matches!(key.stage, Stage::Normal | Stage::Forward);
    for (tier, default, policies) in &key.tiers {
        let first = assembly.lanes.len();
        for code in policies.iter().filter_map(|code| codes.get(code)) {
            assembly.code(code, tier)?;
        }
        if drops && *default == TierAction::Deny {
            let origin = Origin::EndOfTier { tier: tier.clone() };
            assembly.push(&last, StepAction::Decide(Verdict::Deny), origin);
        }
        assembly.pass_behind(first);
    }
    for (profile, code) in &key.profiles {
        let first = assembly.lanes.len();
        match code.and_then(|code| codes.get(&code)) {
            Some(code) => assembly.code(code, "")?,
            None => {
                let origin = Origin::MissingProfile { profile: profile.clone() };
                assembly.push(&last, StepAction::Decide(Verdict::Deny), origin);
            }
        }
        assembly.pass_behind(first);
    }
    let (verdict, origin) = match key.stage {
        Stage::Normal => (Verdict::Deny, Origin::NoProfile),
        Stage::Forward => (Verdict::Allow, Origin::NotForwarded),
        Stage::PreDnat | Stage::Untracked => (Verdict::Continue, Origin::EndOfStage),
    };
    assembly.push(&last, StepAction::Decide(verdict), origin);
    let named = key.tiers.iter().flat_map(|(_, _, codes)| codes).filter_map(|code| codes.get(code));
    let largest = named.max_by_key(|code| code.lanes[key.direction as usize].len());
    let of = largest.map_or_else(|| "profiles".to_owned(), |code| code.owner.to_string());
    assembly.finish(classes).map_err(|TooMany(count)| Excess {
        of,
        what: "different vectors in its program",
        count,
        limit: VECTORS_MAX,
    })
}

/// The program that drops everything, for policy that cannot be compiled.
pub(super) fn deny_all(direction: Direction, classes: &Classes) -> Result<Built, TooMany> {
    let lane = Lane::any(Action::Deny);
    let (lanes, steps, origins) = (Vec::new(), Vec::new(), Vec::new());
    let mut assembly = Assembly { lanes, steps, origins, direction };
    assembly.push(&lane, StepAction::Decide(Verdict::Deny), Origin::Excess);
    assembly.finish(classes)
}

impl<'a> Assembly<'a> {
    fn push(&mut self, lane: &'a Lane, action: StepAction, origin: Origin) {
        self.lanes.push(lane);
        self.steps.push(Step { action, origin: self.origins.len() as u32 });
        self.origins.push(origin);
    }

    /// Adds the rules of a policy or profile.
    fn code(&mut self, code: &'a Code, tier: &str) -> Result<(), Excess> {
        if let Some(excess) = &code.excess {
            return Err(excess.clone());
        }
        let lanes = &code.lanes[self.direction as usize];
        // The program's own last lanes are few.
        let count = self.lanes.len() + lanes.len();
        if count > LANES_MAX {
            let what = "lanes up to it in a program";
            let of = code.owner.to_string();
            return Err(Excess { of, what, count, limit: LANES_MAX });
        }
        let tier: Arc<str> = tier.into();
        for rule in lanes.chunk_by(|a, b| a.index == b.index) {
            let behind = (self.lanes.len() + rule.len()) as u32;
            let origin = self.origins.len() as u32;
            for lane in rule {
                let action = match lane.step {
                    LaneStep::Rule(Action::Allow) => StepAction::Decide(Verdict::Allow),
                    LaneStep::Rule(Action::Deny) => StepAction::Decide(Verdict::Deny),
                    LaneStep::Rule(Action::Log) => StepAction::Log(behind),
                    LaneStep::Rule(Action::Pass) => StepAction::Jump(u32::MAX),
                    LaneStep::Skip => StepAction::Jump(behind),
                };
                self.lanes.push(lane);
                self.steps.push(Step { action, origin });
            }
            let index = rule.first().map_or(0, |lane| lane.index);
            self.origins.push(match &code.owner {
                Owner::Policy(policy) => {
                    Origin::Rule { tier: tier.clone(), policy: policy.clone(), index }
                }
                Owner::Profile(profile) => Origin::ProfileRule { profile: profile.clone(), index },
            });
        }
        Ok(())
    }

    /// Lets rules that pass, from a lane on, go on behind all that there are.
    fn pass_behind(&mut self, first: usize) {
        let behind = self.lanes.len() as u32;
        for step in &mut self.steps[first..] {
            if step.action == StepAction::Jump(u32::MAX) {
                step.action = StepAction::Jump(behind);
            }
        }
    }

    fn finish(self, classes: &Classes) -> Result<Built, TooMany> {
        let lanes = &self.lanes;
        let shape = Shape::of(lanes.len());
        let [source, destination] = [true, false].map(|is_source| {
            let places = places(lanes, is_source);
            Addresses::new(shape, places.iter().map(|(lane, place)| (*lane, place)), classes)
        });
        let (source, destination) = (source?, destination?);
        let program = Program {
            sides: [source.side(), destination.side()],
            ports: ports::ports(shape, lanes)?,
            steps: self.steps.into(),
            shape,
            origins: self.origins.into(),
        };
        Ok(Built { source, destination, program: Arc::new(program) })
    }
}
