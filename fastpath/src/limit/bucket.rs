//! One rate with its burst: GCRA (ITU-T I.371) in exact integers, shared by workers.
//!
//! What all of them share is one word, the theoretical arrival time. Every bit (or packet) that
//! passes has a place of its own on that line of time, not before the clock and not farther ahead
//! of it than the burst; so no interval passes more than rate x time + burst, however packets are
//! split over workers. A worker takes whole nanoseconds, each worth `rate` billionths of a bit,
//! and keeps what is left of them until the clock has passed them. Nothing is rounded.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most that a rate can be, a second.
pub const RATE_MAX: u64 = 1_000_000_000_000_000;
/// Most that a worker leases beyond what it needs at once, in nanoseconds of the rate.
pub const LEASE_NS: u64 = 100_000;
/// The smallest unit is a billionth of a bit or packet.
const UNITS: u64 = 1_000_000_000;
/// Part of a burst that the leases of all workers together may hold: one in this many.
const LEASED_PART: u64 = 128;
/// Most units of a lease.
const LEASE_UNITS: u64 = 1 << 62;

/// A rate and a burst: in bits, or in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// A second: 1 to [`RATE_MAX`]; what is outside is taken as the end that it is beyond.
    pub per_second: u64,
    /// At once, beyond the rate. A packet that is larger never passes.
    pub burst: u64,
}

/// A rate as workers share it: half a line of the cache.
#[derive(Debug)]
pub struct Bucket {
    per_second: NonZeroU64,
    burst: u64,
    lease_ns: u32,
    /// One worker only: nobody else writes the arrival.
    is_alone: bool,
    /// When everything that was taken will have arrived at the rate.
    arrival_ns: AtomicU64,
}

const _: () = assert!(size_of::<Option<Bucket>>() == 32);

/// What a worker has of a bucket: what is left of an older piece of time, and of the last one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lease([Piece; 2]);

/// The last units before an end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Piece {
    end_ns: u64,
    units: u64,
}

impl Piece {
    /// The units that are not before the clock.
    #[inline]
    fn valid(self, now_ns: u64, rate: u64) -> Piece {
        let ahead = self.end_ns.saturating_sub(now_ns).saturating_mul(rate);
        Piece { units: self.units.min(ahead), ..self }
    }
}

impl Bucket {
    /// A full bucket for so many workers. Leases are small beside the burst.
    pub fn new(rate: Rate, workers: usize) -> Bucket {
        let per_second = rate.per_second.clamp(1, RATE_MAX);
        let burst_units = u128::from(rate.burst) * u128::from(UNITS);
        let burst_ns = burst_units / u128::from(per_second);
        let share = burst_ns / u128::from(LEASED_PART) / workers.max(1) as u128;
        let most = LEASE_NS.min(LEASE_UNITS / per_second);
        let lease_ns = u64::try_from(share).map_or(most, |share| share.min(most));
        Bucket {
            per_second: NonZeroU64::new(per_second).unwrap_or(NonZeroU64::MIN),
            burst: rate.burst,
            lease_ns: lease_ns as u32,
            is_alone: workers <= 1,
            arrival_ns: AtomicU64::new(0),
        }
    }

    /// A bucket of another rate that has as many bits or packets still to arrive as this one.
    pub fn changed(&self, rate: Rate, workers: usize, now_ns: u64) -> Bucket {
        let bucket = Bucket::new(rate, workers);
        let owed = self.owed(self.arrival_ns.load(Ordering::Relaxed), now_ns);
        let owed = owed.min(bucket.burst_units()).div_ceil(u128::from(bucket.rate().per_second));
        let owed = u64::try_from(owed).unwrap_or(u64::MAX);
        bucket.arrival_ns.store(now_ns.saturating_add(owed), Ordering::Relaxed);
        bucket
    }

    /// The rate.
    #[inline]
    pub fn rate(&self) -> Rate {
        Rate { per_second: self.per_second.get(), burst: self.burst }
    }

    #[inline]
    fn burst_units(&self) -> u128 {
        u128::from(self.burst) * u128::from(UNITS)
    }

    /// What a lease is after a cost of bits or packets; `None` when the cost may not pass. Nothing
    /// is spent unless the caller takes that lease for its own.
    #[inline]
    pub fn spend(&self, lease: &mut Lease, now_ns: u64, cost: u32) -> Option<Lease> {
        let [old, last] = lease.0;
        if cost == 0 || old.end_ns.max(last.end_ns) > now_ns {
            return match self.plan(*lease, now_ns, cost) {
                None if self.refill(lease, now_ns, cost) => self.plan(*lease, now_ns, cost),
                spent => spent,
            };
        }
        // The clock has passed all of it, so that there is nothing to plan with but what is taken.
        let units = u64::from(cost) * UNITS;
        let (_, taken) = self.take(now_ns, units)?;
        *lease = Lease([Piece::default(), taken]);
        let left = Piece { units: taken.units - units, ..taken };
        Some(Lease([Piece::default(), left]))
    }

    /// Units from the clock to a place on the line.
    #[inline]
    fn owed(&self, place_ns: u64, now_ns: u64) -> u128 {
        u128::from(place_ns.saturating_sub(now_ns)) * u128::from(self.per_second.get())
    }

    /// The lease after a cost that it can bear.
    #[inline]
    fn plan(&self, lease: Lease, now_ns: u64, cost: u32) -> Option<Lease> {
        let cost = u64::from(cost) * UNITS;
        let [old, last] = lease.0.map(|piece| piece.valid(now_ns, self.per_second.get()));
        let from_old = cost.min(old.units);
        let left = last.units.checked_sub(cost - from_old)?;
        let old = Piece { units: old.units - from_old, ..old };
        let place = match from_old == cost {
            true => self.owed(old.end_ns, now_ns).saturating_sub(u128::from(old.units)),
            false => self.owed(last.end_ns, now_ns).saturating_sub(u128::from(left)),
        };
        let last = Piece { units: left, ..last };
        (place <= self.burst_units()).then_some(Lease([old, last]))
    }

    /// Takes what a cost needs beyond the lease, and more if there is enough.
    #[inline(never)]
    fn refill(&self, lease: &mut Lease, now_ns: u64, cost: u32) -> bool {
        let [old, last] = lease.0.map(|piece| piece.valid(now_ns, self.per_second.get()));
        // Of two pieces the older one is lost; there are two only after a cost that was not spent.
        let kept = if last.units > 0 { last } else { old };
        let missing = (u64::from(cost) * UNITS).checked_sub(kept.units);
        let Some((from_ns, taken)) = missing.and_then(|missing| self.take(now_ns, missing)) else {
            return false;
        };
        *lease = match from_ns == kept.end_ns {
            true => {
                let units = kept.units + taken.units;
                Lease([Piece::default(), Piece { units, ..taken }])
            }
            false => Lease([kept, taken]),
        };
        true
    }

    /// Takes whole nanoseconds that are worth so many units, and more if there is enough: their
    /// begin, and what they are worth until their end.
    #[inline]
    fn take(&self, now_ns: u64, missing: u64) -> Option<(u64, Piece)> {
        let (rate, burst) = (self.per_second.get(), self.burst_units());
        let need = missing.div_ceil(rate).max(1);
        let mut arrival = self.arrival_ns.load(Ordering::Relaxed);
        loop {
            let from = arrival.max(now_ns);
            let owed = self.owed(from, now_ns);
            if owed + u128::from(missing) > burst {
                return None;
            }
            // Near the end of the burst a lease is what is needed, and no more.
            let lease_ns = u64::from(self.lease_ns);
            let is_far = owed + u128::from(lease_ns * rate) <= burst;
            let taken = if is_far { need.max(lease_ns) } else { need };
            let end_ns = from.checked_add(taken)?;
            let piece = Piece { end_ns, units: taken * rate };
            // One word is all that workers share, so no order with other memory is asked for.
            let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
            if self.is_alone {
                self.arrival_ns.store(end_ns, set);
                return Some((from, piece));
            }
            match self.arrival_ns.compare_exchange_weak(arrival, end_ns, set, fetch) {
                Ok(_) => return Some((from, piece)),
                Err(other) => arrival = other,
            }
        }
    }

    /// Books a cost, whenever it may go: the earliest departure time. `None`, with nothing booked,
    /// if that is later than `latest_ns`.
    pub fn book(&self, lease: &mut Lease, now_ns: u64, cost: u32, latest_ns: u64) -> Option<u64> {
        let rate = self.per_second.get();
        let kept = lease.0[1].valid(now_ns, rate);
        let cost = u64::from(cost) * UNITS;
        // The last place that the cost may have is the burst after its departure.
        let tolerance_ns = u64::try_from(self.burst_units() / u128::from(rate)).unwrap_or(u64::MAX);
        let departure = |end_ns: u64| {
            let departure = end_ns.saturating_sub(tolerance_ns).max(now_ns);
            (departure <= latest_ns).then_some(departure)
        };
        if let Some(units) = kept.units.checked_sub(cost) {
            let departure = departure(kept.end_ns)?;
            *lease = Lease([Piece::default(), Piece { units, ..kept }]);
            return Some(departure);
        }
        let missing = cost - kept.units;
        let need = missing.div_ceil(rate);
        let mut arrival = self.arrival_ns.load(Ordering::Relaxed);
        loop {
            let end_ns = arrival.max(now_ns).checked_add(need)?;
            let departure = departure(end_ns)?;
            let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
            match self.arrival_ns.compare_exchange_weak(arrival, end_ns, set, fetch) {
                Ok(_) => {
                    let units = need * rate - missing;
                    *lease = Lease([Piece::default(), Piece { end_ns, units }]);
                    return Some(departure);
                }
                Err(other) => arrival = other,
            }
        }
    }
}
