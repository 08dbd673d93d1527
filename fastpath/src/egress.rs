//! Egress queues: packets that are ready for a port, and what the port cannot finish by itself.
//!
//! A queue holds at most what one burst can make; it is emptied after each burst. Before a port
//! without offloads, checksums are finished and super-packets cut; before one that takes
//! super-packets, TCP segments that follow each other are joined.

use crate::coalesce;
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::packet::{Gso, Packet};
use crate::port::{PortId, TxOffloads};
use crate::segment::{self, Checksums};
use crate::sys::memory::FramePool;

/// The queues of one worker, by port.
#[derive(Debug, Default)]
pub struct Egress {
    queues: Vec<Vec<Packet>>,
    dirty: Vec<PortId>,
}

impl Egress {
    /// Puts a packet behind the others for `port`.
    #[inline(always)]
    pub fn push(&mut self, port: PortId, packet: Packet) {
        if let Some(queue) = self.queues.get_mut(usize::from(port.0))
            && !queue.is_empty()
        {
            return queue.push(packet);
        }
        self.push_first(port, packet);
    }

    /// Puts a whole burst behind the others for `port`; leaves it empty.
    pub fn append(&mut self, port: PortId, burst: &mut Vec<Packet>) {
        if burst.is_empty() {
            return;
        }
        let at = usize::from(port.0);
        if at >= self.queues.len() {
            self.queues.resize_with(at + 1, Vec::new);
        }
        let queue = &mut self.queues[at];
        if queue.is_empty() {
            self.dirty.push(port);
            std::mem::swap(queue, burst);
        } else {
            queue.append(burst);
        }
    }

    #[cold]
    fn push_first(&mut self, port: PortId, packet: Packet) {
        let at = usize::from(port.0);
        if at >= self.queues.len() {
            self.queues.resize_with(at + 1, Vec::new);
        }
        self.dirty.push(port);
        self.queues[at].push(packet);
    }

    /// A port that has packets, taken off the list; its queue is to be emptied now.
    #[inline]
    pub fn next_port(&mut self) -> Option<PortId> {
        self.dirty.pop()
    }

    /// The queue of a port.
    #[inline]
    pub fn queue(&mut self, port: PortId) -> &mut Vec<Packet> {
        &mut self.queues[usize::from(port.0)]
    }

    /// Frees all packets.
    pub fn clear(&mut self, pool: &mut FramePool) {
        self.dirty.clear();
        self.queues
            .iter_mut()
            .flat_map(|queue| queue.drain(..))
            .for_each(|packet| packet.free(pool));
    }
}

/// Makes every packet of `burst` one that the port takes.
#[inline]
pub fn prepare(
    burst: &mut Vec<Packet>,
    offloads: TxOffloads,
    pool: &mut FramePool,
    counters: &WorkerCounters,
) {
    if offloads.join && burst.len() > 1 {
        let before = burst.len();
        coalesce::coalesce(burst);
        counters.merged.add((before - burst.len()) as u64);
    }
    if burst.iter().all(|packet| offloads.takes(packet)) {
        return;
    }
    finish_in_software(burst, offloads, pool, counters);
}

#[cold]
fn finish_in_software(
    burst: &mut Vec<Packet>,
    offloads: TxOffloads,
    pool: &mut FramePool,
    counters: &WorkerCounters,
) {
    for packet in std::mem::take(burst) {
        if offloads.takes(&packet) {
            burst.push(packet);
            continue;
        }
        let before = burst.len();
        match complete(packet, offloads, pool, burst) {
            Ok(()) => counters.made.add((burst.len() - before) as u64 - 1),
            Err(reason) => counters.count_drop(reason),
        }
    }
}

/// Finishes a packet in software, appending it to `out`: an ordinary one gets its checksum, a
/// super-packet is cut into parts with theirs, a large frame is copied into small ones where the
/// port needs them. On an error the packet has been freed.
pub fn complete(
    mut packet: Packet,
    offloads: TxOffloads,
    pool: &mut FramePool,
    out: &mut Vec<Packet>,
) -> Result<(), DropReason> {
    let large_frames = offloads.of(&packet).large_frames;
    if packet.offload().gso == Gso::None && packet.is_large() && !large_frames {
        packet = segment::into_small(packet, pool).map_err(|packet| {
            packet.free(pool);
            DropReason::NoFrame
        })?;
    }
    segment::segment(packet, pool, out, Checksums::Finish).map_err(|error| error.drop_reason())
}
