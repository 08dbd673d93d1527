//! AF_XDP ports: a device's queues, or one worker's share of them, as a [`Port`].
//!
//! A part takes its queues from the kernel (fills their slots in the XSKMAP) when its worker first
//! serves it, and gives them back before it is closed, so that a queue that nobody polls is
//! always the kernel's. Closing a socket can take the kernel milliseconds: a closed part only
//! hands its sockets to the [`XdpDevice`], which closes them on the control side.

mod arrival;
mod bulk;
mod device;
mod level;
mod open;
mod queue;
mod spec;
mod whole;

pub use device::{Releaser, XdpDevice};
pub use open::{XdpError, open};
pub use spec::{FillLevels, XdpMode, XdpSpec};

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::packet::Packet;
use crate::port::{Port, PortId, PortReport, RxState, TxOffloads};
use crate::sys::memory::FramePool;
use crate::sys::xdp::socket::Kick;
use arrival::Arrival;
use bulk::Bulk;
use device::Shared;
use queue::Queue;
use whole::Whole;

/// Time between two looks at a port's health.
const HEALTH_INTERVAL: Duration = Duration::from_millis(100);

/// One worker's share of a device.
#[derive(Debug)]
pub struct XdpPort {
    port: PortId,
    shared: Arc<Shared>,
    queues: Vec<Queue>,
    /// For long bursts, where the device is one for it.
    bulk: Option<Bulk>,
    /// The way out of packets from TAPs; `None` when they go as all others do.
    whole: Option<Whole>,
    /// The queue to ask first, in turn.
    first: usize,
    watch: Option<OwnedFd>,
    busy_poll: bool,
    active: bool,
    gone: bool,
    down: bool,
    last_look: Instant,
    counters: Counters,
}

/// Losses that the kernel's own totals do not have.
#[derive(Debug, Default)]
struct Counters {
    /// Packets that the device threw away on transmit.
    tx_dropped: u64,
    /// Packets that can't be sent on this device: too short, or in too many frames.
    tx_refused: u64,
    /// Packets received in more frames than a packet may have.
    rx_too_long: u64,
    /// Times that the pool had no frame to post.
    no_frame: u64,
    /// Seconds in which packets were under way and none was completed.
    tx_stalled: u64,
}

impl XdpPort {
    fn new(
        port: PortId,
        shared: Arc<Shared>,
        queues: Vec<Queue>,
        (bulk, whole): (Option<Bulk>, Option<Whole>),
        busy_poll: bool,
    ) -> std::io::Result<XdpPort> {
        let watch = match queues.len() {
            1 => None,
            _ => {
                let fds = queues.iter().map(|queue| queue.socket.raw_fd());
                Some(crate::sys::xdp::poll_any(fds)?)
            }
        };
        Ok(XdpPort {
            port,
            shared,
            queues,
            bulk,
            whole,
            first: 0,
            watch,
            busy_poll,
            active: false,
            gone: false,
            down: false,
            last_look: Instant::now(),
            counters: Counters::default(),
        })
    }

    /// The queues of the device that this part owns.
    pub fn queues(&self) -> impl Iterator<Item = u32> {
        self.queues.iter().map(|queue| queue.number)
    }

    /// Gives the queues of this part back to the kernel, from any thread.
    pub fn releaser(&self) -> Releaser {
        Releaser::new(self.shared.clone(), self.queues().collect())
    }

    /// Takes the queues from the kernel, once.
    fn activate(&mut self) {
        self.active = true;
        for queue in &self.queues {
            if let Err(error) = self.shared.occupy(queue.number, queue.socket.raw_fd()) {
                tracing::error!(device = self.shared.name(), queue = queue.number, %error,
                    "the queue stays with the kernel");
                self.gone = true;
            }
        }
    }

    fn kick(&mut self) {
        let mut states = Kick::Drained;
        for queue in self.queues.iter_mut().filter(|queue| queue.wants_kick) {
            let kick = queue.socket.kick_tx(&mut self.counters.tx_dropped);
            queue.wants_kick = kick != Kick::Drained;
            if matches!(kick, Kick::Down | Kick::Gone) {
                states = kick;
            }
        }
        self.down = states == Kick::Down;
        self.gone |= states == Kick::Gone;
    }

    fn look(&mut self, now: Instant) {
        self.last_look = now;
        self.down = false;
        self.gone |= self.queues.iter().any(|queue| queue.socket.is_gone());
        let may_grow = self.shared.has_free_frames();
        for queue in &mut self.queues {
            self.counters.tx_stalled += u64::from(queue.look(may_grow));
        }
        if let Some(bulk) = &mut self.bulk {
            bulk.look(now);
        }
    }

    /// Sends by the first queue; by its ring alone where it must be known when they have left.
    fn send_frames(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>, by_ring: bool) {
        let Some(queue) = self.queues.first_mut() else { return };
        queue.reclaim(pool);
        // What is in the ring goes first.
        if let Some(bulk) =
            self.bulk.as_mut().filter(|_| !(by_ring || queue.wants_kick || self.down))
        {
            bulk.send(pool, burst);
            if burst.is_empty() {
                return;
            }
        }
        self.counters.tx_refused += queue.send(pool, burst);
        queue.end_send();
        if !self.down {
            self.kick();
        }
    }

    /// Sends a burst with packets from TAPs; false when there is no other way than for all.
    fn send_of_taps(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) -> bool {
        let Some(whole) = &mut self.whole else { return false };
        let is_whole = whole.takes(burst);
        if is_whole {
            whole.pick(burst);
        } else {
            whole.finish(pool, burst);
        }
        if !burst.is_empty() {
            self.send_frames(pool, burst, !is_whole);
        }
        let (Some(whole), Some(queue)) = (&mut self.whole, self.queues.first_mut()) else {
            return true;
        };
        if is_whole {
            queue.reclaim(pool);
            whole.send(pool, burst, queue.returned);
        } else {
            whole.note_ring(queue.given);
        }
        true
    }

    /// Gives the queues back to the kernel and the sockets to the device.
    fn retire(&mut self) {
        for queue in &self.queues {
            self.shared.vacate(queue.number);
        }
        self.watch = None;
        let sockets = self.queues.drain(..).map(|queue| queue.socket).collect();
        self.shared.retire(sockets, self.whole.take());
    }
}

impl Port for XdpPort {
    fn rx(&mut self, pool: &mut FramePool, out: &mut Vec<Packet>, budget: usize) -> RxState {
        let count = self.queues.len();
        let mut left = budget;
        for turn in 0..count {
            let queue = &mut self.queues[(self.first + turn) % count];
            queue.give_credit();
            let received = queue.receive(pool, out, left, self.port);
            self.counters.rx_too_long += std::mem::take(&mut queue.too_long);
            left -= received;
            if received == 0 && self.busy_poll {
                queue.socket.wake_rx();
            }
            if left == 0 {
                break;
            }
        }
        self.first = (self.first + 1) % count.max(1);
        if self.gone { RxState::Gone } else { RxState::Up }
    }

    fn tx(&mut self, pool: &mut FramePool, burst: &mut Vec<Packet>) {
        if burst.iter().any(Packet::is_from_tap) && self.send_of_taps(pool, burst) {
            return;
        }
        self.send_frames(pool, burst, false);
    }

    fn has_unsent(&self) -> bool {
        !self.down && self.queues.iter().any(|queue| queue.wants_kick)
    }

    fn mark(&mut self) {
        self.queues.iter_mut().filter_map(Queue::arrival).for_each(Arrival::mark);
    }

    fn settle(&mut self) {
        self.queues.iter_mut().filter_map(Queue::arrival).for_each(Arrival::settle);
    }

    fn service(&mut self, pool: &mut FramePool) {
        if !self.active {
            self.activate();
        }
        let mut kick = false;
        for queue in &mut self.queues {
            queue.reclaim(pool);
            kick |= queue.wants_kick;
            if !queue.refill(pool) {
                self.counters.no_frame += 1;
            }
        }
        let now = Instant::now();
        if now.duration_since(self.last_look) >= HEALTH_INTERVAL {
            self.look(now);
        }
        if kick && !self.down && !self.gone {
            self.kick();
        }
    }

    fn poll_fd(&self) -> Option<RawFd> {
        let watch = self.watch.as_ref().map(AsRawFd::as_raw_fd);
        watch.or_else(|| self.queues.first().map(|queue| queue.socket.raw_fd()))
    }

    fn tx_offloads(&self) -> TxOffloads {
        self.whole.as_ref().map_or_else(TxOffloads::default, |_| TxOffloads::OF_TAPS)
    }

    fn report(&self) -> PortReport {
        let (mut kernel, mut bad, mut held) = ([0; 6], 0, 0);
        for queue in &self.queues {
            let totals = queue.socket.statistics();
            let values = [
                totals.rx_dropped,
                totals.rx_ring_full,
                totals.rx_fill_ring_empty_descs,
                totals.rx_invalid_descs,
                totals.tx_invalid_descs,
                totals.tx_ring_empty_descs,
            ];
            kernel.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            kernel[1] += queue.refused();
            bad += queue.socket.bad_descs();
            held += queue.socket.rx_held() + queue.socket.tx_held();
        }
        const NAMES: [&str; 6] = [
            "rx_dropped",
            "rx_ring_full",
            "rx_fill_ring_empty",
            "rx_invalid_descs",
            "tx_invalid_descs",
            "tx_ring_empty",
        ];
        let (whole_sent, whole_dropped, whole_refused) = self
            .whole
            .as_ref()
            .map_or((0, 0, 0), |whole| (whole.sent, whole.dropped, whole.refused));
        let mut named: Vec<_> = NAMES.into_iter().zip(kernel).collect();
        named.extend([
            ("tx_dropped", self.counters.tx_dropped + whole_dropped),
            ("tx_refused", self.counters.tx_refused + whole_refused),
            ("tx_stalled", self.counters.tx_stalled),
            ("tx_bulk", self.bulk.as_ref().map_or(0, |bulk| bulk.sent)),
            ("tx_whole", whole_sent),
            ("rx_too_long", self.counters.rx_too_long),
            ("no_frame", self.counters.no_frame),
            ("bad_descriptors", bad),
        ]);
        let whole = match self.whole {
            Some(_) => "super-packets by a packet socket",
            None => "super-packets cut",
        };
        PortReport {
            kind: "xdp",
            mode: format!("{}; {whole}", self.shared.mode()),
            frames_held: held,
            kernel: named,
        }
    }

    fn close(mut self: Box<Self>, pool: &mut FramePool) {
        for queue in &mut self.queues {
            queue.reclaim(pool);
            queue.abandon(pool);
        }
        self.retire();
    }
}

/// A part that is dropped instead of closed loses no frame either.
impl Drop for XdpPort {
    fn drop(&mut self) {
        if self.queues.is_empty() {
            return;
        }
        let mut pool = self.shared.new_pool();
        self.queues.iter_mut().for_each(|queue| queue.abandon(&mut pool));
        self.retire();
    }
}
