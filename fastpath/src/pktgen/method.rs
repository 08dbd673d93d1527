//! Methods of benchmarks: which trials to run, and what follows from them.
//!
//! Throughput (RFC 2544 26.1) is the highest rate at which no frame is lost, or no more than a
//! given share. Back-to-back frames (RFC 9004) is the longest burst at the generator's full rate of
//! which none is lost. Nothing here sends: a trial is run by the caller, so that tests can give a
//! simulated router.

use std::time::Duration;

/// Most trials of one search: a bisection of 2^32 rates with repeats has less.
pub const MAX_TRIALS: usize = 200;
/// A rate of which a lesser share was sent was not kept: higher ones cannot be tried.
const KEPT: f64 = 0.98;
/// Rates that are confirmed at full length, each lower than the one before.
const CONFIRMATIONS: u32 = 8;
/// The burst that a search begins with.
const FIRST_BURST: u64 = 64;

/// What to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// Frames a second; `None` for as many as the generator makes.
    pub per_second: Option<u64>,
    /// Most frames.
    pub frames: Option<u64>,
    /// How long.
    pub time: Duration,
}

/// What came of a trial.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Frames.
    pub sent: u64,
    /// Frames of these that arrived.
    pub received: u64,
    /// From the first to the last frame sent.
    pub time: Duration,
}

impl Outcome {
    /// Frames a second that were sent.
    pub fn offered(&self) -> f64 {
        self.rate(self.sent)
    }

    /// Frames of each second of sending that arrived.
    pub fn forwarded(&self) -> f64 {
        self.rate(self.received)
    }

    fn rate(&self, frames: u64) -> f64 {
        if self.time.is_zero() { 0.0 } else { frames as f64 / self.time.as_secs_f64() }
    }

    /// The share that did not arrive, 0 to 1.
    pub fn loss(&self) -> f64 {
        self.sent.saturating_sub(self.received) as f64 / self.sent.max(1) as f64
    }
}

/// A trial that was run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tried {
    /// What was asked for.
    pub trial: Trial,
    /// What came of it.
    pub outcome: Outcome,
    /// No more was lost than allowed, of what was sent: that may have been less than asked for.
    pub passed: bool,
}

impl Tried {
    fn was_kept(&self) -> bool {
        let kept = |rate: u64| self.outcome.offered() >= rate as f64 * KEPT;
        self.trial.per_second.is_none_or(kept)
    }

    /// The rate that the trial was of.
    fn rate(&self) -> u64 {
        let offered = self.outcome.offered() as u64;
        self.trial.per_second.filter(|_| self.was_kept()).unwrap_or(offered)
    }
}

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    /// Highest rate to try, in frames a second; `None` for what the generator makes.
    pub most: Option<u64>,
    /// The share of frames that may be lost, 0 to 1; RFC 2544's throughput has 0.
    pub loss: f64,
    /// How near the answer is to be, as a share of it.
    pub precision: f64,
    /// Length of a trial while searching.
    pub short: Duration,
    /// Length of the trial that confirms the answer.
    pub full: Duration,
    /// Trials of a rate before it counts as too high: on a machine that others disturb, one that
    /// lost frames says little.
    pub attempts: u32,
}

/// What a search for throughput found.
#[derive(Debug, Clone, PartialEq)]
pub struct Throughput {
    /// The trial of the highest rate that passed at full length; `None` if none did.
    pub best: Option<Outcome>,
    /// The generator at full speed was not too fast: the router may do more.
    pub generator_bound: bool,
    /// All trials in order. The first is at the highest rate.
    pub trials: Vec<Tried>,
}

impl Throughput {
    /// The first trial: what was offered and forwarded at most (RFC 2285 3.6.2).
    pub fn at_most(&self) -> Option<Outcome> {
        self.trials.first().map(|tried| tried.outcome)
    }
}

/// Runs trials and keeps them.
struct Runner<'a, F> {
    search: &'a Search,
    run: &'a mut F,
    trials: Vec<Tried>,
}

impl<E, F: FnMut(Trial) -> Result<Outcome, E>> Runner<'_, F> {
    fn may_go_on(&self) -> bool {
        self.trials.len() < MAX_TRIALS
    }

    fn once(&mut self, trial: Trial) -> Result<Tried, E> {
        let outcome = (self.run)(trial)?;
        let passed = outcome.sent > 0 && outcome.loss() <= self.search.loss;
        let tried = Tried { trial, outcome, passed };
        self.trials.push(tried);
        Ok(tried)
    }

    /// The first attempt that passes, or the last.
    fn several(&mut self, trial: Trial) -> Result<Tried, E> {
        let mut tried = self.once(trial)?;
        for _ in 1..self.search.attempts {
            if tried.passed || !self.may_go_on() {
                break;
            }
            tried = self.once(trial)?;
        }
        Ok(tried)
    }

    fn at(&mut self, per_second: Option<u64>, time: Duration) -> Result<Tried, E> {
        self.several(Trial { per_second, frames: None, time })
    }

    /// A rate that passed, or 0, less than the precision below one that did not.
    fn bisect(&mut self, top: u64, guess: u64) -> Result<u64, E> {
        let (mut low, mut high, mut guess) = (0, top, Some(guess));
        while self.may_go_on() && (high - low) as f64 > (high as f64 * self.search.precision) {
            let middle = low + (high - low) / 2;
            let next = guess.take().filter(|rate| (low + 1..high).contains(rate)).unwrap_or(middle);
            if next == low {
                break;
            }
            let tried = self.at(Some(next), self.search.short)?;
            if tried.passed {
                low = low.max(tried.rate());
            }
            if !tried.passed || !tried.was_kept() {
                high = next.max(low);
            }
        }
        Ok(low)
    }

    /// The highest rate, of some from `rate` down (`None` is all that can be sent), that passes at
    /// full length. The search has had such a trial already if its own were not shorter.
    fn confirm(&mut self, mut rate: Option<u64>) -> Result<Option<Outcome>, E> {
        if self.search.full <= self.search.short {
            let passed = self.trials.iter().filter(|tried| tried.passed).map(|it| it.outcome);
            return Ok(passed.max_by(|one, other| one.offered().total_cmp(&other.offered())));
        }
        for step in 0..CONFIRMATIONS {
            if rate == Some(0) || !self.may_go_on() {
                break;
            }
            let tried = self.at(rate, self.search.full)?;
            if tried.passed {
                return Ok(Some(tried.outcome));
            }
            let rate_now = tried.rate();
            let share = (self.search.precision * f64::from(1u32 << step)).min(0.5);
            let less = rate_now.saturating_sub(((rate_now as f64 * share) as u64).max(1));
            // What came through in so long a time, a buffer's share included, is not far off.
            rate = Some(less.min(tried.outcome.forwarded() as u64));
        }
        Ok(None)
    }
}

/// The highest rate that a router forwards without losing more than allowed.
pub fn throughput<E>(
    search: &Search,
    run: &mut impl FnMut(Trial) -> Result<Outcome, E>,
) -> Result<Throughput, E> {
    let mut runner = Runner { search, run, trials: Vec::new() };
    let first = Trial { per_second: search.most, frames: None, time: search.short };
    let first = runner.once(first)?;
    let top = first.outcome.offered() as u64;
    let rate = match first.passed {
        true => search.most,
        false => Some(runner.bisect(top, first.outcome.forwarded() as u64)?),
    };
    let best = runner.confirm(rate)?;
    Ok(Throughput { best, generator_bound: first.passed, trials: runner.trials })
}

/// How to look for the longest burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bursts {
    /// Longest burst to try, in frames (RFC 2544 26.4: two seconds' worth).
    pub most: u64,
    /// Times that the search is repeated (RFC 9004 5: its average is the answer).
    pub repeats: u32,
    /// Frames between the answer and a burst that is too long, as a share of the answer in 1,000.
    pub precision: u32,
}

/// Bursts that were found.
#[derive(Debug, Clone, PartialEq)]
pub struct BackToBack {
    /// The longest burst without loss of each search, in frames.
    pub bursts: Vec<u64>,
    /// The rate that all bursts together were sent at, in frames a second.
    pub per_second: f64,
    /// Not even the longest burst lost any, and the search ended there: the router keeps up, and
    /// this says nothing of its buffers (RFC 9004 4).
    pub unbounded: bool,
}

impl BackToBack {
    /// Average, in frames.
    pub fn mean(&self) -> f64 {
        self.bursts.iter().sum::<u64>() as f64 / self.bursts.len().max(1) as f64
    }

    /// Standard deviation of the searches, in frames.
    pub fn deviation(&self) -> f64 {
        let mean = self.mean();
        let squares = self.bursts.iter().map(|burst| (*burst as f64 - mean).powi(2));
        (squares.sum::<f64>() / self.bursts.len().max(1) as f64).sqrt()
    }

    /// The time that the router's buffer bridges at the rate of the bursts, in seconds, once what
    /// it forwards meanwhile at its throughput (frames a second) is taken off (RFC 9004 6.4).
    pub fn buffer_time(&self, throughput: f64) -> f64 {
        if self.per_second <= 0.0 {
            return 0.0;
        }
        let implied = self.mean() / self.per_second;
        implied * (1.0 - (throughput / self.per_second).clamp(0.0, 1.0))
    }
}

/// The longest burst that a router forwards without loss.
pub fn back_to_back<E>(
    plan: &Bursts,
    run: &mut impl FnMut(Trial) -> Result<Outcome, E>,
) -> Result<BackToBack, E> {
    let mut found = BackToBack { bursts: Vec::new(), per_second: 0.0, unbounded: false };
    let (mut frames, mut seconds) = (0, 0.0);
    let time = Duration::from_secs(60);
    let mut whole = |length: u64| -> Result<bool, E> {
        let outcome = run(Trial { per_second: None, frames: Some(length), time })?;
        frames += outcome.sent;
        seconds += outcome.time.as_secs_f64();
        Ok(outcome.sent >= length && outcome.received >= outcome.sent)
    };
    'searches: for _ in 0..plan.repeats {
        let (mut low, mut high) = (0, FIRST_BURST.min(plan.most));
        while whole(high)? {
            low = high;
            if high == plan.most {
                found.unbounded = true;
                found.bursts.push(high);
                break 'searches;
            }
            high = (high * 2).min(plan.most);
        }
        while low < high && (high - low).saturating_mul(1000) > high * u64::from(plan.precision) {
            let middle = low + (high - low) / 2;
            if middle == low {
                break;
            }
            match whole(middle)? {
                true => low = middle,
                false => high = middle,
            }
        }
        found.bursts.push(low);
    }
    found.per_second = if seconds > 0.0 { frames as f64 / seconds } else { 0.0 };
    Ok(found)
}

#[cfg(test)]
mod tests;
