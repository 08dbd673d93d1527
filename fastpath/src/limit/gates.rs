//! Limits that the XDP program keeps together with the workers (see [`crate::offload`]): in memory
//! of a BPF map, a row for each direction of an endpoint, with up to three rates.
//!
//! Of each rate both take from one word, the arrival of [`super::Bucket`], in 1024ths of a
//! nanosecond, without the bits that do not fit. The program multiplies a packet's bytes by what
//! one of them costs, in fractions of that, and rounds up: a packet costs what is exact, or less
//! than 2^-10 ns and 2^-24 ns a byte more, which at 40 Gbit/s is less than 0.01 % of 60 bytes. It
//! never costs less.
//!
//! To ask the clock for each packet would take as long as all the rest. So while there is plenty of
//! the burst left, which the row says by [`layout::OPEN`], the program lets packets pass on credit:
//! one part in 2^[`CREDIT_SHIFT`] of the burst is owed at most, before somebody asks the clock and
//! books it as if all had come just then. A row is open only if what may be owed fits in the burst,
//! so no more passes than that; only of two who take at the same time one may not know yet that it
//! is not. What time brought back meanwhile is lost if the burst was whole, so after a pause it may
//! be less by that part.

use super::bucket::{RATE_MAX, Rate};
use super::endpoint::WayLimits;
use crate::sys::bpf::{Map, MappedArray};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Rows; the first one is nobody's. Each of the most ports that take part in offload has two, and
/// as many again while limits change.
const ROWS: u32 = 4 * 4096;
/// Bits of an arrival below the nanosecond.
pub(crate) const FRACTION: u32 = 10;
/// Bits of a cost below that.
pub(crate) const FINER: u32 = 14;
/// An arrival that is farther ahead than the burst and this, as a power of two of its units, has
/// passed long ago: what waits does so for 25 ms at most, and clocks differ by less.
pub(crate) const SLACK: u32 = 40;
/// Part of a burst that may be owed, as a power of two.
pub(crate) const CREDIT_SHIFT: u32 = 6;
/// No packet has so many bytes.
const BYTES_MAX: u64 = 1 << 17;
/// No burst that is worth so much time, in units of the arrival, is shared with the program.
const BURST_MAX: u128 = 1 << 60;

/// Where things are in a row, in words of 8 bytes. One line of the cache has what a limit of bits
/// alone needs.
pub(crate) mod layout {
    /// Words of a row.
    pub(crate) const WORDS: usize = 16;
    /// Words of a rate, from its first one on: the arrival,
    pub(crate) const ARRIVAL: usize = 0;
    /// what a byte or packet costs,
    pub(crate) const COST: usize = 1;
    /// and how far ahead of the clock the arrival may be.
    pub(crate) const BURST: usize = 2;
    /// First word of the rate of bits.
    pub(crate) const BITS: usize = 0;
    /// Packets that wait for their time at workers.
    pub(crate) const WAITING: usize = 3;
    /// Flags.
    pub(crate) const FLAGS: usize = 4;
    /// What the program let pass of the rate of bits and did not book yet, as it is booked; less
    /// than nothing if more of it was given back.
    pub(crate) const OWED: usize = 5;
    /// Packets that the program let pass here, and dropped because of another row; their bytes.
    pub(crate) const LOST: [usize; 2] = [6, 7];
    /// First word of the rate of packets.
    pub(crate) const PACKETS: usize = 8;
    /// First word of the peak rate of bits.
    pub(crate) const PEAK: usize = 11;
    /// Packets that the program dropped because of bits, and because of packets.
    pub(crate) const DROPPED: [usize; 2] = [14, 15];

    /// Flag: it has a rate of bits.
    pub(crate) const HAS_BITS: i32 = 1;
    /// Flag: it has a rate of packets.
    pub(crate) const HAS_PACKETS: i32 = 2;
    /// Flag: it has a peak rate.
    pub(crate) const HAS_PEAK: i32 = 4;
    /// Flag: what is beyond the bits waits, at a worker.
    pub(crate) const SHAPED: i32 = 8;
    /// Flag, which the program sets: it lets packets pass on credit.
    pub(crate) const OPEN: i32 = 16;
}

/// The rows, and which of them are free.
#[derive(Debug)]
pub struct Gates {
    rows: MappedArray,
    free: Mutex<VecDeque<u16>>,
}

/// A row of one direction of an endpoint; free again when dropped.
#[derive(Debug)]
pub(crate) struct Row {
    gates: Arc<Gates>,
    number: u16,
}

/// One rate of a row.
#[derive(Debug, Clone)]
pub(super) struct Place {
    row: Arc<Row>,
    rate: u8,
}

/// What the program did at a row since somebody asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Packets dropped because of bits, and because of packets.
    pub(crate) dropped: [u64; 2],
    /// Packets that passed here and were dropped because of another row, and their bytes.
    pub(crate) lost: [u64; 2],
}

/// A packet that waits at a worker for its time, as the program is told of it until this is
/// dropped.
#[derive(Debug)]
pub struct Queued(Arc<Row>);

impl Gates {
    pub(crate) fn new() -> io::Result<Arc<Gates>> {
        let rows = MappedArray::new("limits", ROWS, layout::WORDS)?;
        let free = (1..ROWS as u16).collect();
        Ok(Arc::new(Gates { rows, free: Mutex::new(free) }))
    }

    /// The map, for a program.
    pub(crate) fn map(&self) -> &Map {
        self.rows.map()
    }

    /// A row for a direction with these limits; `None` if there is none left, or a rate is too slow
    /// or a burst too long for the program's arithmetic: about 1 kbit/s, and a fortnight.
    pub(super) fn open(self: &Arc<Self>, wanted: WayLimits) -> Option<Arc<Row>> {
        let rates = wanted.rates;
        let is_shaped = wanted.shaped && rates.bits.is_some();
        let of = [
            (layout::BITS, layout::HAS_BITS, rates.bits, 8),
            (layout::PACKETS, layout::HAS_PACKETS, rates.packets, 1),
            (layout::PEAK, layout::HAS_PEAK, rates.peak, 8),
        ];
        let mut words = [0; layout::WORDS];
        words[layout::FLAGS] = if is_shaped { layout::SHAPED as u64 } else { 0 };
        for (at, flag, rate, units) in of {
            let Some(rate) = rate else { continue };
            words[at + layout::COST] = cost(rate, units)?;
            words[at + layout::BURST] = burst(rate)?;
            words[layout::FLAGS] |= flag as u64;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let number = free.pop_front()?;
        for (at, word) in words.into_iter().enumerate() {
            self.rows.word(number.into(), at).store(word, Ordering::Relaxed);
        }
        Some(Arc::new(Row { gates: self.clone(), number }))
    }
}

/// What a byte of `units` bits, or a packet, costs, rounded up.
fn cost(rate: Rate, units: u64) -> Option<u64> {
    let per_second = u128::from(rate.per_second.clamp(1, RATE_MAX));
    let cost = (u128::from(units * 1_000_000_000) << (FRACTION + FINER)).div_ceil(per_second);
    let most = if units > 1 { u64::MAX / BYTES_MAX } else { 1 << 62 };
    u64::try_from(cost).ok().filter(|cost| *cost < most)
}

/// The burst as time, rounded down.
fn burst(rate: Rate) -> Option<u64> {
    let per_second = u128::from(rate.per_second.clamp(1, RATE_MAX));
    let burst = ((u128::from(rate.burst) * 1_000_000_000) << FRACTION) / per_second;
    (burst < BURST_MAX).then_some(burst as u64)
}

/// The word that says an arrival.
pub(super) const fn word(at_ns: u64) -> u64 {
    at_ns << FRACTION
}

/// The arrival that a word says, in whole nanoseconds, rounded up; now if it has passed.
#[inline]
pub(super) fn arrival_ns(arrival: u64, now_ns: u64, burst_ns: u64) -> u64 {
    let ahead = arrival.wrapping_sub(word(now_ns));
    let is_ahead = is_ahead(arrival, now_ns, burst_ns);
    now_ns + if is_ahead { ahead.div_ceil(1 << FRACTION) } else { 0 }
}

/// True unless the arrival that a word says has passed.
#[inline]
fn is_ahead(arrival: u64, now_ns: u64, burst_ns: u64) -> bool {
    arrival.wrapping_sub(word(now_ns)) <= word(burst_ns + 1) + (1 << SLACK)
}

impl Row {
    /// Which one.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// The rate whose first word this is.
    pub(super) fn place(self: &Arc<Self>, rate: usize) -> Place {
        Place { row: self.clone(), rate: rate as u8 }
    }

    /// A word of it.
    #[inline]
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        self.gates.rows.word(self.number.into(), at)
    }

    /// A packet begins to wait.
    pub(super) fn queue(self: &Arc<Self>) -> Queued {
        self.word(layout::WAITING).fetch_add(1, Ordering::SeqCst);
        Queued(self.clone())
    }

    /// Takes what the program has counted.
    pub(crate) fn take_news(&self) -> News {
        let take = |at: usize| match self.word(at).load(Ordering::Relaxed) {
            0 => 0,
            _ => self.word(at).swap(0, Ordering::Relaxed),
        };
        News { dropped: layout::DROPPED.map(take), lost: layout::LOST.map(take) }
    }

    /// Packets that wait at workers.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> u64 {
        self.word(layout::WAITING).load(Ordering::SeqCst)
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        // Last in the list: a program that is just running may use it.
        let mut free = self.gates.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push_back(self.number);
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.word(layout::WAITING).fetch_sub(1, Ordering::SeqCst);
    }
}

impl Place {
    /// The arrival.
    #[inline]
    pub(super) fn word(&self) -> &AtomicU64 {
        self.row.word(usize::from(self.rate) + layout::ARRIVAL)
    }

    /// Books what the program let pass on credit.
    #[inline]
    pub(super) fn settle(&self, now_ns: u64, burst_ns: u64) {
        let owed = self.row.word(layout::OWED);
        if usize::from(self.rate) == layout::BITS && owed.load(Ordering::Relaxed) != 0 {
            self.book(owed.swap(0, Ordering::Relaxed), now_ns, burst_ns);
        }
    }

    #[cold]
    fn book(&self, owed: u64, now_ns: u64, burst_ns: u64) {
        let arrival = self.word();
        let mut word = arrival.load(Ordering::Relaxed);
        loop {
            let from = if is_ahead(word, now_ns, burst_ns) { word } else { self::word(now_ns) };
            let to = from.wrapping_add(owed);
            match arrival.compare_exchange(word, to, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => word = other,
            }
        }
    }

    /// The arrival is so far ahead of the clock now: less credit than the program may give keeps it
    /// from giving any.
    #[inline]
    pub(super) fn close(&self, ahead_ns: u64, burst_ns: u64) {
        let flags = self.row.word(layout::FLAGS);
        let is_near = ahead_ns + (burst_ns >> CREDIT_SHIFT) >= burst_ns;
        if is_near && flags.load(Ordering::Relaxed) & layout::OPEN as u64 != 0 {
            flags.fetch_and(!(layout::OPEN as u64), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_rounded_up_by_less_than_is_told() {
        for per_second in [1000, 64_000, 1_000_000_007, 40_000_000_000, 1_000_000_000_000] {
            let rate = Rate { per_second, burst: 12_112 };
            for bytes in [60, 61, 1514, 9014, 65_549] {
                let cost = (bytes * cost(rate, 8).unwrap()).div_ceil(1 << FINER);
                let exact = (bytes as f64) * 8e9 * 1024.0 / per_second as f64;
                assert!(cost as f64 >= exact * (1.0 - 1e-12), "{bytes} bytes at {per_second}");
                let most = exact * (1.0 + 1e-12) + 1.0 + bytes as f64 / f64::from(1 << FINER);
                assert!(cost as f64 <= most, "{bytes} bytes at {per_second}: {cost}, {exact}");
            }
        }
        assert_eq!(cost(Rate { per_second: 900, burst: 0 }, 8), None);
        assert!(cost(Rate { per_second: 1, burst: 0 }, 1).is_some());
        assert_eq!(burst(Rate { per_second: 1, burst: 1 << 40 }), None);
    }

    #[test]
    fn an_arrival_is_ahead_passed_or_forgotten() {
        let now_ns = 1 << 60;
        let ahead = |units: u64| word(now_ns).wrapping_add(units);
        assert_eq!(arrival_ns(ahead(1), now_ns, 5), now_ns + 1, "rounded up");
        assert_eq!(arrival_ns(ahead(1 << 30), now_ns, 5), now_ns + (1 << 20));
        assert_eq!(arrival_ns(ahead(u64::MAX), now_ns, 5), now_ns, "just passed");
        assert_eq!(arrival_ns(ahead(1 << 63), now_ns, 5), now_ns, "passed long ago");
        assert_eq!(arrival_ns(ahead(1 << 50), now_ns, 5), now_ns, "so far ahead it cannot be");
        assert_eq!(arrival_ns(ahead(1 << 50), now_ns, 1 << 41), now_ns + (1 << 40));
    }
}
