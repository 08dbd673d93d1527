//! Flows: how they are translated, and who may begin them. Policy is published with the other
//! tables, or alone when nothing else changes.

use super::Publisher;
use margay_fastpath::limit::Limits;
use margay_fastpath::nat::Rules;
use margay_fastpath::policy::{Layout, Policy};
use std::sync::Arc;

impl Publisher {
    /// What publications translate now.
    pub(crate) fn nat(&self) -> Option<&Rules> {
        self.nat.as_deref()
    }

    /// What the next publications translate.
    pub(crate) fn set_nat(&mut self, rules: Option<Rules>) {
        let generation = self.nat.as_ref().map_or(0, |rules| rules.generation);
        let rules = rules.map(|rules| Rules { generation, ..rules });
        if rules.as_ref() != self.nat.as_deref() {
            let generation = self.generation + 1;
            self.generation = generation;
            self.nat = rules.map(|rules| Arc::new(Rules { generation, ..rules }));
        }
    }

    /// How flows are tracked for policy where nothing is translated.
    pub(crate) fn set_tracking(&mut self, rules: Rules) {
        if self.tracking.as_deref() != Some(&rules) {
            self.tracking = Some(Arc::new(rules));
        }
    }

    /// How flows are tracked and translated, if any are.
    pub(super) fn flow_rules(&self) -> Option<Arc<Rules>> {
        let tracking = self.tracking.as_ref().filter(|_| self.policy.is_some());
        self.nat.as_ref().or(tracking).cloned()
    }

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
        self.tables.nat = self.flow_rules();
        self.dataplane.publish(self.tables.clone())
    }

    /// What endpoints may send and receive with the next publication.
    pub(crate) fn set_limits(&mut self, limits: Option<Limits>) {
        if limits.as_ref() != self.limits.as_deref() {
            self.limits = limits.map(Arc::new);
        }
    }
}
