//! What an endpoint's limits did in one direction, and how fast it is now.
//!
//! Workers add once a burst. The rate is that of the last whole window of a second; two workers
//! that end a window at once lose a burst of it, which only who looks can see.

use super::cost::Cost;
use super::excess::Excess;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The time over which a rate is measured, in nanoseconds.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// Totals of one direction of an endpoint.
#[derive(Debug, Default)]
pub struct Account {
    packets: AtomicU64,
    bytes: AtomicU64,
    /// By [`Excess`].
    dropped: [AtomicU64; Excess::ALL.len()],
    delayed: AtomicU64,
    waiting: AtomicU64,
    window_ns: AtomicU64,
    window_bytes: AtomicU64,
    bits_per_s: AtomicU64,
}

/// What one burst adds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    packets: u64,
    bytes: u64,
    dropped: [u64; Excess::ALL.len()],
    delayed: u64,
}

impl Tally {
    /// A packet passed.
    #[inline]
    pub fn pass(&mut self, cost: Cost) {
        self.packets += u64::from(cost.packets);
        self.bytes += u64::from(cost.bytes);
    }

    /// A packet waits, and will pass.
    #[inline]
    pub fn delay(&mut self, cost: Cost) {
        self.pass(cost);
        self.delayed += 1;
    }

    /// So many packets and bytes were let pass by the XDP program.
    pub(crate) fn carry(&mut self, packets: u64, bytes: u64) {
        self.packets += packets;
        self.bytes += bytes;
    }

    /// So many were dropped by it.
    pub(crate) fn lose(&mut self, excess: Excess, packets: u64) {
        self.dropped[excess as usize] += packets;
    }

    /// A packet was dropped.
    #[inline]
    pub fn drop(&mut self, excess: Excess) {
        self.dropped[excess as usize] += 1;
    }
}

/// Totals at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets that passed, as on the wire.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// Packets dropped, by [`Excess`].
    pub dropped: [u64; Excess::ALL.len()],
    /// Packets of those that passed which had to wait.
    pub delayed: u64,
    /// Packets that wait now.
    pub waiting: u64,
    /// Bits a second that passed lately.
    pub bits_per_s: u64,
}

impl Account {
    /// Adds a burst.
    pub fn add(&self, tally: &Tally, now_ns: u64) {
        self.packets.fetch_add(tally.packets, Relaxed);
        self.bytes.fetch_add(tally.bytes, Relaxed);
        for (total, count) in self.dropped.iter().zip(tally.dropped) {
            if count > 0 {
                total.fetch_add(count, Relaxed);
            }
        }
        if tally.delayed > 0 {
            self.delayed.fetch_add(tally.delayed, Relaxed);
            self.waiting.fetch_add(tally.delayed, Relaxed);
        }
        let begin = self.window_ns.load(Relaxed);
        if now_ns.saturating_sub(begin) >= WINDOW_NS {
            let bytes = self.window_bytes.swap(0, Relaxed);
            self.bits_per_s.store(rate(bytes, now_ns - begin), Relaxed);
            self.window_ns.store(now_ns, Relaxed);
        }
        self.window_bytes.fetch_add(tally.bytes, Relaxed);
    }

    /// A packet that waited has gone.
    #[inline]
    pub fn released(&self) {
        // Limits that are set anew did not count what waited under older ones.
        let _ = self.waiting.fetch_update(Relaxed, Relaxed, |waiting| waiting.checked_sub(1));
    }

    /// The totals now.
    pub fn totals(&self, now_ns: u64) -> Totals {
        let age_ns = now_ns.saturating_sub(self.window_ns.load(Relaxed));
        // Nobody has ended the window: nothing has come since.
        let is_old = age_ns >= 2 * WINDOW_NS;
        let bytes = self.window_bytes.load(Relaxed);
        Totals {
            packets: self.packets.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            dropped: std::array::from_fn(|at| self.dropped[at].load(Relaxed)),
            delayed: self.delayed.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            bits_per_s: if is_old { rate(bytes, age_ns) } else { self.bits_per_s.load(Relaxed) },
        }
    }
}

fn rate(bytes: u64, time_ns: u64) -> u64 {
    let bits = u128::from(bytes) * 8_000_000_000 / u128::from(time_ns.max(1));
    u64::try_from(bits).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_second_and_fades() {
        let account = Account::default();
        let mut tally = Tally::default();
        tally.pass(Cost::packet(1250));
        // 10,000 bits each millisecond.
        for at in 1000..=3000 {
            account.add(&tally, at * 1_000_000);
        }
        let totals = account.totals(3_000_000_000);
        assert_eq!((totals.bits_per_s, totals.packets), (10_000_000, 2001));
        assert_eq!(account.totals(4_900_000_000).bits_per_s, 10_000_000);
        assert_eq!(account.totals(1_003_000_000_000).bits_per_s, 10);
    }

    #[test]
    fn what_waits_is_counted_until_it_goes() {
        let (account, mut tally) = (Account::default(), Tally::default());
        tally.delay(Cost::packet(100));
        tally.delay(Cost::packet(100));
        tally.drop(Excess::Queue);
        account.add(&tally, 1);
        account.released();
        let totals = account.totals(1);
        assert_eq!((totals.delayed, totals.waiting, totals.packets), (2, 1, 2));
        assert_eq!(totals.dropped, [0, 0, 0, 1]);
    }
}
