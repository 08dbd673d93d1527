//! What happened between two samples, per second.

use margay_control::api::limits::WayAnswer;
use margay_control::api::status::BgpAnswer;
use margay_control::api::top::Sample;
use std::collections::BTreeMap;

/// Rates and the state of the later sample.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) node: String,
    pub(super) ready: bool,
    pub(super) uptime_s: u64,
    pub(super) routes: usize,
    pub(super) bgp: Option<BgpAnswer>,
    pub(super) ports: Vec<PortRate>,
    /// Who is nearest to a limit first.
    pub(super) limits: Vec<LimitRate>,
    pub(super) workers: Vec<WorkerRate>,
    /// Dropped packets by reason: a second, and in all.
    pub(super) drops: Vec<(String, f64, u64)>,
}

/// Packets and bits a second of a port.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct PortRate {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) rx_packets: f64,
    pub(super) rx_bits: f64,
    pub(super) tx_packets: f64,
    pub(super) tx_bits: f64,
    pub(super) tx_full: f64,
}

/// One direction of an endpoint with limits.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct LimitRate {
    pub(super) pod: String,
    pub(super) direction: &'static str,
    pub(super) limit_bits: Option<u64>,
    pub(super) bits: f64,
    pub(super) packets: f64,
    pub(super) dropped: f64,
    pub(super) queued: u64,
}

/// Packets a second of a worker, and cycles of each.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct WorkerRate {
    pub(super) index: usize,
    pub(super) core: Option<usize>,
    pub(super) state: String,
    pub(super) forwarded: f64,
    pub(super) punted: f64,
    pub(super) dropped: f64,
    /// Cycles of all stages for a packet, since the sample before.
    pub(super) cycles: f64,
}

impl Rates {
    /// From the earlier sample to the later. What is new counts from 0; what has begun anew (a
    /// port opened again) shows no negative rate.
    pub(super) fn between(before: &Sample, now: &Sample) -> Rates {
        let time_ms = now.uptime_milliseconds.saturating_sub(before.uptime_milliseconds);
        let seconds = if time_ms == 0 { f64::INFINITY } else { time_ms as f64 / 1000.0 };
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        let ports = now.ports.iter().map(|port| {
            let old = before.ports.iter().find(|old| old.name == port.name);
            let old = old.cloned().unwrap_or_default();
            PortRate {
                name: port.name.clone(),
                state: port.state.clone(),
                rx_packets: rate(old.rx_packets, port.rx_packets),
                rx_bits: rate(old.rx_bytes, port.rx_bytes) * 8.0,
                tx_packets: rate(old.tx_packets, port.tx_packets),
                tx_bits: rate(old.tx_bytes, port.tx_bytes) * 8.0,
                tx_full: rate(old.tx_full, port.tx_full),
            }
        });
        let workers = now.workers.iter().map(|worker| {
            let old = before.workers.iter().find(|old| old.index == worker.index);
            let old = old.cloned().unwrap_or_default();
            let cycles: f64 = worker
                .stages
                .iter()
                .map(|stage| {
                    let before = old.stages.iter().find(|old| old.name == stage.name);
                    let (cycles, packets) =
                        before.map_or((0, 0), |before| (before.cycles, before.packets));
                    let packets = stage.packets.saturating_sub(packets).max(1);
                    stage.cycles.saturating_sub(cycles) as f64 / packets as f64
                })
                .sum();
            WorkerRate {
                index: worker.index,
                core: worker.core,
                state: worker.state.clone(),
                forwarded: rate(old.forwarded, worker.forwarded),
                punted: rate(old.punted, worker.punted),
                dropped: rate(old.dropped, worker.dropped),
                cycles,
            }
        });
        let (old_drops, drops) = (drops_of(before), drops_of(now));
        let mut drops: Vec<(String, f64, u64)> = drops
            .into_iter()
            .map(|(reason, count)| {
                let old = old_drops.get(&reason).copied().unwrap_or(0);
                (reason, rate(old, count), count)
            })
            .collect();
        drops.sort_by(|left, right| {
            right.1.total_cmp(&left.1).then(right.2.cmp(&left.2)).then(left.0.cmp(&right.0))
        });
        Rates {
            node: now.node.clone(),
            ready: now.ready,
            uptime_s: now.uptime_milliseconds / 1000,
            routes: now.routes,
            bgp: now.bgp.clone(),
            limits: limits(before, now, rate),
            ports: ports.collect(),
            workers: workers.collect(),
            drops,
        }
    }
}

fn limits(before: &Sample, now: &Sample, rate: impl Fn(u64, u64) -> f64) -> Vec<LimitRate> {
    let mut limits = Vec::new();
    for one in &now.limits {
        let old = before
            .limits
            .iter()
            .find(|old| (&old.namespace, &old.name) == (&one.namespace, &one.name));
        let old = old.cloned().unwrap_or_default();
        let way = |direction, old: &WayAnswer, now: &WayAnswer| LimitRate {
            pod: format!("{}/{}", one.namespace, one.pod),
            direction,
            limit_bits: now.bandwidth,
            bits: rate(old.bytes, now.bytes) * 8.0,
            packets: rate(old.packets, now.packets),
            dropped: rate(old.dropped_packets(), now.dropped_packets()),
            queued: now.queued,
        };
        limits.push(way("ingress", &old.ingress, &one.ingress));
        limits.push(way("egress", &old.egress, &one.egress));
    }
    let used = |one: &LimitRate| one.bits / one.limit_bits.unwrap_or(u64::MAX) as f64;
    limits.sort_by(|left, right| {
        let dropped = right.dropped.total_cmp(&left.dropped);
        dropped.then(used(right).total_cmp(&used(left))).then(left.pod.cmp(&right.pod))
    });
    limits
}

fn drops_of(sample: &Sample) -> BTreeMap<String, u64> {
    let mut sum: BTreeMap<String, u64> = BTreeMap::new();
    for (reason, count) in sample.workers.iter().flat_map(|worker| &worker.drops) {
        *sum.entry(reason.clone()).or_default() += count;
    }
    sum
}

/// A rate as people read it: `0`, `950`, `1.20k`, `12.3M`, `4.00G`.
pub(super) fn short(value: f64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let mut value = value;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match (unit, value) {
        (0, value) => format!("{value:.0}"),
        (_, value) if value < 9.995 => format!("{value:.2}{}", UNITS[unit]),
        (_, value) if value < 99.95 => format!("{value:.1}{}", UNITS[unit]),
        (_, value) => format!("{value:.0}{}", UNITS[unit]),
    }
}
