//! What the data plane says of itself: workers, ports, frames.

use super::{ANSWER_TIME, Dataplane};
use crate::counters::{PortCounters, WorkerCounters};
use crate::port::{PortId, PortReport};
use crate::sys::memory::lost_frames;
use crate::tunnel::{TunnelId, TunnelTotals};
use crate::worker::Command;
use crossbeam::channel::bounded;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// State of one worker.
#[derive(Debug, Clone)]
pub struct WorkerReport {
    /// Its number.
    pub index: usize,
    /// The core that it is pinned to; `None` when it floats.
    pub core: Option<usize>,
    /// Its counters, live.
    pub counters: Arc<WorkerCounters>,
    /// Packets that wait for link addresses.
    pub held: u64,
    /// True while it waits for packets.
    pub asleep: bool,
    /// How long its loop has not turned, if it is awake.
    pub stuck_for: Duration,
    /// It has panicked, and no longer runs.
    pub panicked: bool,
    /// Its ports, with their traffic; the state is missing when the worker did not answer.
    pub ports: Vec<(PortId, Arc<PortCounters>, Option<PortReport>)>,
}

/// State of the data plane.
#[derive(Debug, Clone)]
pub struct DataplaneReport {
    /// By worker.
    pub workers: Vec<WorkerReport>,
    /// Frames in all, small and large.
    pub frames: usize,
    /// Frames that nobody uses: in the arena, or in the cache of a worker. What is missing is
    /// held by ports, waits for a neighbour, or is on its way.
    pub frames_free: usize,
    /// Frames lost to a defect since the start.
    pub frames_lost: u64,
    /// Packet memory is in huge pages.
    pub huge_pages: bool,
}

impl Dataplane {
    /// State of workers and ports. Waits up to [`ANSWER_TIME`] for the state of the ports.
    pub fn report(&self) -> DataplaneReport {
        let deadline = Instant::now() + ANSWER_TIME;
        let asked: Vec<_> = (0..self.threads.len())
            .map(|worker| {
                let (answer, receiver) = bounded(1);
                self.tell(worker, Command::Report(answer));
                receiver
            })
            .collect();
        let answers = asked.into_iter().map(|answer| answer.recv_deadline(deadline).ok());
        let workers = answers.enumerate().map(|(index, answer)| self.worker(index, answer));
        let workers = workers.collect();
        // The answers told how many frames are cached.
        let peers = self.shared.workers.iter();
        let cached = peers.map(|peer| peer.cached.load(Ordering::Relaxed)).sum::<usize>();
        let arena = &self.shared.arena;
        DataplaneReport {
            workers,
            frames: arena.small_count() + arena.large_count(),
            frames_free: arena.free_small() + arena.free_large() + cached,
            frames_lost: lost_frames(),
            huge_pages: self.shared.arena.has_huge_pages(),
        }
    }

    /// What a tunnel's number has carried since the start.
    pub fn tunnel_totals(&self, id: TunnelId) -> TunnelTotals {
        let counters = self.shared.workers.iter().map(|peer| &peer.counters.tunnels);
        let carried = counters.filter_map(|counters| counters.get(id));
        carried.fold(TunnelTotals::default(), TunnelTotals::plus)
    }

    fn worker(&self, index: usize, answer: Option<Vec<(PortId, PortReport)>>) -> WorkerReport {
        let peer = &self.shared.workers[index];
        let asleep = peer.asleep.load(Ordering::Relaxed);
        let beat = Duration::from_nanos(peer.beat_ns.load(Ordering::Relaxed));
        let now = Duration::from_nanos(self.now_ns());
        let mut states = answer.unwrap_or_default();
        let traffic = self.traffic.lock().map(|traffic| traffic.clone()).unwrap_or_default();
        let mine = traffic.into_iter().filter(|(worker, ..)| *worker == index);
        let ports = mine.map(|(_, id, counters)| {
            let found = states.iter().position(|(other, _)| *other == id);
            (id, counters, found.map(|at| states.swap_remove(at).1))
        });
        WorkerReport {
            index,
            core: self.threads[index].core.filter(|_| peer.pinned.load(Ordering::Relaxed)),
            counters: peer.counters.clone(),
            held: peer.held.load(Ordering::Relaxed),
            asleep,
            stuck_for: if asleep { Duration::ZERO } else { now.saturating_sub(beat) },
            panicked: peer.panicked.load(Ordering::Relaxed),
            ports: ports.collect(),
        }
    }
}
