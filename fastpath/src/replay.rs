//! Packets from a file through the real pipeline, one at a time, and what became of each.
//!
//! No worker, no device, no clock: time is that of the packets. Every next hop counts as resolved,
//! with a made-up link address, so that it shows where packets would go. Each packet that comes
//! in has exactly one [`Fate`]; what margay makes besides (ICMP errors, further fragments) is
//! handed out with the rest and counted apart.

use crate::capture::{CaptureFilter, Captured, Point, Tap};
use crate::counters::WorkerCounters;
use crate::drop_reason::DropReason;
use crate::egress;
use crate::fib::{Fib, FibWriter};
use crate::neighbor::Neighbor;
use crate::packet::{MAX_SEGMENTS, Offload, Packet};
use crate::pipeline::{Pipeline, View};
use crate::port::{PortId, TxOffloads};
use crate::sys::memory::{Arena, ArenaError, FramePool, HEADROOM, SMALL_CHUNK};
use crate::tables::{Adjacency, AdjacencyId, Hops, PortEntry, Tables, Target, TargetId};
use crate::worker::TICK_NS;
use crossbeam::channel::{Receiver, bounded};
use ipnet::IpNet;
use margay_tunnels::wire::ethernet::Mac;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Packet bytes in one frame.
const ROOM: usize = SMALL_CHUNK - HEADROOM;
/// Frames: one packet, its fragments and an ICMP error are under way at a time.
const FRAMES: usize = 1024;
/// Longest packet that is taken, in bytes; a longer one is dropped as [`DropReason::NoFrame`].
pub const MAX_LEN: usize = MAX_SEGMENTS * ROOM;
/// Link addresses made up for neighbours on a link; the next ones do not resolve.
pub const MAX_NEIGHBORS: usize = 1 << 16;
/// Copies of drops that one packet can cause: itself, each of its fragments, an ICMP error.
const MAX_COPIES: usize = 256;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Sent on by this port, whole or in fragments.
    Forwarded(PortId),
    /// To the host's own stack.
    Punted,
    /// An ARP or neighbour solicitation that margay answers itself.
    Answered,
    /// Dropped.
    Dropped(DropReason),
    /// Waits for a link address that could not be made up.
    Waiting,
}

/// A packet that goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// By this port.
    pub port: PortId,
    /// Margay made it: an ICMP error.
    pub made_here: bool,
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// The pipeline with its tables.
#[derive(Debug)]
pub struct Replay {
    pipeline: Pipeline,
    tables: Tables,
    writer: FibWriter,
    fib: Arc<Fib>,
    drops: Receiver<Captured>,
    host: PortId,
    neighbors: usize,
    now_ns: u64,
    /// When the work that depends on time was done last.
    ticked_ns: u64,
    burst: Vec<Packet>,
}

impl Replay {
    /// A pipeline over these tables and routes. Where they name no host port, one is made up.
    pub fn new(tables: Tables, writer: FibWriter, fib: Arc<Fib>) -> Result<Replay, ArenaError> {
        let arena = Arena::new(FRAMES, 0)?;
        let counters = Arc::new(WorkerCounters::default());
        let mut pipeline = Pipeline::new(FramePool::new(arena), counters);
        let (sender, drops) = bounded(MAX_COPIES);
        let filter = CaptureFilter { port: None, drops_only: true };
        pipeline.tap = Some(Tap { filter, sender, missed: Arc::new(AtomicU64::new(0)) });
        let mut replay = Replay {
            pipeline,
            tables,
            writer,
            fib,
            drops,
            host: PortId::NONE,
            neighbors: 0,
            now_ns: 0,
            ticked_ns: 0,
            burst: Vec::with_capacity(1),
        };
        replay.host = replay.host_port();
        for adjacency in &mut replay.tables.adjacencies {
            adjacency.mac.get_or_insert(made_up_mac(adjacency.neighbor));
        }
        // They change with each neighbour.
        replay.tables.hops = Hops::default();
        Ok(replay)
    }

    /// The tables as they are used, with what was made up.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What happened so far, in totals.
    pub fn counters(&self) -> &WorkerCounters {
        &self.pipeline.counters
    }

    /// Frames that are neither free nor held: 0 between packets.
    pub fn frames_under_way(&self) -> usize {
        let free = self.pipeline.pool.cached() + self.pipeline.pool.arena().free_small();
        FRAMES - free
    }

    /// Packets that wait: fragments for others of theirs, and those without a link address.
    pub fn held(&self) -> usize {
        self.pipeline.held()
    }

    /// Forgets flows, and drops what waits, uncounted.
    pub fn forget(&mut self) {
        self.pipeline.clear();
    }

    /// What has expired by now, as a worker does it: its last packets go to `out`.
    fn tick(&mut self, out: &mut Vec<Sent>) {
        if self.now_ns < self.ticked_ns + TICK_NS {
            return;
        }
        self.ticked_ns = self.now_ns;
        let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
        self.pipeline.tick(view);
        self.resolve();
        self.send(PortId::NONE, out);
        self.dropped(PortId::NONE);
    }

    /// Takes one packet through. `time_ns` does not go back; what goes out is appended to `out`.
    pub fn packet(
        &mut self,
        ingress: PortId,
        time_ns: u64,
        bytes: &[u8],
        out: &mut Vec<Sent>,
    ) -> Fate {
        self.now_ns = self.now_ns.max(time_ns);
        self.tick(out);
        self.unfinished(ingress, bytes, Offload::default(), out)
    }

    /// As [`Replay::packet`], at the time of the packet before, for one that its sender left
    /// unfinished, as a TAP delivers them.
    pub fn unfinished(
        &mut self,
        ingress: PortId,
        bytes: &[u8],
        offload: Offload,
        out: &mut Vec<Sent>,
    ) -> Fate {
        let Some(mut packet) = build(bytes, ingress, &mut self.pipeline.pool) else {
            self.pipeline.counters.count_drop(DropReason::NoFrame);
            return Fate::Dropped(DropReason::NoFrame);
        };
        packet.set_offload(offload);
        let before = Totals::of(self.counters());
        self.burst.push(packet);
        let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
        self.pipeline.process(view, ingress, &mut self.burst);
        self.resolve();
        let went_out_by = self.send(ingress, out);
        let copied = self.dropped(ingress);
        let after = Totals::of(self.counters());
        match went_out_by {
            Some(port) if port == self.host && after.punted > before.punted => Fate::Punted,
            Some(port) if after.forwarded > before.forwarded => Fate::Forwarded(port),
            Some(_) => Fate::Answered,
            // What fails behind the pipeline, in the egress queue, is counted but not copied.
            None => match copied.or_else(|| after.first_drop_since(&before)) {
                Some(reason) => Fate::Dropped(reason),
                None => Fate::Waiting,
            },
        }
    }

    /// Why packets of `ingress` were dropped; the first reason, if any.
    fn dropped(&self, ingress: PortId) -> Option<DropReason> {
        let mut first = None;
        while let Ok(copy) = self.drops.try_recv() {
            if let Point::Drop(reason) = copy.point
                && copy.port == ingress
            {
                first = first.or(Some(reason));
            }
        }
        first
    }

    /// Answers the pipeline's questions for link addresses, as the control side would. Once more
    /// for each packet that margay makes meanwhile; those cause none of their own, so it ends.
    fn resolve(&mut self) {
        while let Some(neighbor) = self.pipeline.requests.pop() {
            let resolved = self.add_neighbor(&neighbor);
            let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
            self.pipeline.neighbor_result(view, &neighbor, resolved);
        }
    }

    fn add_neighbor(&mut self, neighbor: &Neighbor) -> bool {
        if self.neighbors == MAX_NEIGHBORS {
            return false;
        }
        self.neighbors += 1;
        let to = TargetId(self.tables.targets.len() as u32);
        let adjacency = AdjacencyId(self.tables.adjacencies.len() as u32);
        self.tables.adjacencies.push(Adjacency {
            port: neighbor.port,
            neighbor: neighbor.address,
            mac: Some(made_up_mac(neighbor.address)),
            tunnel: None,
        });
        self.tables.targets.push(Target::Forward(adjacency));
        self.writer.insert(IpNet::from(neighbor.address), to).is_ok()
    }

    /// Empties the egress queues as ports without offloads would get them; the port by which what
    /// came in by `ingress` went out, if it did.
    fn send(&mut self, ingress: PortId, out: &mut Vec<Sent>) -> Option<PortId> {
        let pipeline = &mut self.pipeline;
        let mut went_out_by = None;
        let mut burst = Vec::new();
        while let Some(port) = pipeline.egress.take(&mut burst) {
            let offloads = TxOffloads::default();
            egress::prepare(&mut burst, offloads, &mut pipeline.pool, &pipeline.counters);
            for packet in burst.drain(..) {
                let made_here = packet.in_port == PortId::NONE;
                if packet.in_port == ingress {
                    went_out_by = Some(port);
                }
                let mut bytes = vec![0; packet.len()];
                packet.copy_out(0, &mut bytes);
                out.push(Sent { port, made_here, bytes });
                packet.free(&mut pipeline.pool);
            }
        }
        went_out_by
    }

    fn host_port(&mut self) -> PortId {
        let known = self.tables.host.and_then(|id| self.tables.adjacency(id));
        if let Some(adjacency) = known {
            return adjacency.port;
        }
        let port = PortId(self.tables.ports.len() as u16);
        self.tables.ports.push(Some(made_up_host()));
        self.tables.host = Some(AdjacencyId(self.tables.adjacencies.len() as u32));
        let mac = Some(Mac([2, 0, 0, 0, 0, 2]));
        let neighbor = IpAddr::from([127, 0, 0, 1]);
        self.tables.adjacencies.push(Adjacency { port, neighbor, mac, tunnel: None });
        port
    }
}

/// The counters that tell fates apart.
struct Totals {
    forwarded: u64,
    punted: u64,
    drops: [u64; DropReason::COUNT],
}

impl Totals {
    fn of(counters: &WorkerCounters) -> Totals {
        Totals {
            forwarded: counters.forwarded.get(),
            punted: counters.punted.get(),
            drops: std::array::from_fn(|at| counters.drops[at].get()),
        }
    }

    fn first_drop_since(&self, before: &Totals) -> Option<DropReason> {
        let grown =
            |reason: &DropReason| self.drops[*reason as usize] > before.drops[*reason as usize];
        DropReason::ALL.iter().copied().find(grown)
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.pipeline.clear();
        self.burst.drain(..).for_each(|packet| packet.free(&mut self.pipeline.pool));
    }
}

fn made_up_host() -> PortEntry {
    let network = PortEntry::network("host", Mac([2, 0, 0, 0, 0, 1]), u16::MAX);
    PortEntry { answers_neighbors: true, ..network }
}

/// A locally administered link address that shows the last four bytes of the neighbour's.
fn made_up_mac(neighbor: IpAddr) -> Mac {
    match neighbor {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            Mac([2, 4, a, b, c, d])
        }
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            Mac([2, 6, a, b, c, d])
        }
    }
}

/// The packet in as many frames as it takes; `None` when it is longer than [`MAX_LEN`].
fn build(bytes: &[u8], in_port: PortId, pool: &mut FramePool) -> Option<Packet> {
    if bytes.len() > MAX_LEN {
        return None;
    }
    let (first, rest) = bytes.split_at(bytes.len().min(ROOM));
    let mut frame = pool.alloc()?;
    frame.bytes_mut(HEADROOM, first.len()).copy_from_slice(first);
    let mut packet = Packet::new(frame, HEADROOM, first.len(), in_port);
    for part in rest.chunks(ROOM) {
        let Some(mut frame) = pool.alloc() else {
            packet.free(pool);
            return None;
        };
        frame.bytes_mut(HEADROOM, part.len()).copy_from_slice(part);
        if let Err(frame) = packet.append(frame, HEADROOM, part.len()) {
            pool.free(frame);
            packet.free(pool);
            return None;
        }
    }
    Some(packet)
}

#[cfg(test)]
mod tests;
