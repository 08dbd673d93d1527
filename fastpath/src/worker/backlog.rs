//! Ports that take no more than they do: what waits for them goes as they have room, or as their
//! rates let it.

use super::Worker;
use super::queue::{ALL_MAX, PortQueue};
use super::slot::Slot;
use crate::counters::Stage;
use crate::drop_reason::DropReason;
use crate::packet::Packet;
use crate::port::PortId;

impl Worker {
    /// What a port has just refused waits for it.
    #[cold]
    pub(super) fn refused(&mut self, id: PortId, burst: &mut Vec<Packet>) {
        if let Some(slot) = self.slot(id) {
            slot.counters.tx_full.add(burst.len() as u64);
        }
        self.push_queue(id, burst);
    }

    /// A burst for a port that others wait for, or that has a rate; empties it.
    #[cold]
    pub(super) fn queue(&mut self, id: PortId, burst: &mut Vec<Packet>) {
        self.push_queue(id, burst);
        self.sent += self.drain_queue(id);
    }

    fn push_queue(&mut self, id: PortId, burst: &mut Vec<Packet>) {
        let (now_ns, room) = (self.now_ns, ALL_MAX.saturating_sub(self.queued));
        let Some(slot) = self.slots.get_mut(usize::from(id.0)).and_then(Option::as_mut) else {
            return;
        };
        let queue = slot.queue.get_or_insert_with(|| Box::new(PortQueue::new(now_ns)));
        let before = queue.len();
        queue.push(burst, (&self.tables, now_ns), room, &mut self.pipeline.pool);
        self.queued = self.queued + queue.len() - before;
        if before == 0 && !self.backlog.contains(&id) {
            self.backlog.push(id);
        }
    }

    /// Gives a port what it takes now of what waits for it; how many packets.
    fn drain_queue(&mut self, id: PortId) -> usize {
        let now_ns = self.now_ns;
        let Some(slot) = self.slots.get_mut(usize::from(id.0)).and_then(Option::as_mut) else {
            return 0;
        };
        let Some(queue) = &mut slot.queue else { return 0 };
        let (before, pool) = (queue.len(), &mut self.pipeline.pool);
        let (rate, port) = (self.tables.rate_of(id), &mut slot.port);
        let is_wire = port.tx_offloads().taps_only;
        let sent = queue.drain((rate, is_wire), (&self.tables, now_ns), pool, |pool, burst| {
            port.tx(pool, burst);
        });
        let after = queue.len();
        self.queued -= before - after;
        let drops = &self.pipeline.counters.drops;
        let dropped = std::mem::take(&mut queue.dropped);
        drops[DropReason::TxFull as usize].add(dropped.full);
        drops[DropReason::TxLate as usize].add(dropped.late);
        slot.counters.tx_packets.add(sent.packets as u64);
        slot.counters.tx_bytes.add(sent.bytes as u64);
        slot.counters.queued.set(after as u64);
        slot.count_unsent(&mut self.unsent);
        if sent.packets > 0 {
            self.note_sent(id, sent.packets);
        }
        sent.packets
    }

    /// Gives all ports what they take now of what waits for them; how many packets.
    pub(super) fn drain_backlog(&mut self) -> usize {
        if self.backlog.is_empty() && self.handing.is_empty() {
            return 0;
        }
        self.pipeline.start_lap();
        let mut sent = self.drain_all_handing();
        for at in (0..self.backlog.len()).rev() {
            let id = self.backlog[at];
            sent += self.drain_queue(id);
            if self.slot(id).is_none_or(|slot| slot.queued() == 0) {
                self.backlog.swap_remove(at);
            }
        }
        self.pipeline.end_lap(Stage::Tx, sent);
        sent
    }

    /// Frees what waits for a port that goes.
    pub(super) fn forget_queue(&mut self, id: PortId, slot: &mut Slot) {
        self.backlog.retain(|other| *other != id);
        if let Some(queue) = &mut slot.queue {
            self.queued -= queue.len();
            let count = queue.len() as u64;
            self.pipeline.counters.drops[DropReason::PortDown as usize].add(count);
            queue.clear(&self.tables, &mut self.pipeline.pool);
        }
    }
}
