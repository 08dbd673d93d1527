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
    /// Packets that were put into the inbox, in all.
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

    /// So many packets are about to be put into its inbox.
    pub(crate) fn will_hand(&self, packets: usize) {
        self.handed.fetch_add(packets as u64, Ordering::SeqCst);
    }

    /// So many of them were not.
    pub(crate) fn did_not_hand(&self, packets: usize) {
        self.handed.fetch_sub(packets as u64, Ordering::SeqCst);
    }
}
