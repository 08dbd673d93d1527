//! What the threads of the data plane know of each worker.

use super::{HAND_OVER, HandOver};
use crate::counters::WorkerCounters;
use crate::sys::wait::Waker;
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// One worker, as the other threads see it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) inbox: ArrayQueue<HandOver>,
    /// Packets that were put into the inbox, in all; like the next one only with flow offload.
    pub(crate) handed: AtomicU64,
    /// How many of them have left the worker.
    pub(crate) finished: AtomicU64,
    pub(crate) waker: Waker,
    pub(crate) asleep: AtomicBool,
    pub(crate) beat_ns: AtomicU64,
    pub(crate) held: AtomicU64,
    pub(crate) cached: AtomicUsize,
    pub(super) panicked: AtomicBool,
    pub(super) pinned: AtomicBool,
}

impl Peer {
    pub(super) fn new(waker: Waker) -> Peer {
        Peer {
            counters: Arc::new(WorkerCounters::default()),
            inbox: ArrayQueue::new(HAND_OVER),
            handed: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            waker,
            asleep: AtomicBool::new(false),
            beat_ns: AtomicU64::new(0),
            held: AtomicU64::new(0),
            cached: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            pinned: AtomicBool::new(false),
        }
    }

    /// Puts a packet into its inbox, or gives it back when there is no room. `is_counted` says
    /// whether somebody asks when it has left the worker.
    pub(crate) fn hand(&self, handed: HandOver, is_counted: bool) -> Result<(), HandOver> {
        if !is_counted {
            return self.inbox.push(handed);
        }
        // First, so that who looks in between waits for one too many, and never for one too few.
        self.handed.fetch_add(1, Ordering::SeqCst);
        self.inbox.push(handed).inspect_err(|_| {
            self.handed.fetch_sub(1, Ordering::SeqCst);
        })
    }
}
