//! Where flow offload stands in a packet's way: packets are picked as they come in, and their flows
//! offloaded, if at all, when the pipeline knows that they go on.

use super::{Pipeline, View};
use crate::offload::FlowMap;
use crate::offload::tier::Tier;
use crate::packet::Packet;
use crate::pipeline::burst::Burst;
use crate::port::PortId;
use std::sync::Arc;

impl Pipeline {
    /// Offloads flows from now on, as worker of so many; `clock_ns` as [`Tier::new`] has it.
    pub(crate) fn start_offload(&mut self, map: Arc<FlowMap>, workers: u16, clock_ns: u64) {
        self.offload =
            Some(Tier::new(map, (self.worker, workers), clock_ns, self.path_mtus.clone()));
    }

    /// What is decided from now on is of the map's generation now. To be called before the tables
    /// are looked at.
    #[inline]
    pub(crate) fn begin_turn(&mut self) {
        if let Some(tier) = &mut self.offload {
            tier.begin_turn();
        }
    }

    /// Packets of a burst as they came in.
    #[inline]
    pub(super) fn pick(&mut self, ingress: PortId, burst: &[Packet]) {
        // A capture sees every packet.
        if let Some(tier) = &mut self.offload {
            tier.pick(ingress, if self.tap.is_none() { burst } else { &[] });
        }
    }

    /// The burst has been parsed and translated.
    #[inline]
    pub(super) fn consider(&mut self, view: View<'_>, found: &Burst, burst: &[Packet]) {
        if let Some(tier) = &mut self.offload {
            tier.follow(&mut self.tracker);
            tier.consider(view, &mut self.tracker, |at, finished| {
                found.is_routed(at) && (!finished || burst[at].is_finished())
            });
        }
    }

    /// Sessions may have ended, or have come to another state.
    #[inline]
    pub(super) fn follow_sessions(&mut self) {
        if let Some(tier) = &mut self.offload {
            tier.follow(&mut self.tracker);
        }
    }

    /// Counts what was carried, for somebody who asks.
    pub(crate) fn read_offload(&mut self) {
        if let Some(tier) = &mut self.offload {
            tier.read_all(&mut self.tracker, &self.counters);
        }
    }

    /// All packets come to the workers again, until flows are offloaded anew.
    pub(crate) fn recall_offload(&mut self) {
        if let Some(tier) = &mut self.offload {
            tier.raise();
        }
    }

    /// Flows that are offloaded.
    #[cfg(test)]
    pub(crate) fn offloaded(&self) -> usize {
        self.offload.as_ref().map_or(0, |tier| tier.len())
    }
}
