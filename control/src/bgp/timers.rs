//! When something is to be looked at again. An entry may come early and for nothing: most times
//! are put off again and again, and putting off costs nothing here.

use std::collections::BTreeSet;

use ahash::AHashMap;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    /// The session of a peer.
    Session(u32),
    /// BFD of a peer.
    Bfd(u32),
    /// A connection that is being closed has had its time.
    Linger(u64),
    /// The end of waiting for End-of-RIB.
    Hold,
    /// The status is to be written anew.
    Status,
    /// The thread has had its time to say goodbye.
    End,
    /// Addresses that could not be listened at are tried again.
    Listen,
}

/// The times, at most one for each.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeSet<(u64, Timer)>,
    armed: AHashMap<Timer, u64>,
}

impl Timers {
    /// Looks at `timer` at `at_ns`, or earlier.
    pub(super) fn arm(&mut self, timer: Timer, at_ns: Option<u64>) {
        let Some(at_ns) = at_ns else { return };
        match self.armed.get(&timer) {
            Some(armed) if *armed <= at_ns => return,
            Some(armed) => _ = self.queue.remove(&(*armed, timer)),
            None => (),
        }
        self.armed.insert(timer, at_ns);
        self.queue.insert((at_ns, timer));
    }

    /// Does not look at it any more.
    pub(super) fn disarm(&mut self, timer: Timer) {
        if let Some(at_ns) = self.armed.remove(&timer) {
            self.queue.remove(&(at_ns, timer));
        }
    }

    /// One that is due; it has to be armed again.
    pub(super) fn due(&mut self, now_ns: u64) -> Option<Timer> {
        let (at_ns, timer) = *self.queue.first()?;
        if at_ns > now_ns {
            return None;
        }
        self.queue.pop_first();
        self.armed.remove(&timer);
        Some(timer)
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<u64> {
        self.queue.first().map(|(at_ns, _)| *at_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_moves_forward_only() {
        let mut timers = Timers::default();
        timers.arm(Timer::Session(1), Some(50));
        timers.arm(Timer::Session(1), Some(90));
        timers.arm(Timer::Session(1), None);
        assert_eq!(timers.next(), Some(50));
        timers.arm(Timer::Session(1), Some(20));
        timers.arm(Timer::Bfd(1), Some(30));
        assert_eq!((timers.next(), timers.due(19)), (Some(20), None));
        assert_eq!(timers.due(40), Some(Timer::Session(1)));
        assert_eq!(timers.due(40), Some(Timer::Bfd(1)));
        assert_eq!((timers.due(1000), timers.next()), (None, None));
    }

    #[test]
    fn one_that_is_disarmed_is_gone() {
        let mut timers = Timers::default();
        timers.arm(Timer::Hold, Some(5));
        timers.disarm(Timer::Hold);
        timers.disarm(Timer::Hold);
        assert_eq!((timers.due(10), timers.next()), (None, None));
    }
}
