//! Whether a program lets everything pass, without a look at a packet.

use super::{Action, Classifier, Handle, Program, Table};
use crate::{Direction, Stage, Verdict};

impl Classifier {
    /// True when an endpoint's rules let every packet pass, by a first rule without conditions.
    /// Whoever knows it need not ask.
    pub fn is_open(&self, endpoint: Handle, stage: Stage, direction: Direction) -> bool {
        let programs = self.endpoints.get(endpoint.0 as usize).and_then(Option::as_ref);
        let number = programs.map(|programs| programs[stage as usize][direction as usize]);
        let program = number.and_then(|number| self.programs.get(number as usize)?.as_deref());
        program.is_some_and(Program::is_open)
    }
}

impl Program {
    /// True when the first lane allows, and no value of any dimension lacks it.
    fn is_open(&self) -> bool {
        let fixed = &*self.fixed;
        let allows = |action| action == Action::Decide(Verdict::Allow);
        let first = fixed.steps.first().is_some_and(|step| allows(step.action));
        let has_first = |table: &Table| {
            let numbers = 0..table.len() as u16;
            numbers.into_iter().all(|number| table.get(number)[fixed.shape.summary] & 1 == 1)
        };
        first
            && has_first(&fixed.service_vectors)
            && has_first(&fixed.source_vectors)
            && has_first(&self.source.table)
            && has_first(&self.destination.table)
    }
}
