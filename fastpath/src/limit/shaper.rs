//! What is beyond an endpoint's rates waits, for a while.
//!
//! A [`Shaper`] says when a packet may go, its earliest departure time; the packet then waits in a
//! [`super::Wheel`] of its worker. Who would wait longer than [`SHAPER_DELAY_NS`] is dropped, which
//! bounds each queue by what its rate sends in that time, as a token bucket filter's latency does.

use super::bucket::{Bucket, Lease, Rate};
use super::gates::Place;

/// Longest wait, in nanoseconds (calico.md 7.8).
pub const SHAPER_DELAY_NS: u64 = 25_000_000;

/// The rate of one endpoint in one direction.
#[derive(Debug)]
pub struct Shaper {
    bits: Bucket,
}

/// When a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Booking {
    /// At once.
    Now,
    /// At this time, in nanoseconds.
    At(u64),
    /// Never: it would wait too long.
    Drop,
}

impl Shaper {
    /// A shaper for so many workers whose burst is untouched.
    pub fn new(rate: Rate, workers: usize) -> Shaper {
        Shaper::at(rate, workers, None)
    }

    /// The same, in a place that is shared with the XDP program.
    pub(super) fn at(rate: Rate, workers: usize, place: Option<Place>) -> Shaper {
        Shaper { bits: Bucket::at(rate, workers, place) }
    }

    /// Another rate; what is booked stays booked.
    pub(super) fn changed_at(
        &self,
        rate: Rate,
        workers: usize,
        now_ns: u64,
        place: Option<Place>,
    ) -> Shaper {
        Shaper { bits: self.bits.changed_at(rate, workers, now_ns, place) }
    }

    /// Books the departure of a packet of so many bits; nothing is booked for one that would have
    /// to wait and may not.
    #[inline]
    pub fn book(&self, lease: &mut Lease, now_ns: u64, bits: u32, may_wait: bool) -> Booking {
        let latest_ns = now_ns.saturating_add(if may_wait { SHAPER_DELAY_NS } else { 0 });
        match self.bits.book(lease, now_ns, bits, latest_ns) {
            None => Booking::Drop,
            Some(at_ns) if at_ns <= now_ns => Booking::Now,
            Some(at_ns) => Booking::At(at_ns),
        }
    }
}
