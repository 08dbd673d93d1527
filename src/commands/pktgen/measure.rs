//! Measuring a router between two devices: the flags, the trials, and which method follows which.

use super::measured::{Burst, Delay, Measured, Rate};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use margay_fastpath::pktgen::method::{self, Bursts, Outcome, Search, Throughput, Trial};
use margay_fastpath::pktgen::{Pace, Receiver, Source};
use margay_fastpath::sys::bpf::AttachMode;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a trial's rate may make up for at full speed: fewer frames than any ring has places.
const CATCH_UP: Duration = Duration::from_micros(100);
/// How long frames may be under way (RFC 2544 23 c); no longer than the rest that is asked for.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// The same after a burst: as long as nothing has come for this time.
const BURST_QUIET: Duration = Duration::from_millis(200);
const NAP: Duration = Duration::from_millis(5);
/// The learning frames' rate, and how many there are at least (RFC 2544 23 a).
const LEARNING: u64 = 100_000;
const LEARNING_FRAMES: u64 = 1000;
/// Longest burst: two seconds' worth of frames (RFC 2544 26.4).
const BURST_SECONDS: f64 = 2.0;
/// Frames between a burst that passes and one that does not, of 1,000.
const BURST_PRECISION: u32 = 10;

/// A figure to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Figure {
    /// The highest rate with no more loss than --loss (RFC 2544 26.1)
    Throughput,
    /// What is forwarded of as much as can be sent (RFC 2285 3.6.2)
    Maximum,
    /// The longest burst at full speed that loses nothing (RFC 9004)
    BackToBack,
    /// How long packets take at a load (RFC 2544 26.2), of all packets
    Latency,
}

/// The flags of a measurement.
#[derive(Debug, Args)]
pub(super) struct Measuring {
    /// Measure the router between --port and --sink
    #[arg(long, value_enum, value_name = "FIGURE", value_delimiter = ',', requires = "sink",
        conflicts_with_all = ["pcap", "count"])]
    measure: Vec<Figure>,
    /// The device that packets come back by
    #[arg(long, value_name = "DEV", requires = "measure")]
    sink: Option<String>,
    /// The network namespace of that device: a name of `ip netns`, or a file
    #[arg(long, value_name = "NETNS", requires = "sink")]
    sink_netns: Option<PathBuf>,
    /// Percentage of packets that may be lost at the throughput
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percent,
        requires = "measure")]
    loss: f64,
    /// How near the throughput is to be found, in percent of it
    #[arg(long, value_name = "PERCENT", default_value_t = 1.0, value_parser = positive_percent,
        requires = "measure")]
    precision: f64,
    /// Seconds of a trial while searching; --time is that of the one that confirms (RFC 2544: 60)
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = super::seconds,
        requires = "measure")]
    trial: f64,
    /// Seconds of rest between trials
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = rest,
        requires = "measure")]
    pause: f64,
    /// Trials of a rate before it counts as too high; more than 1 where others disturb
    #[arg(long, value_name = "N", default_value_t = 1, requires = "measure",
        value_parser = clap::value_parser!(u32).range(1..=20))]
    attempts: u32,
    /// Times that the longest burst is looked for
    #[arg(long, value_name = "N", default_value_t = 10, requires = "measure",
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    bursts: u32,
    /// Load for the latency without --rate, in percent of the throughput
    #[arg(long, value_name = "PERCENT", default_value_t = 50.0, value_parser = positive_percent,
        requires = "measure")]
    load: f64,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("a percentage is 0 to 100".to_owned()),
    }
}

fn positive_percent(text: &str) -> Result<f64, String> {
    percent(text).and_then(|percent| match percent >= 0.01 {
        true => Ok(percent),
        false => Err("a percentage of 0.01 to 100 is wanted".to_owned()),
    })
}

fn rest(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds of rest are 0 to 600".to_owned()),
    }
}

/// What the other flags say about a measurement.
pub(super) struct Sending<'a> {
    pub(super) source: Box<dyn Source>,
    pub(super) rate: Option<u64>,
    /// Length of a full trial.
    pub(super) time: Duration,
    /// Different frames.
    pub(super) frames: u32,
    pub(super) stop: &'a AtomicBool,
}

impl Measuring {
    /// Percentage of packets that may be lost.
    pub(super) fn loss(&self) -> f64 {
        self.loss
    }

    /// Whether anything is to be measured.
    pub(super) fn is_wanted(&self) -> bool {
        !self.measure.is_empty()
    }

    fn wants(&self, figure: Figure) -> bool {
        self.measure.contains(&figure)
    }

    /// Measures what is wanted, and what that needs.
    pub(super) fn run(&self, sending: Sending<'_>, measured: &mut Measured) -> Result<()> {
        let sink = self.sink.as_deref().context("pktgen: --sink DEV is missing")?;
        let receiver = self.attach(sink, sending.frames)?;
        let pause = Duration::from_secs_f64(self.pause);
        let mut bench = Bench { sending, receiver, pause };
        bench.learn(sink)?;
        let needs_throughput = self.wants(Figure::Throughput)
            || self.wants(Figure::BackToBack)
            || (self.wants(Figure::Latency) && bench.sending.rate.is_none());
        let throughput = needs_throughput.then(|| self.throughput(&mut bench)).transpose()?;
        let best = throughput.as_ref().and_then(|found| found.best);
        if let Some(found) = &throughput {
            measured.add_throughput(found);
        }
        if self.wants(Figure::Maximum) {
            let most = match &throughput {
                // Its first trial was this one.
                Some(found) if bench.sending.rate.is_none() => found.at_most(),
                _ => None,
            };
            let time = bench.sending.time;
            let trial = Trial { per_second: None, frames: None, time };
            let most = most.map_or_else(|| bench.run(trial), Ok)?;
            measured.maximum = Some(Rate::new(&most, measured.frame_bits()));
        }
        if self.wants(Figure::BackToBack) {
            let at_most = throughput.as_ref().and_then(Throughput::at_most);
            measured.back_to_back = Some(self.back_to_back(&mut bench, at_most, best)?);
        }
        if self.wants(Figure::Latency) {
            let rate = match (bench.sending.rate, best) {
                (Some(rate), _) => rate,
                (None, Some(best)) => (best.offered() * self.load / 100.0) as u64,
                (None, None) => bail!("no throughput was found, so there is no load for a latency"),
            };
            let (outcome, latency) = bench.latency(rate.max(1))?;
            let rate = Rate::new(&outcome, measured.frame_bits());
            measured.latency = Some(Delay::new(rate, &latency));
        }
        Ok(())
    }

    fn throughput(&self, bench: &mut Bench<'_>) -> Result<Throughput> {
        let search = Search {
            most: bench.sending.rate,
            loss: self.loss / 100.0,
            precision: self.precision / 100.0,
            short: Duration::from_secs_f64(self.trial).min(bench.sending.time),
            full: bench.sending.time,
            attempts: self.attempts,
        };
        method::throughput(&search, &mut |trial| bench.run(trial))
    }

    fn back_to_back(
        &self,
        bench: &mut Bench<'_>,
        at_most: Option<Outcome>,
        best: Option<Outcome>,
    ) -> Result<Burst> {
        let most = at_most.map_or(0.0, |most| most.offered()) * BURST_SECONDS;
        let plan = Bursts { most: most as u64, repeats: self.bursts, precision: BURST_PRECISION };
        let found = method::back_to_back(&plan, &mut |trial| bench.run(trial))?;
        Ok(Burst::new(&found, best.map_or(0.0, |best| best.offered())))
    }

    /// Attaches the sink, in its namespace.
    fn attach(&self, sink: &str, flows: u32) -> Result<Receiver> {
        let attach = || {
            let ifindex = super::index_of(sink)?;
            let native = Receiver::attach(ifindex, flows, AttachMode::Native);
            let receiver =
                native.or_else(|_| Receiver::attach(ifindex, flows, AttachMode::Generic));
            receiver.with_context(|| format!("sink on {sink}"))
        };
        let Some(netns) = &self.sink_netns else { return attach() };
        let path = match netns.components().count() {
            1 => Path::new("/run/netns").join(netns),
            _ => netns.clone(),
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(&path).with_context(|| {
                    format!(
                        "--sink-netns {}\n`ip netns` lists those that have a name",
                        path.display()
                    )
                })?;
                setns(&file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("--sink-netns {}", path.display()))?;
                attach()
            });
            thread.join().map_err(|_| anyhow::anyhow!("the thread of --sink-netns panicked"))?
        })
    }
}

/// Generator and sink of the trials.
struct Bench<'a> {
    sending: Sending<'a>,
    receiver: Receiver,
    pause: Duration,
}

impl Bench<'_> {
    /// Sends each frame once, slowly, so that everybody knows addresses and flows (RFC 2544 23 a).
    fn learn(&mut self, sink: &str) -> Result<()> {
        let frames = u64::from(self.sending.frames).max(LEARNING_FRAMES);
        let time = Duration::from_secs(1) + Duration::from_millis(frames / (LEARNING / 1000));
        let trial = Trial { per_second: Some(LEARNING), frames: Some(frames), time };
        let outcome = self.trial(trial)?;
        ensure!(
            outcome.received > 0,
            "of {} packets none came to {sink}\n\
             does the router know the way to --dst, is --dst-mac its address, and --src another's?",
            outcome.sent
        );
        self.rest()
    }

    /// Runs a trial of a method, and says how it went.
    fn run(&mut self, trial: Trial) -> Result<Outcome> {
        let outcome = self.trial(trial)?;
        let lost = outcome.sent.saturating_sub(outcome.received);
        let wanted = trial.per_second.map_or(String::new(), |rate| format!(" of {rate}"));
        match trial.frames {
            Some(_) => eprintln!("burst of {}, {lost} lost", outcome.sent),
            None => eprintln!(
                "{:.0}{wanted} packets a second, {} sent, {lost} lost",
                outcome.offered(),
                outcome.sent
            ),
        }
        if trial.frames.is_none() {
            self.rest()?;
        }
        Ok(outcome)
    }

    fn trial(&mut self, trial: Trial) -> Result<Outcome> {
        let stop = self.sending.stop;
        let stopped = || stop.load(Ordering::Relaxed);
        let before = self.receiver.counts()?.stamped;
        let pace = Pace { per_second: trial.per_second, limit: trial.frames, catch_up: CATCH_UP };
        let sent = self.sending.source.send(pace, trial.time, &stopped).context("sending")?;
        ensure!(!stopped(), "stopped");
        let quiet = match trial.frames {
            Some(_) => BURST_QUIET,
            None => UNDER_WAY.min(self.pause.max(BURST_QUIET)),
        };
        let received = self.await_frames(before, sent.packets, quiet)?;
        Ok(Outcome { sent: sent.packets, received, time: sent.time })
    }

    /// Waits until all frames have come, or none for some time.
    fn await_frames(&self, before: u64, sent: u64, quiet: Duration) -> Result<u64> {
        let (mut since, mut received) = (Instant::now(), 0);
        loop {
            let now = self.receiver.counts()?.stamped - before;
            if now >= sent || (now == received && since.elapsed() >= quiet) {
                return Ok(now);
            }
            if now != received {
                (since, received) = (Instant::now(), now);
            }
            std::thread::sleep(NAP);
        }
    }

    fn rest(&self) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < self.pause {
            ensure!(!self.sending.stop.load(Ordering::Relaxed), "stopped");
            std::thread::sleep(NAP.min(self.pause));
        }
        Ok(())
    }

    fn latency(&mut self, rate: u64) -> Result<(Outcome, margay_fastpath::pktgen::Latency)> {
        let before = self.receiver.latency()?;
        let time = self.sending.time;
        let outcome = self.run(Trial { per_second: Some(rate), frames: None, time })?;
        Ok((outcome, self.receiver.latency()?.since(&before)))
    }
}
