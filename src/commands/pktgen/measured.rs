//! What a measurement answers.

use super::report::{Times, microseconds};
use crate::commands::output::columns;
use comfy_table::Table;
use margay_fastpath::pktgen::method::{BackToBack, Outcome, Throughput, Tried};
use margay_fastpath::pktgen::{Frames, Latency};
use serde::Serialize;

/// A rate, and what came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rate {
    /// Offered.
    packets_per_second: f64,
    /// Of what was offered, without preamble, check sequence and gap.
    bits_per_second: f64,
    forwarded_per_second: f64,
    sent: u64,
    received: u64,
    loss_percent: f64,
    seconds: f64,
}

impl Rate {
    pub(super) fn new(outcome: &Outcome, frame_bits: f64) -> Rate {
        Rate {
            packets_per_second: outcome.offered(),
            bits_per_second: outcome.offered() * frame_bits,
            forwarded_per_second: outcome.forwarded(),
            sent: outcome.sent,
            received: outcome.received,
            loss_percent: outcome.loss() * 100.0,
            seconds: outcome.time.as_secs_f64(),
        }
    }

    /// A line of the table.
    fn row(&self, figure: &str, per_second: f64, detail: String) -> [String; 6] {
        [
            figure.to_owned(),
            format!("{:.4}", per_second / 1e6),
            format!("{:.3}", self.bits_per_second / 1e9),
            self.sent.to_string(),
            self.sent.saturating_sub(self.received).to_string(),
            detail,
        ]
    }
}

/// The throughput.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    /// None when even the lowest rate lost too much.
    #[serde(flatten)]
    rate: Option<Rate>,
    /// The generator was not too fast: the router may do more.
    generator_bound: bool,
}

/// Back-to-back frames.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Burst {
    frames: f64,
    least: u64,
    most: u64,
    standard_deviation: f64,
    searches: usize,
    packets_per_second: f64,
    /// RFC 9004 6.4, corrected by the throughput.
    buffer_microseconds: f64,
    /// The longest burst tried lost nothing: this says nothing of buffers.
    unbounded: bool,
}

impl Burst {
    pub(super) fn new(found: &BackToBack, throughput: f64) -> Burst {
        Burst {
            frames: found.mean(),
            least: found.bursts.iter().copied().min().unwrap_or(0),
            most: found.bursts.iter().copied().max().unwrap_or(0),
            standard_deviation: found.deviation(),
            searches: found.bursts.len(),
            packets_per_second: found.per_second,
            buffer_microseconds: found.buffer_time(throughput) * 1e6,
            unbounded: found.unbounded,
        }
    }
}

/// The latency at a rate.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Delay {
    #[serde(flatten)]
    rate: Rate,
    latency_ns: Times,
}

impl Delay {
    pub(super) fn new(rate: Rate, latency: &Latency) -> Delay {
        Delay { rate, latency_ns: Times::new(latency) }
    }
}

/// A trial of the search.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TrialLine {
    #[serde(flatten)]
    rate: Rate,
    wanted_per_second: Option<u64>,
    passed: bool,
}

/// All that was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Measured {
    port: String,
    via: &'static str,
    /// Different frames.
    frames: usize,
    /// With the check sequence, on average.
    frame_bytes: f64,
    allowed_loss_percent: f64,
    throughput: Option<Found>,
    pub(super) maximum: Option<Rate>,
    pub(super) back_to_back: Option<Burst>,
    pub(super) latency: Option<Delay>,
    trials: Vec<TrialLine>,
}

/// Ethernet's check sequence, in bytes.
const CHECK_SEQUENCE: f64 = 4.0;

impl Measured {
    pub(super) fn new(port: &str, via: &'static str, frames: &Frames, loss: f64) -> Measured {
        Measured {
            port: port.to_owned(),
            via,
            frames: frames.count(),
            frame_bytes: frames.bytes() as f64 / frames.count() as f64 + CHECK_SEQUENCE,
            allowed_loss_percent: loss,
            throughput: None,
            maximum: None,
            back_to_back: None,
            latency: None,
            trials: Vec::new(),
        }
    }

    /// Bits of a frame without its check sequence, on average.
    pub(super) fn frame_bits(&self) -> f64 {
        (self.frame_bytes - CHECK_SEQUENCE) * 8.0
    }

    pub(super) fn add_throughput(&mut self, found: &Throughput) {
        let bits = self.frame_bits();
        let line = |tried: &Tried| TrialLine {
            rate: Rate::new(&tried.outcome, bits),
            wanted_per_second: tried.trial.per_second,
            passed: tried.passed,
        };
        self.trials = found.trials.iter().map(line).collect();
        let rate = found.best.map(|best| Rate::new(&best, bits));
        self.throughput = Some(Found { rate, generator_bound: found.generator_bound });
    }

    pub(super) fn table(&self) -> Table {
        let mut table = columns(["figure", "Mpps", "Gbit/s", "sent", "lost", "detail"]);
        if let Some(found) = &self.throughput {
            let loss = format!("at most {} % loss", self.allowed_loss_percent);
            let bound = if found.generator_bound { ", as much as was sent" } else { "" };
            match &found.rate {
                Some(rate) => {
                    table.add_row(rate.row("throughput", rate.packets_per_second, loss + bound))
                }
                None => {
                    table.add_row(["throughput", "0", "0", "-", "-", "all rates lost too much"])
                }
            };
        }
        if let Some(rate) = &self.maximum {
            let detail = format!("forwarded of {:.4} Mpps", rate.packets_per_second / 1e6);
            table.add_row(rate.row("maximum", rate.forwarded_per_second, detail));
        }
        if let Some(delay) = &self.latency {
            let times = &delay.latency_ns;
            let [p50, p99, p999, max] =
                [times.p50, times.p99, times.p999, times.max].map(microseconds);
            let detail = format!("p50 {p50}, p99 {p99}, p99.9 {p999}, max {max} us");
            table.add_row(delay.rate.row("latency", delay.rate.packets_per_second, detail));
        }
        if let Some(burst) = &self.back_to_back {
            table.add_row([
                "back-to-back".to_owned(),
                format!("{:.4}", burst.packets_per_second / 1e6),
                "-".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
                burst.detail(),
            ]);
        }
        table
    }
}

impl Burst {
    fn detail(&self) -> String {
        let Burst { frames, least, most, standard_deviation, .. } = self;
        let range =
            format!("{frames:.0} frames ({least} to {most}, deviation {standard_deviation:.0})");
        match self.unbounded {
            true => format!("{range}: none was too long"),
            false => format!("{range}, buffer of {:.0} us", self.buffer_microseconds),
        }
    }
}
