//! The default route, kept beside the tables: one word instead of 2^24 entries.
//!
//! A reader that finds an empty entry takes this word. It has read the word before the entry too,
//! and asks again when the two differ: otherwise "the default goes, then a prefix comes" could
//! give it neither the old answer nor the new one. A count beside the target makes the two differ
//! even when the same target has come back.

use super::entry::Entry;
use crate::tables::TargetId;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub(super) struct Fallback(AtomicU64);

/// The default route at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen(u64);

impl Seen {
    #[inline]
    pub(super) fn id(self) -> TargetId {
        Entry(self.0 as u32).id()
    }

    pub(super) fn get(self) -> Option<TargetId> {
        Entry(self.0 as u32).is_target().then(|| self.id())
    }
}

impl Fallback {
    #[inline]
    pub(super) fn read(&self) -> Seen {
        Seen(self.0.load(Ordering::Acquire))
    }

    /// Sets or clears it; what it was. Called by the one writer only.
    pub(super) fn set(&self, target: Option<TargetId>) -> Option<TargetId> {
        let old = self.read();
        let count = (old.0 >> 32).wrapping_add(1) << 32;
        let entry = target.map_or(Entry::NONE, Entry::target);
        self.0.store(count | u64::from(entry.0), Ordering::Release);
        old.get()
    }
}
