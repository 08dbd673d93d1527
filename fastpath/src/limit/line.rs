//! The word that all who take from a bucket share.

use super::gates::{self, Place};
use std::sync::atomic::{AtomicU64, Ordering};

/// When everything that was taken will have arrived at the rate, for those who take.
#[derive(Debug)]
pub(super) enum Line {
    /// One worker only: nobody else writes the arrival.
    Alone {
        arrival_ns: AtomicU64,
        /// What is left of the last nanosecond before the arrival, in units.
        spare: AtomicU64,
    },
    /// Several workers.
    Shared { lease_ns: u32, arrival_ns: AtomicU64 },
    /// Workers and the XDP program.
    Mapped { lease_ns: u32, place: Place },
}

impl Line {
    /// How much a worker leases, in nanoseconds of the rate.
    #[inline]
    pub(super) fn lease_ns(&self) -> u64 {
        match self {
            Self::Alone { .. } => 0,
            Self::Shared { lease_ns, .. } | Self::Mapped { lease_ns, .. } => u64::from(*lease_ns),
        }
    }

    /// So far ahead of the clock is the arrival now, and so far it may be: the XDP program gives no
    /// credit near the end.
    #[inline]
    pub(super) fn close(&self, ahead_ns: u64, burst_ns: u64) {
        if let Self::Mapped { place, .. } = self {
            place.close(ahead_ns, burst_ns);
        }
    }

    /// The word with the arrival, as those who share it have it, once what the XDP program let pass
    /// on credit is booked.
    #[inline]
    pub(super) fn word(&self, now_ns: u64, burst_ns: u64) -> u64 {
        match self {
            Self::Alone { arrival_ns, .. } | Self::Shared { arrival_ns, .. } => {
                arrival_ns.load(Ordering::Relaxed)
            }
            Self::Mapped { place, .. } => {
                place.settle(now_ns, burst_ns);
                place.word().load(Ordering::Relaxed)
            }
        }
    }

    /// The arrival that a word says, in nanoseconds; any time up to now if it has passed.
    #[inline]
    pub(super) fn arrival_of(&self, word: u64, now_ns: u64, burst_ns: u64) -> u64 {
        match self {
            Self::Mapped { .. } => gates::arrival_ns(word, now_ns, burst_ns),
            _ => word,
        }
    }

    pub(super) fn set_arrival(&self, at_ns: u64) {
        match self {
            Self::Alone { arrival_ns, .. } | Self::Shared { arrival_ns, .. } => {
                arrival_ns.store(at_ns, Ordering::Relaxed);
            }
            Self::Mapped { place, .. } => {
                place.word().store(gates::word(at_ns), Ordering::Relaxed);
            }
        }
    }

    /// Sets the arrival, unless another one has: to which word, then.
    #[inline]
    pub(super) fn move_arrival(&self, from: u64, to_ns: u64) -> Result<(), u64> {
        // One word is all that is shared, so no order with other memory is asked for.
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        match self {
            Self::Alone { arrival_ns, .. } => {
                arrival_ns.store(to_ns, set);
                Ok(())
            }
            Self::Shared { arrival_ns, .. } => {
                arrival_ns.compare_exchange(from, to_ns, set, fetch).map(drop)
            }
            Self::Mapped { place, .. } => {
                place.word().compare_exchange(from, gates::word(to_ns), set, fetch).map(drop)
            }
        }
    }
}
