//! Times of a session: random shortening, so that sessions do not move in step (RFC 4271 section
//! 10), and the idle time after errors, which doubles.

/// Nanoseconds of a second.
pub const SECOND_NS: u64 = 1_000_000_000;

/// After so long without an error the next one counts as the first, as in BIRD.
pub const ERROR_AMNESIA_NS: u64 = 300 * SECOND_NS;

/// A seeded source of shortened times.
#[derive(Debug, Clone)]
pub(crate) struct Jitter {
    state: u64,
}

impl Jitter {
    pub(crate) fn new(seed: u64) -> Jitter {
        Jitter { state: seed }
    }

    /// The next number of the SplitMix64 sequence.
    pub(crate) fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.state;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    /// Something in `least..=most` percent of a time.
    pub(crate) fn percent_of(&mut self, time_ns: u64, least: u64, most: u64) -> u64 {
        let steps = 1024;
        let width = time_ns / 100 * (most - least) / steps;
        time_ns / 100 * least + width * (self.number() % (steps + 1))
    }

    /// 75 to 100 percent of a time in seconds: RFC 4271 section 10.
    pub(crate) fn shorten(&mut self, time_s: u64) -> u64 {
        self.percent_of(time_s * SECOND_NS, 75, 100)
    }
}

/// The idle time after errors.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    least_s: u64,
    most_s: u64,
    next_s: u64,
    last_error_ns: Option<u64>,
}

impl Backoff {
    pub(super) fn new((least_s, most_s): (u16, u16)) -> Backoff {
        let (least_s, most_s) = (u64::from(least_s), u64::from(most_s.max(least_s)));
        Backoff { least_s, most_s, next_s: least_s, last_error_ns: None }
    }

    /// How long to stay idle after this error, in seconds.
    pub(super) fn error(&mut self, now_ns: u64) -> u64 {
        let is_old = |last: u64| now_ns.saturating_sub(last) > ERROR_AMNESIA_NS;
        if self.last_error_ns.is_none_or(is_old) {
            self.next_s = self.least_s;
        }
        self.last_error_ns = Some(now_ns);
        let wait_s = self.next_s;
        self.next_s = (wait_s * 2).min(self.most_s);
        wait_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortened_times_are_75_to_100_percent() {
        let mut jitter = Jitter::new(7);
        let times: Vec<u64> = (0..1000).map(|_| jitter.shorten(100)).collect();
        let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!((75 * SECOND_NS..76 * SECOND_NS).contains(least), "{least}");
        assert!((99 * SECOND_NS..=100 * SECOND_NS).contains(most), "{most}");
    }

    #[test]
    fn the_wait_doubles_to_its_limit_and_forgets() {
        let mut backoff = Backoff::new((5, 30));
        let waits: Vec<u64> = (1..=5).map(|at| backoff.error(at * SECOND_NS)).collect();
        assert_eq!(waits, [5, 10, 20, 30, 30]);
        assert_eq!(backoff.error(305 * SECOND_NS), 30);
        assert_eq!(backoff.error(606 * SECOND_NS), 5);
    }
}
