//! When a queue that does not empty loses packets from its front: CoDel (RFC 8289), in integers.
//!
//! A sender that heeds loss is held to a queue of [`TARGET_NS`]; one that does not fills its queue,
//! whose bound then tells.

/// A wait that is no matter, in nanoseconds (RFC 8289 4.3).
pub const TARGET_NS: u64 = 5_000_000;
/// How long all waits must be longer before one packet is dropped, in nanoseconds (RFC 8289 4.2).
pub const INTERVAL_NS: u64 = 100_000_000;
/// Packets behind the first one that are no matter either, however slow the port is: with fewer on
/// their way TCP learns of a loss by time alone (RFC 5681 3.2 takes three duplicates).
pub const FEW: usize = 4;

/// The state of one queue.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Codel {
    /// When waits will have been long for an interval; 0 while they are not.
    first_above_ns: u64,
    /// When the next packet is dropped.
    next_ns: u64,
    /// Packets dropped since the waits were long.
    count: u64,
    last_count: u64,
    is_dropping: bool,
}

impl Codel {
    /// True when a packet that has waited since `since_ns`, with so many behind it, is to be
    /// dropped.
    pub(super) fn drops(&mut self, since_ns: u64, now_ns: u64, behind: usize) -> bool {
        let is_long = self.is_long(since_ns, now_ns, behind);
        if self.is_dropping {
            self.is_dropping = is_long;
            if !is_long || now_ns < self.next_ns {
                return false;
            }
            self.count += 1;
            self.next_ns = after(self.next_ns, self.count);
            return true;
        }
        if !is_long {
            return false;
        }
        self.is_dropping = true;
        // Not long after the last time it goes on with nearly the same pace (RFC 8289 5.5).
        let delta = self.count - self.last_count;
        let is_near = now_ns.saturating_sub(self.next_ns) < 16 * INTERVAL_NS;
        self.count = if delta > 1 && is_near { delta } else { 1 };
        self.last_count = self.count;
        self.next_ns = after(now_ns, self.count);
        true
    }

    fn is_long(&mut self, since_ns: u64, now_ns: u64, behind: usize) -> bool {
        if now_ns.saturating_sub(since_ns) < TARGET_NS || behind <= FEW {
            self.first_above_ns = 0;
            return false;
        }
        if self.first_above_ns == 0 {
            self.first_above_ns = now_ns + INTERVAL_NS;
            return false;
        }
        now_ns >= self.first_above_ns
    }
}

/// The control law: the interval by the square root of the count.
fn after(time_ns: u64, count: u64) -> u64 {
    time_ns + (INTERVAL_NS * INTERVAL_NS / count.max(1)).isqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets that have all waited for 10 ms, one each millisecond; when some were dropped, in
    /// milliseconds.
    fn dropped(codel: &mut Codel, from_ms: u64, to_ms: u64) -> Vec<u64> {
        let drops = |at: &u64| codel.drops((at - 10) * 1_000_000, at * 1_000_000, 9);
        (from_ms..to_ms).filter(drops).collect()
    }

    #[test]
    fn rfc8289_5_3_drops_come_ever_faster_while_waits_are_long() {
        let mut codel = Codel::default();
        // 100 ms of patience; then by 100, 100 / sqrt 2, 100 / sqrt 3, 100 / sqrt 4.
        assert_eq!(dropped(&mut codel, 50, 500), [150, 250, 321, 379, 429, 474]);
    }

    #[test]
    fn short_waits_and_short_queues_end_it() {
        for behind in [9, FEW] {
            let mut codel = Codel::default();
            assert_eq!(dropped(&mut codel, 50, 160), [150]);
            let since_ns = if behind == FEW { 0 } else { 159_000_000 };
            assert!(!codel.drops(since_ns, 160_000_000, behind));
            assert_eq!(dropped(&mut codel, 161, 262), [261], "patience is whole again");
        }
    }
}
