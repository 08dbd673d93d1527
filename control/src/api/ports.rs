//! `show ports`.

use crate::resolve::ports::PortKind;
use crate::status::{PortState, Status};
use margay_fastpath::counters::PortCounters;
use margay_fastpath::drop_reason::DropReason;
use margay_fastpath::limit::QueueTotals;
use margay_fastpath::port::{PortId, PortReport};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A port.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortAnswer {
    /// Its name.
    pub name: String,
    /// `uplink`, `veth`, `tc`, `tap` or `host`.
    pub role: String,
    /// `open` or `waiting`.
    pub state: String,
    /// Why it waits, or how it works and why so.
    pub mode: String,
    /// Its number in the packet path.
    pub id: Option<u16>,
    /// `xdp`, `tc` or `tap`.
    pub driver: String,
    /// Link address of margay there.
    pub mac: Option<String>,
    /// Largest IP packet, in bytes.
    pub mtu: Option<u16>,
    /// Up, with carrier.
    pub up: bool,
    /// Workers that serve it.
    pub workers: Vec<usize>,
    /// Packets received that its program carried on by itself; the totals have them too.
    #[serde(default)]
    pub offloaded_rx_packets: u64,
    /// Packets sent that the program of another port brought.
    #[serde(default)]
    pub offloaded_tx_packets: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets for which the device had no room.
    pub tx_full: u64,
    /// Packets that wait until the device takes them.
    #[serde(default)]
    pub queued: u64,
    /// Packets from it that wait for ports that take no more.
    #[serde(default)]
    pub waiting: u64,
    /// Packets from it that were dropped while they waited so, by reason.
    #[serde(default)]
    pub dropped_waiting: BTreeMap<String, u64>,
    /// Frames that it holds in rings of the kernel.
    pub frames_held: usize,
    /// Totals of the kernel about it.
    pub kernel: BTreeMap<String, u64>,
}

pub(crate) fn answer(status: &Status) -> Vec<PortAnswer> {
    let snapshot = status.snapshot();
    let mut ports: Vec<PortAnswer> =
        snapshot.ports.iter().map(|(name, state)| of_state(name, state)).collect();
    for worker in status.dataplane().report().workers {
        for (id, counters, report) in &worker.ports {
            if let Some(port) = ports.iter_mut().find(|port| port.id == Some(id.0)) {
                port.workers.push(worker.index);
                port.add(counters, report.as_ref());
            }
        }
    }
    for port in &mut ports {
        port.add_offloaded(status);
    }
    ports
}

/// What queues have dropped, by reason, where there is any.
pub(super) fn dropped(totals: QueueTotals) -> impl Iterator<Item = (String, u64)> {
    let counts = [(DropReason::TxFull, totals.full), (DropReason::TxLate, totals.late)];
    let happened = counts.into_iter().filter(|(_, count)| *count > 0);
    happened.map(|(reason, count)| (reason.name().to_owned(), count))
}

fn of_state(name: &Arc<str>, state: &PortState) -> PortAnswer {
    let role = match state.kind {
        PortKind::Uplink => "uplink",
        PortKind::Veth => "veth",
        PortKind::Tc => "tc",
        PortKind::Tap { .. } => "tap",
        PortKind::Host => "host",
    };
    let entry = state.open.as_ref().map(|(_, entry)| entry);
    let waited = entry.map(|entry| entry.queue.totals()).unwrap_or_default();
    PortAnswer {
        name: name.to_string(),
        role: role.to_owned(),
        state: if entry.is_some() { "open" } else { "waiting" }.to_owned(),
        mode: state.why.clone(),
        id: state.open.as_ref().map(|(id, _)| id.0),
        mac: entry.map(|entry| entry.mac.to_string()),
        mtu: entry.map(|entry| entry.mtu),
        up: entry.is_some_and(|entry| entry.up),
        waiting: waited.waiting,
        dropped_waiting: dropped(waited).collect(),
        ..PortAnswer::default()
    }
}

impl PortAnswer {
    fn add_offloaded(&mut self, status: &Status) {
        let Some(id) = self.id else { return };
        let carried = status.dataplane().offloaded(PortId(id));
        (self.offloaded_rx_packets, self.offloaded_tx_packets) =
            (carried.rx_packets, carried.tx_packets);
        self.rx_packets += carried.rx_packets;
        self.rx_bytes += carried.rx_bytes;
        self.tx_packets += carried.tx_packets;
        self.tx_bytes += carried.tx_bytes;
    }

    fn add(&mut self, counters: &PortCounters, report: Option<&PortReport>) {
        self.rx_packets += counters.rx_packets.get();
        self.rx_bytes += counters.rx_bytes.get();
        self.tx_packets += counters.tx_packets.get();
        self.tx_bytes += counters.tx_bytes.get();
        self.tx_full += counters.tx_full.get();
        self.queued += counters.queued.get();
        let Some(report) = report else { return };
        self.driver = report.kind.to_owned();
        self.mode.clone_from(&report.mode);
        self.frames_held += report.frames_held;
        for (name, value) in &report.kernel {
            *self.kernel.entry((*name).to_owned()).or_default() += value;
        }
    }
}
