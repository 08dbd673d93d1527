//! The rules of one policy or profile, as lanes that any program can take in.

use super::lane::{LANES_PER_RULE_MAX, Lane, Maker};
use super::sets::{CodeId, Hold, Sets};
use crate::model::{AddressSet, Excess, PolicyKey, Rule};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Compiled rules.
#[derive(Debug)]
pub(super) struct Code {
    pub(super) owner: Owner,
    /// Lanes for ingress and egress.
    pub(super) lanes: [Vec<Lane>; 2],
    /// Sets that the lanes use.
    pub(super) holds: Vec<Hold>,
    /// Why it could not be compiled.
    pub(super) excess: Option<Excess>,
}

/// Whose rules they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    Policy(Arc<PolicyKey>),
    Profile(Arc<str>),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Policy(key) => fmt::Display::fmt(key, f),
            Owner::Profile(name) => write!(f, "profile {name}"),
        }
    }
}

impl Code {
    /// Compiles rules for ingress and egress.
    pub(super) fn new(
        owner: Owner,
        rules: [&[Rule]; 2],
        sets: &mut Sets,
        told: &BTreeMap<String, Arc<AddressSet>>,
        code: CodeId,
    ) -> Code {
        let mut maker = Maker { sets, told, code, holds: Vec::new() };
        let mut excess = None;
        let lanes = rules.map(|rules| {
            let mut lanes = Vec::new();
            for (index, rule) in rules.iter().enumerate() {
                match maker.lanes(rule, index) {
                    Ok(some) => lanes.extend(some),
                    Err(count) => {
                        let what = "lanes of one rule";
                        let (of, limit) = (owner.to_string(), LANES_PER_RULE_MAX);
                        excess = Some(Excess { of, what, count, limit });
                    }
                }
            }
            lanes
        });
        Code { owner, lanes, holds: maker.holds, excess }
    }
}
