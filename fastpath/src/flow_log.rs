//! What policy said of first packets, on its way from the workers to whoever writes it down.
//!
//! A worker puts a small record into a ring, and never waits: what finds no room is counted as
//! missed. Names and rules are looked up by the reader, in the snapshot of policy that the record
//! is of.

use crate::policy::{Judgement, Question};
use crossbeam::queue::ArrayQueue;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Records that wait for the reader at most.
pub const FLOW_LOG_QUEUE: usize = 4096;

/// Which first packets are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Wanted {
    /// None.
    Nothing,
    /// Those that are dropped, or would be by staged policies, and those that met a rule with
    /// action Log.
    Denied,
    /// Those that pass too.
    Everything,
}

/// A first packet, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The snapshot of policy.
    pub generation: u32,
    /// The packet.
    pub question: Question,
    /// The verdict.
    pub judgement: Judgement,
    /// When, in nanoseconds on the clock of the data plane.
    pub at_ns: u64,
}

/// The ring.
#[derive(Debug)]
pub struct FlowLog {
    queue: ArrayQueue<Record>,
    wanted: AtomicU8,
    missed: AtomicU64,
}

impl Default for FlowLog {
    fn default() -> FlowLog {
        FlowLog {
            queue: ArrayQueue::new(FLOW_LOG_QUEUE),
            wanted: AtomicU8::new(Wanted::Nothing as u8),
            missed: AtomicU64::new(0),
        }
    }
}

impl FlowLog {
    /// What is told from now on.
    pub fn set_wanted(&self, wanted: Wanted) {
        self.wanted.store(wanted as u8, Ordering::Relaxed);
    }

    /// Puts a record in if it is wanted. `record` is called only then.
    #[inline]
    pub fn offer(&self, judgement: &Judgement, record: impl FnOnce() -> Record) {
        let wanted = self.wanted.load(Ordering::Relaxed);
        if wanted == Wanted::Nothing as u8 {
            return;
        }
        if wanted == Wanted::Denied as u8 && !is_notable(judgement) {
            return;
        }
        if self.queue.push(record()).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The oldest record.
    pub fn take(&self) -> Option<Record> {
        self.queue.pop()
    }

    /// Records that found no room, since the last call.
    pub fn take_missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }
}

fn is_notable(judgement: &Judgement) -> bool {
    let Judgement { real, staged } = judgement;
    let is_logged = real.rulings.iter().flatten().any(|ruling| ruling.outcome.logged);
    is_logged || real.dropped.is_some() || staged.is_some_and(|staged| staged.dropped.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drop_reason::DropReason;
    use crate::flow::Tuple;
    use crate::policy::{Decision, Seat};

    fn judgement(real: Option<DropReason>, staged: Option<DropReason>) -> Judgement {
        let decision = |dropped| Decision { dropped, ..Decision::default() };
        Judgement { real: decision(real), staged: Some(decision(staged)) }
    }

    fn offer(log: &FlowLog, judgement: Judgement, at_ns: u64) {
        let question = Question { from: Seat::Network, tuple: Tuple::default(), icmp_code: 0 };
        log.offer(&judgement, || Record { generation: 1, question, judgement, at_ns });
    }

    #[test]
    fn what_is_not_wanted_is_not_told() {
        let log = FlowLog::default();
        let (allowed, denied) = (judgement(None, None), Some(DropReason::PolicyIngress));
        let told = |wanted| {
            log.set_wanted(wanted);
            offer(&log, allowed, 1);
            offer(&log, judgement(denied, None), 2);
            offer(&log, judgement(None, denied), 3);
            std::iter::from_fn(|| log.take()).map(|record| record.at_ns).collect::<Vec<_>>()
        };
        assert_eq!(told(Wanted::Nothing), [0; 0]);
        assert_eq!(told(Wanted::Denied), [2, 3]);
        assert_eq!(told(Wanted::Everything), [1, 2, 3]);
    }

    #[test]
    fn records_beyond_the_bound_are_counted_as_missed() {
        let log = FlowLog::default();
        log.set_wanted(Wanted::Everything);
        (0..FLOW_LOG_QUEUE as u64 + 3).for_each(|at| offer(&log, judgement(None, None), at));
        assert_eq!((log.take_missed(), log.take_missed()), (3, 0));
        assert_eq!(log.take().map(|record| record.at_ns), Some(0));
        assert_eq!(std::iter::from_fn(|| log.take()).count(), FLOW_LOG_QUEUE - 1);
    }
}
