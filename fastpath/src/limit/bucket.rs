//! One rate with its burst: GCRA (ITU-T I.371) in exact integers, shared by workers.
//!
//! What all of them share is one word, the theoretical arrival time. Every bit (or packet) that
//! passes has a place of its own on that line of time, not before the clock and not farther ahead
//! of it than the burst; so no interval passes more than rate x time + burst, however packets are
//! split over workers. A worker takes whole nanoseconds, each worth `rate` billionths of a bit,
//! and keeps what is left of them until the clock has passed them: in its lease, or, if it is
//! alone, beside the arrival, so that one line of the cache is all there is. Nothing is rounded,
//! and nothing divided: a product with the reciprocal of the rate, and a correction, is exact. With
//! flow offload the word is in a [`Place`] that the XDP program takes from too.

use super::gates::Place;
use super::line::Line;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most that a rate can be, a second.
pub const RATE_MAX: u64 = 1_000_000_000_000_000;
/// Most that a worker leases beyond what it needs at once, in nanoseconds of the rate.
pub const LEASE_NS: u64 = 10_000_000;
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

/// A rate as workers share it: less than a line of the cache.
#[derive(Debug)]
pub struct Bucket {
    per_second: NonZeroU64,
    /// 2^64 by the rate.
    reciprocal: u64,
    burst: u64,
    /// Whole nanoseconds of the rate that the burst is worth.
    burst_ns: u64,
    line: Line,
}

const _: () = assert!(size_of::<Option<Bucket>>() == 56);

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

/// What a cost makes of the line of time.
#[derive(Debug, Clone, Copy)]
struct Taken {
    /// Where the nanoseconds end that bear it.
    end_ns: u64,
    /// What it leaves of the last one, in units.
    left: u64,
}

impl Bucket {
    /// A full bucket for so many workers. Leases are small beside the burst.
    pub fn new(rate: Rate, workers: usize) -> Bucket {
        Bucket::at(rate, workers, None)
    }

    /// The same, in a place that is shared with the XDP program.
    pub(super) fn at(rate: Rate, workers: usize, place: Option<Place>) -> Bucket {
        let per_second = rate.per_second.clamp(1, RATE_MAX);
        let burst_ns = u128::from(rate.burst) * u128::from(UNITS) / u128::from(per_second);
        let share = burst_ns / u128::from(LEASED_PART) / workers.max(1) as u128;
        let most = LEASE_NS.min(LEASE_UNITS / per_second);
        let lease_ns = u64::try_from(share).map_or(most, |share| share.min(most)) as u32;
        let arrival_ns = AtomicU64::new(0);
        let line = match place {
            Some(place) => Line::Mapped { lease_ns, place },
            None if workers > 1 => Line::Shared { lease_ns, arrival_ns },
            None => Line::Alone { arrival_ns, spare: AtomicU64::new(0) },
        };
        Bucket {
            per_second: NonZeroU64::new(per_second).unwrap_or(NonZeroU64::MIN),
            reciprocal: u64::MAX / per_second,
            burst: rate.burst,
            burst_ns: u64::try_from(burst_ns).unwrap_or(u64::MAX),
            line,
        }
    }

    /// A bucket of another rate that has as many bits or packets still to arrive as this one.
    pub fn changed(&self, rate: Rate, workers: usize, now_ns: u64) -> Bucket {
        self.changed_at(rate, workers, now_ns, None)
    }

    /// The same, in a place that is shared with the XDP program.
    pub(super) fn changed_at(
        &self,
        rate: Rate,
        workers: usize,
        now_ns: u64,
        place: Option<Place>,
    ) -> Bucket {
        let bucket = Bucket::at(rate, workers, place);
        let word = self.line.word(now_ns, self.burst_ns);
        let ahead_ns = self.line.arrival_of(word, now_ns, self.burst_ns).saturating_sub(now_ns);
        let owed = u128::from(ahead_ns) * u128::from(self.per_second.get());
        let owed = owed.min(u128::from(bucket.burst) * u128::from(UNITS));
        let owed = owed.div_ceil(u128::from(bucket.per_second.get()));
        let owed = u64::try_from(owed).unwrap_or(u64::MAX);
        bucket.line.set_arrival(now_ns.saturating_add(owed));
        bucket
    }

    /// The rate.
    #[inline]
    pub fn rate(&self) -> Rate {
        Rate { per_second: self.per_second.get(), burst: self.burst }
    }

    /// Lets a cost of bits or packets pass, or not.
    #[inline]
    pub fn pass(&self, lease: &mut Lease, now_ns: u64, cost: u32) -> bool {
        if let Line::Alone { arrival_ns, spare } = &self.line {
            let (arrival, left) =
                (arrival_ns.load(Ordering::Relaxed), spare.load(Ordering::Relaxed));
            let (place, fits) = self.place_alone((arrival, left), now_ns, cost);
            // Two stores of what is chosen, and no branch: nobody can foretell who passes.
            arrival_ns.store(if fits { place.end_ns } else { arrival }, Ordering::Relaxed);
            spare.store(if fits { place.left } else { left }, Ordering::Relaxed);
            return fits;
        }
        let spent = self.spend(lease, now_ns, cost);
        *lease = spent.unwrap_or(*lease);
        spent.is_some()
    }

    /// What a lease is after a cost of bits or packets; `None` when the cost may not pass. Nothing
    /// is spent unless the caller gives it to [`Bucket::keep`].
    #[inline]
    pub fn spend(&self, lease: &mut Lease, now_ns: u64, cost: u32) -> Option<Lease> {
        if let Line::Alone { arrival_ns, spare } = &self.line {
            let alone = (arrival_ns.load(Ordering::Relaxed), spare.load(Ordering::Relaxed));
            let (Taken { end_ns, left: units }, fits) = self.place_alone(alone, now_ns, cost);
            return fits.then_some(Lease([Piece::default(), Piece { end_ns, units }]));
        }
        let [old, last] = lease.0;
        let valid = last.valid(now_ns, self.per_second.get());
        let ahead_ns = last.end_ns.saturating_sub(now_ns);
        match valid.units.checked_sub(u64::from(cost) * UNITS) {
            Some(units) if ahead_ns <= self.burst_ns => Some(Lease([old, Piece { units, ..last }])),
            _ => self.spend_more(lease, now_ns, cost),
        }
    }

    /// Spends what [`Bucket::spend`] said.
    #[inline]
    pub fn keep(&self, lease: &mut Lease, spent: Lease) {
        let Piece { end_ns, units } = spent.0[1];
        if let Line::Alone { arrival_ns, spare } = &self.line {
            arrival_ns.store(end_ns, Ordering::Relaxed);
            return spare.store(units, Ordering::Relaxed);
        }
        *lease = spent;
    }

    /// Where a cost comes if one worker has it all, and whether it may.
    #[inline]
    fn place_alone(&self, (arrival, spare): (u64, u64), now_ns: u64, cost: u32) -> (Taken, bool) {
        let spare = if arrival > now_ns { spare } else { 0 };
        let cost = u64::from(cost) * UNITS;
        let (need_ns, left) = self.time_of(cost.saturating_sub(spare));
        let end_ns = arrival.max(now_ns).saturating_add(need_ns);
        let place = Taken { end_ns, left: left + spare.saturating_sub(cost) };
        (place, self.fits(place, now_ns))
    }

    /// Whole nanoseconds that are worth so many units, less than 2^62, and what is left of the last
    /// one.
    #[inline]
    fn time_of(&self, units: u64) -> (u64, u64) {
        let rate = self.per_second.get();
        // The quotient, or one less: the product is short of it by less than units / 2^64.
        let below = ((u128::from(units) * u128::from(self.reciprocal)) >> 64) as u64;
        let rest = units - below * rate;
        let more = u64::from(rest > 0) + u64::from(rest > rate);
        (below + more, more * rate - rest)
    }

    /// True for a place that is not farther ahead of the clock than the burst.
    #[inline]
    fn fits(&self, Taken { end_ns, left }: Taken, now_ns: u64) -> bool {
        let ahead_ns = end_ns - now_ns;
        let rate = self.per_second.get();
        // The units of the burst beyond its whole nanoseconds: fewer than those of one, so that the
        // difference is right although its terms may not be.
        let beyond = self.burst.wrapping_mul(UNITS).wrapping_sub(self.burst_ns.wrapping_mul(rate));
        let is_next = ahead_ns.wrapping_sub(self.burst_ns) == 1;
        (ahead_ns <= self.burst_ns) | (is_next & (beyond.saturating_add(left) >= rate))
    }

    /// Spends what the lease has not.
    #[inline(never)]
    fn spend_more(&self, lease: &mut Lease, now_ns: u64, cost: u32) -> Option<Lease> {
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

    /// The lease after a cost that it can bear.
    #[inline]
    fn plan(&self, lease: Lease, now_ns: u64, cost: u32) -> Option<Lease> {
        let cost = u64::from(cost) * UNITS;
        let rate = self.per_second.get();
        let [old, last] = lease.0.map(|piece| piece.valid(now_ns, rate));
        let from_old = cost.min(old.units);
        let left = last.units.checked_sub(cost - from_old)?;
        let old = Piece { units: old.units - from_old, ..old };
        let last = Piece { units: left, ..last };
        let bears = if from_old == cost { old } else { last };
        // The last unit of the cost is before those that are left.
        let (whole, part) = (bears.units / rate, bears.units % rate);
        let end_ns = bears.end_ns.saturating_sub(whole).max(now_ns);
        self.fits(Taken { end_ns, left: part }, now_ns).then_some(Lease([old, last]))
    }

    /// Takes what a cost needs beyond the lease, and more if there is enough.
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
        let rate = self.per_second.get();
        let (need_ns, left) = self.time_of(missing);
        let lease_ns = self.line.lease_ns();
        let mut word = self.line.word(now_ns, self.burst_ns);
        loop {
            let from = self.line.arrival_of(word, now_ns, self.burst_ns).max(now_ns);
            let end_ns = from.checked_add(need_ns)?;
            if !self.fits(Taken { end_ns, left }, now_ns) {
                return None;
            }
            // Near the end of the burst a lease is what is needed, and no more.
            let is_far = from - now_ns + lease_ns <= self.burst_ns;
            let taken = if is_far { need_ns.max(lease_ns) } else { need_ns };
            let end_ns = from.checked_add(taken)?;
            let piece = Piece { end_ns, units: taken * rate };
            match self.line.move_arrival(word, end_ns) {
                Ok(()) => {
                    self.line.close(end_ns - now_ns, self.burst_ns);
                    return Some((from, piece));
                }
                Err(other) => word = other,
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
        let departure = |end_ns: u64| {
            let departure = end_ns.saturating_sub(self.burst_ns).max(now_ns);
            (departure <= latest_ns).then_some(departure)
        };
        if let Some(units) = kept.units.checked_sub(cost) {
            let departure = departure(kept.end_ns)?;
            *lease = Lease([Piece::default(), Piece { units, ..kept }]);
            return Some(departure);
        }
        let (need_ns, units) = self.time_of(cost - kept.units);
        let mut word = self.line.word(now_ns, self.burst_ns);
        loop {
            let end_ns = self
                .line
                .arrival_of(word, now_ns, self.burst_ns)
                .max(now_ns)
                .checked_add(need_ns)?;
            let departure = departure(end_ns)?;
            match self.line.move_arrival(word, end_ns) {
                Ok(()) => {
                    self.line.close(end_ns - now_ns, self.burst_ns);
                    *lease = Lease([Piece::default(), Piece { end_ns, units }]);
                    return Some(departure);
                }
                Err(other) => word = other,
            }
        }
    }
}
