//! What the control loop hears: the store, the kernel, the packet path.
//!
//! Most changes of a large cluster are of endpoints on other nodes, in the blocks of those: only
//! policy cares for them, and routes, BGP and translation are left as they are.

use super::{Router, policy};
use crate::kernel::mirror::Change;
use crate::kernel::watch::Told;
use crate::resource::Key;
use crate::store::watch::Batch;
use ipnet::IpNet;
use margay_fastpath::dataplane::Event;
use std::time::Instant;

impl Router {
    /// The store changed.
    pub(crate) fn take_store(&mut self, batch: Batch) {
        self.dirty |= !self.store_known;
        if !batch.events.is_empty() {
            self.arrived.get_or_insert_with(Instant::now);
        }
        let own_blocks = self.own_blocks();
        for event in batch.events {
            let is_policy = policy::is_only_policy(&self.model, &event);
            let (crate::store::Event::Put(key, _) | crate::store::Event::Remove(key)) = &event;
            let key = key.clone();
            let mattered = self.matters(&key);
            policy::lock(&self.policies).apply(&event);
            self.model.apply(event);
            if !is_policy && (mattered || self.matters(&key)) {
                self.dirty = true;
                if !matches!(key.kind.as_str(), "BlockAffinity" | "IPAMBlock") {
                    self.bgp.replan();
                }
            }
        }
        if own_blocks != self.own_blocks() {
            self.bgp.replan();
        }
        (self.store, self.store_known) = (batch.report, batch.known);
        self.untold = true;
    }

    /// Whether more than policy follows from a resource as it is now: of endpoints, those of this
    /// node and those that need routes of their own.
    fn matters(&self, key: &Key) -> bool {
        if key.kind != "WorkloadEndpoint" {
            return true;
        }
        let name = (key.namespace.clone(), key.name.clone());
        let is_here = |at: &_| {
            self.model.endpoints().get(at).map(|one| one.node.as_str())
                == Some(self.config.node_name.as_str())
        };
        is_here(&name) || self.model.is_stray(&name)
    }

    fn own_blocks(&self) -> Vec<IpNet> {
        let owners = self.model.blocks().owners().iter();
        let own = owners.filter(|(_, owner)| **owner == self.config.node_name);
        own.map(|(block, _)| *block).collect()
    }

    /// The kernel told something; true when it should be dumped anew.
    pub(crate) fn take_kernel(&mut self, told: Told) -> bool {
        let mut change = Change::default();
        match told {
            Told::Everything(mirror) => {
                self.dirty |= !self.kernel_seen;
                self.kernel_seen = true;
                change = self.mirror.replace(*mirror);
            }
            Told::Updates(updates) => {
                updates.into_iter().for_each(|update| change.merge(self.mirror.apply(update)));
            }
        }
        self.dirty |= change.topology || !change.neighbors.is_empty();
        self.questions.changed(change.neighbors);
        change.resync
    }

    /// A worker said something.
    pub(crate) fn take_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::NeighborNeeded { port, address } => {
                let device = self.ports.open().find(|(_, _, open)| open.id == port);
                let device = device.and_then(|(_, _, open)| open.device).map(|(index, _)| index);
                self.questions.ask(&self.handle, (port, address), device, now);
            }
            Event::PortGone { port } => {
                if let Some(name) = self.ports.name_of(port) {
                    tracing::warn!(port = %name, "the device is gone");
                    self.close(std::slice::from_ref(&name), "the device is gone");
                    self.ports.pause(&name, now);
                }
                self.dirty = true;
            }
            Event::WorkerPanicked { worker, message } => {
                tracing::error!(worker, "panicked: {message}");
            }
        }
    }

    /// All workers have what the store said.
    pub(super) fn told(&mut self) {
        if let Some(arrived) = self.arrived.take() {
            self.store_latency = arrived.elapsed();
        }
    }
}
