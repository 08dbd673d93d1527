//! What the model sees of the trackers.

use crate::flow::{State, Tuple};
use crate::nat::Tracker;

/// The flows as they really are, after a packet.
pub(super) struct Real<'a>(pub(super) &'a [Tracker]);

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) translated: Tuple,
    pub(super) mapped: bool,
    pub(super) assured: bool,
    pub(super) state: State,
    pub(super) packets: [u32; 2],
    pub(super) last_seen_s: u32,
}

impl Real<'_> {
    /// The flow that a packet of this tuple began.
    pub(super) fn shown(&self, original: &Tuple) -> Option<Shown> {
        let mut flows = self.0.iter().filter_map(|tracker| {
            let (id, _) = tracker.table.find(original)?;
            tracker.table.get(id).filter(|flow| flow.original() == *original)
        });
        flows.next().map(|flow| Shown {
            translated: flow.translated(),
            mapped: flow.has_mapping(),
            assured: flow.is_assured(),
            state: flow.state(),
            packets: flow.packets,
            last_seen_s: flow.last_seen_s,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|tracker| tracker.table.len()).sum()
    }

    pub(super) fn ports_used(&self) -> usize {
        let all = self.0.iter().flat_map(|tracker| tracker.report().ports);
        all.map(|ports| ports.used as usize).sum()
    }

    pub(super) fn waiting(&self) -> usize {
        self.0.iter().map(|tracker| tracker.report().fragments).sum()
    }
}
