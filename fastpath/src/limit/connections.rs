//! How many connections an endpoint may have in one direction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A count with a limit, shared by workers.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicU32,
    refused: AtomicU64,
}

impl Connections {
    /// Counts a connection, unless there are as many as there may be. Connections beyond a limit
    /// that was lowered stay.
    pub fn open(&self, limit: u32) -> bool {
        let more = |open: u32| (open < limit).then(|| open + 1);
        let is_open = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if !is_open {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        is_open
    }

    /// Counts a connection that there was before, also beyond a limit.
    pub fn adopt(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
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

    /// Those that were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// The limit of one direction of an endpoint, with the connections that it has.
#[derive(Debug, Clone)]
pub struct ConnectionLimit {
    /// Most connections at a time.
    pub most: u32,
    /// Those that there are; the same when the limit changes.
    pub connections: Arc<Connections>,
}

/// Equal when the number is, and the connections are the very same.
impl PartialEq for ConnectionLimit {
    fn eq(&self, other: &ConnectionLimit) -> bool {
        self.most == other.most && Arc::ptr_eq(&self.connections, &other.connections)
    }
}

impl Eq for ConnectionLimit {}

impl ConnectionLimit {
    /// Counts a connection; false when it is one too many.
    pub fn open(&self) -> bool {
        self.connections.open(self.most)
    }

    /// Ends one that was counted.
    pub fn close(&self) {
        self.connections.close();
    }
}
