//! Packets that wait for a link address: bounded, and for a bounded time.
//!
//! The worker asks the control side to resolve (its kernel does ARP and neighbour discovery), and
//! holds the packets until the answer. As RFC 1122 2.3.2.2 asks, more than one packet is kept.

use crate::packet::Packet;
use crate::port::PortId;
use ahash::AHashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

/// Packets held for one neighbour.
pub const MAX_PER_NEIGHBOR: usize = 32;
/// Packets held in all, per worker.
pub const MAX_HELD: usize = 2048;
/// Packets held of one port they came in by, per worker: no port fills the whole of it.
pub const MAX_PER_PORT: usize = MAX_HELD / 2;
/// How long a packet waits, in nanoseconds.
pub const HOLD_TIME_NS: u64 = 3_000_000_000;
/// How long after an unanswered question the next one is asked, in nanoseconds.
pub const ASK_AGAIN_NS: u64 = 500_000_000;

/// Whose link address is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Neighbor {
    /// On this port's link.
    pub port: PortId,
    /// With this address.
    pub address: IpAddr,
}

#[derive(Debug)]
struct Waiting {
    packets: Vec<Packet>,
    since_ns: u64,
    asked_ns: u64,
}

/// What the caller does after a packet was offered.
#[derive(Debug)]
pub enum Hold {
    /// Kept, and someone has been asked lately.
    Kept,
    /// Kept; ask for the address now.
    Ask,
    /// No room: drop it.
    Full(Packet),
    /// Nobody has been asked, and may not be asked now: drop it.
    Unasked(Packet),
}

/// The waiting packets of one worker.
#[derive(Debug, Default)]
pub struct HoldQueue {
    waiting: AHashMap<Neighbor, Waiting>,
    held: usize,
    by_port: AHashMap<PortId, usize>,
}

impl HoldQueue {
    /// Packets held now.
    pub fn len(&self) -> usize {
        self.held
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Keeps a packet for a neighbour that is not resolved. `may_ask` is asked before somebody else
    /// is, and not otherwise.
    pub fn hold(
        &mut self,
        neighbor: Neighbor,
        packet: Packet,
        now_ns: u64,
        may_ask: impl FnOnce() -> bool,
    ) -> Hold {
        let port = packet.in_port;
        let of_port = self.by_port.get(&port).copied().unwrap_or(0);
        if self.held >= MAX_HELD || of_port >= MAX_PER_PORT {
            return Hold::Full(packet);
        }
        let waiting = match self.waiting.entry(neighbor) {
            Entry::Occupied(waiting) => waiting.into_mut(),
            Entry::Vacant(_) if !may_ask() => return Hold::Unasked(packet),
            Entry::Vacant(vacant) => {
                let packets = vec![packet];
                vacant.insert(Waiting { packets, since_ns: now_ns, asked_ns: now_ns.max(1) });
                self.count(port);
                return Hold::Ask;
            }
        };
        if waiting.packets.len() >= MAX_PER_NEIGHBOR {
            return Hold::Full(packet);
        }
        waiting.packets.push(packet);
        let is_due = now_ns >= waiting.asked_ns + ASK_AGAIN_NS && may_ask();
        if is_due {
            waiting.asked_ns = now_ns;
        }
        self.count(port);
        if is_due { Hold::Ask } else { Hold::Kept }
    }

    fn count(&mut self, port: PortId) {
        self.held += 1;
        *self.by_port.entry(port).or_default() += 1;
    }

    /// Takes out what waits for a neighbour that has been resolved, or has failed.
    pub fn take(&mut self, neighbor: &Neighbor) -> Vec<Packet> {
        let packets = self.waiting.remove(neighbor).map_or_else(Vec::new, |entry| entry.packets);
        self.held -= packets.len();
        for packet in &packets {
            if let Some(count) = self.by_port.get_mut(&packet.in_port) {
                *count -= 1;
            }
        }
        packets
    }

    /// Takes out what has waited for [`HOLD_TIME_NS`] or longer.
    pub fn expire(&mut self, now_ns: u64) -> Vec<Packet> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let old: Vec<Neighbor> = self
            .waiting
            .iter()
            .filter(|(_, entry)| now_ns >= entry.since_ns + HOLD_TIME_NS)
            .map(|(neighbor, _)| *neighbor)
            .collect();
        old.iter().flat_map(|neighbor| self.take(neighbor)).collect()
    }

    /// Takes out everything, for the end of the worker or of a port.
    pub fn take_all(&mut self) -> Vec<Packet> {
        self.held = 0;
        self.by_port.clear();
        self.waiting.drain().flat_map(|(_, entry)| entry.packets).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memory::{Arena, FramePool, HEADROOM};

    fn fixture() -> (FramePool, HoldQueue, Neighbor) {
        let pool = FramePool::new(Arena::new(MAX_HELD + 64, 0).unwrap());
        let neighbor = Neighbor { port: PortId(1), address: [10, 0, 0, 1].into() };
        (pool, HoldQueue::default(), neighbor)
    }

    fn packet(pool: &mut FramePool) -> Packet {
        Packet::new(pool.alloc().unwrap(), HEADROOM, 60, PortId(0))
    }

    #[test]
    fn asks_once_and_again_only_after_a_while() {
        let (mut pool, mut queue, neighbor) = fixture();
        assert!(matches!(queue.hold(neighbor, packet(&mut pool), 5, || true), Hold::Ask));
        assert!(matches!(queue.hold(neighbor, packet(&mut pool), 6, || true), Hold::Kept));
        let later = 5 + ASK_AGAIN_NS;
        assert!(matches!(queue.hold(neighbor, packet(&mut pool), later, || true), Hold::Ask));
        let taken = queue.take(&neighbor);
        assert_eq!((taken.len(), queue.len()), (3, 0));
        taken.into_iter().for_each(|packet| packet.free(&mut pool));
    }

    #[test]
    fn without_leave_to_ask_only_those_wait_that_were_asked_for() {
        let (mut pool, mut queue, neighbor) = fixture();
        match queue.hold(neighbor, packet(&mut pool), 5, || false) {
            Hold::Unasked(packet) => packet.free(&mut pool),
            other => panic!("{other:?}"),
        }
        assert!(matches!(queue.hold(neighbor, packet(&mut pool), 5, || true), Hold::Ask));
        let later = 5 + ASK_AGAIN_NS;
        assert!(matches!(queue.hold(neighbor, packet(&mut pool), later, || false), Hold::Kept));
        assert!(matches!(queue.hold(neighbor, packet(&mut pool), later, || true), Hold::Ask));
        assert_eq!(queue.len(), 3);
        queue.take_all().into_iter().for_each(|packet| packet.free(&mut pool));
    }

    #[test]
    fn one_port_leaves_room_for_others() {
        let (mut pool, mut queue, mut neighbor) = fixture();
        for (port, room) in [(3, MAX_PER_PORT), (4, MAX_PER_PORT), (5, 0)] {
            let mut kept = 0;
            for at in 0..MAX_PER_PORT + 1 {
                neighbor.address = IpAddr::V4(std::net::Ipv4Addr::from((at / 32) as u32 + 1));
                neighbor.port = PortId(port);
                let mut packet = packet(&mut pool);
                packet.in_port = PortId(port);
                match queue.hold(neighbor, packet, 1, || true) {
                    Hold::Full(packet) => packet.free(&mut pool),
                    _ => kept += 1,
                }
            }
            assert_eq!(kept, room, "port {port}");
        }
        queue.expire(HOLD_TIME_NS + 1).into_iter().for_each(|packet| packet.free(&mut pool));
        assert!(queue.by_port.values().all(|count| *count == 0) && queue.is_empty());
    }

    #[test]
    fn both_bounds_hold_and_time_empties_the_queue() {
        let (mut pool, mut queue, mut neighbor) = fixture();
        let mut refused = 0;
        for at in 0..MAX_HELD + 40 {
            // One more than fits each neighbour.
            let host = (at / (MAX_PER_NEIGHBOR + 1)) as u32;
            neighbor.address = IpAddr::V4(std::net::Ipv4Addr::from(host));
            let mut packet = packet(&mut pool);
            packet.in_port = PortId(at as u16 % 3);
            if let Hold::Full(packet) = queue.hold(neighbor, packet, 1, || true) {
                refused += 1;
                packet.free(&mut pool);
            }
        }
        assert!(refused > 0 && queue.len() <= MAX_HELD);
        assert_eq!(queue.len() + refused, MAX_HELD + 40);
        assert!(queue.expire(HOLD_TIME_NS).is_empty());
        let expired = queue.expire(HOLD_TIME_NS + 1);
        assert_eq!(expired.len(), MAX_HELD + 40 - refused);
        expired.into_iter().for_each(|packet| packet.free(&mut pool));
        assert!(queue.is_empty());
    }
}
