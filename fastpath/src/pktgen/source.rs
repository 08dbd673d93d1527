//! What sends frames: how fast, how many, and how it went.

use std::io;
use std::time::Duration;

/// Fractions of a nanosecond that a pace is kept in.
pub(super) const FRACTION_LOG2: u32 = 10;
/// Longest time that is made up for, which still fits with its fractions.
const MAX_LAG: Duration = Duration::from_secs(3600);

/// How much is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Frames a second; `None` for as many as the core makes.
    pub per_second: Option<u64>,
    /// Most frames in all.
    pub limit: Option<u64>,
    /// How far sending may lag behind its rate and make up for it at full speed, up to an hour;
    /// what was not sent in a longer stop is given up.
    pub catch_up: Duration,
}

impl Default for Pace {
    /// Without rate and limit; what is lost in up to 200 ms is made up for.
    fn default() -> Pace {
        Pace { per_second: None, limit: None, catch_up: Duration::from_millis(200) }
    }
}

impl Pace {
    /// Between two frames, in fractions of a nanosecond; 0 for no pace.
    pub(super) fn interval(self) -> u64 {
        let second = 1_000_000_000u64 << FRACTION_LOG2;
        self.per_second.map_or(0, |rate| second.div_ceil(rate.max(1)))
    }

    /// What may be made up for, in fractions of a nanosecond.
    pub(super) fn lag(self) -> u64 {
        (self.catch_up.min(MAX_LAG).as_nanos() as u64) << FRACTION_LOG2
    }
}

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Frames. Some of them a device may have dropped before they were on the wire.
    pub packets: u64,
    /// From the first to the last.
    pub time: Duration,
}

/// Sends frames out of a device.
pub trait Source {
    /// Sends for a time, or until `stop` says so or the limit is reached. Sequence numbers go on
    /// where the last sending ended.
    fn send(
        &mut self,
        pace: Pace,
        time: Duration,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> io::Result<Sent>;
}

/// Says how many frames are due.
#[derive(Debug)]
pub(super) struct Pacer {
    interval: u64,
    lag: u64,
    departure: u64,
}

impl Pacer {
    pub(super) fn new(pace: Pace) -> Pacer {
        Pacer { interval: pace.interval(), lag: pace.lag(), departure: 0 }
    }

    /// Frames that are due at `now_ns`, `most` at most. They count as sent.
    pub(super) fn take_due(&mut self, now_ns: u64, most: usize) -> usize {
        if self.interval == 0 {
            return most;
        }
        let now = now_ns << FRACTION_LOG2;
        if now < self.departure {
            return 0;
        }
        if now - self.departure > self.lag {
            self.departure = now;
        }
        let due = (((now - self.departure) / self.interval) as usize).saturating_add(1).min(most);
        self.departure += due as u64 * self.interval;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pacer(per_second: u64, catch_up: Duration) -> Pacer {
        Pacer::new(Pace { per_second: Some(per_second), limit: None, catch_up })
    }

    /// Frame by frame, as the program in the kernel does it.
    fn one_by_one(pace: &mut Pacer, now_ns: u64, most: usize) -> usize {
        (0..most).take_while(|_| pace.take_due(now_ns, 1) == 1).count()
    }

    proptest! {
        #[test]
        fn a_burst_is_what_frames_one_by_one_would_be(
            per_second in 1u64..100_000_000,
            lag_us in 0u64..10_000,
            steps in prop::collection::vec((0u64..3_000_000, 1usize..64), 1..60),
        ) {
            let catch_up = Duration::from_micros(lag_us);
            let (mut fast, mut slow) = (pacer(per_second, catch_up), pacer(per_second, catch_up));
            let mut now_ns = 1 << 40;
            for (step, most) in steps {
                now_ns += step;
                let due = fast.take_due(now_ns, most);
                prop_assert_eq!(due, one_by_one(&mut slow, now_ns, most));
                prop_assert_eq!(fast.departure, slow.departure);
            }
        }

        #[test]
        fn the_rate_is_kept_and_never_exceeded(per_second in 1_000u64..50_000_000) {
            let mut pacer = pacer(per_second, Duration::from_millis(1));
            let steps = 20_000u64;
            let sent: usize = (0..steps).map(|at| pacer.take_due((1 << 40) + at * 1000, 64)).sum();
            let due = per_second as f64 * steps as f64 / 1e6;
            prop_assert!((sent as f64) <= due + 1.0, "{sent} of {due}");
            prop_assert!(sent as f64 >= due * 0.999 - 2.0, "{sent} of {due}");
        }
    }

    #[test]
    fn a_long_stop_is_not_made_up_for() {
        let mut pacer = pacer(1_000_000, Duration::from_micros(10));
        assert_eq!(pacer.take_due(1 << 40, 64), 1);
        assert_eq!(pacer.take_due((1 << 40) + 9_000, 64), 9);
        assert_eq!(pacer.take_due((1 << 40) + 5_000_000, 64), 1);
        let mut unpaced = Pacer::new(Pace::default());
        assert_eq!(unpaced.take_due(0, 64), 64);
    }
}
