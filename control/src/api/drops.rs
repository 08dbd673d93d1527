//! `show drops`: an object of reasons and counts, those that happened.
//!
//! Besides the workers' own reasons it has the losses at the edge to the kernel, which the kernel
//! or the port counts: they are packets that never reached a worker, or never left.

use crate::status::Status;
use std::collections::BTreeMap;

/// Dropped packets by reason, over all workers.
pub type DropsAnswer = BTreeMap<String, u64>;

/// Losses at a port: the port's name for the total, and ours for the reason.
const AT_PORTS: [(&str, &str); 5] = [
    ("rx_dropped", "rx-no-frame-posted"),
    ("rx_ring_full", "rx-ring-full"),
    ("rx_too_long", "rx-too-long"),
    ("tx_dropped", "tx-device"),
    ("tx_refused", "tx-refused"),
];

pub(crate) fn answer(status: &Status) -> DropsAnswer {
    let mut drops = DropsAnswer::new();
    for worker in status.dataplane().report().workers {
        for (reason, count) in worker.counters.drops() {
            *drops.entry(reason.name().to_owned()).or_default() += count;
        }
        let reports = worker.ports.iter().filter_map(|(.., report)| report.as_ref());
        for (name, count) in reports.flat_map(|report| &report.kernel) {
            let reason = AT_PORTS.iter().find(|(port_name, _)| port_name == name);
            if let Some((_, reason)) = reason.filter(|_| *count > 0) {
                *drops.entry((*reason).to_owned()).or_default() += count;
            }
        }
    }
    drops
}
