//! Flow offload as the control side sees it: switched on once, then only looked after.

use super::Dataplane;
use crate::limit::Takers;
use crate::offload::{FlowMap, PortTotals};
use crate::port::PortId;
use crate::sys::clock::monotonic_ns;
use crate::worker::Command;
use std::sync::Arc;

impl Dataplane {
    /// Lets the workers give flows to the XDP programs that read `map`. Once: a second map is not
    /// taken, and false. To be called before ports are attached: packets that workers hand to each
    /// other are counted from then on, and flows keep their order by that.
    pub fn offload(&self, map: &Arc<FlowMap>) -> bool {
        let is_first = self.shared.offload.set(map.clone()).is_ok();
        let clock_ns = monotonic_ns().saturating_sub(self.now_ns());
        for worker in 0..if is_first { self.threads.len() } else { 0 } {
            self.tell(worker, Command::Offload(map.clone(), clock_ns));
        }
        is_first
    }

    /// Who takes from limits: the workers, and the programs.
    pub fn takers(&self) -> Takers {
        let program = self.shared.offload.get().map(|map| map.gates().clone());
        Takers { workers: self.worker_count(), program }
    }

    /// What the XDP program carried for a port, as far as the workers have read it; they read all
    /// when they are asked for a [`Dataplane::report`].
    pub fn offloaded(&self, port: PortId) -> PortTotals {
        self.shared.offload.get().map(|map| map.totals(port)).unwrap_or_default()
    }

    /// Finds out anew where flows can be redirected to; see [`FlowMap::look_at_devices`].
    pub fn look_at_devices(&self) {
        if let Some(map) = self.shared.offload.get() {
            map.look_at_devices();
        }
    }
}
