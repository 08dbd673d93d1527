//! What became of an endpoint's packets in the queues of congested ports, by all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of the packets that came in by one port; its clones are one and the same.
#[derive(Debug, Clone, Default)]
pub struct QueueAccount(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    entered: AtomicU64,
    sent: AtomicU64,
    full: AtomicU64,
    late: AtomicU64,
}

/// Equal when it is the very same.
impl PartialEq for QueueAccount {
    fn eq(&self, other: &QueueAccount) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for QueueAccount {}

/// Counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueTotals {
    /// Packets that wait.
    pub waiting: u64,
    /// Packets dropped because queues were full: theirs, or all together while theirs was longest.
    pub full: u64,
    /// Packets dropped because packets of their flow had waited too long (CoDel).
    pub late: u64,
}

impl QueueAccount {
    /// A packet begins to wait.
    #[inline]
    pub fn enter(&self) {
        self.0.entered.fetch_add(1, Relaxed);
    }

    /// A packet that waited goes.
    #[inline]
    pub fn leave(&self) {
        self.0.sent.fetch_add(1, Relaxed);
    }

    /// A packet that waited is dropped for want of room.
    pub fn drop_full(&self) {
        self.0.full.fetch_add(1, Relaxed);
    }

    /// A packet that waited is dropped for having waited.
    pub fn drop_late(&self) {
        self.0.late.fetch_add(1, Relaxed);
    }

    /// The counts now.
    pub fn totals(&self) -> QueueTotals {
        let Counts { entered, sent, full, late } = &*self.0;
        // Those who left are read first, so that there are never more of them than came.
        let (sent, full, late) = (sent.load(Relaxed), full.load(Relaxed), late.load(Relaxed));
        let waiting = entered.load(Relaxed).saturating_sub(sent + full + late);
        QueueTotals { waiting, full, late }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_and_has_not_left_waits() {
        let account = QueueAccount::default();
        let same = account.clone();
        (0..5).for_each(|_| account.enter());
        account.leave();
        same.drop_full();
        account.drop_late();
        assert_eq!(same.totals(), QueueTotals { waiting: 2, full: 1, late: 1 });
        assert_eq!(account, same);
        assert_ne!(account, QueueAccount::default());
    }
}
