//! A worker: one thread, its ports, and the loop that takes packets from port to port.
//!
//! Ports are cold or hot. A cold port costs nothing: it waits in the epoll set. A port that has
//! something becomes hot and is asked in each turn, one burst at a time and in turn with the other
//! hot ones, so that none starves another. After [`COLD_AFTER_NS`] without a packet it is cold
//! again; with no hot port left the worker sleeps. A busy port leaves the epoll set until it is
//! cold: the kernel calls back whoever waits on a socket for each packet that it takes or frees.

use crate::capture::Tap;
use crate::counters::{PortCounters, Stage};
use crate::dataplane::{Event, FlowQuestion, Shared};
use crate::egress::Egress;
use crate::fib::Fib;
use crate::neighbor::Neighbor;
use crate::offload::FlowMap;
use crate::packet::Packet;
use crate::pipeline::{Pipeline, View};
use crate::port::{BURST, Port, PortId, PortReport, RxState};
use crate::sys::wait::WaitSet;
use crate::tables::Tables;
use crossbeam::channel::{Receiver, Sender};
use std::sync::Arc;
use std::sync::atomic::Ordering;

mod backlog;
mod handing;
mod leaving;
mod ports;
mod queue;
mod settle;
mod shaped;
mod slot;
mod transmit;

use leaving::Leaving;
use queue::PortQueue;
use slot::Slot;

/// Turns between two looks at cold ports and commands while there is traffic.
const LOOK_EVERY: u64 = 16;
/// Time between two looks, in nanoseconds, where turns are long: with many busy ports. It bounds
/// what a cold port waits for its first turn.
const LOOK_NS: u64 = 100_000;
/// Longest sleep, in milliseconds.
const SLEEP_MS: i32 = 1000;
/// Longest sleep while packets wait for link addresses, in milliseconds.
const HELD_SLEEP_MS: i32 = 100;
/// Longest sleep while packets wait for their time, in milliseconds.
const SHAPED_SLEEP_MS: i32 = 1;
/// Time between two rounds of timers, in nanoseconds.
pub(crate) const TICK_NS: u64 = 50_000_000;

/// What the control side asks of a worker.
pub(crate) enum Command {
    /// Own this port from now on, and say so.
    Attach { id: PortId, port: Box<dyn Port>, counters: Arc<PortCounters>, done: Sender<()> },
    /// Close a port, and say when its frames are back.
    Detach(PortId, Sender<()>),
    /// A neighbour has been resolved, or has failed.
    NeighborResult(Neighbor, bool),
    /// State of all ports.
    Report(Sender<Vec<(PortId, PortReport)>>),
    /// About its flows.
    Flows(FlowQuestion),
    /// Give flows to the XDP program; the number is what its clock is ahead, in nanoseconds.
    Offload(Arc<FlowMap>, u64),
    /// Copy packets from now on, or no longer.
    Capture(Option<Tap>),
    /// End.
    Stop,
    /// Panic, to prove in a test that the ports go back to the kernel.
    #[cfg(test)]
    Panic,
}

/// The state of the loop.
pub(crate) struct Worker {
    index: usize,
    shared: Arc<Shared>,
    fib: Arc<Fib>,
    tables: Arc<Tables>,
    pipeline: Pipeline,
    /// Packets whose time has come, for ports.
    released: Egress,
    /// What of them has yet to leave the worker.
    leaving: Leaving,
    slots: Vec<Option<Slot>>,
    hot: Vec<PortId>,
    wait: WaitSet,
    commands: Receiver<Command>,
    /// Ports that packets wait for, and how many do.
    backlog: Vec<PortId>,
    queued: usize,
    /// Ports that hold packets which their devices have not taken.
    unsent: usize,
    /// Packets from the inbox that others have not been told of as finished.
    unfinished: u64,
    /// Of ports with a rate that others own.
    handing: Vec<(PortId, Box<PortQueue>)>,
    burst: Vec<Packet>,
    /// Packets for one port, while it gets them.
    outgoing: Vec<Packet>,
    /// Packets sent since the stages' clock was read.
    sent: usize,
    ready: Vec<u16>,
    /// The clock as read in this turn.
    now_ns: u64,
    last_tick_ns: u64,
    turns: u64,
    last_look_ns: u64,
    stopping: bool,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        fib: Arc<Fib>,
        commands: Receiver<Command>,
        wait: WaitSet,
    ) -> Worker {
        let counters = shared.workers[index].counters.clone();
        let mut pipeline = Pipeline::new(shared.pool(), counters).of_worker(index as u16);
        pipeline.path_mtus = shared.path_mtus.clone();
        pipeline.clients = shared.clients.clone();
        pipeline.flow_log = shared.flow_log.clone();
        Worker {
            index,
            fib,
            tables: shared.published.tables(),
            pipeline,
            released: Egress::default(),
            leaving: Leaving::default(),
            slots: Vec::new(),
            hot: Vec::new(),
            wait,
            commands,
            backlog: Vec::new(),
            queued: 0,
            unsent: 0,
            unfinished: 0,
            handing: Vec::new(),
            burst: Vec::with_capacity(BURST),
            outgoing: Vec::with_capacity(BURST),
            sent: 0,
            ready: Vec::new(),
            now_ns: 0,
            last_tick_ns: 0,
            turns: 0,
            last_look_ns: 0,
            stopping: false,
            shared,
        }
    }

    /// Runs until told to stop.
    pub(crate) fn run(&mut self) {
        self.shared.published.catch_up(self.index, &mut self.tables);
        while !self.stopping {
            let moved = self.turn(self.shared.now_ns());
            if self.hot.is_empty() {
                self.sleep();
            } else if moved == 0 || self.look_is_due() {
                self.look(0);
            }
        }
    }

    /// One turn at this time: a burst at most from everything that has packets; how many.
    fn turn(&mut self, now_ns: u64) -> usize {
        self.turns += 1;
        self.pipeline.begin_turn();
        if self.shared.published.is_behind(self.index) {
            self.shared.published.catch_up(self.index, &mut self.tables);
        }
        self.now_ns = now_ns;
        self.shared.workers[self.index].beat_ns.store(now_ns, Ordering::Relaxed);
        self.pipeline.counters.loops.add(1);
        self.let_leave();
        let released = self.release_shaped() + self.drain_backlog();
        let moved = released + self.serve_hot_ports() + self.take_handed_over();
        self.tell_finished();
        if now_ns >= self.last_tick_ns + TICK_NS {
            self.tick();
        }
        moved
    }

    fn look_is_due(&self) -> bool {
        self.turns.is_multiple_of(LOOK_EVERY) || self.now_ns >= self.last_look_ns + LOOK_NS
    }

    /// One burst from each hot port; the number of packets.
    fn serve_hot_ports(&mut self) -> usize {
        let now_ns = self.now_ns;
        let mut moved = 0;
        let mut at = 0;
        while at < self.hot.len() {
            let port = self.hot[at];
            let count = self.serve(port);
            moved += count;
            // A device that went away has left the list already.
            let slot = self.slots.get_mut(usize::from(port.0)).and_then(Option::as_mut);
            let Some(slot) = slot else { continue };
            if count > 0 {
                slot.note_moved(count, now_ns, &self.wait);
            }
            if now_ns >= slot.cold_at_ns && slot.cool(port, &self.wait) {
                self.hot.swap_remove(at);
            } else {
                at += 1;
            }
        }
        moved
    }

    fn serve(&mut self, id: PortId) -> usize {
        self.settle(id);
        self.pipeline.start_lap();
        let Some(slot) = self.slots.get_mut(usize::from(id.0)).and_then(Option::as_mut) else {
            return 0;
        };
        slot.port.service(&mut self.pipeline.pool);
        slot.count_unsent(&mut self.unsent);
        let state = slot.port.rx(&mut self.pipeline.pool, &mut self.burst, BURST);
        let count = self.burst.len();
        if count > 0 {
            slot.counters.rx_packets.add(count as u64);
            let bytes: usize = self.burst.iter().map(Packet::len).sum();
            slot.counters.rx_bytes.add(bytes as u64);
            self.pipeline.end_lap(Stage::Rx, count);
            let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
            self.pipeline.process(view, id, &mut self.burst);
            self.flush();
            self.ask_for_neighbors();
        }
        if state == RxState::Gone {
            self.lose(id);
        }
        count
    }

    pub(super) fn ask_for_neighbors(&mut self) {
        for Neighbor { port, address } in self.pipeline.requests.drain(..) {
            // A full channel only delays: the next packet asks again.
            let _ = self.shared.events.try_send(Event::NeighborNeeded { port, address });
        }
    }

    fn tick(&mut self) {
        self.last_tick_ns = self.now_ns;
        let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
        self.pipeline.start_lap();
        self.pipeline.tick(view);
        self.flush();
        let held = self.pipeline.held() as u64;
        self.shared.workers[self.index].held.store(held, Ordering::Relaxed);
        self.show_cached();
    }

    /// Lets a report count the free frames of this worker's cache.
    fn show_cached(&self) {
        let cached = self.pipeline.pool.cached() + self.pipeline.pool.cached_large();
        self.shared.workers[self.index].cached.store(cached, Ordering::Relaxed);
    }

    fn sleep(&mut self) {
        let me = &self.shared.clone().workers[self.index];
        me.asleep.store(true, Ordering::SeqCst);
        // Asleep before the inbox is looked at: who pushes after this line wakes us.
        if !me.inbox.is_empty() {
            me.asleep.store(false, Ordering::SeqCst);
            return;
        }
        self.shared.published.go_offline(self.index);
        self.pipeline.counters.sleeps.add(1);
        let timers = self.pipeline.held() > 0 || self.pipeline.flows_are_due();
        let timeout_ms = match timers {
            _ if self.pipeline.waiting() + self.queued > 0 => SHAPED_SLEEP_MS,
            true => HELD_SLEEP_MS,
            false => SLEEP_MS,
        };
        let woken = self.wait.wait(timeout_ms, &mut self.ready);
        me.asleep.store(false, Ordering::SeqCst);
        self.now_ns = self.shared.now_ns();
        self.shared.published.catch_up(self.index, &mut self.tables);
        self.after_wait(woken);
    }

    fn look(&mut self, timeout_ms: i32) {
        let woken = self.wait.wait(timeout_ms, &mut self.ready);
        self.after_wait(woken);
    }

    fn after_wait(&mut self, woken: bool) {
        self.last_look_ns = self.now_ns;
        for at in 0..self.ready.len() {
            let id = PortId(self.ready[at]);
            let cold_at_ns = self.now_ns + slot::COLD_AFTER_NS;
            if let Some(slot) = self.slot(id) {
                slot.cold_at_ns = cold_at_ns;
                if !std::mem::replace(&mut slot.hot, true) {
                    self.hot.push(id);
                }
            }
        }
        self.ready.clear();
        if woken {
            self.obey();
        }
    }

    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach { id, port, counters, done } => {
                    self.attach(id, port, counters);
                    let _ = done.send(());
                }
                Command::Detach(id, done) => {
                    self.detach(id);
                    let _ = done.send(());
                }
                Command::NeighborResult(neighbor, resolved) => {
                    self.shared.published.catch_up(self.index, &mut self.tables);
                    let view = View { tables: &self.tables, fib: &self.fib, now_ns: self.now_ns };
                    self.pipeline.start_lap();
                    self.pipeline.neighbor_result(view, &neighbor, resolved);
                    self.flush();
                    self.ask_for_neighbors();
                }
                Command::Report(answer) => {
                    self.pipeline.read_offload();
                    self.show_cached();
                    let _ = answer.send(self.report());
                }
                Command::Flows(question) => self.pipeline.answer_flows(question),
                Command::Offload(map, clock_ns) => {
                    let workers = self.shared.workers.len() as u16;
                    self.pipeline.start_offload(map, workers, clock_ns);
                }
                Command::Capture(tap) => {
                    self.pipeline.tap = tap;
                    self.pipeline.recall_offload();
                }
                Command::Stop => self.stopping = true,
                #[cfg(test)]
                Command::Panic => panic!("asked to panic"),
            }
        }
    }

    /// Gives all queues back to the kernel and all frames to the arena. Also after a panic.
    pub(crate) fn close(&mut self) {
        for at in 0..self.slots.len() {
            self.detach(PortId(at as u16));
        }
        let shared = self.shared.clone();
        while let Some(handed) = shared.workers[self.index].inbox.pop() {
            handed.packet().free(&mut self.pipeline.pool);
        }
        self.burst.drain(..).for_each(|packet| packet.free(&mut self.pipeline.pool));
        self.released.clear(&mut self.pipeline.pool);
        self.clear_handing();
        self.pipeline.clear();
        self.shared.published.go_offline(self.index);
    }
}

#[cfg(test)]
mod tests;
