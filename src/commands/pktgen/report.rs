//! What generator and sink answer.

use crate::commands::output::columns;
use comfy_table::Table;
use margay_fastpath::pktgen::{Counts, Frames, Latency};
use serde::Serialize;
use std::time::Duration;

/// What was sent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sent {
    port: String,
    packets: u64,
    seconds: f64,
    packets_per_second: f64,
    /// Without preamble, check sequence and gap.
    bits_per_second: f64,
    /// Different frames.
    frames: usize,
}

impl Sent {
    pub(super) fn new(port: &str, frames: &Frames, packets: u64, time: Duration) -> Sent {
        let seconds = time.as_secs_f64();
        let packets_per_second = packets as f64 / seconds;
        let mean_bits = frames.bytes() as f64 * 8.0 / frames.count() as f64;
        Sent {
            port: port.to_owned(),
            packets,
            seconds,
            packets_per_second,
            bits_per_second: packets_per_second * mean_bits,
            frames: frames.count(),
        }
    }

    pub(super) fn table(&self) -> Table {
        let mut table = columns(["port", "packets", "seconds", "Mpps", "Gbit/s", "frames"]);
        table.add_row([
            self.port.clone(),
            self.packets.to_string(),
            format!("{:.2}", self.seconds),
            format!("{:.3}", self.packets_per_second / 1e6),
            format!("{:.3}", self.bits_per_second / 1e9),
            self.frames.to_string(),
        ]);
        table
    }
}

/// How long packets took, in nanoseconds; up to an eighth too long.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Times {
    pub(super) p50: Option<u64>,
    pub(super) p99: Option<u64>,
    pub(super) p999: Option<u64>,
    pub(super) max: Option<u64>,
    histogram: Vec<Bucket>,
}

/// Packets that took no longer than this, and longer than the bucket before.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Bucket {
    up_to: u64,
    packets: u64,
}

impl Times {
    pub(super) fn new(latency: &Latency) -> Times {
        Times {
            p50: latency.within(500_000),
            p99: latency.within(990_000),
            p999: latency.within(999_000),
            max: latency.within(1_000_000),
            histogram: latency
                .buckets()
                .map(|(up_to, packets)| Bucket { up_to, packets })
                .collect(),
        }
    }
}

/// Nanoseconds, for people.
pub(super) fn microseconds(time: Option<u64>) -> String {
    time.map_or_else(|| "-".to_owned(), |ns| format!("{:.1}", ns as f64 / 1e3))
}

/// What came in.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Received {
    port: String,
    packets: u64,
    bytes: u64,
    seconds: f64,
    packets_per_second: f64,
    stamped: u64,
    lost: u64,
    reordered: u64,
    damaged: u64,
    foreign: u64,
    latency_ns: Times,
}

impl Received {
    pub(super) fn new(port: &str, counts: Counts, latency: &Latency, time: Duration) -> Received {
        let seconds = time.as_secs_f64();
        Received {
            port: port.to_owned(),
            packets: counts.packets,
            bytes: counts.bytes,
            seconds,
            packets_per_second: counts.packets as f64 / seconds,
            stamped: counts.stamped,
            lost: counts.lost(),
            reordered: counts.late,
            damaged: counts.damaged,
            foreign: counts.foreign(),
            latency_ns: Times::new(latency),
        }
    }

    pub(super) fn table(&self) -> Table {
        let mut table = columns([
            "port",
            "packets",
            "Mpps",
            "lost",
            "reordered",
            "damaged",
            "foreign",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "max us",
        ]);
        let times = &self.latency_ns;
        table.add_row([
            self.port.clone(),
            self.packets.to_string(),
            format!("{:.3}", self.packets_per_second / 1e6),
            self.lost.to_string(),
            self.reordered.to_string(),
            self.damaged.to_string(),
            self.foreign.to_string(),
            microseconds(times.p50),
            microseconds(times.p99),
            microseconds(times.p999),
            microseconds(times.max),
        ]);
        table
    }
}
