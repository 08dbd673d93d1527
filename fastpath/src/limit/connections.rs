//! How many connections an endpoint may have in one direction.

use std::sync::atomic::{AtomicU32, Ordering};

/// A count with a limit, shared by workers.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicU32,
}

impl Connections {
    /// Counts a connection, unless there are as many as there may be. Connections beyond a limit
    /// that was lowered stay.
    pub fn open(&self, limit: u32) -> bool {
        let more = |open: u32| (open < limit).then(|| open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Ends one that was counted.
    pub fn close(&self) {
        let less = |open: u32| open.checked_sub(1);
        // One too many is a fault of the caller's; the count stays at 0 then.
        let _ = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Those that are open.
    pub fn count(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }
}
