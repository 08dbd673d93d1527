//! Who may talk to whom: published with the other tables, or alone when nothing else changes.

use super::Publisher;
use margay_fastpath::policy::{Layout, Policy};
use std::sync::Arc;

impl Publisher {
    /// Who may talk to whom with the next publication; `None` for everybody to everybody.
    pub(crate) fn set_policy(&mut self, layout: Option<Layout<'_>>) {
        let generation = self.policy_generation.wrapping_add(1);
        let made = layout.map(|layout| Policy::new(Layout { generation, ..layout }));
        let same = match (&made, &self.policy) {
            (Some(made), Some(known)) => known.says_the_same(made),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.policy_generation = generation;
            self.policy = made.map(Arc::new);
        }
    }

    /// Publishes another policy, and nothing else; false when a worker did not take it in time.
    pub(crate) fn publish_policy(&mut self) -> bool {
        if self.tables.policy == self.policy {
            return true;
        }
        self.tables.policy.clone_from(&self.policy);
        self.dataplane.publish(self.tables.clone())
    }
}
