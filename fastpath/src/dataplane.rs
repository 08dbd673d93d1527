//! The data plane as the control side sees it: start it, give it ports and tables, ask how it is.
//!
//! Every call here is made from outside the workers, and may block for as long as its
//! documentation says. Workers answer between two bursts.

use crate::capture::{CaptureFilter, Captured, Tap};
use crate::counters::PortCounters;
use crate::epoch::Published;
use crate::fib::Fib;
use crate::flow_log::FlowLog;
use crate::neighbor::Neighbor;
use crate::offload::FlowMap;
use crate::packet::Packet;
use crate::policy::Policy;
use crate::port::{Port, PortId};
use crate::service::Clients;
use crate::sys::memory::{Arena, ArenaError, FramePool};
use crate::sys::wait::WaitSet;
use crate::tables::Tables;
use crate::tunnel::PathMtus;
use crate::worker::{Command, Worker};
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod flows;
mod offload;
mod peer;
mod report;

pub(crate) use peer::Peer;

pub(crate) use flows::FlowQuestion;
pub use flows::{Flow, RECENT_POLICIES};
pub use report::{DataplaneReport, WorkerReport};

/// Packets that wait between two workers at most.
pub const HAND_OVER: usize = 1024;
/// Events that wait for the control side at most.
pub const MAX_EVENTS: usize = 4096;
/// Copies that wait for whoever captures at most.
pub const CAPTURE_QUEUE: usize = 8192;
/// How long [`Dataplane::report`] and [`Dataplane::detach`] wait for a worker.
pub const ANSWER_TIME: Duration = Duration::from_secs(2);

/// How the data plane is laid out.
#[derive(Debug, Clone)]
pub struct DataplaneConfig {
    /// One entry a worker: the core that it is pinned to, or none.
    pub worker_cores: Vec<Option<usize>>,
    /// Small frames of 4096 bytes, for all ports together.
    pub frames: usize,
    /// Large frames of 72 KiB, for super-packets of TAPs.
    pub large_frames: usize,
}

/// Why the data plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No memory for packets.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// The kernel refused a descriptor or a thread.
    #[error("worker {worker}: {source}")]
    Worker {
        /// Which one.
        worker: usize,
        /// Why.
        source: std::io::Error,
    },
}

/// What the workers tell the control side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Packets wait for this link address.
    NeighborNeeded {
        /// On this port's link.
        port: PortId,
        /// Whose.
        address: IpAddr,
    },
    /// The device of this port is gone; the port has been closed.
    PortGone {
        /// Which.
        port: PortId,
    },
    /// A worker has panicked; its ports are closed, and the kernel has their queues.
    WorkerPanicked {
        /// Which.
        worker: usize,
        /// What it said.
        message: String,
    },
}

/// What one worker gives another.
#[derive(Debug)]
pub(crate) enum HandOver {
    /// To be sent by a port of the other's.
    Send(PortId, Packet),
    /// Parsed only: its flow is the other's.
    Track(Packet),
}

impl HandOver {
    /// The packet.
    pub(crate) fn packet(self) -> Packet {
        match self {
            HandOver::Send(_, packet) | HandOver::Track(packet) => packet,
        }
    }
}

/// What all threads of the data plane share.
#[derive(Debug)]
pub(crate) struct Shared {
    start: Instant,
    arena: Arc<Arena>,
    pub(crate) published: Published,
    pub(crate) workers: Vec<Peer>,
    pub(crate) events: Sender<Event>,
    pub(crate) path_mtus: Arc<PathMtus>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) offload: OnceLock<Arc<FlowMap>>,
    pub(crate) flow_log: Arc<FlowLog>,
    recent: Mutex<VecDeque<Arc<Policy>>>,
}

type Parts = (Arc<Shared>, Vec<WaitSet>, Receiver<Event>);

impl Shared {
    /// Packet memory and what the threads share, with what each worker waits on.
    pub(crate) fn new(config: &DataplaneConfig) -> Result<Parts, StartError> {
        let arena = Arena::new(config.frames, config.large_frames)?;
        let (events, receiver) = bounded(MAX_EVENTS);
        let mut waits = Vec::new();
        let mut workers = Vec::new();
        for worker in 0..config.worker_cores.len() {
            let wait = WaitSet::new().map_err(|source| StartError::Worker { worker, source })?;
            workers.push(Peer::new(wait.waker()));
            waits.push(wait);
        }
        let published = Published::new(workers.len());
        let shared = Shared {
            start: Instant::now(),
            arena,
            published,
            workers,
            events,
            path_mtus: Arc::default(),
            clients: Arc::default(),
            offload: OnceLock::new(),
            flow_log: Arc::default(),
            recent: Mutex::default(),
        };
        Ok((Arc::new(shared), waits, receiver))
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    pub(crate) fn pool(&self) -> FramePool {
        FramePool::new(self.arena.clone())
    }
}

struct Thread {
    commands: Sender<Command>,
    handle: Option<JoinHandle<()>>,
    core: Option<usize>,
}

type PortTraffic = Vec<(usize, PortId, Arc<PortCounters>)>;

/// The running data plane. Dropping it stops the workers and gives all queues to the kernel.
pub struct Dataplane {
    shared: Arc<Shared>,
    threads: Vec<Thread>,
    traffic: Mutex<PortTraffic>,
}

impl std::fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataplane").field("workers", &self.threads.len()).finish_non_exhaustive()
    }
}

impl Dataplane {
    /// Maps packet memory and starts the workers, without ports. They read routes from `fib`.
    pub fn start(
        config: &DataplaneConfig,
        fib: Arc<Fib>,
    ) -> Result<(Dataplane, Receiver<Event>), StartError> {
        let (shared, waits, receiver) = Shared::new(config)?;
        let mut threads = Vec::new();
        for (index, (wait, core)) in waits.into_iter().zip(&config.worker_cores).enumerate() {
            let thread = spawn(index, *core, shared.clone(), fib.clone(), wait)
                .map_err(|source| StartError::Worker { worker: index, source })?;
            threads.push(thread);
        }
        Ok((Dataplane { shared, threads, traffic: Mutex::new(Vec::new()) }, receiver))
    }

    /// Packet memory, for opening ports.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.shared.arena
    }

    /// What the underlay told about the paths of tunnels.
    pub fn path_mtus(&self) -> &PathMtus {
        &self.shared.path_mtus
    }

    /// Number of workers.
    pub fn worker_count(&self) -> usize {
        self.threads.len()
    }

    /// The clock of the data plane, in nanoseconds since it started.
    pub fn now_ns(&self) -> u64 {
        self.shared.now_ns()
    }

    /// Gives a port, or the part of it that is this worker's, to a worker; returns when the worker
    /// polls it, or after [`ANSWER_TIME`] with false when the worker is stuck or has ended.
    pub fn attach(&self, id: PortId, worker: usize, port: Box<dyn Port>) -> bool {
        let counters = Arc::new(PortCounters::default());
        if let Ok(mut traffic) = self.traffic.lock() {
            traffic.retain(|(owner, other, _)| (*owner, *other) != (worker, id));
            traffic.push((worker, id, counters.clone()));
        }
        let (done, attached) = bounded(1);
        self.tell(worker, Command::Attach { id, port, counters, done });
        attached.recv_timeout(ANSWER_TIME).is_ok()
    }

    /// Takes a port from all workers; returns when it is closed and its frames are back, or after
    /// [`ANSWER_TIME`] with false when a worker is stuck.
    pub fn detach(&self, id: PortId) -> bool {
        let (done, closed) = unbounded();
        for worker in 0..self.threads.len() {
            self.tell(worker, Command::Detach(id, done.clone()));
        }
        drop(done);
        if let Ok(mut traffic) = self.traffic.lock() {
            traffic.retain(|(_, other, _)| *other != id);
        }
        let deadline = Instant::now() + ANSWER_TIME;
        let expected = self.threads.iter().filter(|thread| thread.is_running()).count();
        (0..expected).all(|_| closed.recv_deadline(deadline).is_ok())
    }

    /// Swaps the snapshot; returns when every worker uses the new one. False when a worker did not
    /// take it within [`crate::epoch::PATIENCE`].
    pub fn publish(&self, tables: Tables) -> bool {
        self.remember(tables.policy.as_ref());
        let done = self.shared.published.publish(tables);
        if let Some(map) = self.shared.offload.get() {
            map.raise();
        }
        done
    }

    /// The snapshot that was published last.
    pub fn tables(&self) -> Arc<Tables> {
        self.shared.published.tables()
    }

    /// Waits until every worker has passed between two bursts; see [`Dataplane::publish`].
    pub fn synchronize(&self) -> bool {
        self.shared.published.synchronize()
    }

    /// Tells all workers that a neighbour has been resolved (after the tables with its link address
    /// were published), or has failed.
    pub fn neighbor_result(&self, port: PortId, address: IpAddr, resolved: bool) {
        let neighbor = Neighbor { port, address };
        for worker in 0..self.threads.len() {
            self.tell(worker, Command::NeighborResult(neighbor, resolved));
        }
    }

    /// Starts a capture in place of any earlier one; it ends when the receiver is dropped and
    /// [`Dataplane::end_capture`] is called. The number counts copies left out for want of room.
    pub fn capture(&self, filter: CaptureFilter) -> (Receiver<Captured>, Arc<AtomicU64>) {
        let (sender, receiver) = bounded(CAPTURE_QUEUE);
        let missed = Arc::new(AtomicU64::new(0));
        let tap = Tap { filter, sender, missed: missed.clone() };
        for worker in 0..self.threads.len() {
            self.tell(worker, Command::Capture(Some(tap.clone())));
        }
        (receiver, missed)
    }

    /// Ends the capture.
    pub fn end_capture(&self) {
        for worker in 0..self.threads.len() {
            self.tell(worker, Command::Capture(None));
        }
    }

    fn tell(&self, worker: usize, command: Command) {
        if self.threads[worker].commands.send(command).is_ok() {
            self.shared.workers[worker].waker.wake();
        }
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        for worker in 0..self.threads.len() {
            self.tell(worker, Command::Stop);
        }
        for thread in &mut self.threads {
            if let Some(handle) = thread.handle.take() {
                let _ = handle.join();
            }
        }
    }
}

impl Thread {
    fn is_running(&self) -> bool {
        self.handle.as_ref().is_some_and(|handle| !handle.is_finished())
    }
}

fn spawn(
    index: usize,
    core: Option<usize>,
    shared: Arc<Shared>,
    fib: Arc<Fib>,
    wait: WaitSet,
) -> std::io::Result<Thread> {
    let (commands, receiver) = unbounded();
    let body = move || {
        if let Some(id) = core {
            let pinned = core_affinity::set_for_current(core_affinity::CoreId { id });
            shared.workers[index].pinned.store(pinned, Ordering::Relaxed);
        }
        let mut worker = Worker::new(index, shared.clone(), fib, receiver, wait);
        let outcome = catch_unwind(AssertUnwindSafe(|| worker.run()));
        // After a panic as well: the ports' state is the kernel's rings and our books, which a
        // panic between two packets leaves whole.
        worker.close();
        if let Err(payload) = outcome {
            shared.workers[index].panicked.store(true, Ordering::Relaxed);
            let message = panic_message(payload.as_ref());
            let _ = shared.events.try_send(Event::WorkerPanicked { worker: index, message });
        }
    };
    let handle = std::thread::Builder::new().name(format!("worker-{index}")).spawn(body)?;
    Ok(Thread { commands, handle: Some(handle), core })
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;
