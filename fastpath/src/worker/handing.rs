//! Packets for a port with a rate that another worker owns. Only there is the one queue in which
//! all endpoints share the rate; here they wait, as fairly, for room on the way to it.

use super::Worker;
use super::queue::{ALL_MAX, PortQueue};
use super::transmit::SHORT;
use crate::dataplane::HandOver;
use crate::drop_reason::DropReason;
use crate::packet::Packet;
use crate::port::{BURST, PortId};

/// Packets on the way to the owner beyond which others wait: two of its turns.
const UNDER_WAY: usize = 2 * BURST;

impl Worker {
    /// A burst for such a port; empties it.
    pub(super) fn hand_over_fairly(&mut self, id: PortId, burst: &mut Vec<Packet>) {
        let (now_ns, room) = (self.now_ns, ALL_MAX.saturating_sub(self.queued));
        let at = self.handing.iter().position(|(other, _)| *other == id).unwrap_or_else(|| {
            self.handing.push((id, Box::new(PortQueue::new(now_ns))));
            self.handing.len() - 1
        });
        let queue = &mut self.handing[at].1;
        let before = queue.len();
        queue.push(burst, (&self.tables, now_ns), room, &mut self.pipeline.pool);
        self.queued = self.queued + queue.len() - before;
        self.drain_handing(at);
    }

    /// Gives an owner what there is room for; how many packets.
    fn drain_handing(&mut self, at: usize) -> usize {
        let offloads = self.offloads();
        let (id, queue) = &mut self.handing[at];
        let (counters, pool) = (&self.pipeline.counters, &mut self.pipeline.pool);
        let (before, tables) = (queue.len(), &self.tables);
        let owner = tables.owner(*id).filter(|owner| *owner != self.index);
        let peer = owner.and_then(|owner| self.shared.workers.get(owner));
        let Some((owner, peer)) = owner.zip(peer) else {
            counters.drops[DropReason::PortDown as usize].add(before as u64);
            queue.clear(tables, pool);
            self.queued -= before;
            return 0;
        };
        let sent = queue.drain((None, false), (tables, self.now_ns), pool, |pool, burst| {
            let room = UNDER_WAY.saturating_sub(peer.inbox.len()).max(SHORT).min(burst.len());
            for packet in burst.drain(..room) {
                if let Err(handed) = peer.hand(HandOver::Send(*id, packet), offloads) {
                    counters.count_drop(DropReason::HandOverFull);
                    handed.packet().free(pool);
                }
            }
        });
        self.queued -= before - queue.len();
        let dropped = std::mem::take(&mut queue.dropped);
        counters.drops[DropReason::TxFull as usize].add(dropped.full);
        counters.drops[DropReason::TxLate as usize].add(dropped.late);
        counters.handed_over.add(sent.packets as u64);
        if sent.packets > 0 {
            self.wake(owner);
        }
        sent.packets
    }

    /// Gives all owners what there is room for; how many packets.
    pub(super) fn drain_all_handing(&mut self) -> usize {
        (0..self.handing.len()).map(|at| self.drain_handing(at)).sum()
    }

    /// Frees what waits, for the end of the worker.
    pub(super) fn clear_handing(&mut self) {
        for (_, mut queue) in self.handing.drain(..) {
            self.queued -= queue.len();
            queue.clear(&self.tables, &mut self.pipeline.pool);
        }
    }
}
