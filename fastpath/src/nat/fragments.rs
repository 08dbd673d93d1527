//! Virtual reassembly: the ports of a fragmented packet, for those of its fragments without any.
//!
//! The first fragment's tuple is remembered; fragments that come before it wait. Nothing is put
//! together, so packets leave as fragmented as they came (RFC 4787 REQ-14). All is bounded: packets
//! remembered, fragments that wait (for one packet and in all, and their bytes), and for how long.

use crate::flow::{Address, Tuple};
use crate::packet::Packet;
use ahash::AHashMap;
use std::collections::VecDeque;

/// Fragmented packets that are remembered at once.
pub const MAX_PACKETS: usize = 4096;
/// Fragments that wait for one first fragment: 64 kB in pieces of 576 bytes.
pub const MAX_WAITING_EACH: usize = 128;
/// Fragments that wait in all.
pub const MAX_WAITING: usize = 1024;
/// Bytes of the fragments that wait in all.
pub const MAX_WAITING_BYTES: usize = 2 << 20;
const SECOND_NS: u64 = 1_000_000_000;

/// All fragments of a packet have this in common (RFC 791 3.2, RFC 8200 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    src: Address,
    dst: Address,
    protocol: u8,
    id: u32,
}

impl Key {
    fn of(tuple: &Tuple, id: u32) -> Key {
        Key { src: tuple.src, dst: tuple.dst, protocol: tuple.protocol, id }
    }
}

#[derive(Debug, Default)]
struct Entry {
    ports: Option<(u16, u16)>,
    waiting: Vec<Packet>,
}

/// What happens to a fragment behind the first.
#[derive(Debug)]
pub enum Found {
    /// The tuple of its packet.
    Tuple(Tuple),
    /// The first one has not come: it may wait.
    Unknown,
}

/// The fragmented packets of one worker.
#[derive(Debug)]
pub struct Fragments {
    /// How long a packet is remembered, in nanoseconds.
    time_ns: u64,
    entries: AHashMap<Key, Entry>,
    order: VecDeque<(u64, Key)>,
    waiting: usize,
    waiting_bytes: usize,
}

impl Fragments {
    /// Nothing yet. Packets will be remembered for `time_s` seconds.
    pub fn new(time_s: u32) -> Fragments {
        Fragments {
            time_ns: u64::from(time_s) * SECOND_NS,
            entries: AHashMap::new(),
            order: VecDeque::new(),
            waiting: 0,
            waiting_bytes: 0,
        }
    }

    /// Sets the time of packets that are yet to come; earlier ones that it would overtake go first.
    pub fn set_time(&mut self, time_s: u32) {
        self.time_ns = u64::from(time_s) * SECOND_NS;
    }

    /// Fragments that wait now.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Packets remembered now.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A first fragment came: gives `released` those that have waited for it, in their order. Those
    /// of an older packet that had to be forgotten go to `dropped`.
    pub fn first(
        &mut self,
        (tuple, id): (&Tuple, u32),
        now_ns: u64,
        released: &mut Vec<Packet>,
        dropped: &mut Vec<Packet>,
    ) {
        let entry = self.entry(Key::of(tuple, id), now_ns, dropped);
        entry.ports = Some((tuple.src_port, tuple.dst_port));
        let waited = std::mem::take(&mut entry.waiting);
        self.waiting -= waited.len();
        self.waiting_bytes -= waited.iter().map(Packet::len).sum::<usize>();
        released.extend(waited);
    }

    /// The whole tuple of a later fragment.
    pub fn later(&self, tuple: &Tuple, id: u32) -> Found {
        let ports = self.entries.get(&Key::of(tuple, id)).and_then(|entry| entry.ports);
        match ports {
            Some((src_port, dst_port)) => Found::Tuple(Tuple { src_port, dst_port, ..*tuple }),
            None => Found::Unknown,
        }
    }

    /// True when the first fragment has come.
    pub fn knows(&self, tuple: &Tuple, id: u32) -> bool {
        matches!(self.later(tuple, id), Found::Tuple(_))
    }

    /// Lets a fragment wait; gives it back when there is no room.
    pub fn wait(
        &mut self,
        (tuple, id): (&Tuple, u32),
        packet: Packet,
        now_ns: u64,
        dropped: &mut Vec<Packet>,
    ) -> Result<(), Packet> {
        let bytes = packet.len();
        if self.waiting >= MAX_WAITING || self.waiting_bytes + bytes > MAX_WAITING_BYTES {
            return Err(packet);
        }
        let entry = self.entry(Key::of(tuple, id), now_ns, dropped);
        if entry.waiting.len() >= MAX_WAITING_EACH {
            return Err(packet);
        }
        entry.waiting.push(packet);
        self.waiting += 1;
        self.waiting_bytes += bytes;
        Ok(())
    }

    fn entry(&mut self, key: Key, now_ns: u64, dropped: &mut Vec<Packet>) -> &mut Entry {
        if !self.entries.contains_key(&key) {
            if self.entries.len() >= MAX_PACKETS
                && let Some((_, oldest)) = self.order.pop_front()
            {
                self.forget(&oldest, dropped);
            }
            self.order.push_back((now_ns + self.time_ns, key));
        }
        self.entries.entry(key).or_default()
    }

    fn forget(&mut self, key: &Key, dropped: &mut Vec<Packet>) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.waiting -= entry.waiting.len();
        self.waiting_bytes -= entry.waiting.iter().map(Packet::len).sum::<usize>();
        dropped.extend(entry.waiting);
    }

    /// Forgets packets whose time is over; their fragments go to `dropped`.
    pub fn expire(&mut self, now_ns: u64, dropped: &mut Vec<Packet>) {
        while let Some((end_ns, key)) = self.order.front().copied()
            && end_ns <= now_ns
        {
            self.order.pop_front();
            self.forget(&key, dropped);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self, dropped: &mut Vec<Packet>) {
        self.expire(u64::MAX, dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::PortId;
    use crate::sys::memory::{Arena, FramePool, HEADROOM};
    use std::net::Ipv4Addr;

    const TIME_NS: u64 = 30 * SECOND_NS;

    fn fragments() -> Fragments {
        Fragments::new(30)
    }

    fn tuple(host: u32) -> Tuple {
        Tuple {
            src: Ipv4Addr::from_bits(0x0a00_0000 + host).into(),
            dst: Ipv4Addr::new(192, 0, 2, 1).into(),
            protocol: 17,
            ..Tuple::default()
        }
    }

    fn pool() -> FramePool {
        FramePool::new(Arena::new(2 * MAX_WAITING, 0).unwrap())
    }

    fn packet(pool: &mut FramePool, len: usize) -> Packet {
        Packet::new(pool.alloc().unwrap(), HEADROOM, len, PortId(0))
    }

    fn free(pool: &mut FramePool, packets: &mut Vec<Packet>) -> usize {
        let count = packets.len();
        packets.drain(..).for_each(|packet| packet.free(pool));
        count
    }

    #[test]
    fn rfc_4787_req_14_fragments_that_come_early_wait_for_the_first() {
        let (mut pool, mut fragments) = (pool(), fragments());
        let (mut released, mut dropped) = (Vec::new(), Vec::new());
        for len in [100, 200] {
            let packet = packet(&mut pool, len);
            assert!(fragments.wait((&tuple(1), 7), packet, 0, &mut dropped).is_ok());
        }
        assert!(matches!(fragments.later(&tuple(1), 7), Found::Unknown));
        let first = Tuple { src_port: 5, dst_port: 6, ..tuple(1) };
        fragments.first((&first, 8), 1, &mut released, &mut dropped);
        assert!(released.is_empty(), "another packet's");
        fragments.first((&first, 7), 1, &mut released, &mut dropped);
        assert_eq!(released.iter().map(Packet::len).collect::<Vec<_>>(), [100, 200]);
        assert!(matches!(fragments.later(&tuple(1), 7), Found::Tuple(found) if found == first));
        assert_eq!((fragments.waiting(), free(&mut pool, &mut released)), (0, 2));
        fragments.expire(TIME_NS + 1, &mut dropped);
        assert!(fragments.is_empty() && dropped.is_empty());
    }

    #[test]
    fn a_flood_of_fragments_is_bounded_in_number_bytes_and_time() {
        let (mut pool, mut fragments) = (pool(), fragments());
        let mut dropped = Vec::new();
        let mut refused = 0;
        for at in 0..2000u32 {
            let packet = packet(&mut pool, 1500);
            if let Err(packet) =
                fragments.wait((&tuple(at / 200), at / 200), packet, 5, &mut dropped)
            {
                refused += 1;
                packet.free(&mut pool);
            }
        }
        // Of 200 for each, 128 are kept.
        assert_eq!((fragments.waiting(), refused), (MAX_WAITING, 2000 - MAX_WAITING));
        fragments.expire(4 + TIME_NS, &mut dropped);
        assert!(dropped.is_empty());
        fragments.expire(5 + TIME_NS, &mut dropped);
        assert_eq!((free(&mut pool, &mut dropped), fragments.len()), (MAX_WAITING, 0));
        for at in 0..2000 {
            let packet = packet(&mut pool, 3000);
            if let Err(packet) = fragments.wait((&tuple(at), 1), packet, 5, &mut dropped) {
                packet.free(&mut pool);
            }
        }
        assert_eq!(fragments.waiting(), MAX_WAITING_BYTES / 3000);
        fragments.clear(&mut dropped);
        free(&mut pool, &mut dropped);
    }

    #[test]
    fn the_oldest_packet_is_forgotten_for_a_new_one() {
        let (mut pool, mut fragments) = (pool(), fragments());
        let (mut released, mut dropped) = (Vec::new(), Vec::new());
        let early = packet(&mut pool, 64);
        assert!(fragments.wait((&tuple(0), 0), early, 0, &mut dropped).is_ok());
        for at in 1..=MAX_PACKETS as u32 {
            fragments.first((&tuple(at), 0), 0, &mut released, &mut dropped);
        }
        assert_eq!((fragments.len(), fragments.waiting()), (MAX_PACKETS, 0));
        assert_eq!(free(&mut pool, &mut dropped), 1);
    }
}
