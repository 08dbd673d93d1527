//! Two small judgements of an AF_XDP queue: how many frames to keep posted, and whether
//! transmission has stalled. Both go by what happened between two looks, and hold no clock.

use super::spec::FillLevels;

/// How many frames a queue keeps posted: few when idle, with traffic what comes in half the time
/// between two looks, and four times as many each time they run short; and those for some seconds,
/// since traffic that paused comes back in bursts. A worker that stands still for milliseconds, as
/// one on a virtual machine does now and then, loses what no frame was posted for.
#[derive(Debug)]
pub(super) struct Level {
    bounds: FillLevels,
    target: usize,
    received: usize,
    quiet_looks: u32,
}

impl Level {
    /// Looks with little traffic, one after the other, that let the level sink by half.
    const PATIENCE: u32 = 20;

    pub(super) fn new(bounds: FillLevels) -> Level {
        Level { bounds, target: bounds.idle, received: 0, quiet_looks: 0 }
    }

    /// How many frames to have posted when `held` still are; `None` while it is not worth while:
    /// each time that frames are posted writes to the kernel's cache lines.
    #[inline]
    pub(super) fn wanted(&mut self, held: usize, may_grow: bool) -> Option<usize> {
        if self.target < self.bounds.most && may_grow {
            if held * 2 < self.target {
                self.target = (self.target * 4).min(self.bounds.most);
            } else if self.received > self.target * 2 {
                self.target = (self.target * 2).min(self.bounds.most);
            }
        }
        (held + self.target.div_ceil(8) <= self.target).then_some(self.target)
    }

    /// Counts packets.
    #[inline]
    pub(super) fn count(&mut self, received: usize) {
        self.received += received;
    }

    /// A look: little traffic in many of them lets the level sink. What is posted already comes
    /// back with the packets to come.
    pub(super) fn look(&mut self) {
        let quiet = self.received * 8 < self.target;
        self.quiet_looks = if quiet { self.quiet_looks + 1 } else { 0 };
        if self.quiet_looks == Self::PATIENCE {
            self.target = (self.target / 2).max(self.bounds.idle);
            self.quiet_looks = 0;
        }
        self.received = 0;
    }
}

/// Notices when packets are under way and none is completed.
#[derive(Debug, Default)]
pub(super) struct Watchdog {
    idle_looks: u32,
}

impl Watchdog {
    /// Looks without a completion that count as a stall.
    pub(super) const PATIENCE: u32 = 10;

    /// A look; true when this one makes a stall.
    pub(super) fn look(&mut self, under_way: usize, completed: usize) -> bool {
        let idle = under_way > 0 && completed == 0;
        self.idle_looks = if idle { self.idle_looks + 1 } else { 0 };
        let stalled = self.idle_looks == Self::PATIENCE;
        if stalled {
            self.idle_looks = 0;
        }
        stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_grows_when_frames_run_short_and_sinks_in_quiet_times() {
        let mut level = Level::new(FillLevels { idle: 32, most: 200, share: 1 });
        assert_eq!(level.wanted(32, true), None);
        assert_eq!(level.wanted(29, true), None);
        assert_eq!(level.wanted(28, true), Some(32));
        assert_eq!(level.wanted(16, true), Some(32));
        assert_eq!(level.wanted(15, false), Some(32));
        assert_eq!(level.wanted(15, true), Some(128));
        assert_eq!([level.wanted(0, true), level.wanted(0, true)], [Some(200), Some(200)]);
        let looks = |level: &mut Level, received, count| {
            for _ in 0..count {
                level.count(received);
                level.look();
            }
            level.wanted(0, false)
        };
        assert_eq!(looks(&mut level, 25, 3 * Level::PATIENCE), Some(200));
        assert_eq!(looks(&mut level, 24, Level::PATIENCE - 1), Some(200));
        assert_eq!(looks(&mut level, 25, 1), Some(200), "traffic begins the count anew");
        assert_eq!(looks(&mut level, 24, Level::PATIENCE), Some(100));
        assert_eq!(looks(&mut level, 0, 5 * Level::PATIENCE), Some(32));
    }

    #[test]
    fn the_level_follows_steady_traffic_that_never_runs_short() {
        let mut level = Level::new(FillLevels { idle: 32, most: 512, share: 1 });
        let (mut held, mut posted) = (32, vec![32]);
        for _ in 0..2000 {
            level.count(1);
            held -= 1;
            if let Some(target) = level.wanted(held, true) {
                held = target;
                posted.push(target);
            }
        }
        posted.dedup();
        assert_eq!(posted, [32, 64, 128, 256, 512]);
        let mut level = Level::new(FillLevels { idle: 32, most: 512, share: 1 });
        for _ in 0..10 {
            level.count(64);
            assert_eq!(level.wanted(16, true), Some(32));
            level.look();
        }
        level.count(65);
        assert_eq!(level.wanted(16, false), Some(32));
        assert_eq!(level.wanted(16, true), Some(64));
    }

    #[test]
    fn a_stall_is_ten_looks_with_packets_under_way_and_none_completed() {
        let mut dog = Watchdog::default();
        let mut looks = |under_way, completed, count| {
            (0..count).filter(|_| dog.look(under_way, completed)).count()
        };
        assert_eq!(looks(0, 0, 100), 0);
        assert_eq!(looks(5, 0, 9), 0);
        assert_eq!(looks(5, 1, 1), 0);
        assert_eq!(looks(5, 0, 9), 0);
        assert_eq!(looks(5, 0, 1), 1);
        assert_eq!(looks(5, 0, 20), 2);
    }
}
