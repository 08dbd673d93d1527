//! Egress queues: packets that are ready for a port, and what the port cannot finish by itself.
//!
//! A queue holds at most what one burst can make; it is emptied after each burst. Before a port
//! without offloads, checksums are finished and super-packets cut; before one that takes
//! super-packets, TCP segments that follow each other are joined.

use crate::coalesce;
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::packet::{Gso, Packet};
use crate::port::{BURST, PortId, TxOffloads};
use crate::segment::{self, Checksums};
use crate::sys::lanes::shares;
use crate::sys::memory::FramePool;
use crate::sys::parked::Parked;

/// The queues of one worker. Lists are given to ports as they have packets, the last emptied one
/// first: a thousand ports with a packet each in turn need no more memory than a burst has.
#[derive(Debug, Default)]
pub struct Egress {
    /// A burst for several ports, and each one's packets.
    burst: Parked<Packet>,
    shares: Vec<(PortId, u64)>,
    queues: Vec<(PortId, Vec<Packet>)>,
    /// By port, where its queue is if it has one.
    places: Vec<u16>,
    spare: Vec<Vec<Packet>>,
}

impl Egress {
    /// Puts a packet behind the others for `port`.
    #[inline(always)]
    pub fn push(&mut self, port: PortId, packet: Packet) {
        match self.queue_of(port) {
            Some(queue) => queue.push(packet),
            None => self.begin(port).push(packet),
        }
    }

    /// Puts a whole burst behind the others for `port`; leaves it empty.
    pub fn append(&mut self, port: PortId, burst: &mut Vec<Packet>) {
        if burst.is_empty() {
            return;
        }
        match self.queue_of(port) {
            Some(queue) => queue.append(burst),
            None => std::mem::swap(self.begin(port), burst),
        }
    }

    /// Puts each packet of a burst, of [`BURST`] at most, behind the others for its port; leaves it
    /// empty.
    pub fn append_all(&mut self, ports: &[PortId; BURST], burst: &mut Vec<Packet>) {
        let count = burst.len().min(BURST);
        if !self.queues.is_empty() || !self.shares.is_empty() || count < burst.len() {
            let all = burst.drain(..).zip(ports);
            return all.for_each(|(packet, port)| self.push(*port, packet));
        }
        let numbers = ports.map(|port| port.0);
        let left = u64::MAX.checked_shr((BURST - count) as u32).unwrap_or(0);
        self.burst.park(burst);
        let all = &mut self.shares;
        shares(&numbers, left, |port, share| all.push((PortId(port), share)));
    }

    #[inline(always)]
    fn queue_of(&mut self, port: PortId) -> Option<&mut Vec<Packet>> {
        let place = *self.places.get(usize::from(port.0))?;
        let (owner, queue) = self.queues.get_mut(usize::from(place))?;
        (*owner == port).then_some(queue)
    }

    #[inline]
    fn begin(&mut self, port: PortId) -> &mut Vec<Packet> {
        let at = usize::from(port.0);
        if at >= self.places.len() {
            self.places.resize(at + 1, 0);
        }
        let place = self.queues.len();
        self.places[at] = place as u16;
        self.queues.push((port, self.spare.pop().unwrap_or_default()));
        &mut self.queues[place].1
    }

    /// A port that has packets; `out`, which is empty, gets them. Lists stay where they are, since
    /// whoever moves one waits for the last store to it.
    #[inline]
    pub fn take(&mut self, out: &mut Vec<Packet>) -> Option<PortId> {
        debug_assert!(out.is_empty());
        if let Some((port, share)) = self.shares.pop() {
            self.burst.take(share, out);
            return Some(port);
        }
        let (port, mut queue) = self.queues.pop()?;
        std::mem::swap(out, &mut queue);
        self.spare.push(queue);
        Some(port)
    }

    /// Frees all packets.
    pub fn clear(&mut self, pool: &mut FramePool) {
        let mut queue = Vec::new();
        while self.take(&mut queue).is_some() {
            pool.free_burst(&mut queue);
        }
    }
}

/// True when a port takes all packets of `burst` as they are, and would gain nothing by others.
#[inline]
pub fn is_ready(burst: &[Packet], offloads: TxOffloads) -> bool {
    !(offloads.join && burst.len() > 1) && burst.iter().all(|packet| offloads.takes(packet))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::{Arena, HEADROOM};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What each port has, by the lengths of its packets; a length is a packet's number.
    type Queues = BTreeMap<PortId, Vec<usize>>;

    fn take_all(egress: &mut Egress, pool: &mut FramePool) -> Queues {
        let (mut taken, mut queue) = (Queues::new(), Vec::new());
        while let Some(port) = egress.take(&mut queue) {
            taken.entry(port).or_default().extend(queue.iter().map(Packet::len));
            pool.free_burst(&mut queue);
        }
        taken
    }

    proptest! {
        /// Single packets, bursts for one port, bursts for several, and looks at what is there.
        #[test]
        fn each_port_gets_its_packets_in_their_order(
            steps in vec((0u8..4, vec(0u16..5, 1..=BURST)), 1..12)
        ) {
            let arena = Arena::new(1024, 0).unwrap();
            let (mut pool, mut egress) = (FramePool::new(arena.clone()), Egress::default());
            let (mut wanted, mut number) = (Queues::new(), 0);
            for (what, ports) in steps {
                let mut made = |port: u16| {
                    number += 1;
                    wanted.entry(PortId(port)).or_default().push(number);
                    Packet::new(pool.alloc().unwrap(), HEADROOM, number, PortId(9))
                };
                match what {
                    0 => ports.iter().for_each(|port| egress.push(PortId(*port), made(*port))),
                    1 => {
                        let mut burst = ports.iter().map(|_| made(ports[0])).collect();
                        egress.append(PortId(ports[0]), &mut burst);
                        prop_assert!(burst.is_empty());
                    }
                    2 => {
                        let mut burst = ports.iter().map(|port| made(*port)).collect();
                        // Behind the last one there is something of the burst before.
                        let mut all = [PortId(ports[0]); BURST];
                        all.iter_mut().zip(&ports).for_each(|(one, port)| *one = PortId(*port));
                        egress.append_all(&all, &mut burst);
                        prop_assert!(burst.is_empty());
                    }
                    _ => {
                        let wanted = std::mem::take(&mut wanted);
                        prop_assert_eq!(take_all(&mut egress, &mut pool), wanted);
                    }
                }
            }
            egress.clear(&mut pool);
            prop_assert!(take_all(&mut egress, &mut pool).is_empty());
            drop(pool);
            prop_assert_eq!(arena.free_small(), 1024);
        }
    }
}
