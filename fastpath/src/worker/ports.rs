//! Ports that come to a worker, and leave it.

use super::Worker;
use super::slot::{COLD_AFTER_NS, Slot};
use crate::counters::PortCounters;
use crate::dataplane::Event;
use crate::port::{Port, PortId, PortReport};
use std::sync::Arc;

impl Worker {
    pub(super) fn attach(&mut self, id: PortId, port: Box<dyn Port>, counters: Arc<PortCounters>) {
        self.detach(id);
        let at = usize::from(id.0);
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || None);
        }
        if let Some(fd) = port.poll_fd()
            && let Err(error) = self.wait.add(fd, id.0)
        {
            tracing::error!(port = %id, %error, "the port cannot be waited on");
        }
        let cold_at_ns = self.now_ns + COLD_AFTER_NS;
        let slot = Slot::new(port, counters, cold_at_ns);
        self.slots[at] = Some(slot);
        self.hot.push(id);
    }

    pub(super) fn detach(&mut self, id: PortId) {
        let Some(mut slot) = self.slots.get_mut(usize::from(id.0)).and_then(Option::take) else {
            return;
        };
        self.forget_queue(id, &mut slot);
        self.unsent -= usize::from(slot.unsent);
        self.hot.retain(|hot| *hot != id);
        if let Some(fd) = slot.port.poll_fd() {
            self.wait.remove(fd);
        }
        slot.port.close(&mut self.pipeline.pool);
    }

    /// A port says that its device is gone.
    pub(super) fn lose(&mut self, id: PortId) {
        self.detach(id);
        let _ = self.shared.events.try_send(Event::PortGone { port: id });
    }

    pub(super) fn report(&self) -> Vec<(PortId, PortReport)> {
        let ids = (0..).map(PortId);
        let slots = ids.zip(&self.slots).filter_map(|(id, slot)| Some((id, slot.as_ref()?)));
        slots.map(|(id, slot)| (id, slot.port.report())).collect()
    }

    pub(super) fn slot(&mut self, id: PortId) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(id.0))?.as_mut()
    }
}
