//! `show limits`: what endpoints may send and receive, and what they do.

use crate::resource::qos::Limits;
use crate::router::limits::Limited;
use crate::status::{PortState, Status};
use margay_acl::Direction;
use margay_fastpath::limit::Excess;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An endpoint with limits.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitAnswer {
    /// Its namespace.
    pub namespace: String,
    /// Its name in the datastore.
    pub name: String,
    /// Its pod.
    pub pod: String,
    /// Its interface, which is also the name of its port.
    pub interface: String,
    /// Mark of what it sends out of the cluster.
    pub dscp: Option<u8>,
    /// What is beyond the bandwidth waits.
    pub shaped: bool,
    /// Its share of a congested port, beside those of others.
    #[serde(default)]
    pub weight: u32,
    /// Towards it.
    pub ingress: WayAnswer,
    /// From it.
    pub egress: WayAnswer,
}

/// One direction.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WayAnswer {
    /// Bits a second that it may have.
    pub bandwidth: Option<u64>,
    /// Bits at once, beyond that.
    pub burst: Option<u64>,
    /// Bits a second of a burst.
    pub peak_rate: Option<u64>,
    /// Bytes at once, beyond that; none is a whole frame.
    pub min_burst: Option<u64>,
    /// Packets a second that it may have.
    pub packet_rate: Option<u64>,
    /// Packets at once, beyond that.
    pub packet_burst: Option<u64>,
    /// Connections that it may have.
    pub max_connections: Option<u32>,
    /// Connections that count for that now.
    pub connections: u32,
    /// Bits a second that pass, measured over the last second.
    pub bits_per_second: u64,
    /// Packets that passed.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Dropped packets by reason, those that happened.
    pub dropped: BTreeMap<String, u64>,
    /// Packets of those that passed which had to wait.
    pub delayed: u64,
    /// Packets that wait now: for their limit, and, of what it sends, for ports that take no more.
    pub queued: u64,
}

impl WayAnswer {
    /// Dropped packets.
    pub fn dropped_packets(&self) -> u64 {
        self.dropped.values().sum()
    }
}

pub(crate) fn answer(status: &Status) -> Vec<LimitAnswer> {
    // Has the workers count what programs carried.
    status.dataplane().report();
    let now_ns = status.dataplane().now_ns();
    let snapshot = status.snapshot();
    let answer = |((namespace, name), limited): (&(String, String), &Limited)| LimitAnswer {
        namespace: namespace.clone(),
        name: name.clone(),
        pod: limited.pod.clone(),
        interface: limited.interface.clone(),
        dscp: limited.qos.dscp.map(|dscp| dscp.value()),
        shaped: limited.qos.shaped,
        weight: limited.qos.weight.unwrap_or(1),
        ingress: way(limited, Direction::Ingress, now_ns),
        egress: {
            let egress = way(limited, Direction::Egress, now_ns);
            with_queues(egress, snapshot.ports.get(&*limited.interface))
        },
    };
    snapshot.limits.iter().map(answer).collect()
}

/// What an endpoint sends also waits, and is dropped, where ports take no more.
fn with_queues(mut egress: WayAnswer, port: Option<&PortState>) -> WayAnswer {
    if let Some((_, entry)) = port.and_then(|port| port.open.as_ref()) {
        let totals = entry.queue.totals();
        egress.queued += totals.waiting;
        egress.dropped.extend(super::ports::dropped(totals));
    }
    egress
}

fn way(limited: &Limited, direction: Direction, now_ns: u64) -> WayAnswer {
    let Limits { bandwidth, packets, connections: most } = limited.qos.way(direction);
    let connections = &limited.connections[direction as usize];
    let mut totals = limited.limits.way(direction).account.totals(now_ns);
    totals.dropped[Excess::Connections as usize] = connections.refused();
    let dropped = Excess::ALL.into_iter().zip(totals.dropped).filter(|(_, count)| *count > 0);
    let peak = bandwidth.and_then(|bandwidth| bandwidth.peak);
    WayAnswer {
        bandwidth: bandwidth.map(|bandwidth| bandwidth.rate),
        burst: bandwidth.map(|bandwidth| bandwidth.burst),
        peak_rate: peak.map(|peak| peak.rate),
        min_burst: peak.and_then(|peak| peak.min_burst),
        packet_rate: packets.map(|packets| packets.rate),
        packet_burst: packets.map(|packets| packets.burst),
        max_connections: *most,
        connections: connections.count(),
        bits_per_second: totals.bits_per_s,
        packets: totals.packets,
        bytes: totals.bytes,
        dropped: dropped
            .map(|(excess, count)| (excess.drop_reason().name().to_owned(), count))
            .collect(),
        delayed: totals.delayed,
        queued: totals.waiting,
    }
}
