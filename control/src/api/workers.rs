//! `show workers`.

use crate::status::Status;
use margay_fastpath::counters::Stage;
use margay_fastpath::dataplane::WorkerReport;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A worker.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerAnswer {
    /// Its number.
    pub index: usize,
    /// The core that it is pinned to.
    pub core: Option<usize>,
    /// `busy`, `asleep`, `stuck` or `panicked`.
    pub state: String,
    /// Ports, or parts of them, that it serves.
    pub ports: usize,
    /// Packets sent on.
    pub forwarded: u64,
    /// Those of them that programs carried.
    #[serde(default)]
    pub offloaded: u64,
    /// Packets delivered to the host's stack.
    pub punted: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// ICMP errors made.
    pub icmp_errors: u64,
    /// Packets handed to another worker.
    pub handed_over: u64,
    /// Packets that wait for link addresses.
    pub held: u64,
    /// Turns of its loop.
    pub loops: u64,
    /// Times that it slept.
    pub sleeps: u64,
    /// Time since its loop turned last, if it is awake.
    pub stuck_milliseconds: u64,
    /// Cost of the stages, in their order.
    pub stages: Vec<StageAnswer>,
    /// Dropped packets by reason.
    pub drops: BTreeMap<String, u64>,
}

/// What a stage has cost on a worker.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageAnswer {
    /// Its name.
    pub name: String,
    /// Cycles of the time-stamp counter.
    pub cycles: u64,
    /// Packets that went through.
    pub packets: u64,
}

pub(crate) fn answer(status: &Status) -> Vec<WorkerAnswer> {
    status.dataplane().report().workers.iter().map(of_report).collect()
}

fn of_report(report: &WorkerReport) -> WorkerAnswer {
    let counters = &report.counters;
    let state = match (report.panicked, report.asleep) {
        (true, _) => "panicked",
        (_, true) => "asleep",
        _ if report.stuck_for > crate::status::STUCK_AFTER => "stuck",
        _ => "busy",
    };
    let stages = Stage::ALL.iter().map(|stage| {
        let cost = &counters.stages[*stage as usize];
        StageAnswer {
            name: stage.name().to_owned(),
            cycles: cost.cycles.get(),
            packets: cost.packets.get(),
        }
    });
    let drops: BTreeMap<String, u64> =
        counters.drops().map(|(reason, count)| (reason.name().to_owned(), count)).collect();
    WorkerAnswer {
        index: report.index,
        core: report.core,
        state: state.to_owned(),
        ports: report.ports.len(),
        forwarded: counters.forwarded.get(),
        offloaded: counters.offloaded.get(),
        punted: counters.punted.get(),
        dropped: drops.values().sum(),
        icmp_errors: counters.icmp_errors.get(),
        handed_over: counters.handed_over.get(),
        held: report.held,
        loops: counters.loops.get(),
        sleeps: counters.sleeps.get(),
        stuck_milliseconds: report.stuck_for.as_millis() as u64,
        stages: stages.collect(),
        drops,
    }
}
