//! Counters of a worker: packets, drops by reason, cycles by stage.
//!
//! Each counter has one writer (its worker) and any number of readers, so a count is a relaxed
//! load and store, never an atomic read-modify-write. Readers may see one counter of an event
//! before another.

use crate::drop_reason::DropReason;
use crate::tunnel::TunnelCounters;
use crossbeam::utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that its one writer adds to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Becomes `value`. Only the owning worker may call this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `count`. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// The value now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The stages whose cycles are counted, in the order of a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Taking packets from the port.
    Rx,
    /// Headers and their checks.
    Parse,
    /// Finding flows, and translating; only where something is translated.
    Flow,
    /// Longest prefix match.
    Lookup,
    /// TTL, MTU, rewrite.
    Forward,
    /// Finishing checksums, cutting and joining super-packets; only where something is to be done.
    Offload,
    /// Giving packets to the port.
    Tx,
}

impl Stage {
    /// All stages, in the order of their numbers.
    pub const ALL: [Stage; 7] = [
        Stage::Rx,
        Stage::Parse,
        Stage::Flow,
        Stage::Lookup,
        Stage::Forward,
        Stage::Offload,
        Stage::Tx,
    ];

    /// The name that people and scripts see.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Rx => "rx",
            Stage::Parse => "parse",
            Stage::Flow => "flow",
            Stage::Lookup => "lookup",
            Stage::Forward => "forward",
            Stage::Offload => "offload",
            Stage::Tx => "tx",
        }
    }
}

/// What one stage has cost.
#[derive(Debug, Default)]
pub struct StageCounter {
    /// Cycles of the time-stamp counter.
    pub cycles: Counter,
    /// Packets that went through.
    pub packets: Counter,
}

/// All counters of one worker.
#[derive(Debug)]
pub struct WorkerCounters {
    /// By [`Stage`].
    pub stages: CachePadded<[StageCounter; Stage::ALL.len()]>,
    /// By [`DropReason`].
    pub drops: CachePadded<[Counter; DropReason::COUNT]>,
    /// Packets delivered to the host's stack.
    pub punted: Counter,
    /// Packets sent on to a next hop.
    pub forwarded: Counter,
    /// Those of them that programs carried, as far as the worker has read it.
    pub offloaded: Counter,
    /// ICMP errors made.
    pub icmp_errors: Counter,
    /// Further packets made: fragments beyond the first, segments beyond the first, answers.
    pub made: Counter,
    /// Packets merged into another one before a TAP.
    pub merged: Counter,
    /// Packets that wait for a link address now.
    pub held: Counter,
    /// Packets handed to another worker.
    pub handed_over: Counter,
    /// Turns of the loop.
    pub loops: Counter,
    /// Times that the worker slept.
    pub sleeps: Counter,
    /// By tunnel.
    pub tunnels: TunnelCounters,
}

impl Default for WorkerCounters {
    fn default() -> Self {
        WorkerCounters {
            stages: CachePadded::new(std::array::from_fn(|_| StageCounter::default())),
            drops: CachePadded::new(std::array::from_fn(|_| Counter::default())),
            punted: Counter::default(),
            forwarded: Counter::default(),
            offloaded: Counter::default(),
            icmp_errors: Counter::default(),
            made: Counter::default(),
            merged: Counter::default(),
            held: Counter::default(),
            handed_over: Counter::default(),
            loops: Counter::default(),
            sleeps: Counter::default(),
            tunnels: TunnelCounters::default(),
        }
    }
}

impl WorkerCounters {
    /// Counts one dropped packet.
    #[inline]
    pub fn count_drop(&self, reason: DropReason) {
        self.drops[reason as usize].add(1);
    }

    /// Dropped packets by reason, those that happened.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL
            .into_iter()
            .map(|reason| (reason, self.drops[reason as usize].get()))
            .filter(|(_, count)| *count > 0)
    }

    /// Counts what a stage cost.
    #[inline]
    pub fn stage(&self, stage: Stage, cycles: u64, packets: usize) {
        let counter = &self.stages[stage as usize];
        counter.cycles.add(cycles);
        counter.packets.add(packets as u64);
    }
}

/// Traffic of one port on one worker.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Packets received.
    pub rx_packets: Counter,
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: Counter,
    /// Packets given to the device.
    pub tx_packets: Counter,
    /// Bytes given to the device, Ethernet headers included.
    pub tx_bytes: Counter,
    /// Packets that the device had no room for when they came.
    pub tx_full: Counter,
    /// Packets that wait for the device now.
    pub queued: Counter,
}
