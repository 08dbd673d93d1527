//! Simulated links: two ports in memory, tied by a link with seeded faults and a virtual clock.
//!
//! Frames travel without being copied. Each direction draws its faults from its own stream of
//! numbers, so that the same seed and the same packets give the same run whatever the other
//! direction does. Every fault is counted, and every packet is accounted for:
//! sent + duplicated = delivered + lost + overflowed + cut_off + in flight.

use super::{BURST, Port, PortId, PortReport, RxState, TxOffloads};
use crate::packet::{Offload, Packet};
use crate::segment;
use crate::sys::memory::FramePool;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// One in a million, the unit of fault probabilities.
pub const PPM: u32 = 1_000_000;

/// Virtual time, in nanoseconds from 0. Clones show the same time.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    /// The time now.
    pub fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Lets time pass.
    pub fn advance(&self, by_ns: u64) {
        self.0.fetch_add(by_ns, Ordering::Relaxed);
    }
}

/// How a link behaves, the same in both directions. Probabilities are in [`PPM`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkConfig {
    /// Where the faults come from.
    pub seed: u64,
    /// Time on the link, in nanoseconds.
    pub delay_ns: u64,
    /// A packet is lost.
    pub loss: u32,
    /// One bit of the packet's first frame is flipped.
    pub corruption: u32,
    /// The packet arrives twice.
    pub duplication: u32,
    /// The packet takes `reorder_ns` longer, so that later ones overtake it.
    pub reordering: u32,
    /// How much longer, in nanoseconds.
    pub reorder_ns: u64,
    /// Most packets under way in one direction; more are dropped.
    pub queue_limit: usize,
    /// What the ports take unfinished. The other end gets it so.
    pub offloads: TxOffloads,
    /// How fast it carries; `None` for no time at all.
    pub line: Option<Line>,
}

/// The line behind a port's transmit ring, which takes no more when it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Bits a second, 1 or more.
    pub bits_per_s: u64,
    /// Packets that wait for the line or are on it.
    pub ring: usize,
}

impl Default for LinkConfig {
    /// A perfect link without delay.
    fn default() -> LinkConfig {
        LinkConfig {
            seed: 0,
            delay_ns: 0,
            loss: 0,
            corruption: 0,
            duplication: 0,
            reordering: 0,
            reorder_ns: 0,
            queue_limit: 4096,
            offloads: TxOffloads::default(),
            line: None,
        }
    }
}

/// What happened in one direction, in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounters {
    /// Given to the link.
    pub sent: u64,
    /// Come out at the other end.
    pub delivered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Damaged by chance.
    pub corrupted: u64,
    /// Second copies made by chance.
    pub duplicated: u64,
    /// Held back by chance.
    pub reordered: u64,
    /// Dropped because the queue was full.
    pub overflowed: u64,
    /// Dropped because the link was down, removed, or closed at the far end.
    pub cut_off: u64,
}

#[derive(Debug)]
struct Direction {
    random: u64,
    sequence: u64,
    under_way: BTreeMap<(u64, u64), Packet>,
    counters: LinkCounters,
    /// The receiving end was closed.
    closed: bool,
    /// When the line has sent each packet of the ring, in nanoseconds.
    ring: VecDeque<u64>,
    /// When the line is free, in nanoseconds times its rate.
    line_free: u128,
}

#[derive(Debug)]
struct State {
    up: bool,
    removed: bool,
    /// `[n]` leads from end n to the other one.
    directions: [Direction; 2],
}

/// One end of a link.
#[derive(Debug)]
pub struct SimPort {
    id: PortId,
    end: usize,
    config: LinkConfig,
    clock: Clock,
    state: Arc<Mutex<State>>,
}

/// A hand on the link itself: faults from outside, and the books.
#[derive(Debug, Clone)]
pub struct Link(Arc<Mutex<State>>);

/// Makes a link between port `ids.0` and port `ids.1`.
pub fn link(config: LinkConfig, clock: &Clock, ids: (PortId, PortId)) -> (SimPort, SimPort, Link) {
    let direction = |salt: u64| Direction {
        random: config.seed.wrapping_mul(2).wrapping_add(salt),
        sequence: 0,
        under_way: BTreeMap::new(),
        counters: LinkCounters::default(),
        closed: false,
        ring: VecDeque::new(),
        line_free: 0,
    };
    let state = State { up: true, removed: false, directions: [direction(0), direction(1)] };
    let state = Arc::new(Mutex::new(state));
    let port = |id, end| SimPort { id, end, config, clock: clock.clone(), state: state.clone() };
    (port(ids.0, 0), port(ids.1, 1), Link(state.clone()))
}

impl Link {
    /// Takes the link down (what is sent is dropped) or up. What is under way still arrives.
    pub fn set_up(&self, up: bool) {
        if let Ok(mut state) = self.0.lock() {
            state.up = up;
        }
    }

    /// Removes the link as a device is removed: both ports report [`RxState::Gone`].
    pub fn remove(&self) {
        if let Ok(mut state) = self.0.lock() {
            state.removed = true;
        }
    }

    /// The books of the direction that leads from end `end` (0 or 1).
    pub fn counters(&self, end: usize) -> LinkCounters {
        self.0.lock().map_or_else(|_| Default::default(), |state| state.directions[end].counters)
    }

    /// Packets under way in both directions.
    pub fn under_way(&self) -> usize {
        self.0
            .lock()
            .map_or(0, |state| state.directions.iter().map(|one| one.under_way.len()).sum())
    }

    /// When the next packet arrives, to advance a clock to; `None` when nothing is under way.
    pub fn next_arrival_ns(&self) -> Option<u64> {
        let state = self.0.lock().ok()?;
        let first = |one: &Direction| one.under_way.keys().next().map(|(due, _)| *due);
        state.directions.iter().filter_map(first).min()
    }
}

impl Direction {
    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn chance(&mut self, ppm: u32) -> bool {
        // Drawn also for 0, so that one fault's rate does not move the others.
        self.draw() % u64::from(PPM) < u64::from(ppm)
    }

    fn send(&mut self, mut packet: Packet, config: &LinkConfig, now_ns: u64, pool: &mut FramePool) {
        self.counters.sent += 1;
        let lost = self.chance(config.loss);
        let corrupted = self.chance(config.corruption);
        let duplicated = self.chance(config.duplication);
        let reordered = self.chance(config.reordering);
        let place = self.draw() as usize;
        if lost {
            self.counters.lost += 1;
            return packet.free(pool);
        }
        if corrupted && !packet.head().is_empty() {
            self.counters.corrupted += 1;
            let bit = place % (packet.head().len() * 8);
            packet.head_mut()[bit / 8] ^= 1 << (bit % 8);
        }
        let mut due_ns = self.sent_ns(packet.len(), config, now_ns) + config.delay_ns;
        if duplicated && let Some(copy) = segment::copy(&packet, pool) {
            self.counters.duplicated += 1;
            self.enqueue(copy, due_ns, config, pool);
        }
        if reordered {
            self.counters.reordered += 1;
            due_ns += config.reorder_ns;
        }
        self.enqueue(packet, due_ns, config, pool);
    }

    fn enqueue(&mut self, packet: Packet, due_ns: u64, config: &LinkConfig, pool: &mut FramePool) {
        if self.under_way.len() >= config.queue_limit {
            self.counters.overflowed += 1;
            return packet.free(pool);
        }
        self.sequence += 1;
        self.under_way.insert((due_ns, self.sequence), packet);
    }

    /// Packets that the transmit ring has room for.
    fn room(&mut self, config: &LinkConfig, now_ns: u64) -> usize {
        let Some(line) = config.line else { return usize::MAX };
        while self.ring.front().is_some_and(|sent_ns| *sent_ns <= now_ns) {
            self.ring.pop_front();
        }
        line.ring.saturating_sub(self.ring.len())
    }

    /// When the line has sent one more packet of so many bytes.
    fn sent_ns(&mut self, len: usize, config: &LinkConfig, now_ns: u64) -> u64 {
        let Some(line) = config.line else { return now_ns };
        let rate = u128::from(line.bits_per_s.max(1));
        let begin = self.line_free.max(u128::from(now_ns) * rate);
        self.line_free = begin + len as u128 * 8_000_000_000;
        let sent_ns = u64::try_from(self.line_free.div_ceil(rate)).unwrap_or(u64::MAX);
        self.ring.push_back(sent_ns);
        sent_ns
    }

    fn cut_off(&mut self, pool: &mut FramePool) {
        while let Some((_, packet)) = self.under_way.pop_first() {
            self.counters.cut_off += 1;
            packet.free(pool);
        }
    }
}

impl Port for SimPort {
    fn rx(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, budget: usize) -> RxState {
        let now_ns = self.clock.now_ns();
        let Ok(mut state) = self.state.lock() else { return RxState::Gone };
        let removed = state.removed;
        let incoming = &mut state.directions[1 - self.end];
        if removed {
            incoming.cut_off(pool);
            return RxState::Gone;
        }
        for _ in 0..budget.min(BURST) {
            let Some(first) = incoming.under_way.first_entry() else { break };
            if first.key().0 > now_ns {
                break;
            }
            let mut packet = first.remove();
            packet.in_port = self.id;
            (packet.l3, packet.l4) = (0, 0);
            incoming.counters.delivered += 1;
            out.push(packet);
        }
        RxState::Up
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) {
        let (now_ns, offloads) = (self.clock.now_ns(), self.tx_offloads());
        let Ok(mut state) = self.state.lock() else { return };
        let works = state.up && !state.removed;
        let outgoing = &mut state.directions[self.end];
        let room = outgoing.room(&self.config, now_ns).min(burst.len());
        for mut packet in burst.drain(..room) {
            if !offloads.takes(&packet) {
                // A wire does not carry the state: what was not finished arrives wrong, as it
                // would from a NIC that was asked for what it can't do.
                packet.set_offload(Offload::default());
            }
            if works && !outgoing.closed {
                outgoing.send(packet, &self.config, now_ns, pool);
            } else {
                outgoing.counters.sent += 1;
                outgoing.counters.cut_off += 1;
                packet.free(pool);
            }
        }
    }

    fn service(&mut self, _pool: &mut FramePool) {}

    fn poll_fd(&self) -> Option<RawFd> {
        None
    }

    fn tx_offloads(&self) -> TxOffloads {
        TxOffloads { large_frames: true, ..self.config.offloads }
    }

    fn report(&self) -> PortReport {
        let Ok(state) = self.state.lock() else { return PortReport::default() };
        let (out, incoming) = (&state.directions[self.end], &state.directions[1 - self.end]);
        let counters = out.counters;
        PortReport {
            kind: "sim",
            mode: format!("simulated link, seed {}", self.config.seed),
            frames_held: incoming.under_way.values().map(Packet::segment_count).sum(),
            kernel: vec![
                ("sent", counters.sent),
                ("received", incoming.counters.delivered),
                ("lost", counters.lost),
                ("corrupted", counters.corrupted),
                ("duplicated", counters.duplicated),
                ("reordered", counters.reordered),
                ("overflowed", counters.overflowed),
                ("cut_off", counters.cut_off),
            ],
        }
    }

    fn close(self: Box<Self>, pool: &mut FramePool) {
        if let Ok(mut state) = self.state.lock() {
            let incoming = &mut state.directions[1 - self.end];
            incoming.closed = true;
            incoming.cut_off(pool);
        }
    }
}

#[cfg(test)]
mod tests;
