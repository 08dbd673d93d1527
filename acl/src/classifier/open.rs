//! Whether a program lets everything pass, without a look at a packet.

use super::{Action, Classifier, Handle, Program, Side, Step};
use crate::{Direction, Stage, Verdict};

impl Classifier {
    /// The number of an endpoint's program, which is also that of all endpoints with the same rules
    /// there; `None` for one that is not known.
    pub fn same_rules(&self, endpoint: Handle, stage: Stage, direction: Direction) -> Option<u32> {
        let programs = self.endpoints.get(endpoint.0 as usize)?.as_ref()?;
        Some(programs[stage as usize][direction as usize])
    }

    /// True when an endpoint's rules let every packet pass, by a first rule without conditions.
    /// Whoever knows it need not ask.
    pub fn is_open(&self, endpoint: Handle, stage: Stage, direction: Direction) -> bool {
        let number = self.same_rules(endpoint, stage, direction);
        let program = number.and_then(|number| self.programs.get(number as usize)?.as_deref());
        program.is_some_and(Program::is_open)
    }
}

impl Program {
    /// True when the first lane allows, and no value of any dimension lacks it.
    fn is_open(&self) -> bool {
        let (stride, first) = (self.shape.stride(), usize::from(self.shape.summary));
        let allows = |step: &Step| step.action == Action::Decide(Verdict::Allow);
        let has_first =
            |words: &[u64]| words.chunks_exact(stride.max(1)).all(|one| one[first] & 1 == 1);
        self.steps.first().is_some_and(allows)
            && has_first(self.ports.vectors())
            && self.sides.iter().flat_map(Side::pages).all(has_first)
    }
}
