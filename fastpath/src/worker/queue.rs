//! What waits for a port that takes no more: because its ring is full, or because of the rate that
//! it may have. A port that is neither has no queue, and costs nothing here.
//!
//! Reserved packets go first: what margay makes itself (ICMP errors, resets), its answers to ARP
//! and neighbour discovery, and the host's BGP and BFD. The others share the port fairly, by the
//! port that they came in by, and by flow.

use crate::flow_hash;
use crate::limit::{Cost, Entry, FairQueue, Lease, PortRate, QueueAccount, is_routing};
use crate::packet::Packet;
use crate::port::{BURST, PortId};
use crate::sys::memory::FramePool;
use crate::tables::Tables;
use margay_tunnels::wire::{ethernet, ipv6, protocol};
use std::collections::VecDeque;

/// Reserved packets that wait for a port at most.
pub(super) const RESERVED_MAX: usize = 256;
/// Other packets of one endpoint that wait for a port at most.
pub(super) const EACH_MAX: usize = 512;
/// Other packets that wait for a port at most.
pub(super) const QUEUE_MAX: usize = 1024;
/// Packets that wait for all ports of a worker at most: an eighth of the default number of frames.
pub(super) const ALL_MAX: usize = 4096;
/// How long a port may take nothing before what waits for it is dropped, in nanoseconds.
pub(super) const STALL_NS: u64 = 1_000_000_000;
/// Bursts that one call sends at most.
const BURSTS: usize = 4;

/// The queue of one port.
#[derive(Debug)]
pub(super) struct PortQueue {
    /// Packets whose turn has come, but the port had no room for them.
    first: Vec<Packet>,
    /// A packet whose turn has come, and the time that it may go at the port's rate.
    timed: Option<(u64, Packet)>,
    reserved: VecDeque<Packet>,
    fair: FairQueue<Packet>,
    lease: Lease,
    /// Of the rate that the lease is of.
    generation: u64,
    burst: Vec<Packet>,
    /// When something went, or had not yet to.
    moved_ns: u64,
    /// What it has dropped: for want of room, and after too long a wait.
    pub(super) dropped: Dropped,
}

/// Packets that a queue has dropped since somebody asked.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    pub(super) full: u64,
    pub(super) late: u64,
}

/// What a call has sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sent {
    pub(super) packets: usize,
    pub(super) bytes: usize,
}

impl Sent {
    /// Of a burst; by a wire super-packets are what becomes of them.
    #[inline]
    pub(super) fn of(burst: &[Packet], is_wire: bool) -> Sent {
        if !is_wire {
            return Sent { packets: burst.len(), bytes: burst.iter().map(Packet::len).sum() };
        }
        let costs = burst.iter().map(Cost::of);
        costs.fold(Sent::default(), |sum, cost| Sent {
            packets: sum.packets + cost.packets as usize,
            bytes: sum.bytes + cost.bytes as usize,
        })
    }
}

impl PortQueue {
    pub(super) fn new(now_ns: u64) -> PortQueue {
        PortQueue {
            first: Vec::new(),
            timed: None,
            reserved: VecDeque::new(),
            fair: FairQueue::new(EACH_MAX, QUEUE_MAX),
            lease: Lease::default(),
            generation: 0,
            burst: Vec::with_capacity(BURST),
            moved_ns: now_ns,
            dropped: Dropped::default(),
        }
    }

    /// Packets that wait.
    pub(super) fn len(&self) -> usize {
        let chosen = self.first.len() + usize::from(self.timed.is_some());
        chosen + self.reserved.len() + self.fair.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Queues a burst; `room` is how many more may wait in the worker.
    pub(super) fn push(
        &mut self,
        burst: &mut Vec<Packet>,
        (tables, now_ns): (&Tables, u64),
        room: usize,
        pool: &mut FramePool,
    ) {
        if self.is_empty() {
            self.moved_ns = now_ns;
        }
        let end = self.len() + room;
        for packet in burst.drain(..) {
            if is_reserved(&packet, tables) {
                match self.reserved.len() < RESERVED_MAX {
                    true => self.reserved.push_back(packet),
                    false => {
                        self.dropped.full += 1;
                        packet.free(pool);
                    }
                }
                continue;
            }
            if let Some(account) = account(tables, &packet) {
                account.enter();
            }
            let entry = Entry {
                class: usize::from(packet.in_port.0),
                weight: tables.weight_of(packet.in_port),
                flow: flow_of(&packet),
                bytes: packet.len() as u32,
                now_ns,
            };
            if let Some(refused) = self.fair.push(entry, packet) {
                self.lose(refused.packet, tables, pool);
            }
            if self.len() > end
                && let Some(refused) = self.fair.drop_longest()
            {
                self.lose(refused.packet, tables, pool);
            }
        }
    }

    /// A packet that waited, and for which there is no room any more.
    fn lose(&mut self, packet: Packet, tables: &Tables, pool: &mut FramePool) {
        self.dropped.full += 1;
        if let Some(account) = account(tables, &packet) {
            account.drop_full();
        }
        packet.free(pool);
    }

    /// Gives `tx` what it takes now; it leaves the rest. `is_wire` as in [`Sent::of`].
    pub(super) fn drain(
        &mut self,
        (rate, is_wire): (Option<&PortRate>, bool),
        (tables, now_ns): (&Tables, u64),
        pool: &mut FramePool,
        mut tx: impl FnMut(&mut FramePool, &mut Vec<Packet>),
    ) -> Sent {
        let mut sent = Sent::default();
        for _ in 0..BURSTS {
            let mut burst = std::mem::take(&mut self.burst);
            burst.append(&mut self.first);
            if burst.is_empty() {
                self.fill(&mut burst, rate, (tables, now_ns), pool);
            }
            let (packets, before) = (burst.len(), Sent::of(&burst, is_wire));
            if packets > 0 {
                tx(pool, &mut burst);
            }
            let (took, left) = (packets - burst.len(), Sent::of(&burst, is_wire));
            sent.packets += before.packets - left.packets;
            sent.bytes += before.bytes - left.bytes;
            if took > 0 || packets == 0 {
                self.moved_ns = now_ns;
            }
            self.first.append(&mut burst);
            self.burst = burst;
            if took < packets || packets == 0 {
                break;
            }
        }
        if now_ns >= self.moved_ns + STALL_NS {
            self.dropped.full += self.len() as u64;
            self.clear(tables, pool);
        }
        sent
    }

    /// The next packets whose time has come, a burst at most.
    fn fill(
        &mut self,
        burst: &mut Vec<Packet>,
        rate: Option<&PortRate>,
        (tables, now_ns): (&Tables, u64),
        pool: &mut FramePool,
    ) {
        match self.timed.take() {
            Some((at_ns, packet)) if at_ns > now_ns && rate.is_some() => {
                return self.timed = Some((at_ns, packet));
            }
            Some((_, packet)) => burst.push(packet),
            None => {}
        }
        if let Some(rate) = rate.filter(|rate| rate.generation() != self.generation) {
            (self.generation, self.lease) = (rate.generation(), Lease::default());
        }
        while burst.len() < BURST {
            let late = &mut self.dropped.late;
            let lost = |packet: Packet| {
                *late += 1;
                if let Some(account) = account(tables, &packet) {
                    account.drop_late();
                }
                packet.free(pool);
            };
            let reserved = self.reserved.pop_front();
            let is_reserved = reserved.is_some();
            let Some(packet) = reserved.or_else(|| self.fair.pop(now_ns, lost)) else { break };
            if let Some(account) = account(tables, &packet).filter(|_| !is_reserved) {
                account.leave();
            }
            let at_ns =
                rate.map_or(now_ns, |rate| rate.book(&mut self.lease, now_ns, packet.len() as u32));
            if at_ns > now_ns {
                self.timed = Some((at_ns, packet));
                break;
            }
            burst.push(packet);
        }
    }

    /// Frees all that waits.
    pub(super) fn clear(&mut self, tables: &Tables, pool: &mut FramePool) {
        self.first.drain(..).for_each(|packet| packet.free(pool));
        self.reserved.drain(..).for_each(|packet| packet.free(pool));
        if let Some((_, packet)) = self.timed.take() {
            packet.free(pool);
        }
        while let Some(refused) = self.fair.drop_longest() {
            if let Some(account) = account(tables, &refused.packet) {
                account.drop_full();
            }
            refused.packet.free(pool);
        }
    }
}

/// The account of the endpoint that a packet came from.
fn account<'a>(tables: &'a Tables, packet: &Packet) -> Option<&'a QueueAccount> {
    tables.port(packet.in_port).map(|port| &port.queue)
}

/// True for what goes first; nobody else can have such packets come here.
fn is_reserved(packet: &Packet, tables: &Tables) -> bool {
    if packet.in_port == PortId::NONE {
        return true;
    }
    let host = tables.host.and_then(|id| tables.adjacency(id)).map(|host| host.port);
    if host == Some(packet.in_port) {
        return is_routing(packet);
    }
    is_neighbor_message(packet.head())
}

/// ARP or neighbour discovery. None is forwarded: a hop limit of 255 is no longer that (RFC 4861
/// 6.1.1).
fn is_neighbor_message(frame: &[u8]) -> bool {
    let Some((link, ip)) = frame.split_at_checked(ethernet::HEADER_LEN) else { return false };
    match u16::from_be_bytes([link[12], link[13]]) {
        ethernet::ARP => true,
        ethernet::IPV6 => {
            let kind = ip.get(ipv6::HEADER_LEN).is_some_and(|kind| (133..=137).contains(kind));
            kind && ip[6] == protocol::ICMPV6 && ip[7] == 255
        }
        _ => false,
    }
}

/// A hash of the flow; of the one inside of IPIP, whose outer packets are all alike.
fn flow_of(packet: &Packet) -> u32 {
    let hash = flow_hash::flow_hash(packet);
    let inner = packet.head().get(usize::from(packet.l4)..).unwrap_or_default();
    let is_ipip = packet.head().get(usize::from(packet.l3) + 9) == Some(&protocol::IPIP);
    match inner.get(12..24).filter(|inner| is_ipip && inner.len() == 12) {
        Some(inner) => {
            let words = inner.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word));
            words.fold(hash, |hash, word| (hash ^ word).wrapping_mul(0x9e37_79b1).rotate_left(15))
        }
        None => hash,
    }
}
