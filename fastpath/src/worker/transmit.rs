//! The way out: egress queues to ports, and packets for ports of other workers into their inbox.

use super::Worker;
use super::queue::Sent;
use crate::capture::Point;
use crate::counters::Stage;
use crate::dataplane::{HAND_OVER, HandOver, Peer};
use crate::drop_reason::DropReason;
use crate::egress;
use crate::packet::Packet;
use crate::pipeline::View;
use crate::port::{BURST, PortId, TxOffloads};
use std::sync::atomic::Ordering;

/// Places between two workers that long bursts leave to short ones: whoever sends little finds room
/// beside a flood.
const KEPT: usize = HAND_OVER / 4;
/// A burst of so many packets is short, and so many of a long one always may go.
pub(super) const SHORT: usize = 8;

/// How many packets of a burst, which is from one port, may be given now.
fn may_give(peer: &Peer, count: usize) -> usize {
    let room = HAND_OVER.saturating_sub(peer.inbox.len());
    count.min(room.saturating_sub(KEPT).max(SHORT))
}

impl Worker {
    /// Sends everything that the egress queues hold.
    pub(super) fn flush(&mut self) {
        let mut burst = std::mem::take(&mut self.outgoing);
        while let Some(id) = self.pipeline.egress.take(&mut burst) {
            self.send(id, &mut burst);
        }
        self.outgoing = burst;
        self.end_sending();
        if !self.pipeline.handed.is_empty() {
            self.give_flows();
        }
    }

    /// Counts what sending to all ports has cost: a look at the clock for each port would cost more
    /// than a port that takes one packet.
    pub(super) fn end_sending(&mut self) {
        if self.sent > 0 {
            self.pipeline.end_lap(Stage::Tx, std::mem::take(&mut self.sent));
        }
    }

    /// Gives packets to the workers that have their flows.
    fn give_flows(&mut self) {
        let mut handed = std::mem::take(&mut self.pipeline.handed);
        // Bits of numbers; two workers with one bit are both woken.
        let mut given = 0u64;
        for (worker, packet) in handed.drain(..) {
            given |= 1 << (worker % 64);
            self.give(usize::from(worker), HandOver::Track(packet));
        }
        self.pipeline.handed = handed;
        for worker in (0..self.shared.workers.len()).filter(|at| given >> (at % 64) & 1 == 1) {
            self.wake(worker);
        }
    }

    fn give(&mut self, worker: usize, handed: HandOver) {
        let Some(peer) = self.shared.workers.get(worker) else {
            self.pipeline.counters.count_drop(DropReason::PortDown);
            return handed.packet().free(&mut self.pipeline.pool);
        };
        match peer.hand(handed, self.offloads()) {
            Ok(()) => self.pipeline.counters.handed_over.add(1),
            Err(handed) => {
                self.pipeline.counters.count_drop(DropReason::HandOverFull);
                handed.packet().free(&mut self.pipeline.pool);
            }
        }
    }

    /// To be called after packets were given.
    pub(super) fn wake(&self, worker: usize) {
        if let Some(peer) = self.shared.workers.get(worker)
            && peer.asleep.load(Ordering::SeqCst)
        {
            peer.waker.wake();
        }
    }

    /// Sends a burst by one port, as far as the limits of the endpoint there let it; empties it.
    fn send(&mut self, id: PortId, burst: &mut Vec<Packet>) {
        if self.tables.limits_of(id).is_some() && self.slot(id).is_some() {
            let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
            self.pipeline.limit_to(view, id, burst);
            if burst.is_empty() {
                return;
            }
        }
        self.send_all(id, burst);
    }

    /// Sends a burst by one port; empties it. A port with a rate has one queue, at its owner: as
    /// many queues as workers could only share the rate by worker, however many endpoints each has.
    pub(super) fn send_all(&mut self, id: PortId, burst: &mut Vec<Packet>) {
        let is_rated = self.tables.rate_of(id).is_some();
        if is_rated && self.tables.owner(id) != Some(self.index) {
            return self.hand_over_fairly(id, burst);
        }
        let Some(slot) = self.slots.get_mut(usize::from(id.0)).and_then(Option::as_mut) else {
            return self.hand_over(id, burst);
        };
        if let Some(tap) = &self.pipeline.tap {
            let now_ns = self.now_ns;
            burst.iter().for_each(|packet| tap.copy(packet, id, Point::Tx, now_ns));
        }
        let (takes, has_queue) = (slot.port.tx_offloads(), slot.queued() > 0 || is_rated);
        let is_wire = takes.taps_only;
        // What waits is shared by the packets of the wire, and one of the others is long.
        let offloads = if has_queue && is_wire { TxOffloads::default() } else { takes };
        if !egress::is_ready(burst, offloads) {
            self.prepare(burst, offloads);
        }
        if has_queue {
            return self.queue(id, burst);
        }
        let Some(slot) = self.slots.get_mut(usize::from(id.0)).and_then(Option::as_mut) else {
            return;
        };
        let (packets, before) = (burst.len(), Sent::of(burst, is_wire));
        slot.port.tx(&mut self.pipeline.pool, burst);
        slot.count_unsent(&mut self.unsent);
        let (refused, left) = (burst.len(), Sent::of(burst, is_wire));
        slot.counters.tx_packets.add((before.packets - left.packets) as u64);
        slot.counters.tx_bytes.add((before.bytes - left.bytes) as u64);
        self.note_sent(id, packets);
        if refused > 0 {
            self.refused(id, burst);
        }
        self.sent += packets;
    }

    /// Makes packets such as a port takes them.
    #[inline(never)]
    fn prepare(&mut self, burst: &mut Vec<Packet>, offloads: TxOffloads) {
        self.end_sending();
        let (pipeline, queued) = (&mut self.pipeline, burst.len());
        egress::prepare(burst, offloads, &mut pipeline.pool, &pipeline.counters);
        pipeline.end_lap(Stage::Offload, queued);
    }

    /// Something is under way: completions must be seen to.
    pub(super) fn note_sent(&mut self, id: PortId, packets: usize) {
        let Some(slot) = self.slots.get_mut(usize::from(id.0)).and_then(Option::as_mut) else {
            return;
        };
        slot.note_moved(packets, self.now_ns, &self.wait);
        if !std::mem::replace(&mut slot.hot, true) {
            self.hot.push(id);
        }
    }

    /// Gives packets to the worker that owns their egress port.
    fn hand_over(&mut self, id: PortId, burst: &mut Vec<Packet>) {
        let Some(owner) = self.tables.owner(id).filter(|owner| *owner != self.index) else {
            for packet in burst.drain(..) {
                self.pipeline.counters.count_drop(DropReason::PortDown);
                packet.free(&mut self.pipeline.pool);
            }
            return;
        };
        let count = self.shared.workers.get(owner).map_or(0, |peer| may_give(peer, burst.len()));
        for packet in burst.drain(..count) {
            self.give(owner, HandOver::Send(id, packet));
        }
        self.pipeline.counters.drops[DropReason::HandOverFull as usize].add(burst.len() as u64);
        self.pipeline.pool.free_burst(burst);
        self.wake(owner);
    }

    /// Sends what other workers have handed over; the number of packets.
    pub(super) fn take_handed_over(&mut self) -> usize {
        let inbox = &self.shared.workers[self.index].inbox;
        // A look costs less than a pop that fails: it needs no fence.
        if inbox.is_empty() {
            return 0;
        }
        self.pipeline.start_lap();
        let mut count = 0;
        while count < BURST {
            match inbox.pop() {
                Some(HandOver::Send(id, packet)) => self.pipeline.egress.push(id, packet),
                Some(HandOver::Track(packet)) => self.burst.push(packet),
                None => break,
            }
            count += 1;
        }
        if !self.burst.is_empty() {
            let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
            self.pipeline.process_handed(view, &mut self.burst);
        }
        self.flush();
        self.ask_for_neighbors();
        if self.offloads() {
            self.unfinished += count as u64;
        }
        count
    }
}
